"""What every backend is and returns."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from taaf.export.bundle.reader import Bundle
from taaf.hw_sim.activity import Activity

Spikes = dict[str, np.ndarray]  # branch -> windows (N, *shape, T) uint8, encoded for the chip


@dataclass(frozen=True)
class BackendResult:
    """Result of running N windows.

    Attributes
    ----------
    features : dict
        Branch -> feature spikes (N, F, input steps) uint8, as sent to the host head; empty if not recorded.
    logits : dict
        "fused" and the modalities -> (N, C) float64.
    activity : dict
        Branch -> spikes per neuron and layer (`Activity`), or empty if the backend cannot count.
    layers : dict
        Branch -> LIF name -> every spike (N, *shape, W) uint8, or empty if the backend does not record them.
    n_steps : int
        Time steps executed, pipeline fill included.
    wall_s : float
        Time of the run itself, without loading and compiling.
    exit_steps : numpy.ndarray or None
        With early exit: steps of each window the head had seen when it decided, (N,), 1..W. Decisions and counts are
        then those of windows whose input falls silent after the decision.
    """

    features: dict[str, np.ndarray]
    logits: dict[str, np.ndarray]
    activity: dict[str, Activity]
    layers: dict[str, dict[str, np.ndarray]]
    n_steps: int
    wall_s: float
    exit_steps: np.ndarray | None = None


def pad_window(spikes: np.ndarray, window_steps: int) -> np.ndarray:
    """Append silent steps to (N, ..., T) up to the window length, keeping a time-major memory layout."""
    n_idle = window_steps - spikes.shape[-1]
    if n_idle == 0:
        return spikes
    major = np.moveaxis(spikes, -1, 0)
    padded = np.concatenate([major, np.zeros((n_idle, *major.shape[1:]), spikes.dtype)])
    return np.moveaxis(padded, 0, -1)


def split(inputs: Spikes) -> Iterator[Spikes]:
    """Its windows one by one, each still with its axis of windows."""
    for k in range(len(next(iter(inputs.values())))):
        yield {b: x[k : k + 1] for b, x in inputs.items()}


def joined(parts: Sequence[BackendResult], wall_s: float) -> BackendResult:
    """The results of windows as those of one run."""
    first = parts[0]

    def together(name: str) -> dict[str, np.ndarray]:
        return {k: np.concatenate([getattr(p, name)[k] for p in parts]) for k in getattr(first, name)}

    layers = {b: {n: np.concatenate([p.layers[b][n] for p in parts]) for n in found} for b, found in first.layers.items()}
    exits = None if first.exit_steps is None else np.concatenate([p.exit_steps for p in parts if p.exit_steps is not None])
    return BackendResult(
        together("features"), together("logits"), {b: Activity.total([p.activity[b] for p in parts]) for b in first.activity},
        layers, sum(p.n_steps for p in parts), wall_s, exits,
    )  # fmt: skip


class Backend(Protocol):
    """A bundle made ready to run, and a context manager: entering it takes what is needed, leaving it leaves nothing.

    Made from a bundle, the confidence of early exit (None: never early), whether every layer's spikes are recorded, and the time
    limit in seconds of getting ready and of each answer.
    """

    def __init__(self, bundle: Bundle, confidence: float | None, record: bool, time_limit_s: float) -> None: ...

    def __enter__(self) -> Any: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def run(self, inputs: Spikes, time_limit_s: float, tick: Callable[[int], Any] = ...) -> BackendResult:
        """All windows of ``inputs`` at once; ``tick(n)`` is called as windows finish."""

    def answers(self, windows: Iterable[Spikes | None]) -> Iterator[BackendResult]:
        """The result of each window (N = 1), in order; None says that there is no window at present."""
