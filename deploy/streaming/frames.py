r"""The framing of a stream of bytes: one header line, then frames of some time steps of every modality on one clock.

    header   one line of JSON, at most 64 KiB, ended by "\n":
             {"format": "taaf-stream", "version": 1, "steps": K, "modalities":
                 {"event": {"shape": [2, 34, 34], "type": "bits"}, "audio": {"shape": [160], "type": "uint8"}}}
    frame    "TAAF", payload bytes (4, unsigned, little-endian), number of its first time step (8, the same), payload
    payload  the modalities in the header's order, each (*shape, K) in C order: spikes 0/1 as "uint8", or as "bits" (eight in a byte, the
             first in the highest bit, `numpy.packbits`, padded to whole bytes); real numbers as "float32" (little-endian) or
             "int8" levels, for branches with an encoder

Time steps count from anywhere and go up. A frame whose payload is of another size, whose mark is wrong, or that is not later than the
one before is refused and counted; after a wrong mark the reader looks for the next one. Steps that were left out are a gap.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from taaf.models.config import InputSpec
from taaf.models.errors import DataError, did_you_mean

MARK = b"TAAF"
MAX_HEADER, MAX_PAYLOAD = 1 << 16, 1 << 26
TYPES = {kind: np.dtype(code) for kind, code in {"bits": "u1", "uint8": "u1", "int8": "i1", "float32": "<f4"}.items()}
_HEAD = struct.Struct("<4sIQ")


@dataclass(frozen=True)
class Layout:
    """What a frame holds: time steps, and per modality its shape and type."""

    steps: int
    shapes: dict[str, tuple[int, ...]]
    types: dict[str, str]

    def size(self, modality: str) -> int:
        """Bytes of a modality in a frame."""
        n = math.prod(self.shapes[modality]) * self.steps
        return -(-n // 8) if self.types[modality] == "bits" else n * TYPES[self.types[modality]].itemsize

    @property
    def payload(self) -> int:
        """Bytes of a payload."""
        return sum(map(self.size, self.shapes))

    @property
    def unpacked(self) -> int:
        """Bytes of a frame's arrays."""
        return sum(math.prod(shape) * self.steps * TYPES[self.types[m]].itemsize for m, shape in self.shapes.items())

    def line(self) -> bytes:
        """The header."""
        modalities = {m: {"shape": list(shape), "type": self.types[m]} for m, shape in self.shapes.items()}
        return (
            json.dumps({"format": "taaf-stream", "version": 1, "steps": self.steps, "modalities": modalities}).encode() + b"\n"
        )


def read_layout(line: bytes, specs: Mapping[str, InputSpec]) -> Layout:
    """The header of a stream for a bundle that takes ``specs``.

    Raises
    ------
    DataError
        Saying what is wrong with it.
    """
    try:
        told = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"stream: its first line is not JSON ({error}); it begins with a header, see --help") from error
    if not isinstance(told, dict) or told.get("format") != "taaf-stream" or told.get("version") != 1:
        raise DataError('stream: its first line is no header {"format": "taaf-stream", "version": 1, ...}')
    steps, modalities = told.get("steps"), told.get("modalities")
    if type(steps) is not int or not 1 <= steps <= 1 << 20:
        raise DataError(f"stream: steps {steps!r}; allowed a whole number from 1 to {1 << 20}")
    if not isinstance(modalities, dict) or set(modalities) != set(specs):
        found = (
            ", ".join(ascii(m)[1:-1] for m in modalities)[:200] if isinstance(modalities, dict) else type(modalities).__name__
        )
        raise DataError(f"stream: modalities are {found}; the bundle takes {', '.join(specs)}")
    types = {}
    for m, entry in modalities.items():
        kind, shape = (entry.get("type"), entry.get("shape")) if isinstance(entry, dict) else (None, None)
        allowed = ("float32", "int8") if specs[m].scale else ("bits", "uint8")
        if kind not in allowed:
            raise DataError(f"stream: {m} is of type {str(kind)[:40]!r}; {did_you_mean(str(kind), allowed)}")
        if shape != list(specs[m].shape):
            raise DataError(f"stream: {m} has shape {str(shape)[:80]}; the bundle takes {list(specs[m].shape)}")
        types[m] = kind
    layout = Layout(steps, {m: tuple(specs[m].shape) for m in modalities}, types)
    if layout.unpacked > MAX_PAYLOAD:
        raise DataError(f"stream: frames of {layout.unpacked} bytes, unpacked; allowed {MAX_PAYLOAD}: send fewer steps in each")
    return layout


class FrameWriter:
    """Writes a stream; what a sensor's program does.

    Parameters
    ----------
    file
        Open for bytes: ``sys.stdout.buffer``, ``socket.makefile("wb")``.
    layout : Layout
        Of every frame.
    """

    def __init__(self, file: BinaryIO, layout: Layout) -> None:
        self._file, self._layout = file, layout
        file.write(layout.line())

    def write(self, first_step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Send one frame of {modality: (*shape, steps)}."""
        parts = []
        for m, kind in self._layout.types.items():
            x = np.ascontiguousarray(arrays[m], TYPES[kind])
            parts.append((np.packbits(x) if kind == "bits" else x).tobytes())
        payload = b"".join(parts)
        self._file.write(_HEAD.pack(MARK, len(payload), first_step) + payload)
        self._file.flush()


class FrameReader:
    """Bytes in, frames out; holds no more than one frame and one piece of input.

    Attributes
    ----------
    refused : int
        Stretches of the stream without a valid frame, one count each however many frames they were; a truncated end.
    """

    def __init__(self, specs: Mapping[str, InputSpec]) -> None:
        self.layout: Layout | None = None
        self.refused = 0
        self._specs, self._rest, self._lost = specs, bytearray(), False

    def feed(self, data: bytes) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Frames that are complete with ``data``: number of the first step, and {modality: (*shape, steps)}.

        Raises
        ------
        DataError
            If the header is wrong.
        """
        self._rest += data
        if self.layout is None:
            end = self._rest.find(b"\n", 0, MAX_HEADER)
            if end < 0 and len(self._rest) < MAX_HEADER:
                return
            if end < 0:
                raise DataError(f"stream: no end of line in its first {MAX_HEADER} bytes; it begins with a header line")
            self.layout = read_layout(bytes(self._rest[:end]), self._specs)
            del self._rest[: end + 1]
        while (frame := self._next(self.layout)) is not None:
            yield frame

    def end(self) -> None:
        """No more bytes come: what is left is a truncated frame."""
        if self.layout is None:
            raise DataError("stream: ended before its header line")
        self._refuse(bool(self._rest))

    def _next(self, layout: Layout) -> tuple[int, dict[str, np.ndarray]] | None:
        while len(self._rest) >= _HEAD.size:
            mark, size, first = _HEAD.unpack_from(self._rest)
            if mark != MARK or size != layout.payload:
                self._refuse(not self._lost)
                self._lost = True
                at = self._rest.find(MARK, 1)
                del self._rest[: at if at >= 0 else len(self._rest) - len(MARK) + 1]
                continue
            if len(self._rest) < _HEAD.size + size:
                return None
            payload = bytes(self._rest[_HEAD.size : _HEAD.size + size])
            del self._rest[: _HEAD.size + size]
            self._lost = False
            return first, self._arrays(layout, payload)
        return None

    def _refuse(self, count: bool) -> None:
        self.refused += count

    @staticmethod
    def _arrays(layout: Layout, payload: bytes) -> dict[str, np.ndarray]:
        found, at = {}, 0
        for m, shape in layout.shapes.items():
            size, kind = layout.size(m), layout.types[m]
            x = np.frombuffer(payload, TYPES[kind], size // TYPES[kind].itemsize, at)
            whole = (*shape, layout.steps)
            found[m] = (np.unpackbits(x, count=math.prod(whole)) if kind == "bits" else x).reshape(whole)
            at += size
        return found
