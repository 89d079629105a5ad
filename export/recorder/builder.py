"""Writes the nodes of one modality's graph: a linear form and a neuron's integers become synapses, a join and a LIF."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from taaf.export.recorder.maps import Conv, Map, Matrix, Scale, size, unrolled
from taaf.export.recorder.places import NoExactForm
from taaf.export.recorder.values import Beside, Linear, Neurons, Pooled, Population, Term
from taaf.export.recorder.weights import NeuronIntegers, integers
from taaf.models import ir
from taaf.models.ir.nodes import MAX_DELAY, PerChannel


@dataclass
class GraphBuilder:
    """Nodes of one modality so far."""

    modality: str
    shape: ir.Shape
    nodes: list[ir.Node] = field(default_factory=list)
    edges: list[tuple[str, str]] = field(default_factory=list)
    _shapes: dict[str, ir.Shape] = field(default_factory=dict)
    _named: dict[str, int] = field(default_factory=dict)
    _made: dict[Population | tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._add(ir.Input(self._fresh("input"), self.shape), [])
        self.input = Neurons(self.modality, self.shape, 0, "input", self.shape, -1)

    def _fresh(self, name: str) -> str:
        inner = name.removeprefix(f"{self.modality}.")  # of a branch that is named like its modality
        name = (name if inner[:1].isdigit() else inner).replace(".", "_") or "layer"
        name = name if not name[0].isdigit() else f"layer{name}"
        self._named[name] = count = self._named.get(name, 0) + 1
        return name if count == 1 else self._fresh(f"{name}_{count}")

    def _add(self, node: ir.Node, sources: Sequence[str]) -> str:
        self.nodes.append(node)
        self.edges += [(s, node.name) for s in sources]
        self._shapes[node.name] = node.out_shape([self._shapes[s] for s in sources])
        return node.name

    # -- spikes

    def node_of(self, population: Population) -> tuple[str, ir.Shape]:
        """Name and shape of the node that gives a population's spikes; written when first asked for."""
        if isinstance(population, Neurons):
            return population.name, population.node_shape
        if population not in self._made:
            self._made[population] = self._arrange(population)
        name = self._made[population]
        return name, self._shapes[name]

    def _arrange(self, population: Population) -> str:
        if isinstance(population, Pooled):
            source, shape = self.node_of(population.of)
            if shape != population.of.shape or len(shape) != 3:
                raise NoExactForm("pools a layer that was unrolled to a matrix (after ConvT or Unpool); pool before it")
            fields = (population.kernel, population.stride, population.padding)
            return self._add(ir.Pool2d(self._fresh(f"{source}_or"), "max", *fields), [source])
        assert isinstance(population, Beside)
        found = [(*self.node_of(part), seen) for part, seen in population.parts]
        if all(shape == seen for _, shape, seen in found):
            names = [name for name, _, _ in found]
        else:
            names = [self.flat(name, shape) for name, shape, _ in found]
        return self._add(ir.Concat(self._fresh("beside")), names)

    def flat(self, name: str, shape: ir.Shape) -> str:
        """The node's spikes flattened."""
        if len(shape) == 1:
            return name
        key = ("flat", name)
        if key not in self._made:
            self._made[key] = self._add(ir.Flatten(self._fresh(f"{name}_flat")), [name])
        return self._made[key]

    # -- neurons

    def neurons(self, name: str, call: int, value: Linear, given: NeuronIntegers, recurrent: np.ndarray | None) -> Neurons:
        """Write synapses, join and LIF of a population.

        Parameters
        ----------
        name : str
            Of the LIF.
        value : Linear
            Its current, in SLAYER's units.
        recurrent : numpy.ndarray or None
            Integer weights (F, F) from its own spikes of the step before.
        """
        shape, synapse = value.shape, f"{name}_identity"  # where no module has weights
        terms = [(t, self._node_map(t, shape)) for t in value.terms]
        per_channel = all((x == x.reshape(len(x), -1)[:, :1].reshape(-1, *[1] * (x.ndim - 1))).all() for x in
                          (given.i_decay, given.v_decay))  # fmt: skip
        flat = not per_channel or any(isinstance(m, Matrix) for _, m in terms)
        if recurrent is not None:
            ends = [self._recurrent(terms, given.unit, recurrent, synapse)]
        else:
            ends = [self._synapse(t, unrolled(m) if flat else m, given.unit, t.label or synapse) for t, m in terms]
        source = ends[0] if len(ends) == 1 else self._add(ir.Sum(self._fresh(f"{name}_join")), ends)
        node_shape = (size(shape),) if flat else shape
        lif = ir.Lif(
            self._fresh(name),
            _shared(given.i_decay, flat),
            _shared(given.v_decay, flat),
            given.v_th_mant,
            _bias(given.bias, flat),
        )
        return Neurons(self.modality, shape, value.lag, self._add(lif, [source]), node_shape, call)

    def _node_map(self, term: Term, shape: ir.Shape) -> Map:
        """The term's map as the source's node allows it: convolutions need a map, delays need single synapses."""
        _, node_shape = self.node_of(term.source)
        m: Map = term.map
        if isinstance(m, Scale):
            m = replace(m, shape=shape)
            m = Matrix(m.shape, np.eye(size(shape)) * m.gain, shape) if len(shape) == 1 else m
        if term.delay is not None or m.shape != node_shape or m.out != shape:
            return unrolled(m)
        return m

    def _synapse(self, term: Term, m: Map, unit: int, name: str) -> str:
        source, node_shape = self.node_of(term.source)
        if isinstance(m, Matrix):
            delay = None if term.delay is None else _per_source(term.delay, m)
            weight = integers(m.matrix, unit, name)
            return self._add(ir.Dense(self._fresh(name), weight, delay=delay), [self.flat(source, node_shape)])
        if isinstance(m, Scale):
            m = Conv(m.shape, np.eye(m.shape[0])[:, :, None, None] * m.gain)
        weight = integers(m.weight, unit, name)
        return self._add(ir.Conv2d(self._fresh(name), weight, m.stride, m.padding, m.dilation, m.groups), [source])

    def _recurrent(self, terms: list[tuple[Term, Map]], unit: int, recurrent: np.ndarray, name: str) -> str:
        if any(t.delay is not None for t, _ in terms):
            raise NoExactForm("delays what feeds a recurrent layer; the chip's recurrent layers have no delays")
        sources = [self.flat(*self.node_of(t.source)) for t, _ in terms]
        source = sources[0] if len(sources) == 1 else self._add(ir.Concat(self._fresh(f"{name}_inputs")), sources)
        weight = integers(np.concatenate([unrolled(m).matrix for _, m in terms], 1), unit, name)
        return self._add(ir.RecurrentDense(self._fresh(name), weight, weight_rec=recurrent), [source])

    # -- the end

    def graph(self, ends: list[Population]) -> ir.Graph:
        """The graph up to ``ends``, without what they do not depend on; several lie flat beside each other."""
        names = [self.node_of(end) for end in ends]
        output = names[0][0]
        if len(names) > 1:
            output = self._add(ir.Concat(self._fresh("features")), [self.flat(*name) for name in names])
        needed = {output}
        for source, target in reversed(self.edges):
            if target in needed:
                needed.add(source)
        nodes = [n for n in self.nodes if n.name in needed or n.name == "input"]
        return ir.Graph(self.modality, nodes, [e for e in self.edges if e[1] in needed])


def _shared(value: np.ndarray, flat: bool) -> PerChannel:
    if (value == value.flat[0]).all():
        return int(value.flat[0])
    return value.reshape(-1) if flat else value.reshape(len(value), -1)[:, 0]


def _bias(bias: np.ndarray, flat: bool) -> np.ndarray | None:
    if not bias.any():
        return None
    if flat or bias.ndim == 1:
        return bias.reshape(-1).astype(np.int32)
    first = bias.reshape(len(bias), -1)
    return (first[:, 0] if (first == first[:, :1]).all() else bias).astype(np.int32)


def _per_source(delay: np.ndarray, m: Matrix) -> np.ndarray:
    steps = np.repeat(delay, m.matrix.shape[1] // len(delay))[None]
    if steps.max() > MAX_DELAY:
        raise NoExactForm(f"delays spikes by {int(steps.max())} steps (allowed {MAX_DELAY})")
    return steps
