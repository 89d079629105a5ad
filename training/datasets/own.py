"""A data set of one's own: ``set = "module:function"``, where ``function(split)`` returns a torch Dataset.

Its samples are ``(x_1, ..., x_M, label)`` with one array (*shape, T) per modality, or ``({modality: x}, label)``. It names its
modalities in an attribute ``modalities`` (not needed with dictionaries) and its classes in ``label_names`` or ``classes``.
"""

import importlib
from typing import Any

import torch

from taaf.models.errors import ConfigError, DataError
from taaf.training.data import MultimodalDataset, Sample


class OwnDataset(MultimodalDataset):
    """A user's torch Dataset as the trainer sees it.

    Raises
    ------
    DataError
        If it names no modalities or classes.
    """

    def __init__(self, dataset: Any, where: str) -> None:
        self.dataset, self.where = dataset, where
        first = dataset[0]
        keys = tuple(first[0]) if isinstance(first[0], dict) else ()
        self.modalities = tuple(getattr(dataset, "modalities", keys))
        names = getattr(dataset, "label_names", getattr(dataset, "classes", ()))
        self.label_names = tuple(map(str, names))
        if not self.modalities or not self.label_names:
            missing = "modalities" if not self.modalities else "label_names (or classes)"
            raise DataError(f"{where}: the data set has no attribute {missing}; add it, a sequence of names")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        *inputs, label = self.dataset[index]
        given = [inputs[0][m] for m in self.modalities] if isinstance(inputs[0], dict) else inputs
        if len(given) != len(self.modalities):
            raise DataError(f"{self.where}: sample {index} has {len(given)} inputs for {len(self.modalities)} modalities")
        return (*(torch.as_tensor(x, dtype=torch.float32) for x in given), int(label))


def open_own(name: str, split: str) -> OwnDataset:
    """``function(split)`` of ``module:function``; raises `ConfigError` if it cannot be imported or called."""
    module, _, function = name.partition(":")
    try:
        dataset = getattr(importlib.import_module(module), function)(split)
    except Exception as error:  # whatever the user's code does
        raise ConfigError(f"data.set (={name[:80]!r}): {type(error).__name__}: {error}") from error
    return OwnDataset(dataset, f"data.set {name}")
