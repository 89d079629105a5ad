"""What the EAD-36 study measures of a trained checkpoint beside its accuracies."""

import math
from pathlib import Path
from typing import Any

import torch

from taaf.models.checkpoint import load_model
from taaf.models.network import MultimodalSnn
from taaf.training.config import from_dict
from taaf.training.probes import probe_model
from taaf.training.studies.cells import splits_of

BATCH = 250


def alpha_entropy(checkpoint: Path) -> dict[str, float]:
    """``mean_N H(alpha_fused) / log T`` over the test part, H(alpha) = - sum_t alpha(t) log alpha(t): 1 is uniform, 0 one step.

    Empty for a single time step.
    """
    model, parts = _trained(checkpoint)
    data = parts.test
    total, steps = 0.0, 1
    for indices in torch.arange(len(data)).split(BATCH):
        inputs, _ = data.batch(indices.tolist())
        _, output = model.predict(inputs)
        alpha = output.alpha["fused"]
        steps = alpha.shape[1]
        total += float(torch.special.entr(alpha).sum())
    return {"alpha_entropy": total / len(data) / math.log(steps)} if steps > 1 else {}


def branch_probes(checkpoint: Path) -> dict[str, float]:
    """Test accuracies in percent of linear probes of every branch's rates: ``probe_<modality>`` (`taaf.training.probes`)."""
    model, parts = _trained(checkpoint)
    return {f"probe_{m}": p.test for m, p in probe_model(model, parts, "rates", model.config.modalities).items()}


def _trained(checkpoint: Path) -> tuple[MultimodalSnn, Any]:
    """A network of one's own making and the parts of its data set, which the worker that trained it holds already."""
    model, content = load_model(checkpoint, own_code=True)
    return model, splits_of(from_dict(content["config"]))
