"""Branches that may take real numbers (frames, spectrograms): their first convolution and LIF are then the encoder on the host.

Inputs enter as currents of that convolution (direct coding), rounded to 8 bits, so that the integers of
`taaf.models.encoder` are what training computes; the convolution's spikes go to the chip.
"""

from abc import abstractmethod

import torch
from torch import nn

from taaf.models.encoder import LEVELS
from taaf.models.qat import QatConv2d, over_time
from taaf.models.slayer_lif import SlayerLif


class EncodedBranch(nn.Module):
    """A branch with `encode` (host) and ``trace`` (chip).

    Attributes
    ----------
    scale : int or None
        Input levels per unit, a power of two up to 64; None if the branch takes spikes, all of which is then the chip's.
    """

    scale: int | None

    @abstractmethod
    def first_layer(self) -> tuple[QatConv2d, SlayerLif]:
        """The encoder's convolution and neurons."""

    def levels(self, x: torch.Tensor) -> torch.Tensor:
        """The input as the encoder takes it: multiples of 1 / scale, -128 to 127 of them."""
        assert self.scale is not None
        return torch.round(x * self.scale).clamp(*LEVELS) / self.scale

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Host part: real (N, C, H, W, T) -> spikes of the first layer (N, C', H', W', T)."""
        conv, neurons = self.first_layer()
        spikes: torch.Tensor = neurons(over_time(conv, self.levels(x)))
        return spikes
