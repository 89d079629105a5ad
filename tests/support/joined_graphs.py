"""Small integer graphs in the forms that networks are joined in, as users' networks arrive at the compiler."""

from collections.abc import Callable
from typing import Any

import numpy as np

from taaf.models.ir import Concat, Conv2d, Dense, Flatten, Graph, Input, Lif, Node, Pool2d, Shape, Sum


class Wired:
    """Collects nodes with random even weights; every method returns the name that others read."""

    def __init__(self, rng: np.random.Generator, shape: Shape) -> None:
        self.rng, self.nodes, self.edges = rng, list[Node](), list[tuple[str, str]]()
        self.shapes: dict[str, Shape] = {}
        self.add(Input("input", shape))

    def add(self, node: Node, *sources: str) -> str:
        self.nodes.append(node)
        self.edges += [(s, node.name) for s in sources]
        self.shapes[node.name] = node.out_shape([self.shapes[s] for s in sources])
        return node.name

    def weights(self, *shape: int) -> np.ndarray:
        values = self.rng.normal(0.5, 1, shape) * 150 / np.sqrt(np.prod(shape[1:])) * (self.rng.random(shape) < 0.8)
        return (2 * np.rint(values / 2)).clip(-120, 120).astype(np.int32)

    def conv(
        self, name: str, source: str, n: int, kernel: int | tuple[int, int] = 3, stride: int = 1, groups: int = 1, **how: Any
    ) -> str:
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        how.setdefault("padding", (size[0] // 2, size[1] // 2))
        weight = self.weights(n, self.shapes[source][0] // groups, *size)
        return self.add(Conv2d(name, weight, (stride, stride), groups=groups, **how), source)

    def identity(self, name: str, source: str, weight: int = 64) -> str:
        return self.add(Conv2d(name, (weight * np.eye(self.shapes[source][0], dtype=np.int32))[:, :, None, None]), source)

    def dense(self, name: str, source: str, n: int) -> str:
        if len(self.shapes[source]) == 3:
            source = self.add(Flatten(f"{name}_flatten"), source)
        return self.add(Dense(name, self.weights(n, *self.shapes[source])), source)

    def lif(self, name: str, *currents: str, **how: Any) -> str:
        """One LIF of a current, or of the sum of several."""
        current = currents[0] if len(currents) == 1 else self.add(Sum(f"{name}_sum"), *currents)
        n = self.shapes[current][0]
        how.setdefault("bias", self.rng.integers(-5, 20, n).astype(np.int32))
        return self.add(Lif(name, **{"v_th_mant": 70, **how}), current)

    def graph(self) -> Graph:
        return Graph("net", self.nodes, self.edges)


def wide_shortcut(w: Wired) -> None:
    """A shortcut with a 3x3 kernel and stride 2: phases of the skipped map."""
    x = w.lif("x", w.conv("stem", "input", 2))
    h = w.lif("h", w.conv("a", x, 3, stride=2))
    w.lif("y", w.conv("b", h, 3), w.conv("s", x, 3, stride=2))


def sew_add(w: Wired) -> None:
    """Spikes are added and go to two further layers: as many synapse groups, with equal weights."""
    x = w.lif("x", w.conv("stem", "input", 2))
    h = w.lif("h", w.conv("b", w.lif("g", w.conv("a", x, 3)), 2))
    first = w.conv("c", h, 3)
    second = w.add(Conv2d("c_x", w.nodes[-1].weight, padding=(1, 1)), x)  # type: ignore[attr-defined]
    w.lif("y", w.conv("d", w.lif("k", first, second), 2), w.conv("e", h, 2, 1), w.conv("e_x", x, 2, 1))


def ms_resnet(w: Wired) -> None:
    """Currents run through the blocks: every LIF adds the synapses of all blocks before, the input's too."""
    a = w.lif("a", w.conv("stem0", "input", 2))
    b = w.lif("b", w.conv("stem1", "input", 2), w.conv("c1", a, 2))
    w.lif("c", w.conv("stem2", "input", 2), w.conv("c2", a, 2), w.conv("c3", b, 2), i_decay=3000, v_th_mant=300)


def dense_net(w: Wired) -> None:
    """Every layer reads all before it; then a transition that halves the map, and a dense readout."""
    a = w.lif("a", w.conv("stem", "input", 2))
    b = w.lif("b", w.conv("c1", a, 2))
    c = w.lif("c", w.conv("c2", w.add(Concat("cat1"), a, b), 2), v_th_mant=600, v_decay=100)
    d = w.lif("d", w.conv("c3", w.add(Concat("cat2"), a, b, c), 3, 2, 2, padding=(0, 0)))
    w.lif("y", w.dense("read", d, 5))


def or_pools(w: Wired) -> None:
    """Overlapping and plain OR pools, and a skip around both."""
    x = w.lif("x", w.conv("stem", "input", 3), v_th_mant=250)
    p = w.add(Pool2d("pool1", "max", (3, 3), (2, 2), (1, 1)), x)
    q = w.add(Pool2d("pool2", "max", (2, 2)), w.lif("h", w.conv("a", p, 3), v_th_mant=120))
    w.lif("y", w.conv("b", q, 2), w.conv("s", x, 2, 1, 4, padding=(0, 0)))


def output_beside(w: Wired) -> None:
    """Position and tokens of a patch stem: the last layer is [position | relays of x]."""
    x = w.lif("x", w.conv("stem", "input", 3, stride=2))
    w.add(Concat("tokens"), w.lif("position", w.conv("p", x, 3)), x)


def inception(w: Wired) -> None:
    """Branches of different depth, kernels and dilation beside each other; one halves its map early, on odd sizes."""
    x = w.lif("x", w.conv("stem", "input", 2))
    a = w.lif("a", w.conv("a1", w.lif("a0", w.conv("a0_conv", x, 2, (3, 1))), 2, 3, 2))
    b = w.lif("b", w.conv("b1", x, 2, 1, 2))
    c = w.lif(
        "c", w.conv("c1", w.lif("c0", w.conv("c0_conv", x, 2, 3, dilation=(2, 2), padding=(2, 2))), 2, 2, 2, padding=(1, 1))
    )
    w.lif("y", w.conv("e", w.add(Concat("cat"), a, b), 3, 1), w.conv("f", c, 3, 1, padding=(0, 0)))


def depthwise(w: Wired) -> None:
    """An inverted residual: 1x1, depthwise 3x3, 1x1 and the identity over three layers."""
    x = w.lif("x", w.conv("stem", "input", 2))
    h = w.lif("h", w.conv("expand", x, 4, 1))
    d = w.lif("d", w.conv("depthwise", h, 4, 3, groups=4, padding=(1, 1)))
    w.lif("y", w.conv("project", d, 2, 1), w.identity("s", x))


def flat_and_map(w: Wired) -> None:
    """A dense branch reads early maps, and joins the readout of late ones."""
    x = w.lif("x", w.conv("stem", "input", 2, stride=2))
    f = w.lif("f", w.dense("early", x, 4), v_th_mant=150)
    h = w.lif("h", w.conv("a", x, 2, stride=2))
    g = w.lif("g", w.dense("late", h, 3))
    w.lif("y", w.dense("read", w.add(Concat("cat"), f, g), 4), w.dense("again", h, 4))


JOINED: dict[str, tuple[Shape, Callable[[Wired], None]]] = {
    "wide_shortcut": ((2, 7, 6), wide_shortcut),
    "sew_add": ((1, 5, 6), sew_add),
    "ms_resnet": ((2, 5, 4), ms_resnet),
    "dense_net": ((1, 6, 6), dense_net),
    "or_pools": ((1, 8, 12), or_pools),
    "output_beside": ((2, 7, 8), output_beside),
    "inception": ((2, 7, 7), inception),
    "depthwise": ((1, 5, 5), depthwise),
    "flat_and_map": ((1, 8, 6), flat_and_map),
}


def joined(case: str, seed: int) -> Graph:
    """One of `JOINED` with random weights."""
    shape, build = JOINED[case]
    wired = Wired(np.random.default_rng(seed), shape)
    build(wired)
    return wired.graph()
