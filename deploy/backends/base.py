"""What every backend returns."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taaf.hw_sim.activity import Activity


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


def joined(parts: Sequence[BackendResult]) -> BackendResult:
    """The results of runs of some windows each as those of one run."""
    first = parts[0]

    def together(name: str) -> dict[str, np.ndarray]:
        return {k: np.concatenate([getattr(p, name)[k] for p in parts]) for k in getattr(first, name)}

    layers = {b: {n: np.concatenate([p.layers[b][n] for p in parts]) for n in found} for b, found in first.layers.items()}
    exits = None if first.exit_steps is None else np.concatenate([p.exit_steps for p in parts if p.exit_steps is not None])
    return BackendResult(
        together("features"), together("logits"), {b: Activity.total([p.activity[b] for p in parts]) for b in first.activity},
        layers, sum(p.n_steps for p in parts), sum(p.wall_s for p in parts), exits,
    )  # fmt: skip
