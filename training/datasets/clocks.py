"""Clocks of event recordings: counters that wrap are continued, and clocks that were set anew are refused.

A counter of n bits that runs over gives the same differences modulo 2^n as one that does not, signed or unsigned. A clock
that was reset, or a stamp left over from before, cannot be repaired: the time that was lost is not in the file.
"""

import numpy as np

from taaf.models.errors import DataError

MAX_PAUSE_US = 1_000_000  # between two events of one recording: a sensor's noise alone gives thousands per second
MAX_DISORDER_US = 1_000  # events of one transfer may lie in another order, which binning does not see


def continued(
    stamps: np.ndarray, bits: int, where: str, index: np.ndarray | None = None, max_pause: int = MAX_PAUSE_US
) -> np.ndarray:
    """Time stamps of a counter of ``bits`` bits as one running clock.

    Differences d of neighbours are taken modulo 2^bits in -2^(bits-1) <= d < 2^(bits-1), and summed.

    Parameters
    ----------
    stamps : numpy.ndarray
        (N,) int64 microseconds, 0 <= stamp < 2^bits, in the order of the file.
    bits : int
        Width of the counter; 64 for a clock that cannot wrap.
    where : str
        File (and sample), for messages.
    index : numpy.ndarray, optional
        (N,) what the events are numbered as in messages (default: 0 to N - 1).
    max_pause : int
        Longest time between two events, in microseconds.

    Returns
    -------
    numpy.ndarray
        (N,) int64 microseconds; the first is as it was.

    Raises
    ------
    DataError
        Naming the event at which the clock steps back by more than 1 ms (or a hundredth of the recording), as after a reset,
        or on by more than ``max_pause``, as from a stamp left over from before one.

    Examples
    --------
    >>> continued(np.array([2**32 - 3, 2**32 - 1, 1]), 32, "a.aedat").tolist()
    [4294967293, 4294967295, 4294967297]
    """
    step = np.diff(stamps)
    if bits < 64:
        half = 1 << (bits - 1)
        step = (step + half) % (1 << bits) - half
    t = np.concatenate([stamps[:1], stamps[:1] + np.cumsum(step)])
    if not len(step):
        return t
    allowed = min(MAX_DISORDER_US, int(np.ptp(t)) // 100)
    late = np.maximum.accumulate(t)[:-1] - t[1:]
    wrong = np.flatnonzero((late > allowed) | (step > max_pause))
    if len(wrong):
        k = int(wrong[0])
        jump = f"back by {late[k]}" if late[k] > allowed else f"on by {step[k]}"
        number = k + 1 if index is None else index[k + 1]
        raise DataError(
            f"{where}: event {number}: the clock goes {jump} us (from {stamps[k]} to {stamps[k + 1]}), it was reset or the stamp "
            "is a stale one; replace the file, cut it there or skip the sample"
        )
    return t
