"""The typed graph between training and hardware (IR).

A graph is a list of named nodes in topological order and the edges between them. Synapse nodes (Conv2d, Dense,
RecurrentDense) carry weights, `Lif` nodes carry neurons. Two stages exist:

- float: weights are in units of the threshold of the LIF they feed; `BatchNorm` and any `Pool2d` may occur;
- integer: weights are even integers in [-256, 254], biases sit in the `Lif` nodes, spikes may be pooled (`Pool2d` "max", their
  OR) and stand beside each other (`Concat`), both without a step of time, and the graph means exactly

    a(t) = sum over incoming synapses of W s(t)             (+ W_rec s_out(t-1) for RecurrentDense;
                                                             W_ij s_j(t - delay_ij) for Dense with delays)
    u(t) = wrap24(tz(u(t-1) (4096 - i_decay) / 4096) + 64 a(t))
    v(t) = clip24(tz(v(t-1) (4096 - v_decay) / 4096) + u(t) + 64 bias)
    s(t) = v(t) > 64 v_th_mant;   v(t) = 0 where s(t)

  with tz = truncation toward zero (lava-nc 0.10.0, ``PyLifModelBitAcc``). Time is window-relative: the one step of
  delay that every layer has on Lava is undone by reading each layer at its own phase. Nothing was before a window's
  first step, and spikes that are still under way after its last are lost.

Shapes are (C, H, W) or (F,), without batch and time.
"""

from collections.abc import Iterable

from taaf.models.errors import GraphError
from taaf.models.ir.nodes import BatchNorm, Concat, Conv2d, Dense, Input, Lif, Node, Pool2d, RecurrentDense, Shape, Sum


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
            if len(sources) != wanted and not (isinstance(node, Sum | Concat) and len(sources) >= 2):
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
        """Name of the node whose spikes leave the chip: the last LIF, or a concatenation or pooling of LIFs."""
        ends = [n for n in self.nodes if not self.targets(n)]
        if len(ends) != 1 or not isinstance(self.nodes[ends[0]], Lif | Concat | Pool2d):
            raise GraphError(f"{self.name}: must end in exactly one LIF, found {', '.join(ends) or 'none'}")
        return ends[0]

    def lifs(self) -> list[Lif]:
        """All neuron populations, in order."""
        return [n for n in self.nodes.values() if isinstance(n, Lif)]

    @property
    def has_memory(self) -> bool:
        """Whether spikes wait in synapses (recurrence, delays), which no reset of neurons clears."""
        return any(isinstance(n, RecurrentDense) or (isinstance(n, Dense) and n.delay is not None) for n in self.nodes.values())

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
