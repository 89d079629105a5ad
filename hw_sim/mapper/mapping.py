"""From integer graphs to cores: how many, what limits them, where they lie.

``map_graphs`` needs no spikes and runs nothing. What a core holds, and which of these numbers are documented and which
assumed, is in ``chips/limits/*.toml`` and repeated in `Mapping.constants`.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from taaf.hw_sim.connectivity import Box, Group, box_of, groups_of
from taaf.hw_sim.mapper.chip_limits import LIMITS, ChipLimits, load_limits
from taaf.hw_sim.mapper.partition import Cut, Cutter, Readers
from taaf.hw_sim.placement import Placement, place
from taaf.models.ir import Graph
from taaf.models.ir.stage import require_integer_stage


@dataclass(frozen=True)
class Violation:
    """A limit that cannot be kept: ``layer`` needs ``found`` of ``limit`` on a core of a single neuron."""

    limit: str
    layer: str
    found: int
    allowed: int

    def __str__(self) -> str:
        per = "" if self.limit == "chips" else " on a core that holds a single neuron"
        return f"{self.layer}: {self.limit}: {self.found:,}{per}, allowed {self.allowed:,}"


@dataclass(frozen=True)
class CoreUse:
    """One core.

    Attributes
    ----------
    index, chip : int
        Core number over all chips, and its chip.
    x, y, slot : int
        Router on the plane of all chips, eastwards and northwards, and which of the router's cores it is.
    layer : str
        ``graph.lif``.
    box : tuple of int
        First and past-last channel, row and column of its neurons.
    neurons, synapse_bits, in_axons, out_axons : int
        What it uses.
    utilisation : dict
        Limit -> share used, 0..1 (more where the layer is in violation); without limits that are not public.
    """

    index: int
    chip: int
    x: int
    y: int
    slot: int
    layer: str
    box: tuple[int, int, int, int, int, int]
    neurons: int
    synapse_bits: int
    in_axons: int
    out_axons: int
    utilisation: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class LayerMap:
    """One layer on its cores.

    Attributes
    ----------
    layer : str
        ``graph.lif``.
    box, tile, grid : (int, int, int)
        Channels, rows, columns: of the layer, of a core, and cores along each.
    first_core : int
        Its cores are ``first_core .. first_core + n_cores - 1``, by channel, row, column.
    binding : str
        The limit without which it would need the fewest cores, namely ``without_binding``.
    mean_utilisation, peak_utilisation : dict
        Limit -> mean and highest share over its cores.
    """

    layer: str
    box: Box
    tile: Box
    grid: Box
    n_neurons: int
    n_cores: int
    first_core: int
    binding: str
    without_binding: int
    mean_utilisation: dict[str, float]
    peak_utilisation: dict[str, float]
    cut: Cut = field(repr=False, compare=False)

    @property
    def is_bound(self) -> bool:
        """Whether a limit decides its cores: it needs more than one, or exceeds one."""
        return self.n_cores > 1 or self.peak_utilisation.get(self.binding, 0) > 1

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "cut"}


@dataclass(frozen=True)
class Mapping:
    """All layers of all graphs on cores and chips."""

    limits: ChipLimits
    graphs: dict[str, Graph] = field(repr=False)
    layers: tuple[LayerMap, ...]
    placement: Placement = field(repr=False)
    violations: tuple[Violation, ...]

    @property
    def n_cores(self) -> int:
        return sum(row.n_cores for row in self.layers)

    @property
    def n_chips(self) -> int:
        return self.placement.n_chips

    @property
    def fits(self) -> bool:
        """Whether every core keeps its limits (on `n_chips` chips)."""
        return not self.violations

    @property
    def utilisation(self) -> dict[str, float]:
        """Mean share of every limit over the cores in use, and the share of the chips' cores in use."""
        totals = {
            name: sum(row.mean_utilisation[name] * row.n_cores for row in self.layers) / self.n_cores
            for name in self.layers[0].mean_utilisation
        }
        return {**totals, "cores": self.n_cores / (self.n_chips * self.limits.cores_per_chip)}

    def layer(self, name: str) -> LayerMap:
        """The row of ``graph.lif``."""
        return next(row for row in self.layers if row.layer == name)

    def cores(self) -> list[CoreUse]:
        """Every core, in order."""
        found: list[CoreUse] = []
        where = self.placement
        for row in self.layers:
            used = row.cut.used.reshape(len(LIMITS), -1)
            for i, position in enumerate(np.ndindex(*row.grid)):
                n = row.first_core + i
                edges = [(p * t, min(p * t + t, b)) for p, t, b in zip(position, row.tile, row.box, strict=True)]
                neurons, bits, axons_in, axons_out = (int(v) for v in used[:, i])
                found.append(
                    CoreUse(
                        n, int(where.chip[n]), int(where.x[n]), int(where.y[n]), int(where.slot[n]), row.layer,
                        (*edges[0], *edges[1], *edges[2]), neurons, bits, axons_in, axons_out,
                        _shares(used[:, i], self.limits),
                    )
                )  # fmt: skip
        return found

    def to_dict(self, cores: bool = True) -> dict[str, Any]:
        """Plain data; ``cores``: with every core."""
        mesh = {k: getattr(self.limits, k) for k in ("width", "height", "cores_per_tile", "cores_per_chip")}
        found: dict[str, Any] = {
            "chip": self.limits.name, "title": self.limits.title, "source": self.limits.source,
            "fits": self.fits, "n_cores": self.n_cores, "n_chips": self.n_chips,
            "utilisation": self.utilisation, "mesh": mesh,
            "limits": dict(zip(LIMITS, self.limits.allowed(), strict=True)),
            "violations": [asdict(v) for v in self.violations],
            "layers": [row.to_dict() for row in self.layers],
            "constants": list(self.limits.constants), "anchors": list(self.limits.anchors),
        }  # fmt: skip
        if cores:
            found["cores"] = [c.to_dict() for c in self.cores()]
        return found


def _shares(used: np.ndarray, limits: ChipLimits) -> dict[str, float]:
    return {name: float(u) / a for name, u, a in zip(LIMITS, used, limits.allowed(), strict=True) if a is not None}


def map_graphs(graphs: dict[str, Graph], chip: str | ChipLimits, explain: bool = True) -> Mapping:
    """Cut every layer into cores and place them.

    Parameters
    ----------
    graphs : dict
        Branch -> graph of the integer stage; chains, with or without relays, and `Sum` joins (several synapse groups on
        one LIF).
    chip : str or ChipLimits
        "loihi1" or "loihi2".
    explain : bool
        Also find out which limit binds each layer; False is faster and leaves the fullest one there.

    Raises
    ------
    GraphError
        If a graph is not of the integer stage.
    """
    limits = load_limits(chip) if isinstance(chip, str) else chip
    layers: list[LayerMap] = []
    violations: list[Violation] = []
    first = 0
    for name, graph in graphs.items():
        require_integer_stage(graph)
        for lif, cut in cut_graph(graph, limits, explain).items():
            used = cut.used.reshape(len(LIMITS), -1)
            row = LayerMap(
                f"{name}.{lif}", box_of(graph.shapes[lif]), cut.tile, cut.grid, int(used[0].sum()), cut.n_cores, first,
                LIMITS[cut.binding], cut.without_binding, _shares(used.mean(1), limits), _shares(used.max(1), limits), cut,
            )  # fmt: skip
            for i, found in cut.exceeded:
                violations.append(Violation(LIMITS[i], row.layer, found, limits.allowed()[i] or 0))
            layers.append(row)
            first += cut.n_cores
    return Mapping(limits, graphs, tuple(layers), place(first, limits), tuple(violations))


def cut_graph(graph: Graph, limits: ChipLimits, explain: bool = True) -> dict[str, Cut]:
    """Every layer of a graph cut into tiles, in graph order."""
    groups: dict[str, list[Group]] = {lif.name: groups_of(graph, lif.name) for lif in graph.lifs()}
    readers = {name: Readers() for name in groups}
    readers[graph.output].every += 1  # the host
    cuts: dict[str, Cut] = {}
    for lif in reversed(groups):
        recurrent = any(g.source == lif for g in groups[lif])
        cuts[lif] = Cutter(limits, box_of(graph.shapes[lif]), groups[lif], readers[lif], recurrent).cut(explain)
        for group in groups[lif]:
            if group.source in readers and group.source != lif:
                readers[group.source].add(group, cuts[lif].tile, limits)
    return {lif: cuts[lif] for lif in groups}
