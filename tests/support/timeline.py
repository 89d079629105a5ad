"""A chain on Lava's own time axis: every layer one step behind the one before it, reset at columns of one's choice."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from engines import run_engines

from taaf.hw_sim.reference import Trace, run_reference
from taaf.models.ir import Graph, Input, Lif, chain


def segments(graph: Graph) -> list[Graph]:
    """One graph per LIF: what arrives at its synapses, to its spikes."""
    found, nodes = [], chain(graph)
    ends = [0, *(i for i, n in enumerate(nodes) if isinstance(n, Lif))]
    for start, end in pairwise(ends):
        part = [Input("in", graph.shapes[nodes[start].name]), *nodes[start + 1 : end + 1]]
        found.append(Graph(graph.name, part, [(a.name, b.name) for a, b in pairwise(part)]))
    return found


def on_lava_time(graph: Graph, spikes: np.ndarray, resets: Callable[[int], list[int]]) -> Trace:
    """Run (*shape, T) spikes; column c of layer i (from 1) uses column c - 1 of layer i - 1.

    ``resets(i)`` are the columns at which layer i starts from rest (column 0 always is one). Every segment runs on the
    reference and on the engine, which must agree.
    """
    trace, raster, steps = Trace({}, {}, {}, {}, {}), spikes, spikes.shape[-1]
    for i, part in enumerate(segments(graph), start=1):
        arriving = np.concatenate([np.zeros_like(raster[..., :1]), raster[..., :-1]], axis=-1)
        cuts = sorted({0, steps, *(c for c in resets(i) if 0 < c < steps)})
        runs = [run_reference(part, arriving[..., a:b]) for a, b in pairwise(cuts)]
        for kind in ("spikes", "u", "v"):
            joined = [getattr(r, kind)[part.output] for r in runs]
            getattr(trace, kind)[part.output] = np.concatenate(joined, axis=-1)
        raster = trace.spikes[part.output]
        fast = [run_engines(part, arriving[None, ..., a:b]).spikes[part.output][0] for a, b in pairwise(cuts)]
        np.testing.assert_array_equal(np.concatenate(fast, axis=-1), raster, err_msg=part.output)
    return trace
