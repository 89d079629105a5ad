"""Sums in front of neurons: spikes that join get weights, and synapses that read the same spikes become one.

Both keep what arrives, and let quantisation see the weights as the chip will hold them: two synapses of the same spikes lie on the
same axons there, so that their sum must fit into 8 bits.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from taaf.models import ir

GIVES_SPIKES = (ir.Input, ir.Lif, ir.Flatten, ir.Pool2d, ir.Concat)


def with_weights(graph: ir.Graph) -> ir.Graph:
    """Spikes that join currents (an identity shortcut) get weights of 1, one to one."""
    nodes, edges = list(graph.nodes.values()), list(graph.edges)
    for i, (source, target) in enumerate(graph.edges):
        if isinstance(graph.nodes[target], ir.Sum) and isinstance(graph.nodes[source], GIVES_SPIKES):
            n, name = graph.shapes[source][0], f"{source}_to_{target}"
            flat = len(graph.shapes[source]) == 1
            identity = ir.Dense(name, np.eye(n)) if flat else ir.Conv2d(name, np.eye(n)[:, :, None, None])
            nodes.insert(nodes.index(graph.nodes[target]), identity)
            edges[i] = (name, target)
            edges.append((source, name))
    return ir.Graph(graph.name, nodes, edges) if len(nodes) > len(graph.nodes) else graph


def one_synapse_each(graph: ir.Graph) -> ir.Graph:
    """Dense layers, and convolutions of one geometry, that read the same spikes and feed the same sum become one with W1 + W2.

    Recurrent layers, groups, and convolutions that read other pixels are left as they are.
    """
    while pair := next(_pairs(graph), None):
        one, two, merged = pair
        (join,) = graph.targets(one.name)
        rest = [s for s in graph.sources(join) if s != two.name]
        nodes: list[ir.Node] = [merged if n is one else n for n in graph.nodes.values() if n is not two]
        edges = [e for e in graph.edges if two.name not in e]
        if len(rest) == 1:  # nothing left to add
            nodes = [n for n in nodes if n.name != join]
            edges = [(one.name if s == join else s, t) for s, t in edges if t != join]
        graph = ir.Graph(graph.name, nodes, edges)
    return graph


def _pairs(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Node, ir.Node]]:
    for join in [n.name for n in graph.nodes.values() if isinstance(n, ir.Sum)]:
        names = graph.sources(join)
        for i, one in enumerate(names):
            for two in names[i + 1 :]:
                alone = graph.targets(one) == graph.targets(two) == [join] and graph.sources(one) == graph.sources(two)
                merged = _merged(graph.nodes[one], graph.nodes[two]) if alone else None
                if merged is not None:
                    yield graph.nodes[one], graph.nodes[two], merged


def _merged(one: ir.Node, two: ir.Node) -> ir.Node | None:
    if type(one) is type(two) is ir.Dense:
        weights = one.weight, two.weight  # type: ignore[attr-defined]
    elif isinstance(one, ir.Conv2d) and isinstance(two, ir.Conv2d):
        if one.stride != two.stride or not one.groups == two.groups == 1 or not one.dilation == two.dilation == (1, 1):
            return None
        # the same pixels lie in the middle of both kernels: k - 1 - 2 p is how far a map shrinks
        sizes = [np.array(c.weight.shape[2:]) for c in (one, two)]
        paddings = [np.array(c.padding) for c in (one, two)]
        most = np.maximum(*paddings)
        before = [most - p for p in paddings]
        size = np.maximum(*(b + k for b, k in zip(before, sizes, strict=True)))
        if any(
            (s - 1 - 2 * most != k - 1 - 2 * p).any()
            for s, k, p in ((size, k, p) for k, p in zip(sizes, paddings, strict=True))
        ):
            return None
        weights = tuple(
            np.pad(c.weight, ((0, 0), (0, 0), *((b, n - b - k) for b, n, k in zip(first, size, kernel, strict=True))))
            for c, first, kernel in zip((one, two), before, sizes, strict=True)
        )  # type: ignore[assignment]
        one = replace(one, padding=(int(most[0]), int(most[1])))
    else:
        return None
    biases = [n.bias for n in (one, two) if n.bias is not None]  # type: ignore[attr-defined]
    return replace(one, weight=weights[0] + weights[1], bias=sum(biases[1:], biases[0]) if biases else None)  # type: ignore[call-arg]
