"""Does a network fit on so many chips, what limits it, and what would make it fit: all of it worked out, none measured."""

from collections.abc import Callable
from collections.abc import Mapping as Dict
from dataclasses import asdict, dataclass
from typing import Any

from taaf.hw_sim.counters import spiking_source
from taaf.hw_sim.mapper.chip_limits import ChipLimits
from taaf.hw_sim.mapper.mapping import Mapping, Violation, map_graphs
from taaf.hw_sim.mapper.regroup import CHANGES
from taaf.hw_sim.mapper.shrink import shrunk
from taaf.models.errors import GraphError
from taaf.models.ir import Graph

_EIGHTHS = 8


@dataclass(frozen=True)
class Proposal:
    """A change and what it leads to.

    Attributes
    ----------
    keeps_limits : bool
        No core beyond its limits.
    fits : bool
        That, and on as few chips as are allowed. Otherwise this is the mildest change that makes every core keep its
        limits where one did not, or the strongest one tried.
    """

    change: str
    factor: float
    n_cores: int
    n_chips: int
    keeps_limits: bool
    fits: bool

    def __str__(self) -> str:
        size = f"{self.n_cores:,} cores, {chips_text(self.n_chips)}"
        if self.fits:
            return f"{self.change}: fits, {size}"
        return f"{self.change}: {f'with --chips {self.n_chips}' if self.keeps_limits else 'not enough'} ({size})"


@dataclass(frozen=True)
class Fit:
    """The answer.

    Attributes
    ----------
    fits : bool
        No violation, on at most ``chips_allowed`` chips.
    findings : tuple of Violation
        What is violated, "chips" included.
    proposals : tuple of Proposal
        Empty if it fits.
    """

    mapping: Mapping
    chips_allowed: int
    findings: tuple[Violation, ...]
    proposals: tuple[Proposal, ...]

    @property
    def fits(self) -> bool:
        return not self.findings

    def by_limit(self) -> dict[str, int]:
        """Cores in layers bound by each limit; layers that need one core are bound by none."""
        found: dict[str, int] = {}
        for row in self.mapping.layers:
            if row.is_bound:
                found[row.binding] = found.get(row.binding, 0) + row.n_cores
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def to_dict(self, cores: bool = False) -> dict[str, Any]:
        return {
            "fits": self.fits, "chips_allowed": self.chips_allowed, "cores_by_limit": self.by_limit(),
            "findings": [{**asdict(v), "text": str(v)} for v in self.findings],
            "proposals": [{**asdict(p), "text": str(p)} for p in self.proposals],
            "mapping": self.mapping.to_dict(cores),
        }  # fmt: skip


def fit(
    graphs: dict[str, Graph], chip: str | ChipLimits, chips_allowed: int = 1, others: Dict[str, dict[str, Graph]] | None = None
) -> Fit:
    """Map, and if that does not fit, search for what would.

    Parameters
    ----------
    others : dict, optional
        Other forms of the same network that can be proposed: what they are -> graphs.

    Raises
    ------
    GraphError
        If a graph is not of the integer stage.
    """
    mapping = map_graphs(graphs, chip)
    findings = list(mapping.violations)
    largest = max(mapping.layers, key=lambda row: row.n_cores)
    if mapping.n_chips > chips_allowed:
        findings.append(Violation("chips", f"all layers (most cores: {largest.layer})", mapping.n_chips, chips_allowed))
    proposals = _proposals(mapping, chips_allowed, others or {}) if findings else []
    return Fit(mapping, chips_allowed, tuple(findings), tuple(proposals))


def _proposals(mapping: Mapping, chips: int, others: Dict[str, dict[str, Graph]]) -> list[Proposal]:
    graphs = mapping.graphs

    def everywhere(**how: float) -> dict[str, Graph]:
        return {name: shrunk(graph, **how) for name, graph in graphs.items()}

    found: list[Proposal] = []
    if mapping.fits:
        found.append(Proposal("as it is", 1.0, mapping.n_cores, mapping.n_chips, True, False))
    for change, other in {**others, **_regrouped(mapping)}.items():
        found.append(_mapped(mapping, chips, change, 1.0, other))
    culprit = _narrowable(mapping)
    if culprit is not None:
        name, lif = culprit
        found += _search(mapping, chips, f"{name}.{lif} alone with {{}} of its channels", lambda f: {
            **graphs, name: shrunk(graphs[name], width={lif: f}),
        })  # fmt: skip
    found += _search(mapping, chips, "all layers but the last with {} of their channels", lambda f: everywhere(width=f))
    if any(len(graph.input.shape) == 3 for graph in graphs.values()):
        found += _search(mapping, chips, "inputs with {} of their height and width", lambda f: everywhere(resolution=f))
    if any(row.binding == "synapse memory" for row in mapping.layers):
        found += _search(mapping, chips, "{} of the non-zero weights, the largest", lambda f: everywhere(density=f))
    return found


def _regrouped(mapping: Mapping) -> dict[str, dict[str, Graph]]:
    """Layers that read too much of a map, all of them regrouped in the same way."""
    wide = [v.layer.split(".", 1) for v in mapping.violations if v.limit == "input axons"]
    found = {}
    for change, regroup in CHANGES.items():
        graphs = dict(mapping.graphs)
        for name, lif in wide:
            graphs[name] = regroup(graphs[name], lif) or graphs[name]
        changed = [f"{name}.{lif}" for name, lif in wide if graphs[name] is not mapping.graphs[name]]
        if changed:
            found[f"{change.format(' and '.join(changed))} (another network: to be trained)"] = graphs
    return found


def _narrowable(mapping: Mapping) -> tuple[str, str] | None:
    """The layer whose width to reduce first: the source of one in violation, else the one with the most cores."""
    for violation in mapping.violations:
        name, lif = violation.layer.split(".", 1)
        graph = mapping.graphs[name]
        if violation.limit in ("input axons", "synapse memory"):
            sources = [spiking_source(graph, s) for n in graph.synapses_of(lif) for s in graph.sources(n.name)]
            inner = [s for s in sources if s != graph.input.name]
            if inner:
                return name, max(inner, key=lambda s: graph.shapes[s][0])
        return None if lif == graph.output else (name, lif)
    rows = [row for row in mapping.layers if row.layer.split(".", 1)[1] != mapping.graphs[row.layer.split(".", 1)[0]].output]
    if not rows:
        return None
    name, lif = max(rows, key=lambda row: row.n_cores).layer.split(".", 1)
    return name, lif


def _search(mapping: Mapping, chips: int, change: str, build: Callable[[float], dict[str, Graph]]) -> list[Proposal]:
    """The largest of 7/8 .. 1/8 that fits; else the largest that ends a violation; else the outcome of the smallest."""
    tried: dict[int, Proposal | None] = {}

    def at(eighths: int) -> Proposal | None:
        if eighths not in tried:
            factor = eighths / _EIGHTHS
            try:
                tried[eighths] = _mapped(mapping, chips, change.format(f"{eighths}/{_EIGHTHS}"), factor, build(factor))
            except GraphError:  # maps too small for the kernels
                tried[eighths] = None
        return tried[eighths]

    for wanted in ("fits", "keeps_limits") if mapping.violations else ("fits",):
        low, high = 0, _EIGHTHS - 1
        while low < high:
            middle = (low + high + 1) // 2
            proposal = at(middle)
            low, high = (middle, high) if proposal is None or getattr(proposal, wanted) else (low, middle - 1)
        best = at(low) if low else None
        if best is not None and getattr(best, wanted):
            return [best]
    smallest = [p for _, p in sorted(tried.items()) if p is not None]
    return smallest[:1]


def _mapped(mapping: Mapping, chips: int, change: str, factor: float, graphs: dict[str, Graph]) -> Proposal:
    found = map_graphs(graphs, mapping.limits, explain=False)
    return Proposal(change, factor, found.n_cores, found.n_chips, found.fits, found.fits and found.n_chips <= chips)


def chips_text(n: int) -> str:
    """1 chip, 2 chips."""
    return f"{n} chip{'' if n == 1 else 's'}"
