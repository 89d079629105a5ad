"""A data set of one's own: ``set = "module:function"``, where ``function(split)`` returns a torch Dataset.

Its samples are ``(x_1, ..., x_M, label)`` with one array (*shape, T) per modality, or ``({modality: x}, label)``. It names its
modalities in an attribute ``modalities`` (not needed with dictionaries) and its classes in ``label_names`` or ``classes``.
A function that makes a validation part says so, ``function.splits = ("train", "validation", "test")``; no other is asked for one.
"""

import importlib
import operator
from typing import Any

import torch

from taaf.models.errors import ConfigError, DataError
from taaf.training.data import MultimodalDataset, Sample


class OwnDataset(MultimodalDataset):
    """A user's torch Dataset as the trainer sees it.

    Raises
    ------
    DataError
        If it names no modalities or classes, or a sample is not what the first is: shapes, number of inputs, a known class.
    """

    def __init__(self, dataset: Any, where: str) -> None:
        self.dataset, self.where = dataset, where
        first = self._sample(0)
        keys = tuple(first[0]) if isinstance(first[0], dict) else ()
        self.modalities = _names(getattr(dataset, "modalities", keys))
        self.label_names = _names(getattr(dataset, "label_names", getattr(dataset, "classes", ())))
        if not self.modalities or not self.label_names:
            missing = "modalities" if not self.modalities else "label_names (or classes)"
            raise DataError(f"{where}: the data set has no attribute {missing}; add it, a sequence of names")
        self._shapes = [x.shape for x in self._arrays(0, first)]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        *_, label = sample = self._sample(index)
        arrays = self._arrays(index, sample)
        if (shapes := [x.shape for x in arrays]) != self._shapes:
            told = (", ".join(str(tuple(n)) for n in found) for found in (shapes, self._shapes))
            raise DataError(
                f"{self.where}: sample {index} has {' where the first has '.join(told)}; all are of the same shapes"
            )
        if not 0 <= label < len(self.label_names):
            raise DataError(f"{self.where}: sample {index} is of class {label}; allowed 0 to {len(self.label_names) - 1}")
        return (*arrays, label)

    def _sample(self, index: int) -> tuple[Any, ...]:
        """The user's sample, its label a number."""
        try:
            *inputs, label = self.dataset[index]
            return (*inputs, operator.index(label.item() if hasattr(label, "item") else label))
        except Exception as error:  # whatever the user's code does
            raise self._unlike(index, error) from error

    def _arrays(self, index: int, sample: tuple[Any, ...]) -> list[torch.Tensor]:
        try:
            given = [sample[0][m] for m in self.modalities] if isinstance(sample[0], dict) else sample[:-1]
            found = [torch.as_tensor(x, dtype=torch.float32) for x in given]
        except Exception as error:  # keys, texts, ragged lists
            raise self._unlike(index, error) from error
        if len(found) != len(self.modalities):
            raise DataError(f"{self.where}: sample {index} has {len(found)} inputs for {len(self.modalities)} modalities")
        return found

    def _unlike(self, index: int, error: Exception) -> DataError:
        return DataError(
            f"{self.where}: sample {index}: {type(error).__name__}: {error}; expected (x_1, ..., x_M, label) or ({{modality: x}}, label), "
            "arrays (*shape, steps) and the class's index"
        )


def _names(given: Any) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(map(str, given))


def open_own(name: str, split: str) -> OwnDataset:
    """``function(split)`` of ``module:function``; raises `ConfigError` if it cannot be imported or called."""
    try:
        dataset = _function(name)(split)
    except Exception as error:  # whatever the user's code does
        raise _failed(name, error) from error
    return OwnDataset(dataset, f"data.set {name}")


def has_validation(name: str) -> bool:
    """Whether ``module:function`` makes a "validation" part; raises `ConfigError` if it cannot be imported."""
    try:
        return "validation" in getattr(_function(name), "splits", ())
    except Exception as error:  # whatever the user's code does
        raise _failed(name, error) from error


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _failed(name: str, error: Exception) -> ConfigError:
    return ConfigError(f"data.set (={name[:80]!r}): {type(error).__name__}: {error}")
