"""Random integer graphs with joins, skips, concatenations and pooling, for Hypothesis: what the compiler lays out as a chain."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from hypothesis import strategies as st

from taaf.models.ir import Concat, Conv2d, Dense, Flatten, Graph, Input, Lif, Node, Pool2d, RecurrentDense, Shape, Sum

_FORMS = list(product((1, 2, 3), (1, 2), (0, 1, 2), (1, 2)))  # kernel, stride, padding, dilation


@dataclass(frozen=True)
class Dag:
    """An integer graph, input windows (N, *shape, T) uint8, and what it is made of (for coverage)."""

    graph: Graph
    spikes: np.ndarray
    features: frozenset[str]

    def __repr__(self) -> str:
        return f"Dag({list(self.graph.nodes.values())}, {self.graph.edges})"


@st.composite
def dags(draw: st.DrawFn, memory: bool = True) -> Dag:
    """Graphs of 2 to 6 populations; without ``memory`` none whose spikes wait in synapses (recurrent, delayed)."""
    grown = _Grown(draw, memory)
    for _ in range(draw(st.integers(2, 6))):
        grown.population()
    grown.close()
    graph = Graph("net", grown.nodes, grown.edges)
    spikes = (grown.rng.random((2, *graph.input.shape, draw(st.integers(3, 6)))) < 0.5).astype(np.uint8)
    return Dag(graph, spikes, frozenset(grown.features))


class _Grown:
    """Grows a graph by populations that read some of those before."""

    def __init__(self, draw: st.DrawFn, memory: bool) -> None:
        self.draw, self.memory = draw, memory
        self.rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
        side = st.integers(2, 8)
        shape: Shape = (
            (draw(st.integers(1, 3)), draw(side), draw(side)) if draw(st.integers(0, 5)) else (draw(st.integers(1, 9)),)
        )
        self.nodes: list[Node] = [Input("input", shape)]
        self.edges: list[tuple[str, str]] = []
        self.shapes: dict[str, Shape] = {"input": shape}
        self.spiking, self.features = ["input"], set[str]()

    def pick(self, *values: object) -> object:
        return self.draw(st.sampled_from(values))

    def add(self, node: Node, sources: Sequence[str]) -> str:
        self.nodes.append(node)
        self.edges += [(s, node.name) for s in sources]
        self.shapes[node.name] = node.out_shape([self.shapes[s] for s in sources])
        return node.name

    def name(self, kind: str) -> str:
        return f"{kind}{len(self.nodes)}"

    def weights(self, fan_in: int, *shape: int) -> np.ndarray:
        values = self.rng.normal(0.3, 1, shape) * 160 / np.sqrt(fan_in) * (self.rng.random(shape) < 0.7)
        return (2 * np.rint(values / 2)).clip(-120, 120).astype(np.int32)

    def lif(self, source: str) -> str:
        n, shape = self.shapes[source][0], self.shapes[source]
        fields = {
            "i_decay": self.pick(4096, 4096, 3000),
            "v_decay": self.pick(2048, 4096, 100),
            "v_th_mant": self.pick(64, 100, 600),
        }
        if self.draw(st.integers(0, 4)) == 4:
            fields["v_th_mant"] = self.rng.integers(40, 200, n).astype(np.int32)
            self.features.add("thresholds per channel")
        bias = self.pick(None, (n,), shape)
        values = None if bias is None else self.rng.integers(-20, 30, bias).astype(np.int32)  # type: ignore[arg-type]
        return self.add(Lif(self.name("lif"), bias=values, **fields), [source])  # type: ignore[arg-type]

    def population(self) -> None:
        maps = [s for s in self.spiking if len(self.shapes[s]) == 3]
        if maps and self.draw(st.integers(0, 4)):
            self.on_map(maps)
        else:
            self.flat()

    def on_map(self, maps: list[str]) -> None:
        source = self.beside(self.draw(st.sampled_from(maps[-3:])), maps)
        shape = self.shapes[source]
        if self.draw(st.integers(0, 4)) == 4:
            kernel = (min(2, shape[1]), min(2, shape[2]))
            self.features.add("or pool")
            self.spiking.append(self.add(Pool2d(self.name("pool"), "max", kernel, self.pick(None, (1, 1), (2, 2))), [source]))  # type: ignore[arg-type]
            return
        n_out = self.draw(st.integers(1, 3))
        groups = shape[0] if self.draw(st.integers(0, 3)) == 3 else 1
        forms = [f for f in _FORMS if _size(shape[1], f) >= 1 and _size(shape[2], f) >= 1]
        first = self.conv(source, self.draw(st.sampled_from(forms)), n_out * groups, groups)
        wanted, currents = self.shapes[first], [first]
        for other in self.draw(st.lists(st.sampled_from(maps), max_size=3)):
            size = self.shapes[other]
            fits = [f for f in _FORMS if _size(size[1], f) == wanted[1] and _size(size[2], f) == wanted[2]]
            if fits:
                currents.append(self.conv(other, self.draw(st.sampled_from(fits)), wanted[0], 1))
        if len(currents) > 1:
            self.features.add(f"join of {len(currents)}")
            first = self.add(Sum(self.name("join")), currents)
        self.spiking.append(self.lif(first))

    def beside(self, source: str, others: list[str]) -> str:
        """Sometimes with another of the same size."""
        same = [o for o in others if self.shapes[o][1:] == self.shapes[source][1:] and o != source]
        if not same or self.draw(st.integers(0, 2)):
            return source
        self.features.add("concat")
        return self.add(Concat(self.name("concat")), [source, self.draw(st.sampled_from(same))])

    def conv(self, source: str, form: tuple[int, int, int, int], n_out: int, groups: int) -> str:
        kernel, stride, padding, dilation = form
        n_in = self.shapes[source][0] // groups
        weight = self.weights(n_in * kernel * kernel, n_out, n_in, kernel, kernel)
        if stride > 1:
            self.features.add("stride")
        return self.add(Conv2d(self.name("conv"), weight, (stride,) * 2, (padding,) * 2, (dilation,) * 2, groups), [source])

    def flat_of(self, name: str) -> str:
        return name if len(self.shapes[name]) == 1 else self.add(Flatten(self.name("flatten")), [name])

    def flat(self, everything: Sequence[str] = ()) -> None:
        chosen = list(everything) or [self.draw(st.sampled_from(self.spiking))]
        source = self.flat_of(chosen[0])
        if len(chosen) > 1:
            source = self.add(Concat(self.name("concat")), [source, *(self.flat_of(c) for c in chosen[1:])])
        n_in, n_out = self.shapes[source][0], self.draw(st.integers(1, 5))
        weight = self.weights(n_in, n_out, n_in)
        kind = self.pick("dense", "dense", "recurrent", "delayed") if self.memory else "dense"
        self.features.add(str(kind))
        if kind == "recurrent":
            self.spiking.append(
                self.lif(self.add(RecurrentDense(self.name("rec"), weight, None, self.weights(n_out, n_out, n_out)), [source]))
            )
            return
        delay = self.rng.integers(0, 3, (n_out, n_in)).astype(np.int32) if kind == "delayed" else None
        first = self.add(Dense(self.name("dense"), weight, delay=delay), [source])
        if len(flats := [s for s in self.spiking if len(self.shapes[s]) == 1]) and self.draw(st.booleans()):
            other = self.draw(st.sampled_from(flats))
            n_in = self.shapes[other][0]
            second = self.add(Dense(self.name("dense"), self.weights(n_in, n_out, n_in)), [other])
            first = self.add(Sum(self.name("join")), [first, second])
            self.features.add("flat join")
        self.spiking.append(self.lif(first))

    def close(self) -> None:
        """One end: the spikes nobody reads beside each other, or read by one more population."""
        read = {s for s, _ in self.edges}
        ends = [s for s in self.spiking if s not in read]
        if len(ends) == 1 and self.draw(st.booleans()):
            ends += [s for s in self.spiking if s in read and self.shapes[s][1:] == self.shapes[ends[0]][1:]][-1:]
        if len(ends) == 1 and ends[0] != "input":
            return
        if len({self.shapes[e][1:] for e in ends}) == 1 and len(ends) > 1 and self.draw(st.booleans()):
            self.features.add("output beside")
            self.add(Concat("out"), ends)
        else:
            self.flat(ends)


def _size(n: int, form: tuple[int, int, int, int]) -> int:
    kernel, stride, padding, dilation = form
    return (n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
