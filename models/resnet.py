"""Spiking ResNet18, the paper's branch for CREMA-D and AVE (arXiv 2505.14535, section 4; TET block, Deng et al. 2022).

    host    7x7/2 conv - BN - LIF                                             (the encoder, `taaf.models.encoder`)
    chip    3x3/2 conv - BN - LIF - 8 blocks - sum over the map - dense - LIF
    block:  conv - BN - LIF - conv - BN - (+ shortcut) - LIF

Two things differ from ResNet18: the second stem convolution stands where ResNet18 max-pools, and the dense layer takes the sum
over the map instead of its mean, which the chip cannot hold exactly (each position has the same weights, so that a factor
1 / (H W) is in the weights, which batch norm scales anyway).
"""

import torch
from torch import nn

from taaf.models.branches import lif
from taaf.models.config import ModelConfig
from taaf.models.encoded_branch import EncodedBranch
from taaf.models.qat import QatConv2d, QatDense, over_time
from taaf.models.slayer_lif import SlayerLif

V_TH = 128  # below the weight of a relay, which must fire at once; larger ones could leave 24 bits in the readout


class SpikingBlock(nn.Module):
    """conv-BN-LIF-conv-BN-add-LIF; the shortcut is the identity (one threshold), or 1x1 conv-BN where shape changes."""

    def __init__(self, n_in: int, n_out: int, stride: int, config: ModelConfig) -> None:
        super().__init__()
        self.conv1 = QatConv2d(n_in, n_out, 3, stride, v_th_mant=V_TH)
        self.lif1 = lif(V_TH, config)
        self.conv2 = QatConv2d(n_out, n_out, 3, 1, v_th_mant=V_TH, gain=0.7)
        changes = stride != 1 or n_in != n_out
        self.shortcut = QatConv2d(n_in, n_out, 1, stride, v_th_mant=V_TH, gain=0.7) if changes else None
        self.lif2 = lif(V_TH, config)

    def around(self, spikes: torch.Tensor) -> torch.Tensor:
        """Current of the shortcut, in threshold units."""
        return spikes if self.shortcut is None else over_time(self.shortcut, spikes)

    def forward(self, spikes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, C, H, W, T) -> spikes of both LIFs, (N, C', H', W', T) each."""
        inner = self.lif1(over_time(self.conv1, spikes))
        return inner, self.lif2(over_time(self.conv2, inner) + self.around(spikes))


class SpikingResNet18(EncodedBranch):
    """(N, channels, H, W, T) real -> feature spikes (N, F, T).

    Parameters
    ----------
    channels : int
        Input channels: 3 for frames, 1 for spectrograms.
    scale : int
        Input levels per unit, a power of two up to 64.
    config : ModelConfig
        ``resnet_width`` (64 in the paper) and ``features`` are read.
    """

    def __init__(self, channels: int, scale: int, config: ModelConfig) -> None:
        super().__init__()
        width = config.resnet_width
        self.scale = scale
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
        return self.trace(self.encode(x))["readout_lif"]

    def first_layer(self) -> tuple[QatConv2d, SlayerLif]:
        return self.stem, self.stem_lif

    def trace(self, spikes: torch.Tensor) -> dict[str, torch.Tensor]:
        """Chip part: spikes of every LIF population, by name, for the stem's spikes."""
        found = {"pool_lif": self.pool_lif(over_time(self.pool, spikes))}
        last = found["pool_lif"]
        for i, block in enumerate(self.blocks, start=1):
            found[f"block{i}_lif1"], last = block(last)
            found[f"block{i}_lif2"] = last
        found["readout_lif"] = self.readout_lif(over_time(self.readout, last.sum((2, 3))))
        return found
