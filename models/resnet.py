"""Spiking ResNet18, the paper's branch for CREMA-D and AVE (arXiv 2505.14535, section 4; TET block, Deng et al. 2022).

    7x7/2 conv - BN - LIF - 3x3/2 conv - BN - LIF - 8 blocks - mean over the map - dense - LIF
    block:  conv - BN - LIF - conv - BN - (+ shortcut) - LIF

The second stem convolution stands where ResNet18 max-pools: max pooling has no exact form on the chip. Real-valued
inputs (frames, spectrograms) enter as currents of the first convolution (direct coding); its LIF is the encoder.
"""

import torch
from torch import nn

from taaf.models.branches import lif
from taaf.models.config import ModelConfig
from taaf.models.qat import QatConv2d, QatDense, over_time

V_TH = 128


class SpikingBlock(nn.Module):
    """conv-BN-LIF-conv-BN-add-LIF; the shortcut is the identity, or 1x1 conv-BN where shape changes."""

    def __init__(self, n_in: int, n_out: int, stride: int, config: ModelConfig) -> None:
        super().__init__()
        self.conv1 = QatConv2d(n_in, n_out, 3, stride, v_th_mant=V_TH)
        self.lif1 = lif(V_TH, config)
        self.conv2 = QatConv2d(n_out, n_out, 3, 1, v_th_mant=V_TH, gain=0.7)
        changes = stride != 1 or n_in != n_out
        self.shortcut = QatConv2d(n_in, n_out, 1, stride, v_th_mant=V_TH, gain=0.7) if changes else None
        self.lif2 = lif(V_TH, config)

    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W, T) -> (N, C', H', W', T)."""
        inner = self.lif1(over_time(self.conv1, spikes))
        around = spikes if self.shortcut is None else over_time(self.shortcut, spikes)
        return self.lif2(over_time(self.conv2, inner) + around)


class SpikingResNet18(nn.Module):
    """(N, channels, H, W, T) real or binary -> feature spikes (N, F, T).

    Parameters
    ----------
    channels : int
        Input channels: 3 for frames, 1 for spectrograms.
    config : ModelConfig
        ``resnet_width`` (64 in the paper) and ``features`` are read.
    """

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        width = config.resnet_width
        self.stem = QatConv2d(channels, width, 7, 2, v_th_mant=V_TH)
        self.stem_lif = lif(V_TH, config)
        self.pool = QatConv2d(width, width, 3, 2, v_th_mant=V_TH)
        self.pool_lif = lif(V_TH, config)
        widths = [width, width, width, 2 * width, 2 * width, 4 * width, 4 * width, 8 * width, 8 * width]
        strides = [1, 1, 2, 1, 2, 1, 2, 1]
        self.blocks = nn.ModuleList(SpikingBlock(widths[i], widths[i + 1], strides[i], config) for i in range(len(strides)))
        self.readout = QatDense(8 * width, config.features, v_th_mant=V_TH)
        self.readout_lif = lif(V_TH, config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.stem_lif(over_time(self.stem, x))
        spikes = self.pool_lif(over_time(self.pool, spikes))
        for block in self.blocks:
            spikes = block(spikes)
        pooled = spikes.mean((2, 3))  # (N, 8 width, T)
        features: torch.Tensor = self.readout_lif(over_time(self.readout, pooled))
        return features
