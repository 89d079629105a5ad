"""The optimiser, and its learning rate over the steps of a training."""

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from taaf.training.config import OptimiserConfig


def make_optimiser(parameters: Iterable[nn.Parameter], o: OptimiserConfig) -> Optimizer:
    """AdamW, or SGD: ``v <- momentum v + g + weight_decay w;  w <- w - learning_rate v``."""
    if o.method == "sgd":
        return SGD(parameters, lr=o.learning_rate, momentum=o.momentum, weight_decay=o.weight_decay)
    return AdamW(parameters, lr=o.learning_rate, weight_decay=o.weight_decay)


def cosine_factor(step: int, warmup: int, total: int) -> float:
    """Share of the highest learning rate in step ``step`` (0-based) of ``total``.

    ``(step + 1) / (warmup + 1)`` for the first ``warmup`` steps, then ``(1 + cos(pi (step - warmup) / (total - warmup))) / 2``.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def make_schedule(optimiser: Optimizer, o: OptimiserConfig, steps_per_epoch: int) -> LRScheduler:
    """The configured schedule. With AdamW "one_cycle" also moves beta_1 (0.95, 0.85, 0.95), torch's default; SGD's momentum stays."""
    total = o.epochs * steps_per_epoch
    if o.schedule == "cosine":
        warmup = min(o.warmup_epochs * steps_per_epoch, total - 1)
        return LambdaLR(optimiser, lambda step: cosine_factor(step, warmup, total))
    rise = 0.1 if 0.1 * total != 1 else 0.2  # torch divides by zero where the rise takes exactly one step
    return OneCycleLR(optimiser, o.learning_rate, total_steps=total, pct_start=rise, cycle_momentum=o.method == "adamw")
