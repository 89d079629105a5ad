"""Global heaps of HDF5 files, checked before the library walks them (HDF5 File Format Specification 3.0, III.E and IV.A).

Text of variable length lies in heaps, and a damaged one makes the library (2.0.0) go round for ever, out of reach of Ctrl-C.
So every object header is parsed here, in the file's bytes, before the library opens the object: what its attributes, its data
and a virtual layout refer to are the heaps, and nothing else is; bytes that only look like one are data.
"""

import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import h5py
import numpy as np

MAX_OBJECTS = 1_000_000
MAX_BYTES = 1 << 28  # of a chunk of references, unpacked
_SIGNATURE = b"GCOL"
_REFERENCE = 16  # bytes: length 4, address 8, index 4
_NOWHERE = 0xFFFF_FFFF_FFFF_FFFF
_DATATYPE, _FILL, _LAYOUT, _ATTRIBUTE, _CONTINUATION = 0x03, 0x05, 0x08, 0x0C, 0x10
_LINKS = (0x02, 0x11)  # link info, symbol table: of groups
_VLEN = 9  # class of a datatype
_SHARED = 2  # flag: the message lies elsewhere


@dataclass
class _Header:
    """What an object header says that matters here."""

    is_group: bool = False
    variable: bool = False  # its data are references
    layout: bytes = b""
    references: list[bytes] = field(default_factory=list)


def check_heaps(content: mmap.mmap, file: h5py.File) -> None:
    """Raise `ValueError` if an object header or a heap that the file refers to is damaged."""
    seen: set[int] = {h5py.h5o.get_info(file.id).addr}
    heaps: set[int] = set()
    todo: list[tuple[h5py.Group, str, int]] = [(file, "/", next(iter(seen)))]
    while todo:
        group, name, address = todo.pop()
        header = _read_header(content, address)
        for references in header.references:
            _check_references(content, references, heaps)
        if header.variable:
            for references in _data(content, header, group, name):
                _check_references(content, references, heaps)
        if not header.is_group:
            continue
        inner = group if name == "/" else group[name]
        for child in inner:
            link = inner.id.links.get_info(child.encode("utf-8", "surrogateescape"))
            if link.type == h5py.h5l.TYPE_HARD and link.u not in seen:
                seen.add(link.u)
                todo.append((inner, child, link.u))
        if len(seen) > MAX_OBJECTS:
            raise ValueError(f"the file has more than {MAX_OBJECTS} objects")


def _read_header(content: mmap.mmap, address: int) -> _Header:
    found, fill = _Header(), b""
    for kind, flags, body in _messages(content, address):
        if kind in (_DATATYPE, _ATTRIBUTE, _LAYOUT) and flags & _SHARED:
            raise ValueError("an object shares its description with others (a committed type); only plain data are read")
        if kind in _LINKS:
            found.is_group = True
        elif kind == _DATATYPE:
            found.variable = body[:1] != b"" and body[0] & 15 == _VLEN
        elif kind == _LAYOUT:
            found.layout = body
            if body[:1] >= b"\x04" and body[1:2] == b"\x03":  # virtual: where its parts lie is written in a heap
                found.references.append(bytes(4) + body[2:14])
        elif kind == _ATTRIBUTE:
            found.references += _attribute(body)
        elif kind == _FILL and len(body) > 6:
            fill = body[8:] if body[0] < 3 else body[6:]
    if found.variable:
        found.references.append(fill)
    return found


def _messages(content: mmap.mmap, address: int) -> Iterator[tuple[int, int, bytes]]:
    """(type, flags, body) of every message of an object header, of either version, through its continuations."""
    start = content[address : address + 24]
    if start[:4] == b"OHDR" and start[4:5] == b"\x02":
        flags = start[5]
        at = address + 6 + 16 * bool(flags & 0x20) + 4 * bool(flags & 0x10)
        width = 1 << (flags & 3)
        blocks = [(at + width, int.from_bytes(content[at : at + width], "little"))]
        newer, order = True, 2 * bool(flags & 4)
    elif start[:1] == b"\x01" and len(start) == 24:
        blocks, newer, order = [(address + 16, struct.unpack("<I", start[8:12])[0])], False, 0
    else:
        raise ValueError("an object of the file has no header")
    n_blocks = 0
    while blocks:
        at, length = blocks.pop()
        n_blocks += 1
        end, head = at + length, 4 + order if newer else 8
        if end > len(content) or n_blocks > 1000:
            raise ValueError("an object header goes beyond the file")
        while at + head <= end:
            if newer:
                kind, size, flags = struct.unpack("<BHB", content[at : at + 4])
            else:
                kind, size, flags = struct.unpack("<HHB", content[at : at + 5])
            at += head
            if at + size > end:
                raise ValueError("a message of an object header is longer than the header")
            body = content[at : at + size]
            at += size
            if kind == _CONTINUATION and size >= 16:
                place, more = struct.unpack("<QQ", body[:16])
                blocks.append((place + 4, more - 8) if newer else (place, more))
                if place + more > len(content) or more < 8:
                    raise ValueError("an object header goes on beyond the file")
            yield kind, flags, body


def _attribute(body: bytes) -> list[bytes]:
    """The references in an attribute's message."""
    if len(body) < 8:
        return []
    version, flags = body[0], body[1]
    sizes = struct.unpack("<HHH", body[2:8])
    if version > 1 and flags & 3:
        raise ValueError("an attribute shares its description with others; only plain ones are read")
    pad = 8 if version == 1 else 1
    name, kind, space = (-(-size // pad) * pad for size in sizes)
    at = 9 if version == 3 else 8
    described = body[at + name : at + name + sizes[1]]
    if not described or described[0] & 15 != _VLEN:
        return []
    return [body[at + name + kind + space :]]


def _data(content: mmap.mmap, header: _Header, group: h5py.Group, name: str) -> Iterator[bytes]:
    """The references a dataset of variable length holds."""
    layout = header.layout
    version = layout[0] if layout else 0
    if version >= 3 and layout[1] == 0:
        yield layout[4 : 4 + struct.unpack("<H", layout[2:4])[0]]
    elif version >= 3 and layout[1] == 1:
        address, size = struct.unpack("<QQ", layout[2:18])
        if address != _NOWHERE:
            yield content[address : address + size]
    elif version in (1, 2) and layout[2] == 1:
        (address,) = struct.unpack("<Q", layout[8:16])
        sides = np.frombuffer(layout[16 : 16 + 4 * layout[1]], "<u4")
        if address != _NOWHERE:
            yield content[address : address + int(np.prod(sides, dtype=object))]
    elif version in (1, 2, 3, 4, 5):
        yield from _chunks(content, group, name)
    else:
        raise ValueError("a dataset of the file has no layout")


def _chunks(content: mmap.mmap, group: h5py.Group, name: str) -> Iterator[bytes]:
    data = group[name]
    if not isinstance(data, h5py.Dataset) or data.chunks is None:
        raise ValueError(f"{name}: text of variable length that is not stored in this file's chunks")
    settings = data.id.get_create_plist()
    filters = [settings.get_filter(i)[0] for i in range(settings.get_nfilters())]
    for k in range(data.id.get_num_chunks()):
        info = data.id.get_chunk_info(k)
        raw = content[info.byte_offset : info.byte_offset + info.size]
        for i, kind in reversed(list(enumerate(filters))):
            if not info.filter_mask >> i & 1:
                raw = _unpacked(raw, kind)
        yield raw


def _unpacked(raw: bytes, kind: int) -> bytes:
    if kind == h5py.h5z.FILTER_SHUFFLE:
        whole = len(raw) // _REFERENCE * _REFERENCE
        return np.frombuffer(raw[:whole], np.uint8).reshape(_REFERENCE, -1).T.tobytes() + raw[whole:]
    if kind != h5py.h5z.FILTER_DEFLATE:
        raise ValueError(f"text of variable length is packed with filter {kind}; allowed gzip and shuffle")
    try:
        return zlib.decompressobj().decompress(raw, MAX_BYTES)
    except zlib.error as error:
        raise ValueError(f"text of variable length cannot be unpacked ({error})") from error


def _check_references(content: mmap.mmap, references: bytes, heaps: set[int]) -> None:
    whole = len(references) // _REFERENCE * _REFERENCE
    for (address,) in {(a,) for _, a, _ in struct.iter_unpack("<IQI", references[:whole])}:
        if address not in (0, _NOWHERE) and address not in heaps:
            heaps.add(address)
            _check_heap(content, address)


def _check_heap(content: mmap.mmap, start: int) -> None:
    """Walk a global heap as the library does: every step must lead on, and none beyond the end."""
    head = content[start : start + 16]
    if head[:4] != _SIGNATURE or len(head) < 16:
        raise ValueError("a heap of the file is not where it is said to be")
    end = start + struct.unpack("<Q", head[8:])[0]
    at = start + 16
    if not at <= end <= len(content):
        raise ValueError("a heap of the file is longer than the file")
    while at + 16 <= end:
        index, size = struct.unpack("<H6xQ", content[at : at + 16])
        step = size if index == 0 else 16 + -(-size // 8) * 8
        if step < 16 or at + step > end:
            raise ValueError("a heap of the file is damaged")
        at += step
