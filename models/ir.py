"""The typed graph between training and hardware (IR).

A graph is a list of named nodes in topological order and the edges between them. Synapse nodes (Conv2d, Dense,
RecurrentDense) carry weights, `Lif` nodes carry neurons. Two stages exist:

- float: weights are in units of the threshold of the LIF they feed; `BatchNorm` and `Pool2d` nodes may occur;
- integer: weights are even integers in [-256, 254], biases sit in the `Lif` nodes, and the graph means exactly

    a(t) = sum over incoming synapses of W s(t)             (+ W_rec s_out(t-1) for RecurrentDense)
    u(t) = wrap24(tz(u(t-1) (4096 - i_decay) / 4096) + 64 a(t))
    v(t) = clip24(tz(v(t-1) (4096 - v_decay) / 4096) + u(t) + 64 bias)
    s(t) = v(t) > 64 v_th_mant;   v(t) = 0 where s(t)

  with tz = truncation toward zero (lava-nc 0.10.0, ``PyLifModelBitAcc``). Time is window-relative: the one step of
  delay that every layer has on Lava is undone by reading each layer at its own phase.

Shapes are (C, H, W) or (F,), without batch and time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from taaf.models.errors import GraphError

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Node:
    """Anything with a name, unique in its graph."""

    name: str

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output for these input shapes; raises `ValueError` with the reason if they do not fit."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Input(Node):
    """Binary spikes from the host, shape (C, H, W) or (F,)."""

    shape: Shape

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        return self.shape


@dataclass(frozen=True, eq=False)
class Conv2d(Node):
    """2-D cross-correlation; weight (C', C / groups, kH, kW); pairs are (height, width)."""

    weight: np.ndarray
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: np.ndarray | None = None  # float stage only

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        (shape,) = inputs
        if len(shape) != 3:
            raise ValueError(f"a convolution takes (C, H, W), found {shape}")
        if self.weight.ndim != 4 or self.weight.size == 0:
            raise ValueError(f"weight {self.weight.shape} is not (C', C / groups, kH, kW)")
        if min(*self.stride, *self.dilation, self.groups) < 1 or min(self.padding) < 0:
            given = f"stride {self.stride}, dilation {self.dilation}, groups {self.groups}, padding {self.padding}"
            raise ValueError(f"{given}: allowed from 1 (padding from 0)")
        c_out, c_in, *kernel = self.weight.shape
        if shape[0] != c_in * self.groups or c_out % self.groups:
            raise ValueError(f"{shape[0]} channels arrive, the weight takes {c_in} x {self.groups} groups")
        size = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(shape[1:], self.padding, self.dilation, kernel, self.stride, strict=True)
        ]
        if min(size) < 1:
            raise ValueError(f"kernel {tuple(kernel)} is larger than the padded input {shape}")
        return (c_out, *size)


@dataclass(frozen=True, eq=False)
class Dense(Node):
    """Fully connected; weight (F', F)."""

    weight: np.ndarray
    bias: np.ndarray | None = None  # float stage only

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        (shape,) = inputs
        if self.weight.ndim != 2 or self.weight.size == 0:
            raise ValueError(f"weight {self.weight.shape} is not (F', F)")
        if len(shape) != 1 or shape[0] != self.weight.shape[1]:
            raise ValueError(f"{shape} != ({self.weight.shape[1]},)")
        return (self.weight.shape[0],)


@dataclass(frozen=True, eq=False)
class RecurrentDense(Dense):
    """Fully connected, plus ``weight_rec`` (F', F') from the fed LIF's own spikes of the step before."""

    weight_rec: np.ndarray = None  # type: ignore[assignment]

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        (n,) = super().out_shape(inputs)
        if self.weight_rec.shape != (n, n):
            raise ValueError(f"weight_rec {self.weight_rec.shape} != {(n, n)}")
        return (n,)


@dataclass(frozen=True, eq=False)
class BatchNorm(Node):
    """Per-channel y = gain (x - mean) / sqrt(var + eps) + offset; float stage only."""

    gain: np.ndarray
    offset: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    eps: float = 1e-5

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        (shape,) = inputs
        if shape[0] != len(self.gain):
            raise ValueError(f"{shape[0]} channels != {len(self.gain)}")
        return shape


@dataclass(frozen=True, eq=False)
class Pool2d(Node):
    """Pooling with kernel == stride and no padding; kind "sum", "average" or "max"; float stage only."""

    kind: str
    kernel: tuple[int, int]

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        (shape,) = inputs
        if len(shape) != 3:
            raise ValueError(f"pooling takes (C, H, W), found {shape}")
        return (shape[0], shape[1] // self.kernel[0], shape[2] // self.kernel[1])


@dataclass(frozen=True, eq=False)
class Sum(Node):
    """Elementwise sum of synaptic currents (the join of a residual block)."""

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        if len(set(inputs)) != 1:
            raise ValueError(" != ".join(map(str, inputs)))
        return inputs[0]


@dataclass(frozen=True, eq=False)
class Flatten(Node):
    """(C, H, W) -> (C H W,), C order."""

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (int(np.prod(inputs[0])),)


@dataclass(frozen=True, eq=False)
class Lif(Node):
    """Leaky integrate-and-fire neurons, hard reset; integers as on the chip.

    Attributes
    ----------
    i_decay, v_decay : int
        1..4096 and 0..4096; 4096 forgets everything in one step.
    v_th_mant : int
        1..131071; threshold is ``64 v_th_mant``.
    bias : numpy.ndarray or None
        Bias mantissa per channel (or neuron of a flat layer), -4096..4095, added to v as ``64 bias`` every step.
    """

    i_decay: int = 4096
    v_decay: int = 2048
    v_th_mant: int = 64
    bias: np.ndarray | None = None

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        (shape,) = inputs
        if self.bias is not None and self.bias.shape != (shape[0],):
            raise ValueError(f"bias {self.bias.shape} != ({shape[0]},)")
        return shape


class Graph:
    """A directed acyclic graph with one `Input`; shapes are checked when it is built.

    Parameters
    ----------
    name : str
        Prefix of every node in messages, e.g. "event".
    nodes : iterable of Node
        In any topological order.
    edges : iterable of (str, str)
        (source name, target name).

    Raises
    ------
    GraphError
        Naming both ends of the edge that does not fit, e.g. ``audio.conv2 -> audio.lif2: (16, 8, 8) != (16, 9, 9)``.
    """

    def __init__(self, name: str, nodes: Iterable[Node], edges: Iterable[tuple[str, str]]) -> None:
        self.name = name
        self.nodes: dict[str, Node] = {}
        for node in nodes:
            if node.name in self.nodes:
                raise GraphError(f"{name}.{node.name}: two nodes have this name")
            self.nodes[node.name] = node
        self.edges = tuple(edges)
        self.shapes: dict[str, Shape] = {}
        self._check()

    def _check(self) -> None:
        for source, target in self.edges:
            for end in (source, target):
                if end not in self.nodes:
                    raise GraphError(f"{self.name}: edge {source} -> {target} names unknown node {end!r}")
        if sum(isinstance(n, Input) for n in self.nodes.values()) != 1:
            raise GraphError(f"{self.name}: a graph has exactly one Input")
        for node in self.nodes.values():
            sources = self.sources(node.name)
            wanted = 0 if isinstance(node, Input) else 1
            if isinstance(node, Input) and (not node.shape or min(node.shape) < 1):
                raise GraphError(f"{self.name}.{node.name}: input shape {node.shape} has no elements")
            if len(sources) != wanted and not (isinstance(node, Sum) and len(sources) >= 2):
                raise GraphError(f"{self.name}.{node.name}: {len(sources)} inputs, expected {wanted or 'none'}")
            missing = [s for s in sources if s not in self.shapes]
            if missing:
                raise GraphError(f"{self.name}: {missing[0]} -> {node.name} goes backwards (cycle or wrong order)")
            try:
                self.shapes[node.name] = node.out_shape([self.shapes[s] for s in sources])
            except ValueError as error:
                origin = ", ".join(f"{self.name}.{s}" for s in sources)
                raise GraphError(f"{origin} -> {self.name}.{node.name}: {error}") from error

    def sources(self, name: str) -> list[str]:
        """Names of the nodes that feed ``name``, in edge order."""
        return [s for s, t in self.edges if t == name]

    def targets(self, name: str) -> list[str]:
        """Names of the nodes that ``name`` feeds, in edge order."""
        return [t for s, t in self.edges if s == name]

    @property
    def input(self) -> Input:
        """The only Input."""
        return next(n for n in self.nodes.values() if isinstance(n, Input))

    @property
    def output(self) -> str:
        """Name of the last LIF, whose spikes leave the chip."""
        ends = [n for n in self.nodes if not self.targets(n)]
        if len(ends) != 1 or not isinstance(self.nodes[ends[0]], Lif):
            raise GraphError(f"{self.name}: must end in exactly one LIF, found {', '.join(ends) or 'none'}")
        return ends[0]

    def lifs(self) -> list[Lif]:
        """All neuron populations, in order."""
        return [n for n in self.nodes.values() if isinstance(n, Lif)]

    def synapses_of(self, lif: str) -> list["Conv2d | Dense"]:
        """Synapse nodes whose current reaches this LIF (through sums and batch norms)."""
        found: list[Conv2d | Dense] = []
        todo = self.sources(lif)
        while todo:
            node = self.nodes[todo.pop(0)]
            if isinstance(node, Conv2d | Dense):
                found.append(node)
            elif isinstance(node, Sum | BatchNorm):
                todo += self.sources(node.name)
        return found

    def rebuilt(self, replaced: dict[str, Node | None], rewire: dict[str, str] | None = None) -> "Graph":
        """A copy with nodes replaced (or removed: None; edges then follow ``rewire[name]``, the node to use instead)."""
        rewire = rewire or {}
        nodes = [replaced.get(n, node) for n, node in self.nodes.items()]
        edges = [(rewire.get(s, s), t) for s, t in self.edges if replaced.get(t, self.nodes[t]) is not None]
        return Graph(self.name, [n for n in nodes if n is not None], edges)


def chain(graph: Graph) -> list[Node]:
    """Nodes from input to output if the graph is a chain; raises `GraphError` at the first branching otherwise."""
    order = [graph.input.name]
    while targets := graph.targets(order[-1]):
        if len(targets) > 1:
            raise GraphError(f"{graph.name}.{order[-1]}: feeds {', '.join(targets)}; NetX holds chains only")
        order.append(targets[0])
    return [graph.nodes[n] for n in order]
