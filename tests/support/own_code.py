"""A network and a data set as a user would write them, for ``module:function``."""

import numpy as np
import torch

from taaf.models.wiring import Spikes


def two_layers(x: Spikes, *, hidden: int = 10, features: int = 6) -> Spikes:
    """A network of one's own."""
    return x.flatten().dense("a", hidden).lif("a_lif", v_th=64).dense("b", features).lif("b_lif")


class Pulses(torch.utils.data.Dataset):
    """Class k: channels 4 k to 4 k + 3 of ``touch`` fire."""

    modalities, classes = ("touch",), ("none", "left", "right")

    def __init__(self, split: str) -> None:
        self.rng_seed, self.n = {"train": 1, "test": 2}[split], {"train": 30, "test": 9}[split]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        label = index % 3
        rate = np.where(np.arange(12) // 4 == label, 0.8, 0.1)[:, None]
        return (np.random.default_rng([self.rng_seed, index]).random((12, 5)) < rate).astype(np.float32), label
