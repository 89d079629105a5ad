"""Windows of one's own: an .npz, an HDF5 file or a folder of .npy with one array per modality, and labels.

    event   (N, *shape, T)    spikes 0/1 (any number type), or real numbers for a branch with an encoder
    audio   (N, *shape, T)    any number of modalities; named as the branches are
    labels  (N,)              class indices from 0 on
    names   (C,)              optional: class names

For training, the root is a folder with ``train`` and ``test`` of any of these forms (``train.npz``, ``test.h5``, ``train/``), and
``validation`` if there is one.
Elsewhere a single file, or folder of arrays, is the test split.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from taaf.models.errors import DataError, did_you_mean
from taaf.models.files.npz import read_npy, read_npz
from taaf.models.heads import MAX_CLASSES
from taaf.training.data import InMemory
from taaf.training.datasets.lists import own_entries

MAX_BYTES = 1 << 33
_HDF5 = (".h5", ".hdf5")
_NOT_MODALITIES = ("labels", "names")


def open_arrays(root: Path, modalities: Sequence[str], split: str) -> InMemory:
    """A split of a data set of one's own; unknown labels are not allowed here.

    Raises
    ------
    DataError
        Naming the file and array that is missing or does not fit.
    """
    path = _part(root, split)
    inputs, labels, names = read_windows(path, modalities)
    if labels is None:
        raise DataError(f"{path}: has no array 'labels'; training and accuracy need the class index of every window")
    found = tuple(names) if names else tuple(map(str, range(int(labels.max(initial=0)) + 1)))
    if labels.max(initial=0) >= len(found):
        raise DataError(f"{path}: labels go up to {labels.max()}, names lists {len(found)} classes")
    return InMemory(inputs, labels, found)


def has_part(root: Path, split: str) -> bool:
    """Whether the folder has a file or folder for this split."""
    return _found(root, split) is not None


def _found(root: Path, split: str) -> Path | None:
    names = (split, *(f"{split}{suffix}" for suffix in (".npz", *_HDF5)))
    return next((root / name for name in names if (root / name).exists()), None)


def _part(root: Path, split: str) -> Path:
    if (found := _found(root, split)) is not None:
        return found
    if split != "test":
        raise DataError(f"{root}: no {split}.npz, {split}.h5 or folder {split}/; training needs 'train' and 'test' there")
    return root


def read_windows(path: Path, modalities: Sequence[str]) -> tuple[dict[str, np.ndarray], np.ndarray | None, list[str]]:
    """Windows per modality, labels if there are any, and class names.

    Parameters
    ----------
    path : Path
        See the module.
    modalities : sequence of str
        The arrays that are wanted; empty: all that are there.

    Raises
    ------
    DataError
        Naming the file and array that is missing or does not fit.
    """
    arrays = _arrays(path)
    wanted = list(modalities) or [k for k in arrays if k not in _NOT_MODALITIES]
    if missing := [m for m in wanted if m not in arrays]:
        raise DataError(
            f"{path}: no array {missing[0]!r}; {did_you_mean(missing[0], [k for k in arrays if k not in _NOT_MODALITIES])}"
        )
    inputs = {m: arrays[m] for m in wanted}
    for m, x in inputs.items():
        if x.ndim < 3 or 0 in x.shape or x.dtype.kind not in "buif":
            raise DataError(f"{path}: {m} is {x.dtype} {x.shape}; allowed numbers (windows, *shape, steps)")
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise DataError(f"{path}: {m} holds values that are NaN or infinite; correct them")
    counts = {m: len(x) for m, x in inputs.items()}
    labels = arrays.get("labels")
    if labels is not None:
        whole = labels.ndim == 1 and labels.dtype.kind in "iu"
        if not whole or labels.min(initial=0) < 0 or labels.max(initial=0) >= MAX_CLASSES:
            raise DataError(
                f"{path}: labels is {labels.dtype} {labels.shape}; allowed whole numbers (windows,) from 0 to {MAX_CLASSES - 1}"
            )
        counts["labels"] = len(labels)
    if len(set(counts.values())) > 1:
        raise DataError(f"{path}: {', '.join(f'{m} has {n} windows' for m, n in counts.items())}; they must be as many")
    return inputs, None if labels is None else labels.astype(np.int64), _names(path, arrays.get("names"))


def _names(path: Path, names: np.ndarray | None) -> list[str]:
    if names is None:
        return []
    if names.ndim != 1:
        raise DataError(f"{path}: names is {names.dtype} {names.shape}; allowed one text per class, (classes,)")
    return [n.decode(errors="replace") if isinstance(n, bytes) else str(n) for n in names]  # bytes: HDF5's


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        if path.is_dir():
            found = {p.stem: read_npy(p, MAX_BYTES) for p in own_entries(path) if p.suffix == ".npy"}
            if not found:
                raise ValueError("a folder without .npy files")
            return found
        if not path.is_file():
            raise ValueError("no such file")
        return _hdf5(path) if path.suffix in _HDF5 else read_npz(path, MAX_BYTES)
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read as arrays ({error}); allowed .npz, .h5 or a folder of .npy") from error


def _hdf5(path: Path) -> dict[str, np.ndarray]:
    import h5py

    from taaf.models.files import hdf5

    with hdf5.open_file(path) as file:
        found = [k for k in file if isinstance(file.get(k, getlink=True), h5py.HardLink)]
        return {k: hdf5.read(file, k) for k in found}
