"""Read a ``torch.save`` file that nobody vouches for: plain containers, numbers, text and dense tensors, nothing else.

``torch.load(weights_only=True)`` runs no code of the file, but it trusts its numbers: a tensor may declare more values
than its record holds (memory beyond it is then read) or any size at all. Here every declared size is compared with what
the archive really holds before anything of that size is made, only names on a short list are understood, and the result
is built anew from checked parts.
"""

import io
import math
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

MAX_BYTES = 1 << 32  # of all tensors
MAX_STRUCTURE_BYTES = 1 << 24  # of everything but the tensors' values
MAX_MEMBERS = 100_000
MAX_PARTS = 1_000_000  # containers and values, counted as often as they are reached
MAX_DEPTH = 20
MAX_DIMENSIONS = 16
MAX_INTEGER_BITS = 64
_RECORD = re.compile(r"[0-9]{1,9}")
_STORAGES = {
    f"{name}Storage": dtype
    for name, dtype in {
        "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
        "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}  # fmt: skip
_OPCODES = frozenset(
    "PROTO GLOBAL REDUCE BUILD APPEND APPENDS SETITEM SETITEMS MARK TUPLE TUPLE1 TUPLE2 TUPLE3 NONE NEWFALSE NEWTRUE "
    "EMPTY_TUPLE EMPTY_LIST EMPTY_DICT BININT BININT1 BININT2 BINFLOAT BINUNICODE BINPERSID BINGET LONG_BINGET BINPUT "
    "LONG_BINPUT LONG1 STOP".split()
)


@dataclass(frozen=True)
class _Storage:
    """A record of the archive as a flat tensor."""

    values: torch.Tensor


@dataclass(frozen=True)
class _Tensor:
    """A tensor as the file describes it; nothing of it has been believed yet."""

    storage: Any
    offset: Any
    size: Any
    stride: Any

    def build(self) -> torch.Tensor:
        ok = isinstance(self.storage, _Storage) and isinstance(self.size, tuple) and isinstance(self.stride, tuple)
        numbers = (self.offset, *self.size, *self.stride) if ok else ()
        if not ok or any(type(n) is not int or n < 0 for n in numbers) or len(self.size) != len(self.stride):
            raise ValueError("a tensor is not described by a record, a place, a size and strides")
        if len(self.size) > MAX_DIMENSIONS:
            raise ValueError(f"a tensor of {len(self.size)} dimensions; allowed {MAX_DIMENSIONS}")
        values = self.storage.values
        if math.prod(self.size) > len(values):
            raise ValueError(f"a tensor of size {self.size} in a record of {len(values)} values")
        if 0 in self.size:
            return torch.zeros(self.size, dtype=values.dtype)
        if self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True)) >= len(values):
            raise ValueError(f"a tensor of size {self.size} goes beyond its record of {len(values)} values")
        return values.as_strided(self.size, self.stride, self.offset)


def _describe(storage: Any, offset: Any, size: Any, stride: Any, *_ignored: Any) -> _Tensor:
    return _Tensor(storage, offset, size, stride)


class _Reader(pickle.Unpickler):
    """Understands tensors, ordered dictionaries and storage types; `_check_opcodes` has seen the stream before."""

    def __init__(self, structure: bytes, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(io.BytesIO(structure), encoding="utf-8")
        self.archive, self.prefix = archive, prefix
        self.storages: dict[tuple[str, torch.dtype], _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *parts: _describe(*parts)  # one of its own: BUILD could leave attributes on a shared function
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise ValueError(f"it asks for {module}.{name}, which no checkpoint needs")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _device, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str) or not _RECORD.fullmatch(key):
            raise ValueError("it refers to something that is not a tensor record")
        if (key, dtype) not in self.storages:
            raw = bytearray(self.archive.read(f"{self.prefix}/data/{key}"))
            if type(count) is not int or count * dtype.itemsize != len(raw):
                raise ValueError(f"record {key} has {len(raw)} bytes, declared are {count} values of {dtype}")
            values = torch.frombuffer(raw, dtype=dtype) if raw else torch.zeros(0, dtype=dtype)
            self.storages[key, dtype] = _Storage(values)
        return self.storages[key, dtype]


def read_tensor_archive(path: Path) -> Any:
    """The content of the file: dict, list, tuple, str, int, float, bool, None and CPU tensors.

    Raises
    ------
    ValueError
        Saying what is wrong with the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            prefix = _check_members(archive, path.stat().st_size)
            structure = archive.read(f"{prefix}/data.pkl")
            _check_opcodes(structure)
            return _Rebuilder().rebuild(_Reader(structure, archive, prefix).load(), 0)
    except ValueError:
        raise
    except Exception as error:  # zipfile and pickle raise many kinds on damaged files
        raise ValueError(f"it may be truncated or of another program ({type(error).__name__}: {error})") from error


def _check_members(archive: zipfile.ZipFile, file_bytes: int) -> str:
    """The name of the folder all members share."""
    members = archive.infolist()
    if len(members) > MAX_MEMBERS or any(m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1 for m in members):
        raise ValueError(f"its {len(members)} parts are not those of torch.save (compressed, encrypted or too many)")
    total = sum(m.file_size for m in members)
    if total > min(file_bytes, MAX_BYTES):
        raise ValueError(f"its parts declare {total} bytes, the file has {file_bytes} (allowed {MAX_BYTES})")
    structures = [m for m in members if m.filename.endswith("/data.pkl") and m.filename.count("/") == 1]
    if len(structures) != 1 or structures[0].file_size > MAX_STRUCTURE_BYTES:
        raise ValueError(f"it has {len(structures)} data.pkl; allowed one of up to {MAX_STRUCTURE_BYTES} bytes")
    prefix = structures[0].filename.split("/")[0]
    if f"{prefix}/byteorder" in archive.namelist() and archive.read(f"{prefix}/byteorder") != b"little":
        raise ValueError("it was written on a big-endian machine")
    return prefix


def _check_opcodes(structure: bytes) -> None:
    for opcode, argument, _position in pickletools.genops(structure):
        if opcode.name not in _OPCODES:
            raise ValueError(f"it uses the pickle operation {opcode.name}, which no checkpoint needs")
        if isinstance(argument, int) and argument.bit_length() > MAX_INTEGER_BITS:  # products and hashes of them take for ever
            raise ValueError(f"it holds a whole number of {argument.bit_length()} bits; allowed {MAX_INTEGER_BITS}")
        if opcode.name == "LONG_BINPUT" and int(argument or 0) > MAX_PARTS:  # the memo table is as long as its largest index
            raise ValueError("it numbers more parts than a checkpoint has")


class _Rebuilder:
    """Copies what was read into fresh containers; counts, so that parts that contain each other end somewhere."""

    def __init__(self) -> None:
        self.n_parts = 0

    def rebuild(self, part: Any, depth: int) -> Any:
        self.n_parts += 1
        if self.n_parts > MAX_PARTS or depth > MAX_DEPTH:
            raise ValueError(f"it has more than {MAX_PARTS} parts or is nested more than {MAX_DEPTH} deep")
        if part is None or type(part) in (str, int, float, bool):
            return part
        if isinstance(part, _Tensor):
            return part.build()
        if isinstance(part, dict):
            if any(type(key) not in (str, int) for key in part):
                raise ValueError("a dictionary has keys that are neither text nor whole numbers")
            return {key: self.rebuild(value, depth + 1) for key, value in dict.items(part)}
        if isinstance(part, list | tuple):
            return type(part)([self.rebuild(value, depth + 1) for value in part])
        raise ValueError(f"it holds a {type(part).__name__}")
