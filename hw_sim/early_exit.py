"""Early exit: stop a window as soon as the host head is sure, and what that saves, counted layer by layer.

After s steps of a window the head decides with the feature spikes it has seen; steps to come count as silent. It stops
at the first s where the softmax of the fused readout reaches the wanted confidence for some class; if none does, the
whole window is used and the decision is the ordinary one.

Feature spikes of step s reach the host ``depth`` time steps after the input of step s, where depth is the number of
layers of the deepest branch; until then the layers before it work on later steps. A layer l (1 = first) of a window of W
steps has therefore executed ``min(W, s + depth - l)`` steps when the window is stopped, and its synapses one more: the
spikes that arrive in the time step of the decision. All of those are counted. A decision that used s steps of input falls
``depth`` time steps after the last of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from taaf.hw_sim.activity import Activity
from taaf.hw_sim.counters import LayerCounts, count, fan_out, spiking_source
from taaf.models.host_head import leading_probability
from taaf.models.ir import Graph, RecurrentDense

Readout = Callable[[dict[str, np.ndarray]], np.ndarray]  # feature spikes (N, F, T_m) per branch -> fused readout (N, C)


def anytime_logits(readout: Readout, features: Mapping[str, np.ndarray], window_steps: int) -> np.ndarray:
    """Fused readout after every step of the window: (S, N, C), S = ``window_steps``; the last is the ordinary one."""
    rows = []
    for seen in range(1, window_steps + 1):
        masked = {}
        for branch, spikes in features.items():
            masked[branch] = spikes.copy()
            masked[branch][..., seen:] = 0
        rows.append(readout(masked))
    return np.stack(rows)


def exit_steps(logits: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Steps used per window (N,), 1..S, and the decisions (N,), for ``logits`` (S, N, C) of `anytime_logits`.

    Parameters
    ----------
    confidence : float
        Softmax probability in 0..1 the leading class must reach.
    """
    sure = leading_probability(logits) >= confidence  # (S, N)
    sure[-1] = True
    last = sure.argmax(axis=0)
    return last + 1, logits.argmax(axis=-1)[last, np.arange(logits.shape[1])]


def cut(spikes: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Spikes (N, ..., T) of which window n keeps the first ``steps[n]`` time steps and is silent afterwards."""
    keep = np.arange(spikes.shape[-1]) < steps[:, None]  # (N, T)
    gated: np.ndarray = np.moveaxis(np.moveaxis(spikes, -1, 0) * keep.T.reshape(*keep.T.shape, *[1] * (spikes.ndim - 2)), 0, -1)
    return gated


@dataclass(frozen=True)
class _Layer:
    """Per window and step: spikes sent (N, W) and effective SynOps received (N, W); and the full counts."""

    full: LayerCounts
    depth: int
    spikes: np.ndarray
    spikes_in: np.ndarray
    synops: np.ndarray


class StepCounts:
    """Counts of a run that can be cut at any step of any window.

    Parameters
    ----------
    graphs : dict
        Branch -> integer chain.
    spikes : dict
        Branch -> node name (input and every LIF) -> spikes (N, *shape, W) in {0, 1}.
    """

    def __init__(self, graphs: Mapping[str, Graph], spikes: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        self.depth = max(len(g.lifs()) for g in graphs.values())
        self.layers: list[_Layer] = []
        for branch, graph in graphs.items():
            found = spikes[branch]
            self.n_windows, self.window_steps = len(found[graph.input.name]), found[graph.input.name].shape[-1]
            activity = Activity(self.n_windows, self.window_steps)
            for name, values in found.items():
                activity.add(name, values.sum(axis=(0, -1), dtype=np.int64))
            for depth, (lif, full) in enumerate(zip(graph.lifs(), count(graph, activity), strict=True), start=1):
                synops, entering = _synops(graph, lif.name, found)
                own = found[lif.name].sum(axis=tuple(range(1, found[lif.name].ndim - 1)), dtype=np.int64)
                self.layers.append(_Layer(full, depth, own, entering, synops))

    def until(self, steps: np.ndarray) -> list[LayerCounts]:
        """Counts if window n is stopped once the host has seen ``steps[n]`` steps of it; steps (N,) in 1..W."""
        counts = []
        for layer in self.layers:
            executed = np.minimum(self.window_steps, steps + self.depth - layer.depth)
            arrived = np.minimum(self.window_steps, executed + 1)
            ran, came = (np.arange(self.window_steps) < n[:, None] for n in (executed, arrived))
            full_steps = self.n_windows * self.window_steps
            counts.append(
                replace(
                    layer.full, spikes_in=int(layer.spikes_in[came].sum()), spikes_out=int(layer.spikes[ran].sum()),
                    effective_synops=int(layer.synops[came].sum()), dense_synops=layer.full.dense_synops // full_steps * int(arrived.sum()),
                    neuron_updates=layer.full.n_neurons * int(executed.sum()),
                )
            )  # fmt: skip
        return counts


def _synops(graph: Graph, lif: str, spikes: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Effective SynOps into a LIF and the spikes that cause them, per window and step: (N, W) int64 each."""
    synops: np.ndarray | int = 0
    entering: np.ndarray | int = 0
    for node in graph.synapses_of(lif):
        (source,) = graph.sources(node.name)
        given = spikes[spiking_source(graph, source)]
        flat = given.reshape(len(given), -1, given.shape[-1])
        fan = fan_out(node, graph.shapes[source], nonzero_only=True).reshape(-1).astype(np.float64)
        synops = synops + np.einsum("npt,p->nt", flat, fan).round().astype(np.int64)
        entering = entering + flat.sum(axis=1, dtype=np.int64)
        if isinstance(node, RecurrentDense):
            own = spikes[lif]
            fan = (node.weight_rec != 0).sum(0).astype(np.float64)
            synops = synops + np.einsum("npt,p->nt", own, fan).round().astype(np.int64)
    return np.asarray(synops), np.asarray(entering)


@dataclass(frozen=True)
class ExitPoint:
    """One confidence: what is decided, how early, at what cost (totals over all windows)."""

    confidence: float
    steps: np.ndarray
    decisions: np.ndarray
    counts: list[LayerCounts]


def exit_curve(
    readout: Readout, graphs: Mapping[str, Graph], spikes: Mapping[str, Mapping[str, np.ndarray]],
    features: Mapping[str, np.ndarray], confidences: Sequence[float],
) -> list[ExitPoint]:  # fmt: skip
    """An `ExitPoint` per confidence; above 1 means never early."""
    counts = StepCounts(graphs, spikes)
    logits = anytime_logits(readout, features, counts.window_steps)
    points = []
    for confidence in confidences:
        steps, decisions = exit_steps(logits, confidence)
        points.append(ExitPoint(confidence, steps, decisions, counts.until(steps)))
    return points
