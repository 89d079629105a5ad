"""What every data set looks like to the trainer: time-last float arrays of one or more modalities, and a label."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from taaf.models.config import InputSpec
from taaf.models.errors import ConfigError, TaafError, did_you_mean

if TYPE_CHECKING:  # imported where tensors are made: deployment reads arrays only
    import torch

Sample = tuple[Any, ...]  # one tensor per modality, then the label
Batch = tuple[dict[str, "torch.Tensor"], "torch.Tensor"]


class MultimodalDataset:
    """A data set of samples with one or more modalities.

    Attributes
    ----------
    modalities : tuple of str
        Names of the inputs, in order, e.g. ("event", "audio").
    label_names : tuple of str
        Class names; labels are indices into it.
    """

    modalities: tuple[str, ...]
    label_names: tuple[str, ...]

    @property
    def groups(self) -> Sequence[str] | np.ndarray | None:
        """(N,) what each sample belongs to and is not parted from when a part is held out; None: nothing."""
        return None

    def class_indices(self) -> np.ndarray:
        """(N,) the class of every sample; here every sample is read."""
        return np.array([int(self[i][-1]) for i in range(len(self))], np.int64)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Sample ``index``: per modality (…, T_m) float32, then the label."""

    def batch(self, indices: Sequence[int]) -> Batch:
        """Samples stacked: per modality (N, …, T_m), and labels (N,) int64."""
        import torch

        *inputs, labels = zip(*(self[i] for i in indices), strict=True)
        return {m: torch.stack(x) for m, x in zip(self.modalities, inputs, strict=True)}, torch.tensor(labels)

    def specs(self) -> dict[str, InputSpec]:
        """Shape and steps of every modality, as the first sample has them."""
        inputs, _ = self.batch([0])
        return {m: InputSpec(tuple(x.shape[1:-1]), x.shape[-1]) for m, x in inputs.items()}


class InMemory(MultimodalDataset):
    """Arrays held in memory, kept in their own (small) type and converted per batch.

    Parameters
    ----------
    inputs : dict
        Modality -> (N, …, T_m).
    labels : numpy.ndarray
        (N,) integers.
    """

    def __init__(self, inputs: Mapping[str, np.ndarray], labels: np.ndarray, names: tuple[str, ...]) -> None:
        self.inputs, self.labels = dict(inputs), labels
        self.modalities, self.label_names = tuple(self.inputs), names

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        inputs, labels = self.batch([index])
        return (*(x[0] for x in inputs.values()), int(labels[0]))

    def batch(self, indices: Sequence[int]) -> Batch:
        import torch

        keep = np.asarray(indices)
        inputs = {m: torch.from_numpy(np.asarray(x[keep], np.float32)) for m, x in self.inputs.items()}
        return inputs, torch.from_numpy(self.labels[keep].astype(np.int64))

    def class_indices(self) -> np.ndarray:
        return self.labels

    def part(self, indices: np.ndarray | slice) -> "InMemory":
        """These samples, in memory too."""
        return InMemory({m: x[indices] for m, x in self.inputs.items()}, self.labels[indices], self.label_names)


class _View(MultimodalDataset):
    """Another view of a whole data set."""

    def __init__(self, whole: MultimodalDataset) -> None:
        self.whole = whole
        self.modalities, self.label_names = whole.modalities, whole.label_names

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Sample:
        return self.whole[index]

    def batch(self, indices: Sequence[int]) -> Batch:
        return self.whole.batch(indices)

    def class_indices(self) -> np.ndarray:
        return self.whole.class_indices()


class SomeSamples(_View):
    """These samples of a data set, in this order."""

    def __init__(self, whole: MultimodalDataset, indices: Sequence[int] | np.ndarray) -> None:
        super().__init__(whole)
        self.indices = np.asarray(indices, np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.whole[int(self.indices[index])]

    def batch(self, indices: Sequence[int]) -> Batch:
        return self.whole.batch(self.indices[list(indices)].tolist())

    def class_indices(self) -> np.ndarray:
        return self.whole.class_indices()[self.indices]


class FirstSamples(SomeSamples):
    """The first ``n`` samples of a data set."""

    def __init__(self, whole: MultimodalDataset, n: int) -> None:
        super().__init__(whole, range(min(n, len(whole))))


class SomeModalities(_View):
    """Only these modalities of a data set, in this order.

    Raises
    ------
    ConfigError
        If the data set has no such modality.
    """

    def __init__(self, whole: MultimodalDataset, names: Sequence[str]) -> None:
        super().__init__(whole)
        if missing := [m for m in names if m not in whole.modalities]:
            raise ConfigError(
                f"branches.{missing[0]}: the data set has no such modality; {did_you_mean(missing[0], whole.modalities)}"
            )
        self.modalities = tuple(names)

    def __getitem__(self, index: int) -> Sample:
        *inputs, label = self.whole[index]
        found = dict(zip(self.whole.modalities, inputs, strict=True))
        return (*(found[m] for m in self.modalities), label)

    def batch(self, indices: Sequence[int]) -> Batch:
        inputs, labels = self.whole.batch(indices)
        return {m: inputs[m] for m in self.modalities}, labels


class _Batches:
    def __init__(self, data: MultimodalDataset) -> None:
        self.data = data

    def __getitem__(self, indices: Sequence[int]) -> Batch | TaafError:
        try:
            return self.data.batch(indices)
        except TaafError as error:  # raised, torch would write the worker's traceback into its message
            return error


def load_batches(data: MultimodalDataset, batches: Sequence[Sequence[int]], workers: int = 0) -> Iterator[Batch]:
    """Iterate over the given batches of indices, loaded by ``workers`` background processes (0: in this one)."""
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(_Batches(data), sampler=batches, batch_size=None, num_workers=workers)  # type: ignore[arg-type]
    return _sound(iter(loader))


def _sound(batches: Iterator[Batch | TaafError]) -> Iterator[Batch]:
    for batch in batches:
        if isinstance(batch, TaafError):
            raise batch
        yield batch
