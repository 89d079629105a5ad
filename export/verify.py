"""Proof before writing: SLAYER forward = integer reference = fast engine on the re-read bundle, every spike, per layer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from taaf.hw_sim.engine import Engine
from taaf.hw_sim.reference import run_reference
from taaf.models.errors import ParityError
from taaf.models.ir import Graph
from taaf.models.taaf import TaafSnn


@dataclass(frozen=True)
class LayerCheck:
    """One line of the verification table; mismatches count differing spikes over all windows."""

    layer: str
    spikes: int
    slayer_mismatches: int
    engine_mismatches: int
    relay_mismatches: int

    @property
    def ok(self) -> bool:
        return not (self.slayer_mismatches or self.engine_mismatches or self.relay_mismatches)

    def __str__(self) -> str:
        mark = "✓" if self.ok else "✗"
        detail = "" if self.ok else (
            f"  SLAYER {self.slayer_mismatches}, engine {self.engine_mismatches}, relays {self.relay_mismatches} differ"
        )  # fmt: skip
        return f"{mark} {self.layer:22s} {self.spikes:>10,d} spikes{detail}"


def verify_branch(
    model: TaafSnn, graph: Graph, unlowered: Graph, spikes: np.ndarray, relays: dict[str, int], tick: Callable[[int], None]
) -> tuple[list[LayerCheck], np.ndarray]:
    """Compare the three executions on every window of ``spikes``.

    Parameters
    ----------
    model : TaafSnn
        The trained network (its branch ``graph.name`` is run in eval mode).
    graph : Graph
        Integer chain as read back from the bundle.
    unlowered : Graph
        Integer graph before relay lowering; run by the reference, so that the lowering is checked too.
    spikes : numpy.ndarray
        (N, *shape, T) uint8.
    relays : dict
        LIF -> number of relay channels at its end.

    Returns
    -------
    checks : list of LayerCheck
    features : numpy.ndarray
        Output spikes (N, F, T) uint8 of the trained network.
    """
    names = [lif.name for lif in graph.lifs()]
    wrong = {n: np.zeros(3, np.int64) for n in names}
    total = dict.fromkeys(names, 0)
    engine, features = Engine(graph), []
    for block, trained in _slayer_blocks(model, graph.name, spikes):
        fast = engine.run(block, keep_all=True).spikes
        slow: dict[str, list[np.ndarray]] = {n: [] for n in [graph.input.name, *names]}
        for window in block:
            for name, value in run_reference(unlowered, window).spikes.items():
                slow[name].append(value)
            tick(1)
        for name in names:
            own = graph.shapes[name][0] - relays.get(name, 0)
            exact = np.stack(slow[name])
            wrong[name] += (
                (trained[name] != exact).sum(), (fast[name][:, :own] != exact).sum(),
                _relay_errors(fast[name][:, own:], slow, graph, unlowered, name),
            )  # fmt: skip
            total[name] += int(exact.sum())
        features.append(trained[graph.output])
    checks = [LayerCheck(f"{graph.name}.{n}", total[n], *map(int, wrong[n])) for n in names]
    return checks, np.concatenate(features)


def _relay_errors(relayed: np.ndarray, slow: dict[str, list[np.ndarray]], graph: Graph, unlowered: Graph, name: str) -> int:
    """Relay spikes that differ from the spikes they must repeat (those the shortcut convolution reads)."""
    if relayed.shape[1] == 0:
        return 0
    (synapse,) = graph.sources(name)
    (source,) = graph.sources(synapse)
    stride = graph.nodes[synapse].stride  # type: ignore[attr-defined]
    weight = graph.nodes[synapse].weight[-relayed.shape[1] :]  # type: ignore[attr-defined]
    read = [int(np.flatnonzero(row.any(axis=(1, 2)))[0]) for row in weight]
    origin = np.stack(slow[source])[:, read, :: stride[0], :: stride[1]]
    return int((relayed != origin).sum())


def _slayer_blocks(
    model: TaafSnn, branch: str, spikes: np.ndarray, size: int = 100
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """(input block, {LIF name: spikes}) of the trained branch, uint8."""
    model.eval()
    for start in range(0, len(spikes), size):
        block = spikes[start : start + size]
        with torch.no_grad():
            trace = model.branches[branch].trace(torch.from_numpy(block.astype(np.float32)))
        yield block, {n: v.numpy().astype(np.uint8) for n, v in trace.items()}


def require_exact(checks: list[LayerCheck]) -> None:
    """Raise `ParityError` that names every layer that differs."""
    if bad := [c for c in checks if not c.ok]:
        raise ParityError("the exported network differs from the trained one: " + "; ".join(str(c) for c in bad))
