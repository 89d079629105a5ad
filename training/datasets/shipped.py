"""Arrays that are shipped with the package: written so that equal arrays give equal bytes, hash-checked when read."""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from taaf.models.errors import DataError
from taaf.models.files.placeholders import placeholder


def read_shipped(path: Path, sha256: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The arrays ``shapes`` of a shipped .npz.

    Raises
    ------
    DataError
        If the file is missing, is not the one with this SHA-256, or an array has another shape.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read this data set ({error.strerror}); reinstall taaf") from error
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        if what := placeholder(path):
            raise DataError(f"{path}: {what}")
        raise DataError(f"{path}: SHA-256 is {found[:12]}…, expected {sha256[:12]}…; restore the shipped file")
    with np.load(io.BytesIO(raw), allow_pickle=False) as file:
        arrays = {key: file[key] for key in shapes}
    for key, shape in shapes.items():
        if arrays[key].shape != shape:
            raise DataError(f"{path}: {key} has shape {arrays[key].shape}, expected {shape}; restore the shipped file")
    return arrays


def write_shipped(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Write an .npz with fixed time stamps, so that equal arrays give equal bytes; returns its SHA-256."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for key, value in sorted(arrays.items()):
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(value), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{key}.npy", (1980, 1, 1, 0, 0, 0)), buffer.getvalue(), zipfile.ZIP_DEFLATED, 9)
    return hashlib.sha256(path.read_bytes()).hexdigest()
