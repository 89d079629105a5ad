"""N-TIDIGITS: cochlea spikes of spoken digits (Anumula et al. 2018), one HDF5 file.

``{train,test}_labels`` lists the samples; ``{train,test}_addresses/SAMPLE`` and ``{train,test}_timestamps/SAMPLE`` hold
the channel (0-63) and the time in seconds of every spike. A sample is called ``[gender-]speaker-repetition-digits``,
e.g. ``man-ac-a-1``; the digits are 1-9, z (zero) and o (oh). Only single digits are used; both z and o are class 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from taaf.models.errors import DataError, TaafError
from taaf.models.files import hdf5
from taaf.models.files.placeholders import naming_placeholders
from taaf.training.datasets.bad_samples import BadSamples
from taaf.training.datasets.clocks import continued
from taaf.training.datasets.lists import require_file

N_CHANNELS = 64
MAX_SAMPLES = 1_000_000
MAX_SPIKES = 10_000_000  # per sample
MAX_NAME = 200
MAX_SECONDS = 1e6  # of a stamp: days
MAX_PAUSE_US = 5_000_000  # between two spikes of one spoken digit
_NAMES_AT_ONCE = 64  # all of them may point to one long text
DIGITS = {**{str(d): d for d in range(1, 10)}, "z": 0, "o": 0}


@dataclass(frozen=True)
class SpokenDigits:
    """Binned single digits of one part.

    Attributes
    ----------
    spikes : numpy.ndarray
        (N, 64, T) uint8 in {0, 1}.
    labels : numpy.ndarray
        (N,) int64 in 0..9.
    names : tuple of str
        Sample names.
    """

    spikes: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]


@naming_placeholders
def read_ntidigits(path: Path, part: str, steps: int, bad: BadSamples) -> SpokenDigits:
    """Read and bin the single digits of ``part`` ("train" or "test").

    A sample's T steps divide the time from its first to its last spike equally, so slow and fast speakers fill them
    alike (ours; the set defines no binning). A step of a channel is 1 if it holds at least one spike.

    Raises
    ------
    DataError
        If the file is missing, not HDF5, lacks a key or keeps data in other files; bad samples as ``bad`` says.
    """
    require_file(path, "the N-TIDIGITS file")
    try:
        with hdf5.open_file(path) as file:
            names = read_names(file, part, path)
            groups = [_own(file, f"{part}_{what}", h5py.Group, path) for what in ("addresses", "timestamps")]
            spikes, labels, kept = [], [], []
            for name in names:
                digits = name.split("-")[-1]
                try:
                    if any(d not in DIGITS for d in digits) or not digits:
                        raise DataError(
                            f"{path}: {part}_labels has {name!r}; expected speaker-repetition-digits of 1-9, z and o"
                        )
                    if len(digits) > 1:
                        continue
                    addresses, timestamps = (_own(group, name, h5py.Dataset, path) for group in groups)
                    spikes.append(_bin(addresses, timestamps, steps, f"{path}: {part} {name}"))
                except DataError as error:
                    bad.report(error)
                    continue
                labels.append(DIGITS[digits])
                kept.append(name)
    except TaafError:
        raise
    except Exception as error:  # h5py raises many kinds on damaged files
        raise DataError(
            f"{path}: not readable as HDF5 ({' '.join(str(error).split())[:200]}); download the file again"
        ) from error
    if not kept:
        raise DataError(f"{path}: no usable single digit among {len(names)} samples of {part}; check the file")
    return SpokenDigits(np.stack(spikes), np.array(labels, np.int64), tuple(kept))


def read_names(file: h5py.File, part: str, path: Path) -> list[str]:
    """The sample names of ``part``."""
    labels = _own(file, f"{part}_labels", h5py.Dataset, path)
    if labels.ndim != 1 or len(labels) > MAX_SAMPLES or labels.dtype.kind not in "SO":
        raise DataError(f"{path}: {part}_labels is {labels.dtype} {labels.shape}, expected up to {MAX_SAMPLES} byte strings")
    names: list[str] = []
    for start in range(0, len(labels), _NAMES_AT_ONCE):
        block = [
            n.decode("utf-8", "replace") if isinstance(n, bytes) else str(n) for n in labels[start : start + _NAMES_AT_ONCE]
        ]
        if long := [name for name in block if len(name) > MAX_NAME]:
            raise DataError(f"{path}: {part}_labels has a name of {len(long[0])} characters, allowed {MAX_NAME}")
        names += block
    if wrong := [name for name in names if "/" in name or name in ("", ".", "..")]:
        raise DataError(f"{path}: {part}_labels has {wrong[0]!r}, expected names such as man-ac-a-1")
    return names


def speakers(names: Sequence[str]) -> set[str]:
    """Gender and speaker of every sample."""
    return set(map(speaker_of, names))


def speaker_of(name: str) -> str:
    """Gender and speaker of a sample: all but the last two parts of its name."""
    return "-".join(name.split("-")[:-2])


def _own(group: Any, name: str, kind: type, path: Path) -> Any:
    """`hdf5.member`; what is refused is a bad sample."""
    try:
        return hdf5.member(group, name, kind)
    except (KeyError, ValueError) as error:
        hint = "; expected the keys {train,test}_{labels,addresses,timestamps} of N-TIDIGITS" * isinstance(error, KeyError)
        raise DataError(f"{path}: {error.args[0]}{hint}") from error


def _require_one_clock(channel: np.ndarray, seconds: np.ndarray, where: str) -> None:
    """Raise `DataError` if the clock was reset within the sample; spikes lie by time, or by channel and then by time."""
    if np.abs(seconds).max() > MAX_SECONDS:
        k = int(np.abs(seconds).argmax())
        raise DataError(f"{where}: event {k} at {seconds[k]:g} s, expected up to {MAX_SECONDS} s; skip the sample")
    t = np.rint(seconds * 1e6).astype(np.int64)
    if (np.diff(channel) >= 0).all():
        back = np.flatnonzero((np.diff(t) < 0) & (np.diff(channel) == 0))
        order = np.arange(len(t)) if len(back) else np.argsort(t, kind="stable")
    else:
        order = np.arange(len(t))
    continued(t[order], 64, where, order, MAX_PAUSE_US)


def _bin(addresses: Any, timestamps: Any, steps: int, where: str) -> np.ndarray:
    """(64, T) uint8 in {0, 1} of one sample."""
    if addresses.ndim != 1 or addresses.shape != timestamps.shape or len(addresses) > MAX_SPIKES:
        raise DataError(
            f"{where}: addresses {addresses.shape}, timestamps {timestamps.shape}; expected the same length, at most {MAX_SPIKES}"
        )
    if not len(addresses):
        raise DataError(f"{where}: 0 spikes; skip the sample")
    if addresses.dtype.kind not in "iu" or timestamps.dtype.kind != "f":
        raise DataError(f"{where}: {addresses.dtype} addresses, {timestamps.dtype} timestamps; expected integers and seconds")
    channel, t = addresses[()].astype(np.int64), timestamps[()].astype(np.float64)
    if channel.min() < 0 or channel.max() >= N_CHANNELS:
        raise DataError(
            f"{where}: channels {channel.min()} to {channel.max()}, expected 0 to {N_CHANNELS - 1}; the file is foreign"
        )
    if not np.isfinite(t).all():
        raise DataError(f"{where}: timestamps that are not finite; download the file again")
    _require_one_clock(channel, t, where)
    span = t.max() - t.min()
    step = np.minimum((t - t.min()) * (steps / span if span > 0 else 0.0), steps - 1).astype(np.int64)
    spikes = np.zeros((N_CHANNELS, steps), np.uint8)
    spikes[channel, step] = 1
    return spikes
