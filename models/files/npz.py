"""Read .npz files that nobody vouches for: every size is compared with what the file holds before anything is allocated."""

import io
import math
import zipfile
from pathlib import Path

import numpy as np

MAX_MEMBERS = 1000


def read_npz(path: Path, max_bytes: int) -> dict[str, np.ndarray]:
    """Boolean, integer, float and short text arrays of an .npz file, ``max_bytes`` in total when unpacked.

    ``numpy.load`` allocates what an array's header declares before it looks whether the data are there.

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
            return {m.filename.removesuffix(".npy"): _array(m.filename, archive.read(m)) for m in members}
    except ValueError:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds on damaged files
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _array(name: str, raw: bytes) -> np.ndarray:
    file = io.BytesIO(raw)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name}: .npy version {version} is not read")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)  # refuses headers of more than 10 000 bytes
    values = raw[file.tell() :]
    if (
        dtype.kind not in "biufU"
        or dtype.itemsize > (256 if dtype.kind == "U" else 8)
        or any(type(n) is not int or n < 0 for n in shape)
    ):
        raise ValueError(f"{name}: holds {dtype} of shape {shape}, expected numbers or short texts")
    if math.prod(shape) * dtype.itemsize != len(values):
        raise ValueError(f"{name}: declares {shape} {dtype} and holds {len(values)} bytes")
    return np.frombuffer(bytearray(values), dtype).reshape(shape, order="F" if fortran else "C")


def read_npy(path: Path, max_bytes: int) -> np.ndarray:
    """A boolean, integer or float array of an .npy file of at most ``max_bytes``; raises as `read_npz`."""
    size = path.stat().st_size
    if size > max_bytes:
        raise ValueError(f"{size} bytes; allowed {max_bytes}")
    try:
        return _array(path.name, path.read_bytes())
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
