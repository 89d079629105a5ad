"""ResNet18-shaped integer graphs with random even weights: structure and size count, the spikes mean nothing."""

import numpy as np

from taaf.models.ir import Conv2d, Dense, Flatten, Graph, Input, Lif, Node, Sum


def resnet18_graph(
    name: str, shape: tuple[int, int, int], seed: int = 0, width: int = 64, features: int = 128, over_map: bool = False
) -> Graph:
    """conv-LIF-conv-add-LIF blocks, joins unlowered, strided convolution for the max pool, features after pooling.

    ``over_map``: features read the whole last map with the same weights everywhere, as `models.networks.resnet18` does.
    """
    rng = np.random.default_rng(seed)
    nodes: list[Node] = [Input("input", shape)]
    edges: list[tuple[str, str]] = []

    def add(node: Node, *sources: str) -> str:
        nodes.append(node)
        edges.extend((s, node.name) for s in sources)
        return node.name

    def conv(to: str, source: str, n_out: int, n_in: int, kernel: int, stride: int = 1) -> str:
        weight = (2 * rng.integers(-60, 61, (n_out, n_in, kernel, kernel))).astype(np.int32)
        return add(Conv2d(to, weight, (stride, stride), (kernel // 2, kernel // 2)), source)

    def lif(to: str, source: str) -> str:
        return add(Lif(to, v_th_mant=800), source)

    x = lif("stem_lif", conv("stem", "input", width, shape[0], 7, 2))
    x = lif("down_lif", conv("down", x, width, width, 3, 2))
    n = width
    for i, (factor, stride) in enumerate([(1, 1), (1, 1), (2, 2), (2, 1), (4, 2), (4, 1), (8, 2), (8, 1)]):
        wide = factor * width
        h = lif(f"b{i}_lif1", conv(f"b{i}_conv1", x, wide, n, 3, stride))
        main = conv(f"b{i}_conv2", h, wide, wide, 3)
        if stride > 1 or wide != n:
            short = conv(f"b{i}_short", x, wide, n, 1, stride)
        else:
            short = add(Conv2d(f"b{i}_short", (64 * np.eye(n, dtype=np.int32))[:, :, None, None]), x)
        x, n = lif(f"b{i}_lif2", add(Sum(f"b{i}_join"), main, short)), wide
    size = Graph(name, nodes, edges).shapes[x][1:]
    if over_map:
        weight = np.repeat((2 * rng.integers(-60, 61, (features, n))).astype(np.int32), size[0] * size[1], axis=1)
        lif("features_lif", add(Dense("features", weight), add(Flatten("flatten"), x)))
        return Graph(name, nodes, edges)
    pooled = lif("pool_lif", add(Conv2d("pool", np.full((n, 1, *size), 2, np.int32), groups=n), x))
    flat = add(Flatten("flatten"), pooled)
    lif("features_lif", add(Dense("features", (2 * rng.integers(-60, 61, (features, n))).astype(np.int32)), flat))
    return Graph(name, nodes, edges)
