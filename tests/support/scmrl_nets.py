"""Small S-CMRL networks with random weights, all of whose layers fire; needs SLAYER unless only the head is used."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from taaf.models import qat
from taaf.models.config import ModelConfig
from taaf.models.taaf import TaafSnn
from taaf.training.datasets.ead_mini import load_split
from taaf.training.datasets.generated import GeneratedPairs

SMALL = {
    "head": "scmrl", "first_branch": "sps", "audio_branch": "sps", "attention": "uniform", "alignment": "fixed",
    "aligned_steps": 4, "token_channels": 16, "attention_heads": 2, "mlp_ratio": 2, "fusion": "sum",
}  # fmt: skip
REAL = {
    "first_name": "visual", "first_branch": "sps_real", "audio_branch": "sps_real", "frame_size": 32, "audio_bins": 33,
    "audio_frames": 24, "event_steps": 4, "audio_steps": 4, "classes": 6,
}  # fmt: skip


def small_config(**changes: Any) -> ModelConfig:
    """25 event and 5 audio tokens of 16 channels."""
    return ModelConfig(**{**SMALL, **changes})


@contextmanager
def _statistics_at_once() -> Iterator[None]:
    before, qat._MOMENTUM = qat._MOMENTUM, 1.0  # the running statistics become those of one batch
    try:
        yield
    finally:
        qat._MOMENTUM = before


def firing_network(**changes: Any) -> TaafSnn:
    """Batch norms know the statistics of 16 training pairs, layer by layer as the exported integers see them.

    With ``REAL`` among the changes the pairs are generated frames and spectrograms.
    """
    torch.manual_seed(7)
    model = TaafSnn(small_config(**changes))
    part = load_split("train", slice(16))
    inputs = [torch.from_numpy(x).float() for x in (part.event, part.audio)]
    if model.config.input_scales:
        inputs = [x.float() for x in GeneratedPairs(model.config, "train").batch(range(16))[:2]]
    for module in model.modules():
        if isinstance(module, qat.QatSynapse):
            module.offset.data.fill_(0.1)
    with torch.no_grad(), _statistics_at_once():
        model.train()(*inputs)
    return model.eval()
