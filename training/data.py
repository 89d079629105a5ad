"""What every data set looks like to the trainer: pairs of time-last float arrays and a label."""

from abc import abstractmethod

import torch
from torch.utils.data import Dataset

Sample = tuple[torch.Tensor, torch.Tensor, int]


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
