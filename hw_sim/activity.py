"""What a run of an integer graph gives: spikes and exact counts."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Activity:
    """Exact counts over all windows of a run.

    Attributes
    ----------
    n_windows, n_steps : int
        Windows run and time steps per window.
    spikes : dict
        Node name (input and every LIF) -> spikes per neuron, int64, shape of the node.
    wraps, clips : dict
        LIF name -> how often, over all neurons and steps, u wrapped and v was clipped; only layers where it happened.
    """

    n_windows: int = 0
    n_steps: int = 0
    spikes: dict[str, np.ndarray] = field(default_factory=dict)
    wraps: dict[str, int] = field(default_factory=dict)
    clips: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, counts: np.ndarray) -> None:
        self.spikes[name] = self.spikes.get(name, 0) + counts

    @staticmethod
    def total(parts: "Sequence[Activity]") -> "Activity":
        """The counts of runs of some windows each as those of one run."""
        found = Activity(sum(p.n_windows for p in parts), parts[0].n_steps)
        for part in parts:
            for name, counts in part.spikes.items():
                found.add(name, counts)
            for mine, theirs in ((found.wraps, part.wraps), (found.clips, part.clips)):
                for name, n in theirs.items():
                    mine[name] = mine.get(name, 0) + n
        return found


@dataclass
class EngineResult:
    """``spikes[name]``: uint8 (N, ..., T) for the output LIF, or for every LIF and the input if asked for."""

    spikes: dict[str, np.ndarray]
    activity: Activity
