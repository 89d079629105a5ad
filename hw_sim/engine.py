"""The exact engine: an integer graph on many windows at once, fast; `taaf.hw_sim.reference` says what it must give.

Two executions stand behind `Engine`, equal on every spike (tests/conformance):

- "event" (`taaf.hw_sim.engines.event`): lists of spikes and integer kernels on the CPU, compiled by Numba; no torch;
- "torch" (`taaf.hw_sim.engines.torch_engine`): dense convolutions of all steps; any graph.

Relay channels of lowered residual blocks are not computed: the block's two synapse groups end in one LIF, and the relays'
spikes are copied (`taaf.hw_sim.relays`).
"""

import importlib.util
from collections.abc import Collection
from typing import Literal, Protocol

import numpy as np

from taaf.hw_sim.activity import Activity, EngineResult
from taaf.hw_sim.relays import without_relays
from taaf.models.errors import BackendUnavailableError, ConfigError
from taaf.models.ir import Graph
from taaf.models.ir.stage import require_integer_stage, require_spikes

__all__ = ["Activity", "Engine", "EngineResult"]

Kind = Literal["event", "torch"]


class _Execution(Protocol):
    """What a kind of engine does: spikes of some nodes (N, ..., T) uint8, and counts of the input and every LIF."""

    def run(self, spikes: np.ndarray, wanted: Collection[str]) -> tuple[dict[str, np.ndarray], Activity]: ...


class Engine:
    """Runs an integer graph on many windows at once.

    Parameters
    ----------
    graph : Graph
        Integer stage.
    chunk : int
        Most windows per pass; fewer of large networks. Bounds memory and keeps a step's state in cache.
    relays : bool
        Compute relay channels like any others (for measurements; the results are the same).
    kind : {"event", "torch"}, optional
        By default "event", or "torch" where Numba is missing or the kernels cannot run the graph (`why` says so then).
    threads : int, optional
        Of the event kernels; by default the CPUs that the process may use.

    Attributes
    ----------
    kind : str
        What runs.
    why : str
        The reason if that is not "event"; otherwise empty.

    Raises
    ------
    GraphError
        If the graph is not of the integer stage.
    LimitExceededError
        If a sum could exceed what even float64 holds exactly.
    BackendUnavailableError
        If ``kind`` is "event" and the kernels cannot run here, or not this graph.

    Examples
    --------
    >>> engine = Engine(graph)
    >>> result = engine.run(spikes)  # (N, *graph.input.shape, T)
    >>> result.spikes[graph.output], result.activity.spikes
    """

    def __init__(
        self, graph: Graph, chunk: int = 32, relays: bool = False, *, kind: Kind | None = None, threads: int | None = None
    ) -> None:
        require_integer_stage(graph)
        self.graph, self._relays = (graph, {}) if relays else without_relays(graph)
        self.chunk = chunk
        if kind not in (None, "event", "torch"):
            raise ConfigError(f"engine kind {kind!r}: allowed are 'event' and 'torch'")
        execution, self.why = (None, "asked for") if kind == "torch" else _event_engine(self.graph, chunk, threads)
        if execution is None and kind == "event":
            raise BackendUnavailableError(f"{graph.name}: the event engine cannot run it: {self.why}; use kind='torch'")
        self.kind: Kind = "torch" if execution is None else "event"
        self._execution = execution or _torch_engine(self.graph, chunk)

    def run(self, spikes: np.ndarray, keep_all: bool = False) -> EngineResult:
        """Run windows from rest.

        Parameters
        ----------
        spikes : numpy.ndarray
            (N, *input shape, T), values 0 or 1, of any type and memory layout; N may be 0. A time-major layout is fastest.
        keep_all : bool
            Also return the spikes of every LIF, not only the output's.

        Raises
        ------
        GraphError
            If the input's shape is wrong or it is not binary.
        """
        require_spikes(self.graph, spikes, spikes.shape[1:-1])
        wanted = {self.graph.output, *([n.name for n in self.graph.lifs()] if keep_all else [])}
        found, activity = self._execution.run(
            spikes, wanted | ({r.source for r in self._relays.values()} if keep_all else set())
        )
        for name, relays in self._relays.items():
            activity.spikes[name] = np.concatenate([activity.spikes[name], relays.of(activity.spikes[relays.source])])
            if name in wanted:
                own, source = (np.moveaxis(found[n], -1, 0) for n in (name, relays.source))  # (T, N, C, H, W)
                found[name] = np.moveaxis(np.concatenate([own, relays.of(source)], axis=2), 0, -1)
        return EngineResult({n: x for n, x in found.items() if n in wanted}, activity)


def _event_engine(graph: Graph, chunk: int, threads: int | None) -> tuple[_Execution | None, str]:
    """The event engine, or why there is none for this graph."""
    if importlib.util.find_spec("numba") is None:
        return None, "Numba is not installed (pip install numba)"
    try:
        from taaf.hw_sim.engines.event.engine import EventEngine
        from taaf.hw_sim.engines.event.plan import UnsupportedGraph
    except ImportError as error:  # Numba refuses NumPys that are newer than itself
        return None, f"Numba cannot be imported: {error}"
    try:
        return EventEngine(graph, chunk, threads), ""
    except UnsupportedGraph as reason:
        return None, str(reason)


def _torch_engine(graph: Graph, chunk: int) -> _Execution:
    from taaf.hw_sim.engines.torch_engine import TorchEngine

    return TorchEngine(graph, chunk)
