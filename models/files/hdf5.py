"""Members of HDF5 files that nobody vouches for.

Only plain data of this very file are read: no soft or external links, no virtual or external storage, no filters but
deflate and shuffle (a filter is looked up as a plug-in, that is, as a library to load), no types that point elsewhere.
Declared sizes are bounded before anything is read. Stock lava-dl writes contiguous data without any filter.
"""

import contextlib
import fcntl
import math
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from taaf.models.errors import FileBusyError
from taaf.models.files.hdf5_heaps import check_heaps

MAX_BYTES = 1 << 28  # per dataset, and per chunk of one
MAX_PACKED = 1100  # deflate cannot pack better
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading, after a look at what the HDF5 library would trip over (`taaf.models.files.hdf5_heaps`).

    Raises
    ------
    FileBusyError
        If another process holds it open for writing.
    ValueError
        If the file is not plain HDF5 or its heaps are damaged. What h5py raises on other damage is of many kinds.
    """
    with path.open("rb") as raw:
        _require_not_written(raw.fileno(), path)
        if not raw.read(1):
            raise ValueError("the file is empty")
        with mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _check_start(content)
            with h5py.File(path, "r") as file:
                check_heaps(content, file)
                yield file


def _require_not_written(descriptor: int, path: Path) -> None:
    """Ask for HDF5's own lock of a reader; its writers hold another. Half a file says nothing about damage."""
    if os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() in ("FALSE", "0"):
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FileBusyError(
            f"{path}: in use, another process holds it open for writing (HDF5's lock); wait until it has closed the file, or copy it"
        ) from error
    except OSError:  # a file system without locks
        return
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def _check_start(content: mmap.mmap) -> None:
    sizes = content[9:11] if content[8:9] in (b"\x02", b"\x03") else content[13:15]
    if content[:8] != b"\x89HDF\r\n\x1a\n" or sizes != b"\x08\x08":
        raise ValueError("the file does not start as HDF5 with addresses of 8 bytes")
    base = (
        content[12:20] if content[8:9] in (b"\x02", b"\x03") else content[28:36] if content[8:9] == b"\x01" else content[24:32]
    )
    if base.strip(b"\0"):
        raise ValueError("the file's addresses do not count from its start")


def member(group: h5py.Group, name: str, kind: type) -> Any:
    """The group or dataset ``name``, a direct member of ``group``.

    Raises
    ------
    KeyError
        If there is none.
    ValueError
        Saying why it is not read.
    """
    where = f"{str(group.name).rstrip('/')}/{name}"
    link = group.get(name, getlink=True)
    if link is None:
        raise KeyError(f"{where} is missing")
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{where} is a link ({type(link).__name__}); only data inside the file are read")
    found = group[name]
    if not isinstance(found, kind):
        raise ValueError(f"{where} is a {type(found).__name__}, expected a {kind.__name__}")
    if isinstance(found, h5py.Dataset):
        _check_dataset(found, where)
    return found


def _check_dataset(data: h5py.Dataset, where: str) -> None:
    if data.is_virtual or data.external:
        raise ValueError(f"{where} is stored in other files; only data inside the file are read")
    dtype = data.dtype
    text = dtype.kind == "O" and h5py.check_string_dtype(dtype) is not None and len(data.shape or ()) < 3
    if data.shape is None or dtype.itemsize > 1 << 16 or not (dtype.kind in "biufS" or text):
        raise ValueError(f"{where} holds {dtype} {data.shape}, expected numbers or text of fixed length")
    settings = data.id.get_create_plist()
    filters = {settings.get_filter(i)[0] for i in range(settings.get_nfilters())}
    if foreign := sorted(filters - _FILTERS):
        raise ValueError(f"{where} is packed with filter {foreign[0]}; allowed gzip and shuffle")
    largest = max(math.prod(data.shape), math.prod(data.chunks or ())) * dtype.itemsize
    if largest > MAX_BYTES:
        raise ValueError(f"{where} declares {largest} bytes, at most {MAX_BYTES} are read")
    stored = data.id.get_storage_size()
    if math.prod(data.shape) * dtype.itemsize > stored * (MAX_PACKED if filters else 1):
        raise ValueError(f"{where} declares {data.shape} {dtype} and holds {stored} bytes")


def read(group: h5py.Group, name: str) -> np.ndarray:
    """Values of a dataset that is a direct member of ``group``; raises as `member`."""
    return np.asarray(member(group, name, h5py.Dataset)[()])


def read_text(group: h5py.Group, name: str, longest: int = 64) -> str:
    """A short ASCII text, as lava-dl stores it: one text, or an array of one; raises as `member`."""
    data = member(group, name, h5py.Dataset)
    text = np.asarray(data[()]).reshape(-1)[0] if data.size == 1 and data.dtype.kind in "SO" else b""
    if not isinstance(text, bytes) or not 0 < len(text) <= longest:
        raise ValueError(f"{data.name} holds {data.dtype} {data.shape}, expected one short text")
    return text.decode("ascii")


def read_label(item: h5py.HLObject, name: str) -> str | None:
    """The text of an attribute, or None if there is none; `ValueError` if it is no single text."""
    if name not in item.attrs:
        return None
    attribute = item.attrs.get_id(name)
    if attribute.shape != () or h5py.check_string_dtype(attribute.dtype) is None or attribute.dtype.itemsize > 1 << 10:
        raise ValueError(f"{item.name}: attribute {name} holds {attribute.dtype} {attribute.shape}, expected one text")
    value = item.attrs[name]
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


def read_integers(group: h5py.Group, name: str) -> np.ndarray:
    """Values of a dataset as int32, also where it stores whole numbers as floats; raises as `member`."""
    values = np.asarray(read(group, name), np.float64)
    if not np.isfinite(values).all() or (values != np.rint(values)).any() or (np.abs(values) >= 1 << 31).any():
        raise ValueError(f"{group.name}/{name} holds values that are not integers of 32 bits")
    return values.astype(np.int32)


def read_integer(group: h5py.Group, name: str) -> int:
    """The only value of a dataset; raises as `member`."""
    values = read_integers(group, name)
    if values.size != 1:
        raise ValueError(f"{group.name}/{name} has {values.size} values, expected one")
    return int(values.reshape(-1)[0])
