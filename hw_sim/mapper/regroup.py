"""Other ways into a dense layer that reads more of a map than a core has input axons.

Both put a population of spiking neurons in between, so that they are other networks, to be trained as such; here only their
structure counts, as in `taaf.hw_sim.mapper.shrink`:

- `pooled_before`: one neuron per channel sums its whole map, the dense layer reads C instead of C x H x W;
- `by_rows`: the fan-in is split over the rows, ``features`` neurons each on cores of their own, and joined by the dense layer;
  for weights that are the same in every row (a mean over the map), as otherwise a row's weights would be another row's.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from taaf.hw_sim.counters import spiking_source
from taaf.models.ir import Conv2d, Dense, Flatten, Graph, Lif, Node

Regroup = Callable[[Graph, str], Graph | None]


def pooled_before(graph: Graph, lif: str) -> Graph | None:
    """None where the layer does not read one flattened map through one matrix."""
    found = _matrix_over_map(graph, lif)
    if found is None:
        return None
    dense, source, weight = found  # (F, C, H, W)
    pool = Conv2d(f"{lif}_pool", np.full((weight.shape[1], 1, *weight.shape[2:]), 2, np.int32), groups=weight.shape[1])
    return _between(graph, dense, source, pool, weight[:, :, 0, 0])


def by_rows(graph: Graph, lif: str) -> Graph | None:
    """None there too, and where the rows' weights differ."""
    found = _matrix_over_map(graph, lif)
    if found is None or (found[2] != found[2][:, :, :1]).any() or found[2].shape[2] < 2:
        return None
    dense, source, weight = found
    features, _, rows, columns = weight.shape
    part = Conv2d(f"{lif}_rows", weight[:, :, :1], (1, columns))
    join = np.repeat(2 * np.eye(features, dtype=np.int32), rows, axis=1)
    return _between(graph, dense, source, part, join)


def _matrix_over_map(graph: Graph, lif: str) -> tuple[Dense, str, np.ndarray] | None:
    """The dense node, the population it reads, and its weight as (F, C, H, W)."""
    nodes = graph.synapses_of(lif)
    if len(nodes) != 1 or type(nodes[0]) is not Dense:
        return None
    (before,) = graph.sources(nodes[0].name)
    source = spiking_source(graph, before)
    shape = graph.shapes[source]
    if len(shape) != 3 or shape[1] * shape[2] < 2:
        return None
    return nodes[0], source, nodes[0].weight.reshape(-1, *shape)


def _between(graph: Graph, dense: Dense, source: str, first: Conv2d, weight: np.ndarray) -> Graph:
    """``source`` -> first -> LIF -> flatten -> dense with another weight, in place of what led into the dense node."""
    new: Sequence[Node] = (first, Lif(f"{first.name}_lif"), Flatten(f"{first.name}_flat"), Dense(dense.name, weight))
    nodes: list[Node] = []
    for node in graph.nodes.values():
        nodes += new if node is dense else [node]
    edges = [edge for edge in graph.edges if edge[1] != dense.name]
    edges += [(source, first.name), *((a.name, b.name) for a, b in pairwise(new))]
    used = {a for a, _ in edges} | {b for _, b in edges}
    dead = {n.name for n in nodes if isinstance(n, Flatten) and n.name not in {a for a, _ in edges}}
    edges = [edge for edge in edges if edge[1] not in dead]
    return Graph(graph.name, [n for n in nodes if n.name in used - dead], edges)


CHANGES: dict[str, Regroup] = {
    "one pooled spiking population before {}": pooled_before,
    "the fan-in of {} split over its rows, joined by a further population": by_rows,
}
