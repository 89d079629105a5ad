"""Both kinds of engine on one graph, and random graphs of the shapes that choose between the event engine's kernels."""

import numpy as np

from taaf.hw_sim.engine import Engine, EngineResult
from taaf.models.ir import Concat, Conv2d, Dense, Flatten, Graph, Input, Lif, Node, Pool2d, RecurrentDense, Shape, Sum


def run_engines(
    graph: Graph, spikes: np.ndarray, keep_all: bool = True, *, chunk: int = 32, relays: bool = False
) -> EngineResult:
    """What both kinds give: the same spikes, counts, wraps and clips, or this fails."""
    results = {kind: Engine(graph, chunk, relays, kind=kind).run(spikes, keep_all) for kind in ("event", "torch")}  # type: ignore[arg-type]
    assert_same(results["event"], results["torch"])
    return results["event"]


def assert_same(found: EngineResult, expected: EngineResult) -> None:
    """Equal in everything."""
    assert set(found.spikes) == set(expected.spikes)
    for name, spikes in expected.spikes.items():
        np.testing.assert_array_equal(found.spikes[name], spikes, name)
    assert list(found.activity.spikes) == list(expected.activity.spikes)
    for name, counts in expected.activity.spikes.items():
        np.testing.assert_array_equal(found.activity.spikes[name], counts, name)
    for key in ("n_windows", "n_steps", "wraps", "clips"):
        assert getattr(found.activity, key) == getattr(expected.activity, key), key


class _Wide:
    """Grows a graph whose convolutions are narrow and wide, grouped, dilated, joined, pooled and laid beside each other."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.shapes: dict[str, Shape] = {}
        self.nodes: list[Node] = []
        self.edges: list[tuple[str, str]] = []
        size = tuple(int(n) for n in self.rng.integers(3, 9, 2))
        self.add(Input("input", (int(self.rng.choice([1, 2, 3, 8])), *size)))

    def add(self, node: Node, *sources: str) -> str:
        self.shapes[node.name] = node.out_shape([self.shapes[s] for s in sources])
        self.nodes.append(node)
        self.edges += [(s, node.name) for s in sources]
        return node.name

    def pick(self, *values: int) -> int:
        return int(self.rng.choice(values))

    def name(self, kind: str) -> str:
        return f"{kind}{len(self.nodes)}"

    def weight(self, *shape: int) -> np.ndarray:
        """Even or not, more of them positive; small, up to 255, or large enough for wraps."""
        most, kind = self.pick(6, 40, 40, 40, 255, 255, 20_000), self.rng.choice([np.int8, np.int16, np.int32, np.int64])
        most = min(most, 127) if kind == np.int8 else most
        values = self.rng.integers(-most, most + most // 3 + 1, shape) * (self.rng.random(shape) < 0.8)
        values = np.minimum(values, np.iinfo(kind).max)
        return (values if self.pick(0, 0, 1) else values // 2 * 2).astype(kind)

    def lif(self, source: str) -> str:
        shape = self.shapes[source]
        channel = (shape[0],)
        v_decay = self.rng.choice(
            [np.int64(2048), np.int64(3072), np.int64(4096), np.int64(0), np.int64(300)], p=[0.5, 0.15, 0.1, 0.1, 0.15]
        )
        per_channel = self.rng.random() < 0.15
        kinds = [None, None, self.rng.integers(-30, 60, channel).astype(np.int16), self.rng.integers(-30, 60, shape)]
        fan = int(np.prod(shape[1:])) if len(shape) == 1 else 1
        threshold = self.rng.integers(20, 400, channel).astype(self.rng.choice([np.int16, np.int64, np.uint32]))
        return self.add(
            Lif(
                self.name("lif"), i_decay=self.pick(4096, 4096, 4096, 4096, 1000),
                v_decay=self.rng.integers(0, 4097, channel) if per_channel else v_decay,
                v_th_mant=threshold if self.rng.random() < 0.5 else self.pick(30, 64 * fan, 300), bias=kinds[self.pick(0, 1, 2, 3)],
            ),
            source,
        )  # fmt: skip

    def conv(self, source: str, channels: int, kernel: int, stride: int, dilation: int = 1) -> str:
        c_in = self.shapes[source][0]
        groups = self.pick(*[g for g in (1, 1, 1, 2, c_in) if c_in % g == 0 and channels % g == 0])
        padding = dilation * (kernel // 2)
        weight = self.weight(channels, c_in // groups, kernel, kernel)
        node = Conv2d(self.name("conv"), weight, (stride, stride), (padding, padding), (dilation, dilation), groups)
        return self.add(node, source)

    def block(self, source: str) -> str:
        """A LIF fed by one or two convolutions of the same source."""
        channels, stride, kernel = self.pick(4, 8, 12, 16, 24, 32, 40, 64, 96), self.pick(1, 1, 2), self.pick(1, 3, 3, 5)
        first = self.conv(source, channels, kernel, stride, self.pick(1, 1, 2))
        if self.rng.random() < 0.4:
            if self.shapes[source] == self.shapes[first] and self.rng.random() < 0.6:
                eye = (2 * np.eye(channels, dtype=np.int32) * self.rng.integers(1, 60, channels).astype(np.int32))[
                    :, :, None, None
                ]
                second = self.add(Conv2d(self.name("identity"), eye), source)
            else:
                second = self.conv(source, channels, 1, stride)
            first = self.add(Sum(self.name("sum")), first, second)
        return self.lif(first)


def wide_graph(seed: int) -> Graph:
    """A random graph that needs no compiler: any even or odd weights, parameters of any type."""
    g = _Wide(seed)
    at = g.block("input")
    for _ in range(g.pick(1, 2, 3)):
        kind = g.rng.choice(["block", "block", "pool", "concat"])
        if kind == "pool" and min(g.shapes[at][1:]) > 2:
            at = g.add(Pool2d(g.name("pool"), "max", (3, 2), (g.pick(1, 2), 2), (1, g.pick(0, 1))), at)
        elif kind == "concat":
            kernel, stride = g.pick(1, 3), g.pick(1, 2)
            beside = [g.lif(g.conv(at, channels, kernel, stride)) for channels in (g.pick(8, 32), g.pick(5, 64))]
            at = g.add(Concat(g.name("concat")), *beside)
        at = g.block(at)
    if g.rng.random() < 0.6:
        flat = g.add(Flatten(g.name("flatten")), at)
        if g.rng.random() < 0.3:
            flat = g.add(Concat(g.name("concat")), flat, g.add(Flatten(g.name("flatten")), "input"))
        n_in, n_out = g.shapes[flat][0], g.pick(3, 32, 130, 200)
        kind = g.rng.choice(["dense", "delayed", "recurrent"])
        if kind == "recurrent":
            node: Dense = RecurrentDense(g.name("dense"), g.weight(n_out, n_in), None, g.weight(n_out, n_out))
        elif kind == "delayed":
            shape = [(n_out, 1), (1, n_in), (n_out, n_in)][g.pick(0, 1, 2)]
            node = Dense(g.name("dense"), g.weight(n_out, n_in), delay=g.rng.integers(0, 5, shape).astype(np.int8))
        else:
            node = Dense(g.name("dense"), g.weight(n_out, n_in))
        g.lif(g.add(node, flat))
    return Graph("net", g.nodes, g.edges)
