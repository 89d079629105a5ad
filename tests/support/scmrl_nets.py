"""Small S-CMRL networks with random weights, all of whose layers fire; needs SLAYER unless only the head is used."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from taaf.models import qat
from taaf.models.config import ModelConfig
from taaf.models.taaf import TaafSnn
from taaf.training.ead_mini import load_split

SMALL = {
    "head": "scmrl", "first_branch": "sps", "audio_branch": "sps", "attention": "uniform", "alignment": "fixed",
    "aligned_steps": 4, "token_channels": 16, "attention_heads": 2, "mlp_ratio": 2, "fusion": "sum",
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
    """Batch norms know the statistics of 16 training pairs, layer by layer as the exported integers see them."""
    torch.manual_seed(7)
    model = TaafSnn(small_config(**changes))
    part = load_split("train", slice(16))
    inputs = [torch.from_numpy(x).float() for x in (part.event, part.audio)]
    for module in model.modules():
        if isinstance(module, qat.QatSynapse):
            module.offset.data.fill_(0.1)
    with torch.no_grad(), _statistics_at_once():
        model.train()(*inputs)
    return model.eval()
