"""What every data set looks like to the trainer: pairs of time-last float arrays and a label."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

Sample = tuple[torch.Tensor, torch.Tensor, int]
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class PairDataset(Dataset[Sample]):
    """A data set of two-modality samples.

    Attributes
    ----------
    modalities : tuple of str
        Names of the first and the second input, e.g. ("event", "audio") or ("visual", "audio").
    label_names : tuple of str
        Class names; labels are indices into it.
    """

    modalities: tuple[str, str]
    label_names: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Sample ``index``: first (…, T_1) float32, second (…, T_2) float32, label."""

    def batch(self, indices: Sequence[int]) -> Batch:
        """Samples stacked: first (N, …, T_1), second (N, …, T_2), labels (N,) int64."""
        first, second, labels = zip(*(self[i] for i in indices), strict=True)
        return torch.stack(first), torch.stack(second), torch.tensor(labels)


class InMemory(PairDataset):
    """Arrays held in memory, kept in their own (small) type and converted per batch."""

    def __init__(
        self, first: np.ndarray, second: np.ndarray, labels: np.ndarray, modalities: tuple[str, str], names: tuple[str, ...]
    ) -> None:
        self.first, self.second, self.labels = first, second, labels
        self.modalities, self.label_names = modalities, names

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        first, second, labels = self.batch([index])
        return first[0], second[0], int(labels[0])

    def batch(self, indices: Sequence[int]) -> Batch:
        keep = np.asarray(indices)
        first, second = (torch.from_numpy(np.asarray(x[keep], np.float32)) for x in (self.first, self.second))
        return first, second, torch.from_numpy(self.labels[keep].astype(np.int64))


class _Batches(Dataset[Batch]):
    def __init__(self, data: PairDataset) -> None:
        self.data = data

    def __getitem__(self, indices: Sequence[int]) -> Batch:  # type: ignore[override]
        return self.data.batch(indices)


def load_batches(data: PairDataset, batches: Sequence[Sequence[int]], workers: int = 0) -> Iterator[Batch]:
    """Iterate over the given batches of indices, loaded by ``workers`` background processes (0: in this one)."""
    loader: DataLoader[Batch] = DataLoader(_Batches(data), sampler=batches, batch_size=None, num_workers=workers)
    return iter(loader)
