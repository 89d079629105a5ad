"""The training loop: random numbers start anew every epoch, so that on the CPU a resumed run equals an uninterrupted one."""

import json
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from taaf.models.checkpoint import load_model, own_code, read_checkpoint, require_known_code, save_checkpoint
from taaf.models.errors import CheckpointError, ConfigError, TrainingFailedError
from taaf.models.files.writing import write_at_once
from taaf.models.network import MultimodalSnn
from taaf.models.qat import freeze_statistics
from taaf.training.augmentation import augment
from taaf.training.config import TrainConfig, from_dict
from taaf.training.data import Batch, MultimodalDataset, load_batches
from taaf.training.distributed import Ranks
from taaf.training.fit import may_skip, problem_of
from taaf.training.losses import all_sum
from taaf.training.schedule import make_optimiser, make_schedule
from taaf.training.strategies.balance import Balance
from taaf.training.strategies.options import LossOptions
from taaf.training.strategies.step import STRATEGIES, TrainingStep

Metrics = dict[str, Any]


class Trainer:
    """Trains one network on one data set.

    Parameters
    ----------
    config : TrainConfig
        Resolved configuration; stored with every checkpoint.
    train_set, test_set : MultimodalDataset
        The test set is only measured, never used to choose an epoch: the last epoch is the result.
    ranks : Ranks
        Which part of every batch this process computes, and on which device.
    quiet : bool
        No progress bar.
    validation : MultimodalDataset, optional
        Measured after every epoch (metrics ``val_*``): what settings are chosen by, and what strategies may look at.
    """

    def __init__(
        self,
        config: TrainConfig,
        train_set: MultimodalDataset,
        test_set: MultimodalDataset,
        ranks: Ranks,
        quiet: bool = True,
        validation: MultimodalDataset | None = None,
    ) -> None:
        o, self.validation = config.optimiser, validation
        config = replace(config, network=config.network.completed(train_set.specs()).check())
        self.config, self.train_set, self.test_set, self.ranks, self.quiet = config, train_set, test_set, ranks, quiet
        if wrong := problem_of(config, train_set, self.validation is not None):
            raise ConfigError(wrong)
        ranks.check_batches(len(train_set), o.batch_size)
        torch.manual_seed(o.seed)
        self.model = MultimodalSnn(config.network).to(ranks.device)
        options = LossOptions(**{f.name: getattr(config.loss, f.name) for f in fields(LossOptions)})
        self.balance: Balance = STRATEGIES[config.loss.balance](options)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = make_optimiser(parameters, o)
        self.schedule = make_schedule(self.optimiser, o, -(-len(train_set) // o.batch_size))
        self.step = ranks.wrap(TrainingStep(self.model, self.balance), may_skip=may_skip(config))
        self.history: list[Metrics] = []

    def start_from(self, checkpoint: Path) -> None:
        """Take the weights of a checkpoint, e.g. a calibrated one; raises `CheckpointError` if its network is another."""
        initial, _ = load_model(checkpoint, self._names_code_of(read_checkpoint(checkpoint)))
        if initial.config != self.config.network:
            raise CheckpointError(
                f"{checkpoint}: its network is not the configured one; use the configuration it was made with"
            )
        self.model.load_state_dict(initial.state_dict())

    def run(self, out: Path, *, resume: bool = False, on_epoch: Callable[[Metrics], None] = lambda _: None) -> Metrics:
        """Train and write ``model.pt`` (result), ``last.pt`` (to resume) and ``metrics.jsonl``; returns the last metrics."""
        if resume:
            self._restore(out / "last.pt")
            if self.ranks.is_main:
                self._write_metrics(out)
        for epoch in range(len(self.history), self.config.optimiser.epochs):
            started = time.monotonic()
            metrics = {"epoch": epoch, **self._train_epoch(epoch)}
            if self.validation is not None:
                found = self._evaluate(self.validation)
                self.balance.end_epoch({u: found[f"score_{u}"] for u in self.model.head.head.outputs})
                metrics |= _prefixed("val", found)
            metrics |= _prefixed("test", self._evaluate(self.test_set))
            metrics["seconds"] = time.monotonic() - started
            self.history.append(metrics)
            if self.ranks.is_main:
                schedule = {k: v for k, v in self.schedule.state_dict().items() if not callable(v)}  # weights_only refuses code
                state: Metrics = {"optimiser": self.optimiser.state_dict(), "schedule": schedule}
                state |= {"balance": self.balance.state(), "epoch": epoch, "history": self.history}
                save_checkpoint(out / "last.pt", self.model, self.config.to_dict(), **state)
                self._write_metrics(out)
                on_epoch(metrics)
        freeze_statistics(self.model)
        if self.ranks.is_main:
            save_checkpoint(out / "model.pt", self.model, self.config.to_dict(), metrics=self.history[-1])
        return self.history[-1]

    def _write_metrics(self, out: Path) -> None:
        write_at_once(out / "metrics.jsonl", "".join(json.dumps(m) + "\n" for m in self.history))

    def _evaluate(self, data: MultimodalDataset) -> dict[str, float]:
        return evaluate(self.model, data, self.ranks, 2 * self.config.optimiser.batch_size)

    def _restore(self, path: Path) -> None:
        content = read_checkpoint(path)
        require_known_code(path, content["config"], own := self._names_code_of(content))
        if from_dict(content["config"], f"{path}: config").to_dict() != self.config.to_dict():
            raise CheckpointError(
                f"{path}: was made with another configuration; resume with the same one or choose another --out"
            )
        if missing := {"optimiser", "schedule", "balance", "history"} - set(content):
            raise CheckpointError(f"{path}: no training to resume ({', '.join(sorted(missing))} missing); start it anew")
        restored, _ = load_model(path, own)
        self.model.load_state_dict(restored.state_dict())
        try:
            self.optimiser.load_state_dict(content["optimiser"])
            self.schedule.load_state_dict(content["schedule"])
            self.balance.load(content["balance"])
            self.history = [dict(m) for m in content["history"]]
        except Exception as error:  # what torch raises on foreign values is not listed anywhere
            raise CheckpointError(f"{path}: cannot be resumed ({type(error).__name__}: {error}); train again") from error

    def _names_code_of(self, content: dict[str, Any]) -> bool:
        """Whether the configuration itself names all code of its own that a checkpoint names."""
        return set(own_code(content.get("config")).values()) <= set(own_code(self.config.to_dict()).values())

    def _train_epoch(self, epoch: int) -> Metrics:
        config, o = self.config, self.config.optimiser
        freeze_statistics(self.model, epoch >= o.freeze_epoch)
        rng = torch.Generator().manual_seed(o.seed * 100_003 + epoch)
        order = [b.tolist() for b in torch.randperm(len(self.train_set), generator=rng).split(o.batch_size)]
        own = [self.ranks.share(b) for b in order]

        def plain(share: float) -> Any:
            batches = own[: max(1, int(share * len(own)))]
            return (self._to_device(b) for b in load_batches(self.train_set, batches))

        self.balance.start_epoch(self.model, epoch, epoch < config.loss.modulation_end, plain)
        self.model.train()
        sums = _Means()
        loader = load_batches(self.train_set, own, config.data.workers)
        hidden = self.quiet or not self.ranks.is_main
        bar = tqdm(loader, f"epoch {epoch + 1}/{o.epochs}", len(own), leave=False, disable=hidden or None)
        for indices, batch in zip(order, bar, strict=True):
            inputs, labels = self._to_device(self._augmented(batch, len(indices), rng))
            loss, watched = self.step(inputs, labels)
            if not torch.isfinite(loss):
                raise TrainingFailedError(
                    f"epoch {epoch + 1}: the loss is {loss.item()}; finished epochs are kept, try a lower optimiser.learning_rate"
                )
            weight = len(labels) / len(indices)  # of this rank's mean in the mean of the global batch
            self.optimiser.zero_grad()
            (loss * weight * self.ranks.size).backward()
            self.balance.after_backward(self.model, rng)
            self.optimiser.step()
            self.schedule.step()
            sums.add(watched, weight)
        return sums.result(len(order))

    def _to_device(self, batch: Batch) -> Batch:
        return on_device(batch, self.ranks.device)

    def _augmented(self, batch: Batch, n_global: int, rng: torch.Generator) -> Batch:
        inputs, labels = batch
        real = {m: spec.scale > 0 for m, spec in self.config.network.inputs.items()}
        return augment(inputs, self.config.optimiser, rng, real, n_global, self.ranks.slice_of(n_global)), labels


def on_device(batch: Batch, device: torch.device | str) -> Batch:
    """A batch on another device."""
    inputs, labels = batch
    return {m: x.to(device) for m, x in inputs.items()}, labels.to(device)


class _Means:
    """Weighted sums of tensors over the batches of an epoch and over all ranks."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}

    def add(self, values: dict[str, torch.Tensor], weight: float) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + weight * value.detach()

    def result(self, n: int) -> Metrics:
        return {name: (all_sum(value) / n).tolist() for name, value in self.sums.items()}


def _prefixed(part: str, metrics: dict[str, float]) -> Metrics:
    return {f"{part}_{k}": v for k, v in metrics.items()}


def evaluate(
    model: MultimodalSnn, data: MultimodalDataset, ranks: Ranks | None = None, batch_size: int = 250
) -> dict[str, float]:
    """Deployed form (integer branches, float64 head): accuracy in percent per output; its cross entropy ``loss_<u>``; and
    ``score_<u>``, the mean probability of the true class after a softmax of the time-averaged logits (s_u of k_u).
    """
    ranks = ranks or Ranks.single()
    names = model.head.head.outputs
    correct, loss, score = (torch.zeros(len(names), dtype=torch.float64) for _ in range(3))
    chunks = torch.arange(len(data)).split(batch_size)
    for indices in ranks.share(list(chunks)):
        inputs, labels = on_device(data.batch(indices.tolist()), ranks.device)
        _, output = model.predict(inputs)
        for i, name in enumerate(names):
            decision = output.decision(name)
            correct[i] += (decision.argmax(1) == labels).sum().cpu()
            loss[i] += torch.nn.functional.cross_entropy(decision, labels, reduction="sum").cpu()
            score[i] += output.logits[name].mean(1).softmax(-1).gather(1, labels[:, None]).sum().cpu()
    if ranks.size > 1:
        correct, loss, score = all_sum(correct), all_sum(loss), all_sum(score)
    result = {name: 100 * float(correct[i]) / len(data) for i, name in enumerate(names)}
    for prefix, total in (("loss", loss), ("score", score)):
        result |= {f"{prefix}_{name}": float(total[i]) / len(data) for i, name in enumerate(names)}
    return result
