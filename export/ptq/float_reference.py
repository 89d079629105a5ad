"""Readable float reference: the network before quantisation, NumPy float64, one step at a time.

    u(t) = (1 - k_s) u(t-1) + sum W s(t) (+ W_rec s_out(t-1));   v(t) = (1 - k_m) v(t-1) + u(t) + b
    s(t) = v(t) > 1;   v(t) = 0 where s(t)

in units of the threshold, with the ideal leaks k of a `FloatNet` (not the 12-bit ones). Neurons that reset otherwise are run as
their network ran them (`taaf.export.targets.nir.neurons.RESETS`): the chip's hard reset is then part of what is measured. It is
what the integer network approximates; nothing here is claimed to be exact on the chip.
"""

from dataclasses import dataclass, field

import numpy as np

from taaf.export.targets.nir.graph import FloatNet
from taaf.models.ir import Concat, Conv2d, Dense, Flatten, Graph, Input, Lif, Pool2d, RecurrentDense, Sum
from taaf.models.ir.stage import require_spikes

_BLOCK_BYTES = 1 << 27  # of one layer's drive; bounds memory


@dataclass
class FloatTrace:
    """Time is the last axis, windows the first.

    Attributes
    ----------
    spikes : dict
        Every node that carries spikes -> uint8 (N, *shape, T); counts where neurons fire several times in a step, float64 behind
        sum and average pooling.
    peak : dict
        LIF -> largest |u| or |v| that occurred, in thresholds.
    """

    spikes: dict[str, np.ndarray] = field(default_factory=dict)
    peak: dict[str, float] = field(default_factory=dict)


def run_float(net: FloatNet, spikes: np.ndarray) -> FloatTrace:
    """Run windows (N, *input shape, T) of zeros and ones from rest."""
    require_spikes(net.graph, spikes, spikes.shape[1:-1])
    widest = max(int(np.prod(shape)) for shape in net.graph.shapes.values())
    size = max(1, _BLOCK_BYTES // (8 * widest * spikes.shape[-1]))
    blocks = [_run_block(net, spikes[i : i + size]) for i in range(0, max(len(spikes), 1), size)]
    names = {name: [b.spikes[name] for b in blocks] for name in blocks[0].spikes}
    peak = {name: max(b.peak[name] for b in blocks) for name in blocks[0].peak}
    return FloatTrace({name: np.concatenate(parts) for name, parts in names.items()}, peak)


def _run_block(net: FloatNet, spikes: np.ndarray) -> FloatTrace:
    graph, trace = net.graph, FloatTrace()
    for name, node in graph.nodes.items():
        if isinstance(node, Input):
            trace.spikes[name] = spikes.astype(np.uint8)
        elif isinstance(node, Flatten):
            value = trace.spikes[graph.sources(name)[0]]
            trace.spikes[name] = value.reshape(len(value), -1, value.shape[-1])
        elif isinstance(node, Pool2d):
            trace.spikes[name] = _pool(graph, node, trace.spikes[graph.sources(name)[0]])
        elif isinstance(node, Concat):
            trace.spikes[name] = np.concatenate([trace.spikes[s] for s in graph.sources(name)], axis=1)
        elif isinstance(node, Lif):
            drive = synaptic_drive(graph, name, trace.spikes)
            recurrent = next((n.weight_rec for n in graph.synapses_of(name) if isinstance(n, RecurrentDense)), None)
            own = net.neurons[name]
            k_syn, k_mem = (k.reshape(-1, *[1] * (drive.ndim - 3)) for k in (own.k_syn, own.k_mem))
            spikes_and_peak = _lif(drive, drive_bias(graph, name), recurrent, k_syn, k_mem, own.reset or "hard")
            trace.spikes[name], trace.peak[name] = spikes_and_peak
    return trace


def _lif(
    drive: np.ndarray, bias: np.ndarray, recurrent: np.ndarray | None, k_syn: np.ndarray, k_mem: np.ndarray, reset: str
) -> tuple[np.ndarray, float]:
    out = np.zeros(drive.shape, np.uint8)
    u = np.zeros(drive.shape[:-1])
    v = np.zeros_like(u)
    last, waits = np.zeros_like(u), np.zeros_like(u)
    peak = 0.0
    for step in range(drive.shape[-1]):
        arriving = drive[..., step]
        if recurrent is not None and step:
            arriving = arriving + out[..., step - 1] @ recurrent.T
        u = (1 - k_syn) * u + arriving
        v = (1 - k_mem) * v + u + bias
        if reset == "subtract-next":
            v = v - last
        elif reset == "subtract-snntorch":
            v = v - waits
        elif reset == "zero-next":
            v = np.where(last > 0, 0, v)
        peak = max(peak, float(np.abs(u).max(initial=0)), float(np.abs(v).max(initial=0)))
        fired: np.ndarray = (v > 1).astype(np.float64)
        if reset == "hard":
            v = np.where(fired > 0, 0, v)
        elif reset == "subtract":
            v = v - fired
        elif reset == "subtract-many":
            fired = np.clip(np.floor(v), 0, 255)
            v = v - fired
        elif reset == "subtract-snntorch":
            v = v - (fired - waits)
            waits = (v > 1).astype(np.float64)
        out[..., step] = last = fired
    return out, peak


def _pool(graph: Graph, node: Pool2d, x: np.ndarray) -> np.ndarray:
    """Maximum, sum or mean of (N, C, H, W, T) over windows, of a map padded with silence."""
    _, h_out, w_out = node.out_shape([graph.shapes[graph.sources(node.name)[0]]])
    (p_h, p_w), (s_h, s_w) = node.padding, node.step
    padded = np.pad(x, ((0, 0), (0, 0), (p_h, p_h), (p_w, p_w), (0, 0)))
    windows = [
        padded[:, :, i : i + s_h * (h_out - 1) + 1 : s_h, j : j + s_w * (w_out - 1) + 1 : s_w]
        for i, j in np.ndindex(*node.kernel)
    ]
    if node.kind == "max":
        return np.maximum.reduce(windows)
    total = np.zeros(windows[0].shape)
    for window in windows:
        total += window
    return total if node.kind == "sum" else total / (node.kernel[0] * node.kernel[1])


def drive_bias(graph: Graph, lif: str) -> np.ndarray:
    """What every step adds to v, shaped to broadcast over (N, *shape)."""
    shape = graph.shapes[lif]
    total = np.zeros(shape[0])
    for node in graph.synapses_of(lif):
        total = total if node.bias is None else total + node.bias
    return total.reshape(-1, *[1] * (len(shape) - 1))


def synaptic_drive(graph: Graph, lif: str, spikes: dict[str, np.ndarray]) -> np.ndarray:
    """Sum of W s(t) over the synapse groups of a LIF (without recurrence and bias), float64 (N, *shape, T)."""

    def current(name: str) -> np.ndarray:
        node, sources = graph.nodes[name], graph.sources(name)
        if isinstance(node, Sum):
            parts = [current(s) for s in sources]
            return sum(parts[1:], start=parts[0])
        x = spikes[sources[0]].astype(np.float64)
        if isinstance(node, Conv2d):
            return _convolve(node, x)
        assert isinstance(node, Dense)
        return np.einsum("of,nft->not", node.weight, x, optimize=True)

    return current(graph.sources(lif)[0])


def _convolve(node: Conv2d, x: np.ndarray) -> np.ndarray:
    """Cross-correlation of (N, C, H, W, T) by explicit sums over kernel positions."""
    c_out, c_in, k_h, k_w = node.weight.shape
    (s_h, s_w), (p_h, p_w), (d_h, d_w) = node.stride, node.padding, node.dilation
    _, h_out, w_out = node.out_shape([x.shape[1:4]])
    padded = np.pad(x, ((0, 0), (0, 0), (p_h, p_h), (p_w, p_w), (0, 0)))
    out = np.zeros((len(x), c_out, h_out, w_out, x.shape[-1]))
    per_group = c_out // node.groups
    for g in range(node.groups):
        rows = slice(g * per_group, (g + 1) * per_group)
        group = padded[:, g * c_in : (g + 1) * c_in]
        for i in range(k_h):
            for j in range(k_w):
                y, x0 = i * d_h, j * d_w
                patch = group[:, :, y : y + s_h * (h_out - 1) + 1 : s_h, x0 : x0 + s_w * (w_out - 1) + 1 : s_w]
                out[:, rows] += np.einsum("oc,nchwt->nohwt", node.weight[rows, :, i, j], patch, optimize=True)
    return out
