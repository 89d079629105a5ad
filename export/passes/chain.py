"""An integer graph becomes the chain of layers that stock NetX runs; every spike stays.

A layer of the chain holds its own populations (`taaf.export.passes.levels`) and, behind them, relays: neurons of one synapse
each, whose weight exceeds their threshold, without bias and current memory. A relay's v is then 0 or above the threshold, so it
fires exactly when its source did, one layer earlier. The layer's synapse groups become one: of maps a convolution
(`taaf.export.passes.maps`), else a matrix (`taaf.export.passes.flat`).
"""

from dataclasses import replace

import numpy as np

from taaf.export.limits import BIAS_MIN
from taaf.export.passes.flat import flat_layer, flat_synapses
from taaf.export.passes.levels import Levels
from taaf.export.passes.maps import RELAY_WEIGHT, Layer, NoMapError, map_layer, map_synapses, paces
from taaf.export.passes.report import CompileReport, Part
from taaf.hw_sim.intervals import lif_ranges
from taaf.models.errors import UnsupportedLayerError
from taaf.models.ir import Concat, Conv2d, Dense, Flatten, Graph, Input, Lif, Node, Pool2d, Shape
from taaf.models.ir.stage import require_integer_stage
from taaf.models.lif import WEIGHT_MAX, WEIGHT_MIN

RELAY_V_TH = 128  # where the layer's own threshold is no use; any below the weight is
_NAME_MAX = 100


def to_chain(graph: Graph, report: CompileReport) -> Graph:
    """Lay out an integer graph without pooling as a chain.

    Parameters
    ----------
    graph : Graph
        Integer stage: any joins of currents, spikes beside each other anywhere.
    report : CompileReport
        Gets ``relays`` and ``layers`` of every layer, and a line for each layer that has relays or was unrolled.

    Returns
    -------
    Graph
        Input, and one synapse node with one LIF per layer. A layer of one population has its name, as has its synapse node (that
        of the longest path); the last layer has the name of the graph's output.

    Raises
    ------
    UnsupportedLayerError
        Naming the population that has no place in a chain, and why.
    """
    require_integer_stage(graph)
    if pools := [n.name for n in graph.nodes.values() if isinstance(n, Pool2d)]:
        raise UnsupportedLayerError(f"{graph.name}.{pools[0]}: pooling in a chain; run the pass or_pool first")
    return lay_out(Levels(graph), report)


def lay_out(levels: Levels, report: CompileReport) -> Graph:
    """`to_chain` of populations that have their levels."""
    return _Chain(levels, report).graph()


class _Chain:
    """Collects the nodes of the chain, layer by layer."""

    def __init__(self, levels: Levels, report: CompileReport) -> None:
        self.levels, self.report, self.paces = levels, report, paces(levels)
        parts: list[Part] = []
        for name in levels.entries:
            shape, first = levels.shapes[name], sum(len(p.members) for p in parts)
            extent = (shape[1], shape[2]) if len(shape) == 3 else (0, 0)
            parts.append(Part(name, shape, np.arange(shape[0]), first, False, extent=extent, flat=len(shape) == 1))
        shape = (sum(len(p.members) for p in parts), *shape[1:])
        self.layer = Layer(tuple(parts), shape, (1, 1) if len(shape) == 3 else (0, 0))
        self.nodes: list[Node] = [Input(levels.graph.input.name, shape)]
        self.not_a_map = ""  # why, of the first flat layer behind maps

    def graph(self) -> Graph:
        for level in range(1, self.levels.depth + 1):
            self._add(level)
        edges = [(a.name, b.name) for a, b in zip(self.nodes, self.nodes[1:], strict=False)]
        return Graph(self.levels.graph.name, self.nodes, edges)

    def _add(self, level: int) -> None:
        before, name = self.layer, self._name(level)
        try:
            layer, synapse, lif = self._as_map(level, before, name)
        except NoMapError as reason:
            self._tell_unrolled(level, str(reason))
            layer = flat_layer(self.levels, level)
            synapse = self._as_it_was(layer, before) or flat_synapses(self.levels, layer, before, self._main(level))
            lif = self._neurons(layer, name)
        self._check_sums(synapse, layer)
        if len(before.shape) == 3 and isinstance(synapse, Dense):
            self.nodes.append(self._flatten(synapse.name))
        self.nodes += [synapse, lif]
        self.layer = layer
        self._tell(layer, name)

    def _as_map(self, level: int, before: Layer, name: str) -> tuple[Layer, Conv2d | Dense, Lif]:
        layer = map_layer(self.levels, level, self.paces, before)
        synapse: Conv2d | Dense | None = self._as_it_was(layer, before)
        synapse = synapse or map_synapses(self.levels, layer, before, self.paces, self._main(level))
        return layer, synapse, _silent_beyond(self._neurons(layer, name), layer, synapse, before)

    def _tell_unrolled(self, level: int, reason: str) -> None:
        if self.layer.pace[0]:
            self.not_a_map = reason
        self._require_flat_output(level)
        if unrolled := [n for n in self.levels.at(level) if len(self.levels.shapes[n]) == 3]:
            self.report.say(f"chain: {self.levels.graph.name}.{', '.join(unrolled)}: unrolled, because {self.not_a_map}")

    def _require_flat_output(self, level: int) -> None:
        graph = self.levels.graph
        if level == self.levels.depth and len(graph.shapes[graph.output]) == 3:
            raise UnsupportedLayerError(
                f"{graph.name}.{graph.output}: gives maps, and the last layer of its chain cannot be one, because {self.not_a_map}"
            )

    def _main(self, level: int) -> str:
        """Name of the layer's synapse node: that of the longest path."""
        first = self.levels.at(level)[0]
        return max(self.levels.reads[first], key=lambda r: max(self.levels.level[p] for p in r.sources)).synapse.name

    def _name(self, level: int) -> str:
        if level == self.levels.depth:
            return self.levels.graph.output
        joined = "-".join(self.levels.at(level))
        return joined if len(joined) <= _NAME_MAX else f"layer{level}"

    def _as_it_was(self, layer: Layer, before: Layer) -> Conv2d | Dense | None:
        """The synapse node of the graph, where the layer has nothing else and reads all that the layer before has, in order."""
        own = [part.population for part in layer.parts]
        if len(own) != 1 or len(reads := self.levels.reads[own[0]]) != 1:
            return None
        whole = (
            all(not p.relays and p.factor == (1, 1) and (p.flat or p.extent == before.shape[1:]) for p in before.parts)
            and tuple(p.population for p in before.parts) == reads[0].sources
        )
        kept = isinstance(reads[0].synapse, Conv2d) == (len(layer.shape) == 3)
        return reads[0].synapse if whole and kept else None

    def _check_sums(self, synapse: Conv2d | Dense, layer: Layer) -> None:
        """Groups that read the same spikes share a synapse: their weights are added, and must still be one."""
        low, high = int(synapse.weight.min()), int(synapse.weight.max())
        if low >= WEIGHT_MIN and high <= WEIGHT_MAX:
            return
        for part in layer.parts:
            reads = self.levels.reads.get(part.population, ())
            if not part.relays and all(
                r.synapse.weight.min() >= WEIGHT_MIN and r.synapse.weight.max() <= WEIGHT_MAX for r in reads
            ):
                found = synapse.weight[part.first : part.first + len(part.members)]
                if found.min() < WEIGHT_MIN or found.max() > WEIGHT_MAX:
                    groups = ", ".join(r.synapse.name for r in reads)
                    raise UnsupportedLayerError(
                        f"{self.levels.graph.name}.{part.population}: {groups} read the same spikes, and their weights add up to "
                        f"{found.min()}..{found.max()} (allowed {WEIGHT_MIN}..{WEIGHT_MAX}); use smaller ones, or a higher threshold"
                    )

    def _flatten(self, synapse: str) -> Flatten:
        graph, name = self.levels.graph, synapse
        while name in graph.nodes and (sources := graph.sources(name)):
            name = sources[0]
            if isinstance(node := graph.nodes[name], Flatten):
                return node
            if not isinstance(node, Concat):
                break
        return Flatten(f"{synapse}_flatten")

    def _neurons(self, layer: Layer, name: str) -> Lif:
        lifs = self.levels.lifs
        own = [p.population for p in layer.parts if not p.relays]
        if len(layer.parts) == 1 and (len(self.levels.shapes[own[0]]) == 3) == (len(layer.shape) == 3):
            return replace(lifs[own[0]], name=name)
        useful = {"i_decay": lambda v: v == 4096, "v_decay": lambda v: True, "v_th_mant": lambda v: v < RELAY_WEIGHT}
        otherwise = {"i_decay": 4096, "v_decay": 4096, "v_th_mant": RELAY_V_TH}
        fields: dict[str, int | np.ndarray] = {}
        for key, may_relay in useful.items():
            values = {n: np.asarray(getattr(lifs[n], key)) for n in own}
            same = {int(v) for value in values.values() for v in np.unique(value)}
            relay = next(iter(same)) if len(same) == 1 and may_relay(next(iter(same))) else otherwise[key]
            if same | ({relay} if any(p.relays for p in layer.parts) else set()) == {relay}:
                fields[key] = relay
                continue
            spread = [
                np.full(len(p.members), relay) if p.relays else self._per_channel(p, values[p.population]) for p in layer.parts
            ]
            fields[key] = np.concatenate(spread).astype(np.int32)
        return Lif(name, **fields, bias=self._bias(layer))  # type: ignore[arg-type]

    def _per_channel(self, part: Part, value: np.ndarray) -> np.ndarray:
        """One value per channel of the layer (per neuron, if that is flat)."""
        shape = self.levels.shapes[part.population]
        if value.ndim == 0:
            return np.full(len(part.members), value)
        return np.repeat(value, int(np.prod(shape[1:]))) if part.flat else value[part.members]

    def _bias(self, layer: Layer) -> np.ndarray | None:
        biases = {p.population: self.levels.lifs[p.population].bias for p in layer.parts if not p.relays}
        if all(b is None for b in biases.values()):
            return None
        per_neuron = len(layer.shape) == 3 and any(b is not None and b.ndim == 3 for b in biases.values())
        found = []
        for part in layer.parts:
            bias = None if part.relays else biases[part.population]
            shape: Shape = (len(part.members), *(layer.shape[1:] if per_neuron else ()))
            if bias is None:
                found.append(np.zeros(shape, np.int32))
            elif part.flat:
                whole = bias if bias.ndim > 1 else self._per_channel(part, bias)
                found.append(whole.reshape(-1))
            elif bias.ndim == 3:
                held = np.zeros(shape, np.int32)
                held[:, : part.extent[0], : part.extent[1]] = bias[
                    :, part.phase[0] :: part.factor[0], part.phase[1] :: part.factor[1]
                ]
                found.append(held)
            else:
                found.append(np.broadcast_to(bias.reshape(-1, *[1] * (len(shape) - 1)), shape))
        return np.concatenate(found)

    def _tell(self, layer: Layer, name: str) -> None:
        where = f"{self.levels.graph.name}.{name}"
        self.report.layers[where] = layer.parts
        carried: dict[str, int] = {}
        for part in layer.parts:
            if part.relays:
                carried[part.population] = carried.get(part.population, 0) + len(part.members)
        if not carried:
            return
        self.report.relays[where] = sum(carried.values())
        extra = self.report.relays[where] * int(np.prod(layer.shape[1:]))
        kind = "relays" if len(layer.shape) == 1 else "relay channels"
        what = ", ".join(f"{n} {kind} of {population}" for population, n in carried.items())
        self.report.say(f"relays: {where}: {what} (+{extra} neurons, +{extra} axons)")


def _silent_beyond(lif: Lif, layer: Layer, synapse: Conv2d | Dense, before: Layer) -> Lif:
    """Neurons of a map that is larger than their population get a bias that no input can lift: what reads them reads padding.

    With ``u <= u_max`` (`taaf.hw_sim.intervals`) and ``64 bias <= -u_max``, v never exceeds 0.
    """
    beyond = np.zeros(layer.shape, bool)
    for part in layer.parts:
        if not part.relays:
            rows = slice(part.first, part.first + len(part.members))
            beyond[rows, part.extent[0] :], beyond[rows, :, part.extent[1] :] = True, True
    if not beyond.any():
        return lif
    nodes: list[Node] = [Input("input", before.shape), synapse, lif]
    ranges = lif_ranges(Graph("layer", nodes, [("input", synapse.name), (synapse.name, lif.name)]), lif)
    needed = np.minimum(0, -ranges.u.high) // 64
    if ranges.may_wrap[beyond].any() or needed[beyond].min() < BIAS_MIN:
        held = ", ".join(dict.fromkeys(p.population for p in layer.parts if p.extent != layer.shape[1:]))
        raise NoMapError(
            f"{held} is smaller than the map of {layer.shape[1]} x {layer.shape[2]}, and could fire beyond its border"
        )
    bias = np.zeros(layer.shape, np.int32) if lif.bias is None else lif.bias
    bias = bias if bias.ndim == 3 else np.broadcast_to(bias[:, None, None], layer.shape)
    return replace(lif, bias=np.where(beyond, needed, bias).astype(np.int32))
