"""NIR files (HDF5): read with care, written in one step.

`nir.read` loads every value of a file and follows its links. So the file is walked first: external, soft and virtual
parts are refused, and the sizes that it declares are bounded before anything is allocated.
"""

import io
from pathlib import Path
from typing import Any

import h5py
import nir

from taaf.models.errors import BundleError, TaafError
from taaf.models.files import hdf5
from taaf.models.files.placeholders import naming_placeholders
from taaf.models.files.writing import make_folder, write_at_once

MAX_OBJECTS = 100_000
MAX_DEPTH = 16
MAX_BYTES = 1 << 31  # of all values together, uncompressed


@naming_placeholders
def load_nir(path: Path) -> nir.NIRGraph:
    """Read a NIR file.

    Raises
    ------
    BundleError
        If the file is missing, truncated, not NIR, holds links, or declares more than `MAX_BYTES`.
    """
    if not path.is_file():
        raise BundleError(f"{path}: no such file; `taaf-export model.pt --to nir` or `nir.write` make one")
    try:
        with hdf5.open_file(path) as file:
            if "node" not in file:
                raise ValueError("it has no group 'node'")
            _walk(file)
        graph = nir.read(path, type_check=False)
    except TaafError:
        raise
    except Exception as error:  # h5py and nir raise many kinds on damaged files
        reason = " ".join(str(error).split()) or "no reason given"
        raise BundleError(f"{path}: not a readable NIR file, it may be truncated ({type(error).__name__}: {reason})") from error
    if not isinstance(graph, nir.NIRGraph):
        raise BundleError(f"{path}: holds a single {type(graph).__name__}; allowed a NIRGraph with Input and Output")
    return graph


def _walk(file: h5py.File) -> None:
    """Raise `ValueError` at anything that is not a plain, bounded value of this file."""
    todo: list[tuple[h5py.Group, int]] = [(file, 0)]
    n_objects = n_bytes = 0
    while todo:
        group, depth = todo.pop()
        for name in group:
            where = f"{group.name.rstrip('/')}/{name}"
            n_objects += 1
            if n_objects > MAX_OBJECTS or depth > MAX_DEPTH:
                raise ValueError(f"{where}: more than {MAX_OBJECTS} parts or {MAX_DEPTH} levels")
            item = hdf5.member(group, name, h5py.HLObject)
            if isinstance(item, h5py.Group):
                _check_type(item)
                todo.append((item, depth + 1))
            elif isinstance(item, h5py.Dataset):
                n_bytes += item.nbytes
                if n_bytes > MAX_BYTES:
                    raise ValueError(f"{where}: declares {n_bytes} bytes so far, more than {MAX_BYTES}")
            else:
                raise ValueError(f"{where}: a {type(item).__name__}, expected a group or values")


def _check_type(group: h5py.Group) -> None:
    """Name a node of a type that this nir does not know (`nir.read` would fail without saying which)."""
    kind = group.get("type")
    if isinstance(kind, h5py.Dataset) and kind.shape == ():
        name = text(kind[()])
        if not (isinstance(getattr(nir, name, None), type) and issubclass(getattr(nir, name), nir.NIRNode)):
            raise ValueError(f"{group.name}: unknown NIR type {name!r}")


def save_nir(path: Path, graph: nir.NIRGraph) -> None:
    """Write a NIR file, whole or not at all; raises `OutputError` if the place cannot take it.

    It is made in memory first: the HDF5 library crashes the process when a disk is full.
    """
    content = io.BytesIO()
    nir.write(content, graph, compression="gzip")
    make_folder(path.parent)
    write_at_once(path, content.getvalue())


def text(value: Any) -> str:
    """Metadata text, which HDF5 may give back as bytes."""
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
