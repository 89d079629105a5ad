"""Read .npz and .npy files that nobody vouches for: every size is compared with what the file holds before anything is allocated."""

import math
import os
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from taaf.models.files.placeholders import naming_placeholders

MAX_MEMBERS = 1000
_BLOCK = 1 << 22
_WIDEST_TEXT = 256  # bytes


@naming_placeholders
def read_npz(path: Path, max_bytes: int) -> dict[str, np.ndarray]:
    """Boolean, integer, float and short text arrays of an .npz file, ``max_bytes`` in total when unpacked.

    ``numpy.load`` allocates what an array's header declares before it looks whether the data are there. Here an array is filled
    while it is unpacked: a small file takes no more memory than the arrays it holds.

    Raises
    ------
    ValueError
        Saying what is wrong with the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total = sum(m.file_size for m in members)
            if len(members) > MAX_MEMBERS or total > max_bytes:
                raise ValueError(f"{len(members)} arrays of {total} bytes; allowed {MAX_MEMBERS} and {max_bytes}")
            found = {}
            for member in members:
                with archive.open(member) as file:
                    found[member.filename.removesuffix(".npy")] = _array(member.filename, file, member.file_size)
            return found
    except ValueError:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds on damaged files
        raise ValueError(f"{type(error).__name__}: {error}") from error


@naming_placeholders
def read_npy(path: Path, max_bytes: int) -> np.ndarray:
    """A boolean, integer or float array of an .npy file of at most ``max_bytes``; raises as `read_npz`."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > max_bytes:
                raise ValueError(f"{size} bytes; allowed {max_bytes}")
            return _array(path.name, file, size)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _array(name: str, file: IO[bytes], size: int) -> np.ndarray:
    """The array of a stream of ``size`` bytes."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name}: .npy version {version} is not read")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)  # refuses headers of more than 10 000 bytes
    held = size - file.tell()
    widest = _WIDEST_TEXT if dtype.kind == "U" else 8
    if dtype.kind not in "biufU" or dtype.itemsize > widest or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"{name}: holds {dtype} of shape {shape}, expected numbers or short texts")
    if math.prod(shape) * dtype.itemsize != held:
        raise ValueError(f"{name}: declares {shape} {dtype} and holds {held} bytes")
    raw, at = np.empty(held, np.uint8), 0
    while at < held:
        block = file.read(min(_BLOCK, held - at))
        if not block:
            raise ValueError(f"{name}: ends after {at} of {held} bytes")
        raw[at : at + len(block)] = np.frombuffer(block, np.uint8)
        at += len(block)
    return raw.view(dtype).reshape(shape, order="F" if fortran else "C")
