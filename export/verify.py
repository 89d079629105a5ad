"""Proof before writing: SLAYER forward = integer reference = fast engine on the re-read bundle, every spike, per layer."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from taaf.hw_sim.engine import Engine
from taaf.hw_sim.reference import run_reference
from taaf.models.encoder import HostEncoder
from taaf.models.errors import ParityError
from taaf.models.ir import Graph
from taaf.models.taaf import TaafSnn

SATURATED = 0.9
_BLOCK_VALUES = 1 << 23  # of the widest layer's trace; bounds memory


@dataclass(frozen=True)
class LayerCheck:
    """One line of the verification table; mismatches count differing spikes over all windows."""

    layer: str
    spikes: int
    rate: float  # spikes per neuron and step
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

    @property
    def finding(self) -> str | None:
        """What a user should know of its rate, or None."""
        if self.spikes and self.rate < SATURATED:
            return None
        kind = (
            f"saturated: {100 * self.rate:.0f} % of its neurons fire at every step" if self.spikes else "dead: it never fires"
        )
        return f"{self.layer} is {kind} (on the verified windows); what is behind it learns nothing from it"


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
    total, size = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    engine, features = Engine(graph), []
    for block, trained in _slayer_blocks(model, graph, spikes):
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
            size[name] += exact.size
        features.append(trained[graph.output])
    checks = [LayerCheck(f"{graph.name}.{n}", total[n], total[n] / max(1, size[n]), *map(int, wrong[n])) for n in names]
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


def verify_encoder(model: TaafSnn, branch: str, encoder: HostEncoder, levels: np.ndarray) -> tuple[LayerCheck, np.ndarray]:
    """Compare the host's integer encoder with the trained one on input levels (N, C, H, W, T); also returns its spikes."""
    spikes, wrong = encoder(levels), 0
    net = model.branches[branch].eval()
    for window, exact in zip(levels, spikes, strict=True):
        with torch.no_grad():
            trained = net.encode(torch.from_numpy(window[None].astype(np.float32) / np.float32(encoder.scale)))
        wrong += int((trained[0].numpy() != exact).sum())
    return LayerCheck(f"{branch}.encoder (host)", int(spikes.sum(dtype=np.int64)), float(spikes.mean()), wrong, 0, 0), spikes


def blocks_of(n: int, graphs: Iterable[Graph], steps: int, most: int) -> Iterator[slice]:
    """Slices of up to ``most`` windows, such that the widest layer's spikes of a block stay within bounds."""
    widest = max(int(np.prod(shape)) for graph in graphs for shape in graph.shapes.values())
    size = max(1, min(most, _BLOCK_VALUES // (widest * steps)))
    return (slice(start, start + size) for start in range(0, n, size))


def _slayer_blocks(
    model: TaafSnn, graph: Graph, spikes: np.ndarray, size: int = 100
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """(input block, {LIF name: spikes}) of the trained branch, uint8."""
    model.eval()
    branch = graph.name
    for rows in blocks_of(len(spikes), [graph], spikes.shape[-1], size):
        block = spikes[rows]
        with torch.no_grad():
            trace = model.branches[branch].trace(torch.from_numpy(block.astype(np.float32)))
        yield block, {n: v.numpy().astype(np.uint8) for n, v in trace.items()}


def require_exact(checks: list[LayerCheck]) -> None:
    """Raise `ParityError` that names every layer that differs."""
    if bad := [c for c in checks if not c.ok]:
        raise ParityError("the exported network differs from the trained one: " + "; ".join(str(c) for c in bad))
