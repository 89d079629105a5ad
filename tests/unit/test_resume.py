"""An interrupted training, resumed, is the uninterrupted one: weights, optimiser, strategy state and metrics."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from scmrl_nets import small_tables
from small_networks import taaf_tables

from taaf.models.checkpoint import read_checkpoint
from taaf.models.errors import CheckpointError, ConfigError, TrainingFailedError
from taaf.training.config import from_dict
from taaf.training.distributed import Ranks
from taaf.training.sources import open_splits
from taaf.training.strategies.step import STRATEGIES
from taaf.training.trainer import Trainer


def _trainer(balance: str, loss_options: Mapping[str, Any] = MappingProxyType({}), **optimiser: Any) -> Trainer:
    settings = {"epochs": 3, "batch_size": 20, "freeze_epoch": 2, **optimiser}
    tables = taaf_tables(
        channels=2, wide=2, hidden=16, features=16, attention="uniform" if balance in ("la", "late_fusion") else "taaf"
    )
    if balance == "scmrl":
        tables = small_tables(alignment="learned")
        settings |= {"schedule": "cosine", "warmup_epochs": 1}
    elif balance == "readout":
        tables = taaf_tables(channels=2, wide=2, hidden=16, features=20)
        tables["head"] = {"type": "rate", "classes": 10}
    data = {"train_pairs": 40, "test_pairs": 20, "validation": 0.01 if balance == "readout" else 0.0}
    loss = {"balance": balance, "modulation_end": 3, **loss_options}
    data |= {"validation": 0.01} if "k_from" in loss else {}
    config = from_dict({**tables, "data": data, "optimiser": settings, "loss": loss})
    parts = open_splits(config.data, config.network.inputs)
    return Trainer(config, parts.train, parts.test, Ranks.single(), validation=parts.validation)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a if k != "seconds")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _stop_after(epochs: int) -> Any:
    def on_epoch(metrics: dict[str, Any]) -> None:
        if metrics["epoch"] + 1 == epochs:
            raise KeyboardInterrupt

    return on_epoch


@pytest.mark.parametrize(
    ("balance", "optimiser"),
    [
        *((b, {}) for b in STRATEGIES),
        ("taaf", {"method": "sgd"}),
        ("scmrl", {"method": "sgd", "momentum": 0.5}),
        ("taaf", {"loss_options": {"k_from": "validation", "k_per": "step", "readout_weight": 0.5, "alpha_detach": True}}),
    ],
)
def test_resumed_equals_uninterrupted(balance: str, optimiser: dict[str, Any], tmp_path: Path) -> None:
    """Stopped after the first of three epochs; everything in last.pt is equal at the end, bit by bit."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    _trainer(balance, **optimiser).run(whole)
    with pytest.raises(KeyboardInterrupt):
        _trainer(balance, **optimiser).run(parts, on_epoch=_stop_after(1))
    assert len(read_checkpoint(parts / "last.pt")["history"]) == 1
    _trainer(balance, **optimiser).run(parts, resume=True)
    a, b = read_checkpoint(whole / "last.pt"), read_checkpoint(parts / "last.pt")
    assert len(a["history"]) == 3
    different = [key for key in a if not _same(a[key], b[key])]
    assert different == []


def test_what_cannot_be_resumed(tmp_path: Path) -> None:
    """A result instead of a training state, and another configuration."""
    _trainer("none", epochs=1, freeze_epoch=0).run(tmp_path)
    with pytest.raises(CheckpointError, match="another configuration"):
        _trainer("none", epochs=2, freeze_epoch=0).run(tmp_path, resume=True)
    (tmp_path / "last.pt").write_bytes((tmp_path / "model.pt").read_bytes())
    with pytest.raises(CheckpointError, match="no training to resume"):
        _trainer("none", epochs=1, freeze_epoch=0).run(tmp_path, resume=True)


def test_divergence_stops_at_once(tmp_path: Path) -> None:
    """A loss that is not finite ends the training with one line; no result is written."""
    with pytest.raises(TrainingFailedError, match="the loss is"):
        _trainer("none", learning_rate=1e9).run(tmp_path)
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize(
    ("balance", "loss", "message"),
    [
        ("taaf", {"k_from": "validation"}, r"loss.k_from .=.validation..: the data set has no validation part; give data.validation"),
        ("pmr", {"k_from": "validation"}, r"loss.k_from .*'pmr' has no such k_u; allowed with la, taaf, ogm_ge"),
        ("ogm_ge", {"k_per": "step"}, r"loss.k_per .*'ogm_ge' has no such k_u; allowed with la, taaf"),
    ],
)  # fmt: skip
def test_readings_that_cannot_be_had(balance: str, loss: dict[str, Any], message: str) -> None:
    """Without a validation part, or with a strategy that has another k_u."""
    tables = taaf_tables(channels=1, wide=1, hidden=2, features=2)
    config = from_dict({**tables, "data": {"train_pairs": 4, "test_pairs": 4}, "loss": {"balance": balance, **loss}})
    parts = open_splits(config.data, config.network.inputs)
    with pytest.raises(ConfigError, match=message):
        Trainer(config, parts.train, parts.test, Ranks.single())


@pytest.mark.parametrize(
    "table",
    [
        {"optimiser": {"learning_rate": float("inf")}}, {"data": {"audio_snr_db": float("nan")}}, {"loss": {"entropy_floor": 5.0}},
        {"loss": {"lam": 3.0}}, {"optimiser": {"audio_drop": 7.0}}, {"optimiser": {"seed": 10**20}}, {"loss": {"beta": 10**400}},
        {"optimiser": {"batch_size": 10**20}},
    ],
)  # fmt: skip
def test_numbers_out_of_range(table: dict[str, Any]) -> None:
    """Refused by name, however large, not a number or infinite."""
    ((section, values),) = table.items()
    with pytest.raises(ConfigError, match=f"{section}.{next(iter(values))}"):
        from_dict(table)
