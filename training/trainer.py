"""The training loop: deterministic per epoch, so that a resumed run equals an uninterrupted one."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from taaf.models.checkpoint import load_model, read_checkpoint, save_checkpoint
from taaf.models.errors import CheckpointError
from taaf.models.qat import freeze_statistics
from taaf.models.taaf import TaafOutput, TaafSnn
from taaf.training.config import TrainConfig
from taaf.training.ead_mini import Split
from taaf.training.losses import agl_loss, modulation, total_loss, true_class_score

MODALITIES = ("event", "audio")


def _tensors(split: Split, index: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    where = index.numpy() if isinstance(index, torch.Tensor) else index
    event, audio = (torch.from_numpy(np.asarray(x[where], np.float32)) for x in (split.event, split.audio))
    return event, audio, torch.from_numpy(split.labels[where])


def _augment(
    event: torch.Tensor, audio: torch.Tensor, config: TrainConfig, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    reach = config.optimiser.shift_pixels
    if reach:
        shift = torch.randint(-reach, reach + 1, (2,), generator=rng).tolist()
        event = torch.roll(event, shift, dims=(2, 3))
    if config.optimiser.audio_drop:
        audio = audio * (torch.rand(audio.shape, generator=rng) >= config.optimiser.audio_drop)
    return event, audio


def batch_loss(
    output: TaafOutput, labels: torch.Tensor, config: TrainConfig, modulated: bool
) -> tuple[torch.Tensor, dict[str, float]]:
    """Eq. 10 for one batch, and the values of rho_u and k_u that went into it."""
    c = config.loss
    losses = {u: agl_loss(output.logits[u], labels, output.alpha[u], c.lam, c.phi) for u in output.logits}
    score = {m: true_class_score(output.logits[m], labels) for m in MODALITIES}
    k, watched = {}, {}
    for m, other in zip(MODALITIES, reversed(MODALITIES), strict=True):
        rho, strength = modulation(score[m], score[other], c.suppression)
        k[m] = strength if modulated else torch.ones_like(strength)
        watched[f"rho_{m}"], watched[f"k_{m}"] = rho.item(), k[m].item()
    return total_loss(losses, k, c.beta), watched


def evaluate(model: TaafSnn, split: Split, batch_size: int = 250) -> dict[str, float]:
    """Accuracy in percent of the deployed form (integer branches, float64 head), per output."""
    correct = {"fused": 0, **dict.fromkeys(MODALITIES, 0)}
    for start in range(0, len(split), batch_size):
        event, audio, labels = _tensors(split, slice(start, start + batch_size))
        _, output = model.predict(event, audio)
        for name in correct:
            correct[name] += int((output.decision(name).argmax(1) == labels).sum())
    return {name: 100 * n / len(split) for name, n in correct.items()}


def train(
    config: TrainConfig, train_set: Split, test_set: Split, out: Path, *, resume: bool, quiet: bool,
    on_epoch: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:  # fmt: skip
    """Train and write ``model.pt`` (result), ``last.pt`` (to resume) and ``metrics.jsonl`` into ``out``.

    The test set is only measured, never used to choose an epoch: the last epoch is the result.

    Returns
    -------
    dict
        The last epoch's metrics.
    """
    torch.manual_seed(config.optimiser.seed)
    model = TaafSnn(config.model)
    o = config.optimiser
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=o.learning_rate, weight_decay=o.weight_decay
    )
    steps = -(-len(train_set) // o.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, o.learning_rate, total_steps=o.epochs * steps, pct_start=0.1)
    first, history = 0, list[dict[str, Any]]()
    if resume:
        first, history = _restore(out / "last.pt", model, optimiser, schedule, config)
    for epoch in range(first, o.epochs):
        started = time.monotonic()
        freeze_statistics(model, epoch >= o.freeze_epoch)
        watched = _train_epoch(model, optimiser, schedule, config, train_set, epoch, quiet)
        metrics = {"epoch": epoch, **watched, **{f"test_{k}": v for k, v in evaluate(model, test_set).items()}}
        metrics["seconds"] = time.monotonic() - started
        history.append(metrics)
        state = {"optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
        save_checkpoint(out / "last.pt", model, config.to_dict(), epoch=epoch, history=history, **state)
        (out / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in history))
        on_epoch(metrics)
    freeze_statistics(model)
    save_checkpoint(out / "model.pt", model, config.to_dict(), metrics=history[-1])
    return history[-1]


def _restore(
    path: Path, model: TaafSnn, optimiser: Any, schedule: Any, config: TrainConfig
) -> tuple[int, list[dict[str, Any]]]:
    content = read_checkpoint(path)
    if content["config"] != config.to_dict():
        raise CheckpointError(f"{path}: was made with another configuration; resume with the same one or choose another --out")
    restored, _ = load_model(path)
    model.load_state_dict(restored.state_dict())
    optimiser.load_state_dict(content["optimiser"])
    schedule.load_state_dict(content["schedule"])
    return content["epoch"] + 1, content["history"]


def _train_epoch(
    model: TaafSnn, optimiser: Any, schedule: Any, config: TrainConfig, data: Split, epoch: int, quiet: bool
) -> dict[str, float]:
    o = config.optimiser
    rng = torch.Generator().manual_seed(o.seed * 100_003 + epoch)
    order = torch.randperm(len(data), generator=rng)
    modulated = config.loss.balance == "taaf" and epoch < config.loss.modulation_end
    sums: dict[str, float] = {}
    model.train()
    batches = order.split(o.batch_size)
    for index in tqdm(batches, desc=f"epoch {epoch + 1}/{o.epochs}", leave=False, disable=quiet or None):
        event, audio, labels = _tensors(data, index)
        output = model(*_augment(event, audio, config, rng))
        loss, watched = batch_loss(output, labels, config, modulated)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        for name, value in {"loss": loss.item(), **watched}.items():
            sums[name] = sums.get(name, 0.0) + value / len(batches)
    return sums
