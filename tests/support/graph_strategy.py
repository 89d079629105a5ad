"""Random small networks for Hypothesis: what the compiler takes, with input spikes.

Structure is drawn by Hypothesis and shrinks (fewer blocks, smaller maps, 1x1 kernels, stride 1, one window of one step);
the values of weights and spikes come from a drawn seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from taaf.models.ir import BatchNorm, Conv2d, Dense, Flatten, Graph, Input, Lif, Node, Pool2d, RecurrentDense, Shape, Sum

KINDS = ("conv", "pool", "residual", "dense", "recurrent")


@dataclass(frozen=True)
class Case:
    """A float-stage graph, input windows (N, *shape, T) uint8, and what the graph is made of (for coverage)."""

    graph: Graph
    spikes: np.ndarray
    features: frozenset[str]

    @property
    def recurrent(self) -> bool:
        """Such windows cannot follow each other on Lava without a gap."""
        return "recurrent" in self.features

    def __repr__(self) -> str:
        return f"Case({' -> '.join(self.graph.nodes)}, spikes {self.spikes.shape})"  # the snippet says the rest


@st.composite
def cases(draw: st.DrawFn, first: str | None = None) -> Case:
    """Networks of 1 to 3 blocks and their input; ``first`` (one of `KINDS`) fixes the kind of the first block."""
    builder = _Builder(draw, first)
    builder.block(first)
    for _ in range(draw(st.integers(0, 2))):
        builder.block()
    steps, n_windows = draw(st.integers(4 if builder.wide else 1, 8)), draw(st.integers(1, 3))
    rate = draw(st.sampled_from([1.0, 0.9] if builder.wide else [0.5, 1.0, 0.8, 0.1]))
    spikes = (builder.rng.random((n_windows, *builder.input_shape, steps)) < rate).astype(np.uint8)
    if n_windows > 1:
        builder.features.add("several windows")
    graph = Graph("net", builder.nodes, builder.edges)
    return Case(graph, spikes, frozenset(builder.features))


class _Builder:
    """Grows a graph at its end; every block ends in a LIF."""

    def __init__(self, draw: st.DrawFn, first: str | None) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
        self.features: set[str] = set()
        self.recurrent = first == "recurrent" or (
            first is None and draw(st.integers(0, 3)) == 3
        )  # then without positive biases, which Lava cannot run before it
        on_maps = ["map"] * (1 if first in ("conv", "pool", "residual") else 6)
        kind = draw(st.sampled_from(on_maps if len(on_maps) == 1 else [*on_maps, "flat", "flat", "wide", "wide"]))
        self.wide = kind == "wide"  # enough inputs, and little enough leak, to leave 24 bits
        side = st.integers(1, 7)
        self.input_shape: Shape = (draw(st.integers(1, 3)), draw(side), draw(side))
        if kind != "map":
            self.input_shape = (draw(st.integers(150, 400) if self.wide else st.integers(1, 12)),)
        self.nodes: list[Node] = [Input("input", self.input_shape)]
        self.edges: list[tuple[str, str]] = []
        self.shapes: dict[str, Shape] = {"input": self.input_shape}
        self.end = "input"

    def pick(self, *values: Any) -> Any:
        return self.draw(st.sampled_from(values))

    def add(self, node: Node, sources: Sequence[str] = ()) -> str:
        sources = sources or (self.end,)
        self.nodes.append(node)
        self.edges += [(s, node.name) for s in sources]
        self.shapes[node.name] = node.out_shape([self.shapes[s] for s in sources])
        self.end = node.name
        return node.name

    def name(self, kind: str) -> str:
        return f"{kind}{len(self.nodes)}"

    def block(self, kind: str | None = None) -> None:
        shape = self.shapes[self.end]
        kind = kind or (self.pick("conv", "dense", "pool", "residual") if len(shape) == 3 else "dense")
        if kind in ("conv", "pool", "residual"):
            self.features.add(kind)
            getattr(self, f"_{kind}")(shape)
            return
        if len(shape) == 3:
            self.features.add("flatten")
            shape = self.shapes[self.add(Flatten(self.name("flatten")))]
        n_in, n_out = shape[0], self.draw(st.integers(1, 6))
        weight, bias = self.weights(n_in, n_out, n_in), self.bias(n_out)
        if kind == "recurrent" or (self.recurrent and self.draw(st.booleans())):
            self.features.add("recurrent")
            self.add(RecurrentDense(self.name("dense"), weight, bias, self.weights(n_out, n_out, n_out)))
        else:
            self.features.add("dense")
            self.add(Dense(self.name("dense"), weight, bias))
        self.norm()
        self.lif()

    def weights(self, fan_in: int, *shape: int) -> np.ndarray:
        """In thresholds of the LIF they feed; the largest saturate when they are quantised."""
        gain, mean = self.pick(2.0, 5.0, 1.0, 20.0) / np.sqrt(fan_in), self.pick(1.0, 0.5, 0.0, -0.3)
        if self.wide and fan_in >= 150:  # all at the ends of their range
            gain, mean = 1000.0, self.pick(-1.5, 1.5)
        values = self.rng.normal(mean, 1, shape) * gain * (self.rng.random(shape) < 0.8)
        return values.astype(np.float32)

    def bias(self, n: int) -> np.ndarray | None:
        size = self.pick(0.0, 0.05) if self.recurrent else self.pick(0.0, 0.2, 1.5)
        if not size:
            return None
        self.features.add("bias")
        values = self.rng.normal(0, size, n).astype(np.float32)
        return -np.abs(values) if self.recurrent else values

    def norm(self) -> None:
        if not self.draw(st.booleans()):
            return
        self.features.add("batch norm")
        n = self.shapes[self.end][0]
        gain, mean, var = (self.rng.uniform(low, high, n) for low, high in ((0.5, 1.5), (0.0, 0.1), (0.3, 2.0)))
        offset = self.rng.uniform(-0.1, 0.0 if self.recurrent else 0.4, n)
        self.add(BatchNorm(self.name("norm"), *(x.astype(np.float32) for x in (gain, offset, mean, var))))

    def lif(self) -> str:
        v_decay = self.pick(0, 1, 10) if self.wide else self.pick(2048, 4096, 0, 1, 100, 1000, 4095, None)
        v_decay = self.draw(st.integers(0, 4096)) if v_decay is None else v_decay
        i_decay = self.pick(4096, 1, None) if self.wide else self.pick(4096, 4096, 4096, 1, 100, None)
        i_decay = self.draw(st.integers(1, 4095)) if i_decay is None else i_decay
        if i_decay < 4096:
            self.features.add("current memory")
        v_th = self.pick(64, 16, 1, 100, 253, 800)
        return self.add(Lif(self.name("lif"), i_decay, v_decay, v_th))

    def _conv(self, shape: Shape) -> None:
        groups = self.pick(*(g for g in range(1, shape[0] + 1) if shape[0] % g == 0))
        padding = (self.draw(st.integers(0, 2)), self.draw(st.integers(0, 2)))
        dilation = (self.draw(st.integers(1, 3)), self.draw(st.integers(1, 3)))
        stride = (self.draw(st.integers(1, 3)), self.draw(st.integers(1, 3)))
        room = [(n + 2 * p - 1) // d + 1 for n, p, d in zip(shape[1:], padding, dilation, strict=True)]
        kernel = [self.draw(st.integers(1, min(3, r))) for r in room]
        c_in, c_out = shape[0] // groups, groups * self.draw(st.integers(1, 3))
        weight = self.weights(c_in * kernel[0] * kernel[1], c_out, c_in, *kernel)
        for feature, used in (
            ("groups", groups > 1), ("padding", max(padding) > 0), ("stride", max(stride) > 1),
            ("dilation", any(d > 1 and k > 1 for d, k in zip(dilation, kernel, strict=True))),
            ("non-square", kernel[0] != kernel[1] or stride[0] != stride[1] or padding[0] != padding[1]),
        ):  # fmt: skip
            if used:
                self.features.add(feature)
        self.add(Conv2d(self.name("conv"), weight, stride, padding, dilation, groups, self.bias(c_out)))
        self.norm()
        self.lif()

    def _pool(self, shape: Shape) -> None:
        kernel = (self.draw(st.integers(1, min(3, shape[1]))), self.draw(st.integers(1, min(3, shape[2]))))
        self.add(Pool2d(self.name("pool"), self.pick("sum", "average"), kernel))
        self.lif()

    def _residual(self, shape: Shape) -> None:
        """LIF(W2 LIF(W1 x) + Ws x): 'same' odd kernels, the stride in W1 and in the shortcut (identity, 1x1 or 3x3)."""
        x, c_in = self.end, shape[0]
        stride = (self.draw(st.integers(1, 2)), self.draw(st.integers(1, 2)))
        hidden = self.draw(st.integers(1, 3))
        identity = self.draw(st.booleans())
        c_out = c_in if identity else self.draw(st.integers(1, 3))
        self._same(c_in, hidden, stride, x)
        self.norm()
        self.lif()
        self._same(hidden, c_out, (1, 1), self.end)
        self.norm()
        main = self.end
        gain = np.float32(self.pick(0.5, 1.2))
        size = 1 if identity else self.pick(1, 3)
        weight = self.weights(c_in * size * size, c_out, c_in, size, size)
        if identity:
            weight = gain * np.eye(c_in, dtype=np.float32)[:, :, None, None]
        self.features.add("identity shortcut" if identity else f"{size}x{size} shortcut")
        bias = None if identity else self.bias(c_out)
        self.add(Conv2d(self.name("shortcut"), weight, stride, (size // 2, size // 2), bias=bias), [x])
        self.norm()
        self.add(Sum(self.name("join")), [main, self.end])
        self.lif()

    def _same(self, c_in: int, c_out: int, stride: tuple[int, int], source: str) -> None:
        kernel, dilation = (self.pick(1, 3), self.pick(1, 3)), (self.pick(1, 2), self.pick(1, 2))
        padding = (dilation[0] * (kernel[0] // 2), dilation[1] * (kernel[1] // 2))
        weight = self.weights(c_in * kernel[0] * kernel[1], c_out, c_in, *kernel)
        self.add(Conv2d(self.name("conv"), weight, stride, padding, dilation, 1, self.bias(c_out)), [source])
