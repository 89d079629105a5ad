"""Proof before writing: SLAYER forward = integer reference = fast engine on the re-read bundle, every spike, per layer."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from taaf.export.passes import CompileReport
from taaf.export.trained import Trained
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.reference import run_reference
from taaf.models.encoder import HostEncoder
from taaf.models.errors import ParityError
from taaf.models.ir import Graph, Pool2d

SATURATED = 0.9


@dataclass(frozen=True)
class LayerCheck:
    """One line of the verification table; mismatches count differing spikes over all windows.

    Of a population: of the trained network, and of the layer of the chain that bears its name, relays included. Layers of the
    chain that bear no population's name have lines of their own, marked "(chain)".
    """

    layer: str
    spikes: int
    rate: float  # spikes per neuron and step
    slayer_mismatches: int
    engine_mismatches: int

    @property
    def ok(self) -> bool:
        return not (self.slayer_mismatches or self.engine_mismatches)

    def __str__(self) -> str:
        mark = "✓" if self.ok else "✗"
        detail = "" if self.ok else f"  SLAYER {self.slayer_mismatches}, engine {self.engine_mismatches} differ"
        return f"{mark} {self.layer:22s} {self.spikes:>10,d} spikes{detail}"

    @property
    def finding(self) -> str | None:
        """What a user should know of its rate, or None."""
        if self.layer.endswith(" (chain)") or (self.spikes and self.rate < SATURATED):
            return None
        kind = (
            f"saturated: {100 * self.rate:.0f} % of its neurons fire at every step" if self.spikes else "dead: it never fires"
        )
        return f"{self.layer} is {kind} (on the verified windows); what is behind it learns nothing from it"


@dataclass(frozen=True)
class Lowered:
    """A branch before and after lowering.

    Attributes
    ----------
    unlowered : Graph
        Integer graph before lowering; run by the reference, so that the lowering is checked too.
    compiled : Graph
        The chain made of it.
    written : Graph
        The chain as read back from the bundle, with synchronisation channels behind those of ``compiled`` if it has guard steps.
    report : CompileReport
        Says what every layer of the chain, relays included, must be for the spikes of ``unlowered``.
    """

    unlowered: Graph
    compiled: Graph
    written: Graph
    report: CompileReport

    def misfits(self, engine: Engine, block: np.ndarray, exact: dict[str, np.ndarray]) -> dict[str, int]:
        """LIF of the chain -> spikes of the engine on ``block`` that differ; synchronisation channels must be silent."""
        sync = self.written.input.shape[0] - self.compiled.input.shape[0]
        silent = np.pad(block, ((0, 0), (0, sync), *[(0, 0)] * (block.ndim - 2)))
        fast, found = engine.run(silent, keep_all=True).spikes, {}
        for name, wanted in self.report.expected(self.compiled, exact).items():
            own = wanted.shape[1]
            found[name] = int((fast[name][:, :own] != wanted).sum()) + int(fast[name][:, own:].sum())
        return found


def verify_branch(
    trained: Trained, lowered: Lowered, spikes: np.ndarray, tick: Callable[[int], None]
) -> tuple[list[LayerCheck], np.ndarray]:
    """Compare the three executions on every window of ``spikes``.

    Parameters
    ----------
    trained : Trained
        The trained network (of this branch).
    lowered : Lowered
        The branch, as the compiler left it.
    spikes : numpy.ndarray
        (N, *shape, T) uint8.

    Returns
    -------
    checks : list of LayerCheck
        One per population, and one of the output where that is no population.
    features : numpy.ndarray
        Output spikes (N, *shape, T) uint8.
    """
    graph, unlowered = lowered.written, lowered.unlowered
    populations = [lif.name for lif in unlowered.lifs()]
    names = populations if unlowered.output in populations else [*populations, unlowered.output]
    layers = [lif.name for lif in graph.lifs()]
    wrong, total, size = ({n: 0 for n in names} for _ in range(3))
    astray, features = {n: 0 for n in layers}, []
    engine = Engine(graph)
    for rows, found in trained.traces(graph.name, spikes):
        block = spikes[rows]
        slow: dict[str, list[np.ndarray]] = {n: [] for n in (graph.input.name, *names)}
        for window in block:
            run = run_reference(unlowered, window).spikes
            for name, kept in slow.items():
                kept.append(run[name])
            tick(1)
        exact = {n: np.stack(kept) for n, kept in slow.items()}
        for name in names:
            if (proof := _trained(found, name, trained.graphs[graph.name])) is not None:
                wrong[name] += int((proof != exact[name][..., : proof.shape[-1]]).sum())
            total[name] += int(exact[name].sum())
            size[name] += exact[name].size
        for name, errors in lowered.misfits(engine, block, exact).items():
            astray[name] += errors
        features.append(exact[unlowered.output])
    checks = [LayerCheck(f"{graph.name}.{n}", total[n], total[n] / max(1, size[n]), wrong[n], astray.pop(n, 0)) for n in names]
    checks += [LayerCheck(f"{graph.name}.{n} (chain)", 0, 0.5, 0, errors) for n, errors in astray.items()]
    return checks, np.concatenate(features)


def shown_of(found: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The trained network's spikes of a population, which bears the name of the pool it was made of where it pools."""
    return found[name] if name in found else found[name.removesuffix("_lif")]


def _trained(found: dict[str, np.ndarray], name: str, graph: Graph) -> np.ndarray | None:
    """`shown_of`; None of neurons that pool, where the trained module says nothing of them."""
    pool = name.removesuffix("_lif")
    if name not in found and pool not in found and isinstance(graph.nodes.get(pool), Pool2d):
        return None
    return shown_of(found, name)


def verify_encoder(trained: Trained, branch: str, encoder: HostEncoder, levels: np.ndarray) -> tuple[LayerCheck, np.ndarray]:
    """Compare the host's integer encoder with the trained one on input levels (N, C, H, W, T); also returns its spikes."""
    spikes = encoder(levels)
    wrong = int((trained.encoded(branch, levels) != spikes).sum())
    return LayerCheck(f"{branch}.encoder (host)", int(spikes.sum(dtype=np.int64)), float(spikes.mean()), wrong, 0), spikes


def require_exact(checks: list[LayerCheck]) -> None:
    """Raise `ParityError` that names every layer that differs."""
    if bad := [c for c in checks if not c.ok]:
        raise ParityError("the exported network differs from the trained one: " + "; ".join(str(c) for c in bad))
