"""Sliding windows over time steps that arrive in pieces, all modalities on one clock."""

from collections.abc import Iterator, Mapping

import numpy as np

Window = dict[str, np.ndarray]
RESTART_AFTER = 16  # late pieces in a row: then the clock began anew


class Sliding:
    """Keeps as many time steps as a window has.

    A window starts at every multiple of ``hop`` on the stream's clock; modality m takes the first ``steps[m]`` time steps from there, as
    it does on the chip. Steps that were left out are a gap: windows that would need them are not made.
    After `RESTART_AFTER` late pieces in a row the stream's clock is taken to have begun anew.

    Parameters
    ----------
    steps : mapping
        Modality -> time steps it has in a window.
    hop : int
        Time steps between the starts of two windows.

    Attributes
    ----------
    gap_steps, late : int
        Steps that were left out, and pieces that were refused because they came again or too late.

    Examples
    --------
    >>> sliding = Sliding({"audio": 3}, hop=2)
    >>> [(start, window["audio"].tolist()) for start, window in sliding.push(0, {"audio": np.arange(6)})]
    [(0, [0, 1, 2]), (2, [2, 3, 4])]
    """

    def __init__(self, steps: Mapping[str, int], hop: int) -> None:
        self._steps, self._hop, self._longest = dict(steps), hop, max(steps.values())
        self._kept: Window = {}
        self._first = self._end = 0  # steps that are kept
        self._next = 0  # start of the next window
        self.gap_steps = self.late = self._late_in_row = 0

    def push(self, first: int, piece: Mapping[str, np.ndarray]) -> Iterator[tuple[int, Window]]:
        """Take {modality: (..., n)}, the time steps from ``first`` on; gives the windows that are complete with them."""
        n = next(iter(piece.values())).shape[-1]
        if self._kept and first < self._end:
            self.late += 1
            self._late_in_row += 1
            if self._late_in_row < RESTART_AFTER:
                return
            self._kept, self._next = {}, 0  # the clock began anew, or one number was far too large
        self._late_in_row = 0
        if not self._kept or first > self._end:
            self.gap_steps += first - self._end if self._kept else 0
            self._kept = {m: np.asarray(x) for m, x in piece.items()}
            self._first = first
            self._next = max(self._next, -(-first // self._hop) * self._hop)
        else:
            self._kept = {m: np.concatenate([self._kept[m], piece[m]], axis=-1) for m in self._kept}
        self._end = first + n
        while self._next + self._longest <= self._end:
            start, at = self._next, self._next - self._first
            self._next += self._hop
            yield start, {m: self._kept[m][..., at : at + k] for m, k in self._steps.items()}
        spare = min(self._next, self._end) - self._first
        if spare > 0:
            self._kept = {m: x[..., spare:].copy() for m, x in self._kept.items()}
            self._first += spare
