"""Readable integer reference: one step at a time, NumPy int64, with u and v traces. Slow and obviously right."""

from dataclasses import dataclass

import numpy as np

from taaf.hw_sim.intervals import UV_LIMIT
from taaf.models.ir import Concat, Conv2d, Dense, Flatten, Graph, Input, Lif, Node, Pool2d, RecurrentDense, Sum
from taaf.models.ir.nodes import spread
from taaf.models.ir.stage import require_integer_stage, require_spikes


def truncate_shift(x: np.ndarray, bits: int) -> np.ndarray:
    """``x / 2**bits`` truncated toward zero."""
    return np.sign(x) * (np.abs(x) >> bits)


def wrap_current(u: np.ndarray) -> np.ndarray:
    """Lava's 24-bit wrap of u: above 2^23 subtract 2^24, at or below -2^23 add 2^24."""
    return np.where(u > UV_LIMIT, u - 2 * UV_LIMIT, np.where(u <= -UV_LIMIT, u + 2 * UV_LIMIT, u))


def clip_voltage(v: np.ndarray) -> np.ndarray:
    """Lava's 24-bit clip of v to [-(2^23 - 1), 2^23 - 1]."""
    return np.clip(v, -UV_LIMIT + 1, UV_LIMIT - 1)


@dataclass
class Trace:
    """Result of a reference run; every array has time as its last axis."""

    spikes: dict[str, np.ndarray]  # node name -> uint8
    u: dict[str, np.ndarray]  # LIF name -> int64
    v: dict[str, np.ndarray]  # after reset
    wraps: dict[str, int]  # LIF name -> how often a neuron's u wrapped
    clips: dict[str, int]  # LIF name -> how often a neuron's v was clipped


def convolve(node: Conv2d, x: np.ndarray) -> np.ndarray:
    """Integer cross-correlation of (C, H, W) by explicit sums over kernel positions.

    The products are summed in float64, which holds all integers up to 2^53: NumPy multiplies integer matrices slowly.
    """
    assert int(np.abs(node.weight.astype(np.int64)).sum()) * int(np.abs(x).max(initial=0)) < 1 << 53
    c_out, c_in, k_h, k_w = node.weight.shape
    (s_h, s_w), (p_h, p_w), (d_h, d_w) = node.stride, node.padding, node.dilation
    _, h_out, w_out = node.out_shape([x.shape])
    padded = np.pad(x.astype(np.float64), ((0, 0), (p_h, p_h), (p_w, p_w)))
    out = np.zeros((c_out, h_out * w_out))
    per_group = c_out // node.groups
    for g in range(node.groups):
        rows = slice(g * per_group, (g + 1) * per_group)
        group = padded[g * c_in : (g + 1) * c_in]
        for i in range(k_h):
            for j in range(k_w):
                y, x0 = i * d_h, j * d_w
                patch = group[:, y : y + s_h * (h_out - 1) + 1 : s_h, x0 : x0 + s_w * (w_out - 1) + 1 : s_w]
                out[rows] += node.weight[rows, :, i, j].astype(np.float64) @ patch.reshape(c_in, -1)
    return out.astype(np.int64).reshape(c_out, h_out, w_out)


def pool_spikes(node: Pool2d, x: np.ndarray) -> np.ndarray:
    """OR of (C, H, W) over the pooling windows."""
    (k_h, k_w), (s_h, s_w), (p_h, p_w) = node.kernel, node.step, node.padding
    _, h_out, w_out = node.out_shape([x.shape])
    padded = np.pad(x, ((0, 0), (p_h, p_h), (p_w, p_w)))
    out = np.zeros((len(x), h_out, w_out), x.dtype)
    for i in range(k_h):
        for j in range(k_w):
            out |= padded[:, i : i + s_h * (h_out - 1) + 1 : s_h, j : j + s_w * (w_out - 1) + 1 : s_w]
    return out


def run_reference(graph: Graph, spikes: np.ndarray) -> Trace:
    """Run one window from rest.

    Parameters
    ----------
    graph : Graph
        Integer stage (see `taaf.models.ir`).
    spikes : numpy.ndarray
        Input spikes of one sample, shape ``(*graph.input.shape, T)``, values 0 or 1.

    Returns
    -------
    Trace
        Spikes of every LIF (and of the input and the output), u and v.

    Raises
    ------
    GraphError
        If the input's shape is wrong, it is not binary, or the graph is not in integer stage.
    """
    require_integer_stage(graph)
    require_spikes(graph, spikes, spikes.shape[:-1])
    steps = spikes.shape[-1]
    state = {n.name: (np.zeros(graph.shapes[n.name], np.int64),) * 2 for n in graph.lifs()}
    last = {n.name: np.zeros(graph.shapes[n.name], np.int64) for n in graph.lifs()}
    past = {
        n.name: np.zeros((int(n.delay.max()) + 1, n.weight.shape[1]), np.int64)
        for n in graph.nodes.values()
        if isinstance(n, Dense) and n.delay is not None
    }
    rows: dict[str, list[np.ndarray]] = {n: [] for n in [graph.input.name, *state, graph.output]}
    us: dict[str, list[np.ndarray]] = {n: [] for n in state}
    vs: dict[str, list[np.ndarray]] = {n: [] for n in state}
    wraps, clips = dict.fromkeys(state, 0), dict.fromkeys(state, 0)
    for step in range(steps):
        value: dict[str, np.ndarray] = {}
        for name, node in graph.nodes.items():
            inputs = [value[s] for s in graph.sources(name)]
            if isinstance(node, Input):
                value[name] = spikes[..., step].astype(np.int64)
                rows[name].append(value[name].astype(np.uint8))
            elif isinstance(node, Lif):
                u, v = state[name]
                i_decay, v_decay, v_th = (spread(x, u.shape) for x in (node.i_decay, node.v_decay, node.v_th_mant))
                wide = truncate_shift(u * (4096 - i_decay), 12) + (inputs[0] << 6)
                u = wrap_current(wide)
                wraps[name] += int((u != wide).sum())
                bias = 0 if node.bias is None else spread(node.bias, u.shape) << 6
                wide = truncate_shift(v * (4096 - v_decay), 12) + u + bias
                v = clip_voltage(wide)
                clips[name] += int((v != wide).sum())
                fired = v > (v_th << 6)
                v = np.where(fired, 0, v)
                state[name], last[name], value[name] = (u, v), fired.astype(np.int64), fired.astype(np.int64)
                rows[name].append(fired.astype(np.uint8))
                us[name].append(u)
                vs[name].append(v)
            else:
                if name in past:
                    past[name] = np.concatenate([inputs[0][None], past[name][:-1]])
                value[name] = _current(node, inputs, last, past, graph)
                if name == graph.output:
                    rows[name].append(value[name].astype(np.uint8))
    spiked, us_over_time, vs_over_time = ({n: np.stack(x, -1) for n, x in d.items()} for d in (rows, us, vs))
    return Trace(spiked, us_over_time, vs_over_time, wraps, clips)


def _current(
    node: Node, inputs: list[np.ndarray], last: dict[str, np.ndarray], past: dict[str, np.ndarray], graph: Graph
) -> np.ndarray:
    """a(t) of a synapse node, or spikes in another arrangement; ``past[name][d]`` are the spikes that arrived d steps ago."""
    if isinstance(node, Conv2d):
        return convolve(node, inputs[0])
    if isinstance(node, RecurrentDense):
        (fed,) = graph.targets(node.name)
        return node.weight.astype(np.int64) @ inputs[0] + node.weight_rec.astype(np.int64) @ last[fed]
    if node.name in past:
        assert isinstance(node, Dense) and node.delay is not None
        arriving = past[node.name][np.broadcast_to(node.delay, node.weight.shape), np.arange(node.weight.shape[1])]
        return (node.weight.astype(np.int64) * arriving).sum(1)
    if isinstance(node, Dense):
        return node.weight.astype(np.int64) @ inputs[0]
    if isinstance(node, Sum):
        return sum(inputs[1:], start=inputs[0])
    return _arranged(node, inputs)


def _arranged(node: Node, inputs: list[np.ndarray]) -> np.ndarray:
    """Spikes flattened, beside each other, or pooled."""
    if isinstance(node, Concat):
        return np.concatenate(inputs)
    if isinstance(node, Pool2d):
        return pool_spikes(node, inputs[0])
    assert isinstance(node, Flatten)
    return inputs[0].reshape(-1)
