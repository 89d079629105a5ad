"""The branches of the embedded model: a convolutional SNN for events, a dense SNN for audio. They run on the chip."""

import torch
from torch import nn

from taaf.models.config import ModelConfig
from taaf.models.qat import QatConv2d, QatDense, over_time
from taaf.models.slayer_lif import LifParameters, SlayerLif


def lif(v_th_mant: int, config: ModelConfig) -> SlayerLif:
    """The paper's LIF (tau 0.5, hard reset) with the configured surrogate derivative."""
    return SlayerLif(LifParameters(v_th_mant=v_th_mant), config.surrogate_width, config.surrogate_scale)


def halved(size: int, times: int) -> int:
    """Side of a map after ``times`` 3x3 convolutions with stride 2 and padding 1."""
    return size if times == 0 else halved((size + 1) // 2, times - 1)


class EventBranch(nn.Module):
    """conv/2 - LIF - [conv/2 - LIF - conv + 1x1/2 shortcut] - LIF - dense - LIF; (N, 2, 34, 34, T) -> (N, 128, T).

    The bracket is the block of TET's spiking ResNet: the shortcut's current is added before the second LIF.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        narrow, wide = config.event_channels, config.block_channels
        self.stem = QatConv2d(2, narrow, 3, 2, v_th_mant=64)
        self.stem_lif = lif(64, config)
        self.block1 = QatConv2d(narrow, wide, 3, 2, v_th_mant=128)
        self.block1_lif = lif(128, config)
        self.block2 = QatConv2d(wide, wide, 3, 1, v_th_mant=128, gain=0.7)
        self.shortcut = QatConv2d(narrow, wide, 1, 2, v_th_mant=128, gain=0.7)
        self.block2_lif = lif(128, config)
        self.readout = QatDense(wide * halved(config.event_size, 2) ** 2, config.features, v_th_mant=128)
        self.readout_lif = lif(128, config)

    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        return self.trace(spikes)["readout_lif"]

    def trace(self, spikes: torch.Tensor) -> dict[str, torch.Tensor]:
        """Spikes of every LIF population, by name."""
        stem = self.stem_lif(over_time(self.stem, spikes))  # (N, 8, 17, 17, T)
        inner = self.block1_lif(over_time(self.block1, stem))  # (N, 16, 9, 9, T)
        outer = self.block2_lif(over_time(self.block2, inner) + over_time(self.shortcut, stem))  # (N, 16, 9, 9, T)
        features = self.readout_lif(over_time(self.readout, outer.flatten(1, 3)))  # (N, 128, T)
        return {"stem_lif": stem, "block1_lif": inner, "block2_lif": outer, "readout_lif": features}


class AudioBranch(nn.Module):
    """dense - LIF - dense - LIF; (N, 160, T) -> (N, 128, T)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.hidden = QatDense(config.audio_inputs, config.audio_hidden, v_th_mant=128)
        self.hidden_lif = lif(128, config)
        self.readout = QatDense(config.audio_hidden, config.features, v_th_mant=128)
        self.readout_lif = lif(128, config)

    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        return self.trace(spikes)["readout_lif"]

    def trace(self, spikes: torch.Tensor) -> dict[str, torch.Tensor]:
        """Spikes of every LIF population, by name."""
        hidden = self.hidden_lif(over_time(self.hidden, spikes))
        return {"hidden_lif": hidden, "readout_lif": self.readout_lif(over_time(self.readout, hidden))}
