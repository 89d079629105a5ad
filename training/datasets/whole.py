"""Is a media file as long as it says? Decoders read the first third of one without a word.

Only what a file declares is held against its size; headers of streams, which were written before the length was known, declare
nothing and are let through. What is compared: the sizes of RIFF and AIFF chunks (.wav), of tags and the duration of FLV, of the boxes of
ISO media (.mp4), and the number of samples of .flac; of Ogg, whether its last page is whole and says that it is the last.
"""

import math
import os
import struct
from pathlib import Path
from typing import BinaryIO

from taaf.models.errors import DataError

MAX_PARTS = 1_000_000  # chunks, tags or boxes
_UNKNOWN = 0x7FFFF000  # from here on a 32-bit size is what streaming writers put (2^31 - 1 and about, 2^32 - 1)
_IN_DS64 = 0xFFFFFFFF
_SLACK = 16  # sizes that count their own header, or a padding byte that is missing
_OGG_PAGE = 27 + 255 + 255 * 255  # bytes of the longest
_LATE_S = 0.25  # a duration may be counted to the last frame's end, by another clock


def require_whole(path: Path) -> None:
    """Raise `DataError` if the file ends before it says; other formats than RIFF, AIFF, W64, FLV, Ogg and ISO media pass."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(12)
            if start[:4] in (b"RIFF", b"RIFX", b"RF64") and start[8:] == b"WAVE":
                problem = _chunks(file, size, ">" if start[:4] == b"RIFX" else "<")
            elif start[:4] == b"FORM" and start[8:] in (b"AIFF", b"AIFC"):
                problem = _chunks(file, size, ">")
            elif start[:4] == b"riff":
                file.seek(16)
                (whole,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
                problem = f"it declares {whole} bytes and has {size}" if size + _SLACK < whole < 1 << 62 else None
            elif start[:3] == b"FLV":
                problem = _flv(file, size)
            elif start[:4] == b"OggS":
                problem = _ogg(file, size)
            elif start[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
                problem = _boxes(file, size)
            else:
                return
    except struct.error:
        problem = f"it ends inside a header, at byte {size}"
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if problem:
        raise DataError(f"{path}: truncated: {problem}; copy or download it again, or skip the sample")


def _chunks(file: BinaryIO, size: int, order: str) -> str | None:
    """RIFF, RF64 (whose sizes of 64 bits lie in a chunk of their own) and AIFF."""
    file.seek(4)
    data_bytes = 0
    (whole,) = struct.unpack(f"{order}I", file.read(4))
    at = 12
    for _ in range(MAX_PARTS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            break
        name, (length,) = head[:4], struct.unpack(f"{order}I", head[4:])
        if name == b"ds64":
            whole, data_bytes = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))
        if name == b"data" and length == _IN_DS64 and 0 < data_bytes < 1 << 62:
            length = data_bytes
        elif name in (b"data", b"SSND") and length >= _UNKNOWN and at + 8 + length > size:
            return None  # a stream: everything up to the end
        if at + 8 + length > size:
            return f"its chunk {name.decode('latin-1')!r} declares {length} bytes, {size - at - 8} are there"
        at += 8 + length + length % 2
        if name == b"data" and not length:
            return None
    if whole > 0 and (whole < _UNKNOWN or data_bytes) and whole + 8 > size + _SLACK:
        return f"it declares {whole + 8} bytes and has {size}"
    return None


def _flv(file: BinaryIO, size: int) -> str | None:
    file.seek(5)
    at, last_ms, duration = struct.unpack(">I", file.read(4))[0] + 4, 0, 0.0
    for _ in range(MAX_PARTS):
        file.seek(at)
        head = file.read(11)
        if not head.strip(b"\0"):
            break
        if len(head) < 11:
            return f"it ends inside the header of a tag, at byte {size}"
        length = int.from_bytes(head[1:4], "big")
        if at + 11 + length > size:
            return f"its last tag declares {length} bytes, {size - at - 11} are there"
        last_ms = max(last_ms, head[7] << 24 | int.from_bytes(head[4:7], "big"))
        if head[0] & 31 == 18 and not duration:
            duration = _flv_duration(file.read(min(length, 1 << 16)))
        at += 11 + length + 4
    if duration and last_ms / 1000 + max(_LATE_S, 0.02 * duration) < duration:
        return f"it declares {duration:.2f} s and ends at {last_ms / 1000:.2f} s"
    return None


def _ogg(file: BinaryIO, size: int) -> str | None:
    file.seek(max(0, size - _OGG_PAGE))
    end = file.read(_OGG_PAGE)
    page = end[end.rfind(b"OggS") :]
    n_segments = page[26] if len(page) > 26 else 0
    length = 27 + n_segments + sum(page[27 : 27 + n_segments])
    if len(page) < max(27 + n_segments, length):
        return f"its last page has {len(page)} bytes, fewer than it declares"
    return None if page[5] & 4 else "its last page does not say that it is the last"


def _flv_duration(script: bytes) -> float:
    """Seconds of an onMetaData tag; 0 if it does not say."""
    at = script.find(b"\x00\x08duration\x00")
    raw = script[at + 11 : at + 19]
    seconds = struct.unpack(">d", raw)[0] if at >= 0 and len(raw) == 8 else 0.0
    return float(seconds) if math.isfinite(seconds) and 0 < seconds < 1e6 else 0.0


def _boxes(file: BinaryIO, size: int) -> str | None:
    at = 0
    for _ in range(MAX_PARTS):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return f"it ends inside the header of a box, at byte {size}" if head.strip(b"\0") else None
        length, name = struct.unpack(">I4s", head[:8])
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:])
        elif length == 0 or not name.strip(b"\0"):  # up to the end; or padding
            return None
        if length < 8:
            return None  # no box: the decoder says what it is
        if at + length > size:
            return f"its box {name.decode('latin-1')!r} declares {length} bytes, {size - at} are there"
        at += length
    return None
