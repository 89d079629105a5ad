"""What the EAD-36 study measures of a trained checkpoint beside its accuracies."""

import math
from pathlib import Path

import torch

from taaf.models.checkpoint import load_model
from taaf.training.config import from_dict
from taaf.training.sources import open_split

BATCH = 250


def alpha_entropy(checkpoint: Path) -> dict[str, float]:
    """``mean_N H(alpha_fused) / log T`` over the test part, H(alpha) = - sum_t alpha(t) log alpha(t): 1 is uniform, 0 one step.

    Empty for a single time step.
    """
    model, content = load_model(checkpoint, own_code=True)
    data = open_split(from_dict(content["config"]).data, model.config.inputs, "test")
    total, steps = 0.0, 1
    for indices in torch.arange(len(data)).split(BATCH):
        inputs, _ = data.batch(indices.tolist())
        _, output = model.predict(inputs)
        alpha = output.alpha["fused"]
        steps = alpha.shape[1]
        total += float(torch.special.entr(alpha).sum())
    return {"alpha_entropy": total / len(data) / math.log(steps)} if steps > 1 else {}
