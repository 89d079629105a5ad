"""Exact operation counts from spikes: what the chip has to do, per layer.

Definitions (NeuroBench's, on integer graphs):

- effective SynOps: for every spike, the number of non-zero synapses it travels through; a delayed synapse costs its
  operation when the spike reaches it (the sum is made then and waits in the dendrite), so a delay changes no count;
- dense SynOps: the number of synapses (zero weights included, padding not) times the number of time steps;
- neuron updates: neurons times time steps.
"""

from dataclasses import asdict, dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from taaf.hw_sim.activity import Activity
from taaf.models.ir import Conv2d, Dense, Flatten, Graph, Lif, Node, RecurrentDense


@dataclass(frozen=True)
class LayerCounts:
    """Totals of one LIF layer over a run: its incoming synapses and its own neurons."""

    layer: str
    kind: str  # "conv" or "dense"
    n_neurons: int
    n_synapses: int  # non-zero weights as connections
    spikes_in: int
    spikes_out: int
    effective_synops: int
    dense_synops: int
    neuron_updates: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


_KNOWN: WeakKeyDictionary[Node, dict[tuple[tuple[int, ...], bool], np.ndarray]] = WeakKeyDictionary()  # nodes never change


def fan_out(node: Node, in_shape: tuple[int, ...], nonzero_only: bool) -> np.ndarray:
    """Synapses that leave each input position of a synapse node; int64 of ``in_shape``, not to be changed."""
    known = _KNOWN.setdefault(node, {})
    if (in_shape, nonzero_only) not in known:
        known[in_shape, nonzero_only] = _fan_out(node, in_shape, nonzero_only)
    return known[in_shape, nonzero_only]


def _fan_out(node: Node, in_shape: tuple[int, ...], nonzero_only: bool) -> np.ndarray:
    assert isinstance(node, Conv2d | Dense)
    mask = (node.weight != 0) if nonzero_only else np.ones(node.weight.shape, bool)
    if isinstance(node, Dense):
        return mask.sum(0, dtype=np.int64)
    c_out, c_in, *kernel = mask.shape
    per_tap = mask.reshape(node.groups, c_out // node.groups, c_in, *kernel).sum(1, dtype=np.int64).reshape(-1, *kernel)
    reads = []  # (input position, kernel tap): 1 where an output position reads it through this tap
    fields = (in_shape[1:], node.out_shape([in_shape])[1:], kernel, node.stride, node.padding, node.dilation)
    for n, m, k, s, p, d in zip(*fields, strict=True):
        at = np.arange(n)[:, None] + p - np.arange(k) * d
        reads.append(((at % s == 0) & (at >= 0) & (at // s < m)).astype(np.int64))
    fan: np.ndarray = np.einsum("cij,yi,xj->cyx", per_tap, *reads, optimize=True)
    return fan


def count(graph: Graph, activity: Activity) -> list[LayerCounts]:
    """Exact counts per LIF layer from the spikes per neuron of a run."""
    steps = activity.n_windows * activity.n_steps
    return [_count_layer(graph, lif, activity, steps) for lif in graph.lifs()]


def _count_layer(graph: Graph, lif: Lif, activity: Activity, steps: int) -> LayerCounts:
    effective = dense = synapses = spikes_in = 0
    kind = "dense"
    for node in graph.synapses_of(lif.name):
        (source,) = graph.sources(node.name)
        spikes = activity.spikes[spiking_source(graph, source)].reshape(graph.shapes[source])
        nonzero, every = (fan_out(node, graph.shapes[source], flag) for flag in (True, False))
        effective += int((spikes * nonzero).sum())
        dense += int(every.sum()) * steps
        synapses += int(nonzero.sum())
        spikes_in += int(spikes.sum())
        kind = "conv" if isinstance(node, Conv2d) else kind
        if isinstance(node, RecurrentDense):
            own, fan = activity.spikes[lif.name], (node.weight_rec != 0).sum(0)
            effective += int((own * fan).sum())
            dense += node.weight_rec.size * steps
            synapses += int(fan.sum())
    n = int(np.prod(graph.shapes[lif.name]))
    spikes_out = int(activity.spikes[lif.name].sum())
    return LayerCounts(f"{graph.name}.{lif.name}", kind, n, synapses, spikes_in, spikes_out, effective, dense, n * steps)


def spiking_source(graph: Graph, name: str) -> str:
    """The input or LIF whose spikes arrive at ``name``'s output (through flattening)."""
    while isinstance(graph.nodes[name], Flatten):
        (name,) = graph.sources(name)
    return name


def dense_macs(graph: Graph) -> int:
    """Multiply-accumulates of one pass of the ANN twin: the same synapses with real-valued activations."""
    total = 0
    for lif in graph.lifs():
        for node in graph.synapses_of(lif.name):
            (source,) = graph.sources(node.name)
            total += int(fan_out(node, graph.shapes[source], nonzero_only=False).sum())
            if isinstance(node, RecurrentDense):
                total += node.weight_rec.size
    return total
