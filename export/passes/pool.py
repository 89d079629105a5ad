"""Pooling vanishes: sums and averages into the weights around them, the OR of spikes into neurons of its own."""

from dataclasses import replace

import numpy as np

from taaf.export.passes.maps import RELAY_WEIGHT
from taaf.models.errors import UnsupportedLayerError
from taaf.models.ir import BatchNorm, Concat, Conv2d, Dense, Flatten, Graph, Input, Lif, Node, Pool2d, Shape, Sum

OR_I_DECAY, OR_V_DECAY, OR_V_TH = 4096, 2048, 128  # no current memory, and a threshold below the weight: nothing else matters


def or_pool(graph: Graph) -> Graph:
    """OR pooling of spikes becomes neurons: ``X`` a grouped convolution whose every weight exceeds the threshold, then ``X_lif``.

    A neuron that gets at least one spike fires at once, and its reset leaves nothing behind; one that gets none stays at 0.
    """
    nodes: list[Node] = []
    edges = list(graph.edges)
    for node in graph.nodes.values():
        if not isinstance(node, Pool2d) or node.kind != "max":
            nodes.append(node)
            continue
        n = graph.shapes[node.name][0]
        weight = np.full((n, 1, *node.kernel), RELAY_WEIGHT, np.int32)
        lif = Lif(f"{node.name}_lif", OR_I_DECAY, OR_V_DECAY, OR_V_TH)
        nodes += [Conv2d(node.name, weight, node.step, node.padding, groups=n), lif]
        edges = [(lif.name if s == node.name else s, t) for s, t in edges] + [(node.name, lif.name)]
    return Graph(graph.name, nodes, edges) if len(nodes) > len(graph.nodes) else graph


def fold_pool(graph: Graph) -> Graph:
    """Sum and average pooling, float stage: folded into the weights behind or before, or a grouped convolution of its own.

    Behind spikes the pooled numbers go to synapses, which are linear: with window k and step m of the pool, a convolution reads

        sum_i w_i sum_a s((y S - P + i D) m - p + a)  =  sum over taps i D m + a of w_i s,  stride S m, padding P m + p

    and a dense layer repeats its weights over the pixels of a window. An average carries 1 / k^2 into the weights. In front of a
    LIF (directly, or through a sum or a norm) pooled spikes become a grouped convolution, and a pooled current of a convolution
    becomes one of larger kernel. Max pooling of spikes is left for the integer stage (`or_pool`).

    Raises
    ------
    UnsupportedLayerError
        Naming the pool and what stands in the way.
    """
    while pool := next((n for n in graph.nodes.values() if isinstance(n, Pool2d) and n.kind != "max"), None):
        graph = _without(graph, pool)
    for node in graph.nodes.values():
        if isinstance(node, Pool2d) and not _gives_spikes(graph, graph.sources(node.name)[0]):
            raise _refused(graph, node, "of a current; the maximum is exact for spikes only, behind a LIF")
    return graph


def _refused(graph: Graph, pool: Pool2d, reason: str) -> UnsupportedLayerError:
    return UnsupportedLayerError(f"{graph.name}.{pool.name}: {pool.kind} pooling {reason}")


def _gives_spikes(graph: Graph, name: str) -> bool:
    node = graph.nodes[name]
    if isinstance(node, Flatten | Concat) or (isinstance(node, Pool2d) and node.kind == "max"):
        return all(_gives_spikes(graph, s) for s in graph.sources(name))
    return isinstance(node, Input | Lif)


def _without(graph: Graph, pool: Pool2d) -> Graph:
    if pool.kind not in ("sum", "average"):
        raise _refused(graph, pool, "is not known; allowed sum, average, and max of spikes")
    (source,), targets = graph.sources(pool.name), graph.targets(pool.name)
    given = graph.nodes[source]
    if isinstance(given, Conv2d) and graph.targets(source) == [pool.name]:
        return graph.rebuilt({source: _pooled_conv(graph, given, pool), pool.name: None}, {pool.name: source})
    if not _gives_spikes(graph, source):
        raise _refused(
            graph,
            pool,
            f"of {source} ({type(given).__name__}); allowed of spikes, and of a convolution that feeds nothing else",
        )
    if all(isinstance(graph.nodes[t], Lif | Sum | BatchNorm) for t in targets):
        channels = graph.shapes[pool.name][0]
        weight = np.full((channels, 1, *pool.kernel), _factor(pool), np.float32)
        return graph.rebuilt({pool.name: Conv2d(pool.name, weight, pool.step, pool.padding, groups=channels)})
    shape, replaced = graph.shapes[source], dict[str, Node | None]()
    for name in targets:
        node = graph.nodes[name]
        if isinstance(node, Conv2d):
            replaced[name] = _conv_of_pooled(graph, node, pool, shape)
        elif isinstance(node, Flatten) and all(isinstance(graph.nodes[t], Dense) for t in graph.targets(name)):
            for dense in graph.targets(name):
                replaced[dense] = _dense_of_pooled(graph.nodes[dense], pool, shape, graph.shapes[pool.name])  # type: ignore[arg-type]
        else:
            raise _refused(
                graph,
                pool,
                f"that feeds {name} ({type(node).__name__}); allowed convolutions, LIFs, and dense layers by a flatten",
            )
    return graph.rebuilt({**replaced, pool.name: None}, {pool.name: source})


def _factor(pool: Pool2d) -> np.float32:
    return np.float32(1.0 if pool.kind == "sum" else 1.0 / (pool.kernel[0] * pool.kernel[1]))


def _conv_of_pooled(graph: Graph, conv: Conv2d, pool: Pool2d, shape: Shape) -> Conv2d:
    """The convolution of a pooled map as one of the map itself."""
    for size, k, m, p, padding in zip(shape[1:], pool.kernel, pool.step, pool.padding, conv.padding, strict=True):
        # a padded tap reads pooled pixels that do not exist: their windows must not reach the map
        rest = (size + 2 * p - k) % m
        if padding and rest > m + p - k:
            raise _refused(
                graph, pool, f"{k} every {m} of {size} pixels in front of {conv.name}, which pads the pooled map: windows at its "
                "border reach back into the map; use windows that do not overlap and a size they divide, or no padding"
            )  # fmt: skip
    c_out, c_in, *kernel = conv.weight.shape
    taps = [d * m * (n - 1) + k for d, m, n, k in zip(conv.dilation, pool.step, kernel, pool.kernel, strict=True)]
    weight = np.zeros((c_out, c_in, *taps), conv.weight.dtype)
    for i, j in np.ndindex(*kernel):
        y, x = i * conv.dilation[0] * pool.step[0], j * conv.dilation[1] * pool.step[1]
        weight[:, :, y : y + pool.kernel[0], x : x + pool.kernel[1]] += _factor(pool) * conv.weight[:, :, i, j, None, None]
    stride, padded = (
        (conv.stride[0] * pool.step[0], conv.stride[1] * pool.step[1]),
        (conv.padding[0] * pool.step[0] + pool.padding[0], conv.padding[1] * pool.step[1] + pool.padding[1]),
    )
    return replace(conv, weight=weight, stride=stride, padding=padded, dilation=(1, 1))


def _dense_of_pooled(dense: Dense, pool: Pool2d, shape: Shape, pooled: Shape) -> Dense:
    """The dense layer of a flattened pooled map as one of the flattened map."""
    weight = dense.weight.reshape(len(dense.weight), *pooled)
    wide = np.zeros((len(weight), shape[0], *(n + 2 * p for n, p in zip(shape[1:], pool.padding, strict=True))), weight.dtype)
    for y, x in np.ndindex(*pooled[1:]):
        top, left = y * pool.step[0], x * pool.step[1]
        wide[:, :, top : top + pool.kernel[0], left : left + pool.kernel[1]] += _factor(pool) * weight[:, :, y, x, None, None]
    inner = wide[:, :, pool.padding[0] :, pool.padding[1] :][:, :, : shape[1], : shape[2]]
    return replace(dense, weight=np.ascontiguousarray(inner).reshape(len(weight), -1))


def _pooled_conv(graph: Graph, conv: Conv2d, pool: Pool2d) -> Conv2d:
    """A pooled current of a convolution as one convolution; every pooled pixel sums k^2 biases."""
    if any(pool.padding):
        raise _refused(graph, pool, f"of the current of {conv.name} with padding {pool.padding}; allowed 0")
    c_out, c_in, *kernel = conv.weight.shape
    steps = [(s * (k - 1), d * (n - 1)) for s, k, d, n in zip(conv.stride, pool.kernel, conv.dilation, kernel, strict=True)]
    weight = np.zeros((c_out, c_in, *(a + b + 1 for a, b in steps)), conv.weight.dtype)
    for a, b in np.ndindex(*pool.kernel):
        for i, j in np.ndindex(*kernel):
            weight[:, :, a * conv.stride[0] + i * conv.dilation[0], b * conv.stride[1] + j * conv.dilation[1]] += (
                _factor(pool) * conv.weight[:, :, i, j]
            )
    stride = (conv.stride[0] * pool.step[0], conv.stride[1] * pool.step[1])
    bias = None if conv.bias is None else conv.bias * (_factor(pool) * np.float32(pool.kernel[0] * pool.kernel[1]))
    return Conv2d(conv.name, weight, stride, conv.padding, (1, 1), conv.groups, bias)
