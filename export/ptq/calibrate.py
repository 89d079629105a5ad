"""Post-training quantisation: one threshold mantissa V per LIF, so that ``2 round(w V / 2)`` holds the weights best.

A weight w (in thresholds) becomes an even integer in [-256, 254], a bias an integer: a larger V gives finer steps
(2 / V thresholds), until the largest weights no longer fit and are clipped. Candidates for V are powers of two and a
geometric grid around the largest V at which everything fits. Those of least squared weight error are then compared by
the mean squared error of the drive, ``(W_q s + b_q) / V - (W s + b)``, over the calibration inputs, with the spikes s of
the float reference; the least wins, and the smaller V of equals. Files that state their V (our own) keep it.

`measure` says what that did to the network, by counting spikes of the float and of the integer network.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from taaf.export.limits import V_TH_MAX
from taaf.export.ptq.float_reference import FloatTrace, drive_bias, run_float, synaptic_drive
from taaf.export.targets.nir.graph import FloatNet
from taaf.export.targets.nir.parts import HostReadout
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.intervals import UV_LIMIT
from taaf.models.ir import Conv2d, Dense, Graph, Node, RecurrentDense
from taaf.models.lif import BIAS_LIMIT, WEIGHT_MAX, WEIGHT_MIN

_FINALISTS = 6
_DRIVE_WINDOWS = 4  # windows for the comparison of drives
_HEADROOM = 2  # of the 24-bit state over what occurred in the float run


@dataclass(frozen=True)
class LayerChoice:
    """What quantisation did to one LIF's synapses; errors in thresholds."""

    layer: str
    v_th_mant: int
    chosen: str  # "calibrated" or "stated by the file"
    n_weights: int
    n_clipped: int
    rms_weight_error: float
    rms_drive_error: float


@dataclass(frozen=True)
class LayerDeviation:
    """Spikes of one layer in the float and in the integer network over all windows."""

    layer: str
    n_neurons: int
    float_spikes: int
    integer_spikes: int
    differing: int  # neuron-steps in which the two do not fire equally often
    differing_fraction: float  # of all neuron-steps


def calibrate(net: FloatNet, spikes: np.ndarray) -> tuple[FloatNet, list[LayerChoice], FloatTrace]:
    """Choose V for every LIF that has none stated.

    Parameters
    ----------
    spikes : numpy.ndarray
        Calibration windows (N, *input shape, T), zeros and ones.

    Returns
    -------
    net : FloatNet
        With ``v_th_mant`` set; `taaf.export.passes.quantise` with ``saturate=True`` does the rest.
    choices : list of LayerChoice
    trace : FloatTrace
        The float run of all windows.
    """
    trace = run_float(net, spikes)
    few = {name: value[:_DRIVE_WINDOWS] for name, value in trace.spikes.items()}
    chosen: dict[str, Node | None] = {}
    choices = []
    for lif in net.graph.lifs():
        wanted = synaptic_drive(net.graph, lif.name, few) + drive_bias(net.graph, lif.name)[..., None]
        layer = _Layer(net.graph, lif.name, few, wanted)
        stated = net.neurons[lif.name].v_th_mant
        v_th = stated or layer.best(_cap(layer, trace.peak[lif.name]))
        chosen[lif.name] = replace(lif, v_th_mant=v_th)
        choices.append(
            LayerChoice(
                f"{net.graph.name}.{lif.name}",
                v_th,
                "stated by the file" if stated else "calibrated",
                layer.weights.size,
                layer.clipped(v_th),
                float(np.sqrt(layer.weight_error(v_th))),
                float(np.sqrt(layer.drive_error(v_th))),
            )  # fmt: skip
        )
    return replace(net, graph=net.graph.rebuilt(chosen)), choices, trace


class _Layer:
    """The synapses of one LIF, to be quantised with any V."""

    def __init__(self, graph: Graph, lif: str, spikes: dict[str, np.ndarray], wanted: np.ndarray) -> None:
        self.graph, self.lif, self.spikes, self.wanted = graph, lif, spikes, wanted
        parts = [p for n in graph.synapses_of(lif) for p in _matrices(n)]
        self.weights = np.concatenate([p.reshape(-1) for p in parts])
        self.biases = drive_bias(graph, lif).reshape(-1)

    def weight_error(self, v_th: int) -> float:
        return float(np.mean((quantised(self.weights, v_th) / v_th - self.weights) ** 2))

    def clipped(self, v_th: int) -> int:
        level = self.weights * v_th / 2
        return int(((level < WEIGHT_MIN / 2 - 0.5) | (level > WEIGHT_MAX / 2 + 0.5)).sum())

    def drive_error(self, v_th: int) -> float:
        """Mean squared error of what arrives per step (recurrence apart), thresholds squared."""
        replaced: dict[str, Node | None] = {
            n.name: replace(n, weight=quantised(n.weight, v_th) / v_th) for n in self.graph.synapses_of(self.lif)
        }
        found = synaptic_drive(self.graph.rebuilt(replaced), self.lif, self.spikes)
        bias = np.rint(self.biases * v_th) / v_th
        return float(np.mean((found + bias.reshape(-1, *[1] * (found.ndim - 2)) - self.wanted) ** 2))

    def best(self, cap: int) -> int:
        high, low = self.weights.max(initial=0), -self.weights.min(initial=0)
        if high <= 0 and low <= 0:
            return min(64, cap)  # all zero: refused by the limits later
        fits = min(255 / high if high > 0 else np.inf, 257 / low if low > 0 else np.inf)
        grid = np.concatenate([fits * 2.0 ** (np.arange(-32, 25) / 16), 2.0 ** np.arange(17), [np.floor(fits)]])
        candidates = sorted({int(v) for v in np.clip(np.rint(grid[grid <= 4 * fits + 1]), 1, cap)})
        short = sorted(candidates, key=lambda v: (self.weight_error(v), v))[:_FINALISTS]
        return min(short, key=lambda v: (self.drive_error(v), self.weight_error(v), v))


def _cap(layer: _Layer, peak: float) -> int:
    """Largest V: the state that occurred must fit 24 bits with room, a bias its 13 bits."""
    by_state = UV_LIMIT / (64 * _HEADROOM * max(peak, 1))
    by_bias = BIAS_LIMIT / max(float(np.abs(layer.biases).max(initial=0)), 1e-9)
    return max(1, int(min(by_state, by_bias, V_TH_MAX)))


def _matrices(node: Conv2d | Dense) -> list[np.ndarray]:
    return [node.weight, node.weight_rec] if isinstance(node, RecurrentDense) else [node.weight]


def quantised(weight: np.ndarray, v_th: int) -> np.ndarray:
    """``2 round(w V / 2)``, clipped to [-256, 254]."""
    return 2 * np.rint(np.clip(weight * v_th / 2, WEIGHT_MIN / 2, WEIGHT_MAX / 2))


def measure(
    integer: Graph, trace: FloatTrace, spikes: np.ndarray, labels: np.ndarray | None = None, readout: HostReadout | None = None
) -> dict[str, Any]:
    """Deviation of the integer network from the float one, measured.

    Parameters
    ----------
    integer : Graph
        Before relay lowering.
    trace : FloatTrace
        Of the same windows.
    labels : numpy.ndarray, optional
        Class of every window; the class decided is the output neuron that fires most (the first of equals).
    readout : HostReadout, optional
        Decides instead, from the output's spikes: its largest mean value over the window.

    Returns
    -------
    dict
        ``layers`` (of `LayerDeviation`), ``output`` (firing counts per neuron and window, decisions) and, with labels,
        ``accuracy`` in per cent.
    """
    found = Engine(integer).run(spikes, keep_all=True).spikes
    layers = []
    for lif in [n for n in integer.lifs() if n.name in trace.spikes]:  # the compiler may have added some, e.g. for pooling
        ours, wanted = found[lif.name], trace.spikes[lif.name]
        wrong = int((ours != wanted).sum())
        n = int(np.prod(wanted.shape[1:-1]))
        layers.append(
            LayerDeviation(
                f"{integer.name}.{lif.name}", n, int(wanted.sum()), int(ours.sum()), wrong, wrong / max(wanted.size, 1)
            )
        )
    counts = {
        kind: value[integer.output].sum(-1, dtype=np.int64).reshape(len(spikes), -1)
        for kind, value in (("float", trace.spikes), ("integer", found))
    }
    difference = np.abs(counts["integer"] - counts["float"])
    decided = {kind: value.argmax(1) for kind, value in counts.items()}
    if readout is not None:
        ends = {"float": trace.spikes[integer.output], "integer": found[integer.output]}
        decided = {kind: readout.run(value).mean(-1).argmax(1) for kind, value in ends.items()}
    result: dict[str, Any] = {
        "layers": [asdict(line) for line in layers],
        "output": {
            "windows": len(spikes), "steps": spikes.shape[-1],
            "mean_count_float": float(counts["float"].mean()), "mean_count_integer": float(counts["integer"].mean()),
            "mean_count_difference": float(difference.mean()), "max_count_difference": int(difference.max(initial=0)),
            "same_decision_percent": float(100 * (decided["float"] == decided["integer"]).mean()),
        },
    }  # fmt: skip
    if labels is not None:
        result["accuracy"] = {kind: float(100 * (value == labels).mean()) for kind, value in decided.items()}
    return result
