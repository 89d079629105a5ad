"""Whether a configuration can be trained on a data set: one line that says why not, before anything is computed."""

import math

import numpy as np
import torch

from taaf.models.config import NetworkConfig
from taaf.models.fusion_parts import ALONE
from taaf.models.heads import find_head
from taaf.models.heads import names as head_names
from taaf.models.heads.base import UNTRAINED
from taaf.models.network import MultimodalSnn
from taaf.training.config import LossConfig, TrainConfig
from taaf.training.data import InMemory, MultimodalDataset
from taaf.training.strategies.step import STRATEGIES

MAX_PARAMETERS = 1 << 30
_READINGS = (
    ("k_per", "output", ("la", "taaf")),
    ("k_from", "batch", ("la", "taaf", "ogm_ge")),
)  # key, for all, others for these


def problem_of(config: TrainConfig, data: MultimodalDataset, validated: bool) -> str | None:
    """Why ``config`` cannot be trained on ``data``, or None; ``validated``: there is a validation part."""
    return _contradiction(config) or _misfit(config, data) or _reading_problem(config.loss, validated)


def _contradiction(config: TrainConfig) -> str | None:
    """Why these settings do not go together, or None."""
    head, balance = config.network.build_head(), config.loss.balance
    if not head.outputs:
        return f"head.type (={head.kind!r}): decides nothing, so that there is nothing to train; choose another head"
    if head.strategies == UNTRAINED:
        return f"head.type (={head.kind!r}): is made by exporting a module of one's own, not trained here; choose another head"
    claimed = {s for name in head_names() for s in find_head(name).strategies} - set(head.strategies)
    allowed = head.strategies or tuple(s for s in STRATEGIES if s not in claimed)
    if balance not in allowed:
        return f"loss.balance (={balance!r}): head {head.kind!r} is trained with {', '.join(allowed)}"
    if wrong := STRATEGIES[balance].misfit(head):
        return f"loss.balance (={balance!r}): {wrong}"
    return None


def _reading_problem(loss: LossConfig, validated: bool) -> str | None:
    """Why a reading of k_u cannot be had, or None."""
    for key, usual, users in _READINGS:
        if (value := getattr(loss, key)) != usual and loss.balance not in users:
            return f"loss.{key} (={value!r}): strategy {loss.balance!r} has no such k_u; allowed with {', '.join(users)}"
    if loss.k_from == "validation" and not validated:
        return (
            'loss.k_from (="validation"): the data set has no validation part; give data.validation, the share of the training part '
            "that is held out, e.g. 0.1"
        )
    return None


def may_skip(config: TrainConfig) -> bool:
    """Whether the loss may leave out parameters: of a detached attention, or of outputs that a strategy does not train."""
    attends = getattr(config.network.head.options, "attention", "uniform") == "taaf"
    own_heads = any(ALONE in name for name in config.network.build_head().arrays())
    return (attends or own_heads) and (config.loss.alpha_detach or config.loss.balance not in ("none", "la", "taaf"))


def _misfit(config: TrainConfig, data: MultimodalDataset) -> str | None:
    """Why this network cannot be trained on this data set, or None."""
    network = config.network
    if set(data.modalities) != set(network.modalities):
        return f"branches {', '.join(network.modalities)}: the data set has {', '.join(data.modalities)}"
    if len(data.label_names) != network.head.classes:
        return f"head.classes (={network.head.classes}): the data set has {len(data.label_names)} classes"
    inputs, _ = data.batch([0])
    for m, spec in network.inputs.items():
        x, shape = inputs[m], tuple(inputs[m].shape[1:-1])
        if x.shape[-1] != spec.steps:
            return f"branches.{m}.steps (={spec.steps}): the data set gives {x.shape[-1]}"
        if shape != spec.shape and (spec.scale or math.prod(shape) != math.prod(spec.shape)):
            return f"branches.{m}.shape (={list(spec.shape)}): the data set gives {list(shape)}"
        if not spec.scale and not _spikes(data.inputs[m] if isinstance(data, InMemory) else x.numpy()):
            return f"branches.{m}: its inputs are real numbers; give scale, levels per unit: its first convolution is then an encoder"
    return _too_large(network, inputs)


def _spikes(x: np.ndarray) -> bool:
    return x.dtype == np.uint8 and x.max(initial=0) <= 1 or bool(((x == 0) | (x == 1)).all())


def _too_large(network: NetworkConfig, inputs: dict[str, torch.Tensor]) -> str | None:
    try:
        with torch.device("meta"):  # before it takes any memory
            n = sum(value.numel() for value in MultimodalSnn(network).state_dict().values())
        if n > MAX_PARAMETERS:
            return f"branches: the network has {n} parameters, at most {MAX_PARAMETERS} are trained; make it smaller"
        with torch.no_grad():
            MultimodalSnn(network).eval()(inputs)
    except RuntimeError as error:
        shapes = ", ".join(f"{m} {tuple(x.shape[1:])}" for m, x in inputs.items())
        return f"branches: the network does not take inputs {shapes} ({str(error).splitlines()[0]})"
    return None
