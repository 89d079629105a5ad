"""Small S-CMRL networks with random weights, all of whose layers fire; needs SLAYER unless only the head is used."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from taaf.models import qat
from taaf.models.config import NetworkConfig
from taaf.models.network import MultimodalSnn
from taaf.training.datasets.ead_mini import load_split
from taaf.training.datasets.generated import GeneratedPairs

SPIKES = {"event": {"shape": [2, 34, 34], "steps": 8}, "audio": {"shape": [1, 40, 4], "steps": 12}}
REAL = {
    "visual": {"shape": [3, 32, 32], "steps": 4, "scale": 32}, "audio": {"shape": [1, 33, 24], "steps": 4, "scale": 8}
}  # fmt: skip
_HEAD = {
    "type": "scmrl", "classes": 10, "aligned_steps": 4, "alignment": "fixed", "fusion": "sum", "attention_heads": 2, "mlp_ratio": 2,
}  # fmt: skip


def small_tables(
    inputs: dict[str, dict[str, Any]] = SPIKES, channels: int = 16, halvings: int = 3, downsampling: str = "stride", **head: Any
) -> dict[str, Any]:
    """25 event and 5 audio tokens of 16 channels; of `REAL` inputs (6 classes) 16 visual and 15 audio ones."""
    stem = {"network": "patch_stem", "channels": channels, "halvings": halvings, "downsampling": downsampling}
    classes = {"classes": 6} if inputs is REAL else {}
    return {"branches": {m: {**stem, **told} for m, told in inputs.items()}, "head": {**_HEAD, **classes, **head}}


def small_config(inputs: dict[str, dict[str, Any]] = SPIKES, **changes: Any) -> NetworkConfig:
    """`small_tables` as a configuration."""
    return NetworkConfig.from_dict(small_tables(inputs, **changes))


@contextmanager
def _statistics_at_once() -> Iterator[None]:
    before, qat._MOMENTUM = qat._MOMENTUM, 1.0  # the running statistics become those of one batch
    try:
        yield
    finally:
        qat._MOMENTUM = before


def firing_network(inputs: dict[str, dict[str, Any]] = SPIKES, **changes: Any) -> MultimodalSnn:
    """Batch norms know the statistics of 16 training pairs, layer by layer as the exported integers see them.

    With `REAL` inputs the pairs are generated frames and spectrograms.
    """
    torch.manual_seed(7)
    model = MultimodalSnn(small_config(inputs, **changes))
    given = {m: torch.from_numpy(x).float() for m, x in load_split("train", slice(16)).inputs().items()}
    if inputs is REAL:
        given = GeneratedPairs(model.config.inputs, "train").batch(range(16))[0]
    for module in model.modules():
        if isinstance(module, qat.QatSynapse):
            module.offset.data.fill_(0.1)
    with torch.no_grad(), _statistics_at_once():
        model.train()(given)
    return model.eval()
