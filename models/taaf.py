"""TAAF-SNN (arXiv 2505.14535): two spiking branches, time alignment, and the temporal-attention head.

    event spikes (N, 2, 34, 34, 8)  -> EventBranch -> h (N, 128, 8)  -> TimeAlignment -> (N, 6, 128) -+
    audio spikes (N, 160, 12)       -> AudioBranch -> h (N, 128, 12) -> TimeAlignment -> (N, 6, 128) -+-> TaafHead

The branches run on the chip; alignment and head run on the host.
"""

import copy

import torch
from torch import nn

from taaf.models.branches import AudioBranch, EventBranch
from taaf.models.config import ModelConfig
from taaf.models.head import TaafHead, TaafOutput, TimeAlignment, host_forward
from taaf.models.resnet import SpikingResNet18


def _branch(kind: str, channels: int, scale: int, config: ModelConfig) -> nn.Module:
    if kind == "resnet18":
        return SpikingResNet18(channels, scale, config)
    return EventBranch(config) if kind == "conv" else AudioBranch(config)


class TaafSnn(nn.Module):
    """The whole network. ``forward(first, second)`` takes float32 inputs with time as the last axis."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        first, second = config.modalities
        self.branches = nn.ModuleDict(
            {
                first: _branch(config.first_branch, 3, config.frame_scale, config),
                second: _branch(config.audio_branch, 1, config.audio_scale, config),
            }
        )
        learned = config.alignment == "learned"
        self.align = nn.ModuleDict(
            {
                first: TimeAlignment(config.event_steps, config.aligned_steps, learned),
                second: TimeAlignment(config.audio_steps, config.aligned_steps, learned),
            }
        )
        self.head = TaafHead(config)

    def features(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Feature spikes of the branches per modality, (N, F, T_m) in {0, 1}."""
        return {m: self.branches[m](x) for m, x in zip(self.config.modalities, inputs, strict=True)}

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> TaafOutput:
        return host_forward(self.align, self.head, self.features(first, second))

    @torch.no_grad()
    def predict(self, first: torch.Tensor, second: torch.Tensor) -> tuple[dict[str, torch.Tensor], TaafOutput]:
        """What is deployed: integer branches (eval mode) and the host part in float64.

        Returns
        -------
        features : dict
            Feature spikes per modality, (N, F, T_m), in {0, 1}.
        output : TaafOutput
            float64 logits and attention.
        """
        was_training = self.training
        self.eval()
        features = self.features(first, second)
        align, head = copy.deepcopy(self.align).double(), copy.deepcopy(self.head).double()
        output = host_forward(align, head, {m: f.double() for m, f in features.items()})
        self.train(was_training)
        return features, output
