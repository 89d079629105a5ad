"""A two-modality spiking network: two branches, time alignment, and a head: TAAF-SNN's (arXiv 2505.14535), drawn here, or
S-CMRL's (`taaf.models.scmrl`).

    event spikes (N, 2, 34, 34, 8)  -> EventBranch -> h (N, 128, 8)  -> TimeAlignment -> (N, 6, 128) -+
    audio spikes (N, 160, 12)       -> AudioBranch -> h (N, 128, 12) -> TimeAlignment -> (N, 6, 128) -+-> TaafHead

The branches run on the chip (encoders of real-valued inputs on the host); alignment and head run on the host.
"""

import torch
from torch import nn

from taaf.models.branches import AudioBranch, EventBranch
from taaf.models.config import STEMS, ModelConfig
from taaf.models.head import TaafHead, TaafOutput, TimeAlignment, deployed_forward, host_forward
from taaf.models.resnet import SpikingResNet18
from taaf.models.scmrl import ScmrlHead
from taaf.models.sps import SpikingPatchStem

HEADS: dict[str, type[TaafHead] | type[ScmrlHead]] = {"taaf": TaafHead, "scmrl": ScmrlHead}


def _branch(name: str, kind: str, config: ModelConfig) -> nn.Module:
    shape, scale = config.input_shapes[name], config.input_scales.get(name)
    if kind in STEMS:
        return SpikingPatchStem(shape, config, scale)
    if scale is not None:
        return SpikingResNet18(shape[0], scale, config)
    return EventBranch(config) if kind == "conv" else AudioBranch(config)


class TaafSnn(nn.Module):
    """The whole network. ``forward(first, second)`` takes float32 inputs with time as the last axis."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        first, second = config.modalities
        self.branches = nn.ModuleDict(
            {
                first: _branch(first, config.first_branch, config),
                second: _branch(second, config.audio_branch, config),
            }
        )
        learned = config.alignment == "learned"
        self.align = nn.ModuleDict(
            {
                first: TimeAlignment(config.event_steps, config.aligned_steps, learned),
                second: TimeAlignment(config.audio_steps, config.aligned_steps, learned),
            }
        )
        self.head = HEADS[config.head](config)

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
        output = deployed_forward(self.align, self.head, features)
        self.train(was_training)
        return features, output
