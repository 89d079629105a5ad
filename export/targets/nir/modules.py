"""Layers of torch networks that NIR has no node for; they occur in graphs made in memory only, never in files."""

from dataclasses import dataclass
from typing import Any

import nir
import numpy as np


@dataclass(eq=False)
class BatchNormNode(nir.NIRNode):
    """y = gain (x - mean) / sqrt(var + eps) + offset per channel, of a network in eval mode: folded into the synapse before."""

    gain: np.ndarray
    offset: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    eps: float

    def __post_init__(self) -> None:
        self.input_type, self.output_type = {"input": None}, {"output": None}


@dataclass(eq=False)
class SpikeMaxPool(nir.NIRNode):
    """Maximum over windows of spikes, i.e. their OR; pairs are (height, width)."""

    kernel_size: Any
    stride: Any
    padding: Any

    def __post_init__(self) -> None:
        self.input_type, self.output_type = {"input": None}, {"output": None}


@dataclass(eq=False)
class ConcatNode(nir.NIRNode):
    """Spikes beside each other along the channels, in the order of the edges."""

    def __post_init__(self) -> None:
        self.input_type, self.output_type = {"input": None}, {"output": None}
