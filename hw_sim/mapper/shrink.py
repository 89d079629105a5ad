"""Smaller versions of a graph, of which only the structure counts: narrower layers, smaller inputs, sparser weights.

They answer what would fit, and cannot be run: weights are cut from the original ones, neurons lose their parameters.
"""

import math
from collections.abc import Mapping as Dict

import numpy as np

from taaf.models.ir import Conv2d, Dense, Flatten, Graph, Input, Lif, Node, RecurrentDense, Shape, Sum


def shrunk(graph: Graph, width: Dict[str, float] | float = 1.0, resolution: float = 1.0, density: float = 1.0) -> Graph:
    """A smaller graph.

    Parameters
    ----------
    width : float or dict
        Factor on the channels (features) of every LIF but the last, or of single ones by name; at least one remains.
    resolution : float
        Factor on the height and width of the input; a flat input keeps its size.
    density : float
        Share of the non-zero weights that is kept, the largest ones.

    Raises
    ------
    GraphError
        If the smaller maps no longer fit together.
    """
    channels: dict[str, int] = {}  # synapse or sum -> channels of the LIF it ends in
    for lif in graph.lifs():
        factor = width.get(lif.name, 1.0) if isinstance(width, Dict) else 1.0 if lif.name == graph.output else width
        n = max(1, round(graph.shapes[lif.name][0] * factor))
        todo = graph.sources(lif.name)
        while todo:
            name = todo.pop()
            channels[name] = n
            todo += graph.sources(name) if isinstance(graph.nodes[name], Sum) else []
    nodes: list[Node] = []
    shapes: dict[str, Shape] = {}
    for node in graph.nodes.values():
        given = [shapes[s] for s in graph.sources(node.name)]
        small: Node = node
        if isinstance(node, Input) and len(node.shape) == 3:
            small = Input(node.name, (node.shape[0], *(max(1, round(n * resolution)) for n in node.shape[1:])))
        elif isinstance(node, Conv2d):
            small = _conv(node, given[0], channels[node.name], density)
        elif isinstance(node, Dense):
            small = _dense(graph, node, given[0], channels[node.name], density, shapes)
        elif isinstance(node, Lif):
            small = Lif(node.name)
        shapes[node.name] = small.out_shape(given)
        nodes.append(small)
    return Graph(graph.name, nodes, graph.edges)


def _conv(node: Conv2d, given: Shape, n_out: int, density: float) -> Conv2d:
    weight, groups = node.weight, node.groups
    kernel = [min(k, (n + 2 * p - 1) // d + 1) for k, n, p, d in
              zip(weight.shape[2:], given[1:], node.padding, node.dilation, strict=True)]  # fmt: skip
    cut = weight[:, :, : kernel[0], : kernel[1]]
    if groups > 1:
        most = math.gcd(given[0], n_out)
        groups = max(g for g in range(1, min(most, groups) + 1) if most % g == 0)
        cut = np.resize(cut, (n_out, given[0] // groups, *kernel))
    else:
        cut = cut[:n_out, : given[0]]
    return Conv2d(node.name, _sparser(cut, density), node.stride, node.padding, node.dilation, groups)


def _dense(graph: Graph, node: Dense, given: Shape, n_out: int, density: float, shapes: dict[str, Shape]) -> Dense:
    (name,) = graph.sources(node.name)
    while isinstance(graph.nodes[name], Flatten):
        (name,) = graph.sources(name)
    position = np.arange(node.weight.shape[1]).reshape(graph.shapes[name])
    kept = position[tuple(slice(n) for n in shapes[name])].ravel()
    weight = _sparser(node.weight[:n_out, kept], density)
    if isinstance(node, RecurrentDense):
        return RecurrentDense(node.name, weight, None, _sparser(node.weight_rec[:n_out, :n_out], density))
    return Dense(node.name, weight)


def _sparser(weight: np.ndarray, density: float) -> np.ndarray:
    if density >= 1:
        return weight
    keep = math.ceil(np.count_nonzero(weight) * density)
    found = np.zeros(weight.size, weight.dtype)
    if keep:
        flat = np.abs(weight).ravel()
        largest = np.argpartition(flat, len(flat) - keep)[len(flat) - keep :]
        found[largest] = weight.ravel()[largest]
    return found.reshape(weight.shape)
