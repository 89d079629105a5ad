"""Clocks of event files that wrap, are reset or start with a stale stamp: the unbroken recording's spikes, or a refusal."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from media_fixtures import dvs128, write_aedat, write_nmnist, write_ntidigits

from taaf.models.errors import DataError
from taaf.training.datasets.bad_samples import BadSamples
from taaf.training.datasets.cache import Item
from taaf.training.datasets.event_files import EventRecipe
from taaf.training.datasets.ntidigits import read_ntidigits

N, STEPS = 32, 5
TIMES = np.arange(N) * 9_000  # microseconds, of all three sets: 279 ms
WHERE = {"aedat": "a.aedat", "nmnist": "a.bin", "ntidigits": "a.hdf5: test man-ac-a-1"}


def _spikes(kind: str, times: np.ndarray, folder: Path, marks: tuple[int, ...] = ()) -> np.ndarray:
    """Write event i at a pixel or channel of its own at the given time, and read the spikes back."""
    if kind == "ntidigits":
        path = folder / "a.hdf5"
        write_ntidigits(path, {"test": {"man-ac-a-1": (np.arange(N)[::-1], times / 1e6)}})
        return read_ntidigits(path, "test", STEPS, BadSamples("stop")).spikes
    if kind == "nmnist":
        events = [(i, 3, 1, int(t)) for i, t in enumerate(times)]
        for at in marks:
            events.insert(at, (9, 240, 0, 0))
        path = write_nmnist(folder / "a.bin", events)
    else:
        path = write_aedat(folder / "a.aedat", [(dvs128(47 + i, 50, 1), int(t)) for i, t in enumerate(times)])
    return np.unpackbits(EventRecipe(STEPS, 0 if kind == "nmnist" else 4)(Item("a", (path,)))["bits"])


@pytest.mark.parametrize("width", [31, 32])
def test_a_clock_that_wraps_is_continued(width: int, tmp_path: Path) -> None:
    """At every event of a DVS128 recording; signed (2^31 - 1 to -2^31) and unsigned (2^32 - 1 to 0).

    Seen failing for the unsigned one: the window was the clock's whole range, and the bins were its ends (14, 0, 0, 0, 18).
    """
    whole = _spikes("aedat", TIMES, tmp_path)
    assert whole.reshape(-1, STEPS).sum(0).tolist() == [7, 6, 6, 6, 7]
    for wrap_at in range(N):
        wrapped = (TIMES - TIMES[wrap_at] + (1 << width)) % (1 << 32)
        np.testing.assert_array_equal(_spikes("aedat", wrapped, tmp_path), whole)


def test_marks_of_lost_time(tmp_path: Path) -> None:
    """Records with y = 240 in N-MNIST add 2^13 us to all that follow."""
    lost = TIMES - 8192 * ((np.arange(N) >= 10).astype(int) + (np.arange(N) >= 20))
    found = _spikes("nmnist", lost, tmp_path, marks=(20, 10))
    np.testing.assert_array_equal(found, _spikes("nmnist", TIMES, tmp_path))


BROKEN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "reset": lambda t: np.concatenate([t[:12], t[12:] - t[12]]),
    "reset to another time": lambda t: np.concatenate([t[:12], t[12:] - 30_000]),
    "several resets": lambda t: np.concatenate([t[:9], t[9:20] - t[9], t[20:] - t[20]]),
    "stale first stamp": lambda t: np.concatenate([[3_000_000], t[1:]]),
    "unsorted": lambda t: np.random.default_rng(0).permutation(t),
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("kind", WHERE)
def test_a_broken_clock_is_refused(kind: str, how: str, tmp_path: Path) -> None:
    """The time that was lost is not in the file: the event is named."""
    times = BROKEN[how](TIMES.copy())
    with pytest.raises(DataError, match=rf"{WHERE[kind]}: event [0-9]+: the clock goes (back|on) by [0-9]+ us"):
        _spikes(kind, times, tmp_path)


@pytest.mark.parametrize("kind", WHERE)
def test_disorder_that_binning_does_not_see(kind: str, tmp_path: Path) -> None:
    """Neighbours out of order within a millisecond; also the same spike twice."""
    times = TIMES.copy()
    times[[7, 20]] = times[[6, 19]] + 900
    swapped = times.copy()
    for k in (6, 19):
        swapped[[k, k + 1]] = times[[k + 1, k]]
    found, plain = (_spikes(kind, t, tmp_path).reshape(-1, STEPS) for t in (swapped, times))
    np.testing.assert_array_equal(found.sum(0), plain.sum(0))


def test_cochlea_spikes_sorted_by_channel(tmp_path: Path) -> None:
    """N-TIDIGITS files that list channel after channel are whole; a channel that steps back is not, nor a time of years."""
    path = tmp_path / "a.hdf5"
    channel, seconds = np.repeat([3, 9], 6), np.tile(np.linspace(0.1, 0.6, 6), 2)
    write_ntidigits(path, {"test": {"man-ac-a-1": (channel, seconds)}})
    assert read_ntidigits(path, "test", 2, BadSamples("stop")).spikes[0, [3, 9]].tolist() == [[1, 1]] * 2
    for bad, mention in ((np.roll(seconds, 3), "event 3: the clock goes back"), (seconds * 1e9, "event 5 at 6e"),
                         (seconds * 100, "the clock goes on by 1000")):  # fmt: skip
        with h5py.File(path, "r+") as file:
            file["test_timestamps/man-ac-a-1"][...] = bad
        with pytest.raises(DataError, match=mention):
            read_ntidigits(path, "test", 2, BadSamples("stop"))
