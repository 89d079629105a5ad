"""Event recordings: N-MNIST .bin and DVS128 .aedat files, and their binning to binary spikes; imports no torch.

Everywhere x counts columns from the left, y rows from the top, and channel 0 is ON (brighter), channel 1 OFF.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from taaf.models.errors import DataError
from taaf.models.files.placeholders import naming_placeholders
from taaf.training.datasets.cache import Item
from taaf.training.datasets.clocks import continued

SIZE = 34  # side of the result: N-MNIST's sensor window; of DVS128 recordings also another
NMNIST_WINDOW_US = 300_000  # three saccades of 100 ms
NMNIST_LAST_US = 1_000_000  # recordings end soon after their window; a later event has a clock that did not start at 0
_NMNIST_OVERFLOW_Y, _NMNIST_OVERFLOW_US = 240, 1 << 13  # marks of the ATIS camera: the clock has lost so much
DVS128_SIZE = 128
MAX_BYTES = 64 * 2**20  # per recording; the largest published ones have about 2 MB
_AEDAT_LINE = b"#!AER-DAT2.0"


@dataclass(frozen=True)
class Events:
    """Events of one recording.

    Attributes
    ----------
    x, y : numpy.ndarray
        (N,) int64 pixel.
    channel : numpy.ndarray
        (N,) int64, 0 ON, 1 OFF.
    t : numpy.ndarray
        (N,) int64 microseconds.
    """

    x: np.ndarray
    y: np.ndarray
    channel: np.ndarray
    t: np.ndarray


@naming_placeholders
def read_nmnist(path: Path) -> Events:
    """N-MNIST (Orchard et al. 2015): 5 bytes per event, big endian: x 8 bits, y 8, polarity 1 (1 is ON), time 23 (us).

    Records with y = 240 are no events: as in the set's own reader, all stamps after one are 2^13 us later than they say.

    Raises
    ------
    DataError
        If the file is missing, empty, not a multiple of 5 bytes, has events outside 34x34 or no event at all, or a clock
        that was reset (`taaf.training.datasets.clocks.continued`).
    """
    raw = _read_bytes(path)
    if len(raw) % 5 or not raw:
        raise DataError(
            f"{path}: {len(raw)} bytes, expected a positive multiple of 5 (one event each); the file is cut or foreign"
        )
    field = np.frombuffer(raw, np.uint8).reshape(-1, 5).astype(np.int64)
    t = (field[:, 2] & 127) << 16 | field[:, 3] << 8 | field[:, 4]
    overflow = field[:, 1] == _NMNIST_OVERFLOW_Y
    t = (t + _NMNIST_OVERFLOW_US * np.cumsum(overflow))[~overflow]
    outside = np.flatnonzero(~overflow & ((field[:, 0] >= SIZE) | (field[:, 1] >= SIZE)))
    if len(outside):
        x, y = field[outside[0], :2]
        raise DataError(f"{path}: event {outside[0]} at x={x} y={y} lies outside the {SIZE}x{SIZE} sensor; the file is foreign")
    if not len(t):
        raise DataError(f"{path}: 0 events, only marks of clock overflows; replace the file or skip the sample")
    field = field[~overflow]
    return Events(field[:, 0], field[:, 1], 1 - (field[:, 2] >> 7), continued(t, 23, str(path), np.flatnonzero(~overflow)))


@naming_placeholders
def read_dvs128(path: Path) -> Events:
    """AER-DAT 2.0 of a DVS128 (MNIST-DVS, Serrano-Gotarredona & Linares-Barranco 2015).

    A header of lines that start with ``#``, then 8 bytes per event, big endian: a 32-bit address and a 32-bit time in
    us. Address bit 0 is the polarity, bits 1-7 the column, bits 8-14 the row, bit 15 marks external events (ignored).
    As jAER's DVS128 extractor has it, **polarity 0 is ON** and columns are mirrored; rows, which jAER counts from the
    bottom, are turned to count from the top.

    Raises
    ------
    DataError
        If the file is missing, another version, cut, without events, has addresses of another sensor, or a clock that was
        reset (`taaf.training.datasets.clocks.continued`). A 32-bit clock that wraps is continued.
    """
    raw = _read_bytes(path)
    if not raw.startswith(_AEDAT_LINE):
        raise DataError(f"{path}: starts with {raw[:14]!r}, expected {_AEDAT_LINE.decode()}; other AEDAT versions are not read")
    start = 0
    while raw.startswith(b"#", start):  # an address of this sensor never starts with this byte
        end = raw.find(b"\n", start)
        start = len(raw) if end < 0 else end + 1
    if (len(raw) - start) % 8 or len(raw) == start:
        raise DataError(
            f"{path}: {len(raw) - start} bytes after the header, expected a positive multiple of 8; the file is cut"
        )
    words = np.frombuffer(raw, ">u4", offset=start).astype(np.int64).reshape(-1, 2)
    address, t = words[:, 0], words[:, 1]
    if (foreign := np.flatnonzero(address >> 16)).size:
        raise DataError(
            f"{path}: event {foreign[0]} has address {address[foreign[0]]:#x}, outside a {DVS128_SIZE}x{DVS128_SIZE} DVS128"
        )
    pixel = (address & 0x8000) == 0
    if not pixel.any():
        raise DataError(f"{path}: 0 pixel events; replace the file or skip the sample")
    address, t = address[pixel], continued(t[pixel], 32, str(path), np.flatnonzero(pixel))
    last = DVS128_SIZE - 1
    return Events(last - (address >> 1 & 127), last - (address >> 8 & 127), address & 1, t)


def cropped(events: Events, scale: int, size: int = SIZE) -> Events:
    """The middle of a DVS128 recording on size x size pixels: a window of size s by size s pixels, every s x s block one pixel.

    MNIST-DVS shows the digit at scale 4, 8 or 16 (about 30, 60 and 120 pixels wide): s is 1, 2 or 4. Events outside
    the window are dropped. Ours; the set defines no smaller version.
    """
    s = scale // 4
    corner = DVS128_SIZE // 2 - size // 2 * s
    x, y = (events.x - corner) // s, (events.y - corner) // s
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    return Events(x[inside], y[inside], events.channel[inside], events.t[inside])


def bin_spikes(events: Events, steps: int, start: int, window: int, size: int = SIZE) -> np.ndarray:
    """Binary spikes (2, size, size, T) uint8: 1 if at least one event of that channel and pixel fell into the step.

    Step k covers ``start + k window / T <= t < start + (k + 1) window / T``; events before and after are dropped.
    """
    spikes = np.zeros((2, size, size, steps), np.uint8)
    step = (events.t - start) * steps // window
    inside = (step >= 0) & (step < steps)
    spikes[events.channel[inside], events.y[inside], events.x[inside], step[inside]] = 1
    return spikes


@dataclass(frozen=True)
class EventRecipe:
    """Decode and bin one recording.

    Attributes
    ----------
    steps : int
        Time steps T.
    scale : int
        0: N-MNIST; the window is the 300 ms of the three saccades, events up to 1 s are dropped, later ones refused. 4, 8 or
        16: MNIST-DVS of that scale; the window is the recording's own length.
    size : int
        Side of the result, of MNIST-DVS.
    """

    steps: int
    scale: int
    size: int = SIZE
    version: ClassVar[int] = 2

    def __call__(self, item: Item) -> dict[str, np.ndarray]:
        """bits: (2, size, size, T) in {0, 1}, packed."""
        path = item.sources[0]
        if not self.scale:
            events = read_nmnist(path)
            if len(late := np.flatnonzero(events.t > NMNIST_LAST_US)):
                raise DataError(
                    f"{path}: event {late[0]} at {events.t[late[0]]} us, a recording has {NMNIST_WINDOW_US} us from 0 on; its "
                    "clock did not start at 0; replace the file or skip the sample"
                )
            spikes = bin_spikes(events, self.steps, 0, NMNIST_WINDOW_US)
        else:
            events = read_dvs128(path)
            start = int(events.t.min())
            window = int(events.t.max()) - start + 1
            spikes = bin_spikes(cropped(events, self.scale, self.size), self.steps, start, window, self.size)
        if not spikes.any():
            raise DataError(f"{path}: no event in the window that is used; replace the file or skip the sample")
        return {"bits": np.packbits(spikes)}


def _read_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{path}: {size} bytes, a recording has at most {MAX_BYTES}; is it another file?")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); put it there or skip the sample") from error
