"""Validation parts: what sets bring themselves, or a share of the training part that training then is without."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import taaf_tables

from taaf.models.config import InputSpec, NetworkConfig
from taaf.models.errors import ConfigError
from taaf.training.config import DataConfig, OptimiserConfig, from_dict
from taaf.training.data import InMemory, MultimodalDataset
from taaf.training.datasets.ead_mini import train_voices
from taaf.training.distributed import Ranks
from taaf.training.held_out import held_out
from taaf.training.schedule import make_optimiser, make_schedule
from taaf.training.sources import open_split, open_splits
from taaf.training.trainer import Trainer, evaluate

SPECS = NetworkConfig.from_dict({}).inputs


def test_share_of_every_class() -> None:
    """round(share n_c) of each class, the same each time, from anywhere in it; seen failing with the first of each class."""
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [50, 20, 7]))
    found = held_out(labels, 0.2)
    assert np.bincount(labels[found]).tolist() == [10, 4, 1]
    assert (found == held_out(labels, 0.2)).all()
    assert np.flatnonzero(found & (labels == 0))[-1] > np.flatnonzero(labels == 0)[9]


def test_groups_stay_whole() -> None:
    """Whole groups, about the share of the samples, never all of them."""
    rng = np.random.default_rng(1)
    groups, labels = rng.integers(0, 30, 600), rng.integers(0, 5, 600)
    found = held_out(labels, 0.25, groups)
    assert not set(groups[found]) & set(groups[~found])
    assert abs(found.mean() - 0.25) < 0.05 and set(labels[found]) == set(range(5))
    assert held_out(np.zeros(4), 0.9, ["a", "a", "b", "b"]).sum() == 2


@pytest.mark.parametrize(
    ("labels", "share", "groups", "message"),
    [([0, 1], 0.1, None, "holds out 0 of 2 training samples"), ([0, 0], 0.5, ["a", "a"], "in whole groups .1 in all.")],
)
def test_what_leaves_a_part_empty(labels: list[int], share: float, groups: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        held_out(np.array(labels), share, groups)


def test_ead_mini_holds_out_voices() -> None:
    """Training and validation part share no voice and no sample, and together are the training part; train_pairs counts after it."""
    data = DataConfig(validation=0.1, train_pairs=30, test_pairs=5)
    parts = open_splits(data, SPECS)
    assert isinstance(parts.validation, InMemory) and (len(parts.train), len(parts.test)) == (30, 5)
    voices, whole = train_voices(), np.load(Path(__file__).parents[2] / "models" / "zoo" / "ead_mini.npz")["train_labels"]
    held = held_out(voices, 0.1, voices)
    assert abs(held.sum() - 400) < 40 and not set(voices[held]) & set(voices[~held])
    np.testing.assert_array_equal(parts.validation.labels, whole[held])
    np.testing.assert_array_equal(parts.train.class_indices(), whole[~held][:30])
    plain = open_splits(DataConfig(train_pairs=30, test_pairs=5), SPECS)
    assert plain.validation is None
    np.testing.assert_array_equal(plain.train.class_indices(), whole[:30])
    with pytest.raises(ConfigError, match="data.validation .=0.: ead-mini brings no validation part; give the share"):
        open_split(DataConfig(), SPECS, "validation")


def _arrays(path: Path, n: int, first: int) -> None:
    np.savez(
        path,
        event=np.arange(first, first + n, dtype=np.uint8)[:, None, None].repeat(3, 2) * 0,
        labels=np.arange(first, first + n) % 4,
    )


def test_arrays(tmp_path: Path) -> None:
    """A file "validation" is the part, whatever the share; without one the share is held out."""
    for split, n in (("train", 40), ("test", 8)):
        _arrays(tmp_path / f"{split}.npz", n, 0)
    data, specs = DataConfig(set="arrays", root=str(tmp_path)), {"event": InputSpec()}
    assert open_splits(data, specs).validation is None
    shared = open_splits(DataConfig(set="arrays", root=str(tmp_path), validation=0.2), specs)
    assert isinstance(shared.train, InMemory) and (len(shared.train), len(shared.validation or ())) == (32, 8)
    _arrays(tmp_path / "validation.npz", 5, 0)
    for share in (0.0, 0.2):
        own = open_splits(DataConfig(set="arrays", root=str(tmp_path), validation=share), specs)
        assert (len(own.train), len(own.validation or ())) == (40, 5)


class _Toy(MultimodalDataset):
    modalities, label_names = ("event",), ("a", "b")

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Any:
        return torch.full((1, 2), float(index)), index % 2


def test_function_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for a validation part only if it says that it has one: most would give their test part."""
    module = ModuleType("held_out_toy")
    monkeypatch.setitem(sys.modules, "held_out_toy", module)

    def build(split: str) -> _Toy:
        return _Toy({"train": 20, "validation": 6}.get(split, 4))

    module.build = build  # type: ignore[attr-defined]
    data, specs = DataConfig(set="held_out_toy:build", validation=0.1), {"event": InputSpec()}
    parts = open_splits(data, specs)
    assert parts.validation is not None and (len(parts.train), len(parts.validation), len(parts.test)) == (18, 2, 4)
    seen = [float(p.batch([i])[0]["event"][0, 0, 0]) for p in (parts.train, parts.validation) for i in range(len(p))]
    assert sorted(seen) == list(range(20)) and parts.validation.class_indices().tolist() == [0, 1]
    build.splits = ("train", "validation", "test")  # type: ignore[attr-defined]
    parts = open_splits(data, specs)
    assert (len(parts.train), len(parts.validation or ())) == (20, 6)


def test_validation_is_measured(tmp_path: Path) -> None:
    """Metrics val_* are those of the validation part in the deployed form; without one there are none."""
    tables = {
        **taaf_tables(channels=2, wide=2, hidden=8, features=8),
        "data": {"train_pairs": 20, "test_pairs": 10, "validation": 0.01},
    }
    config = from_dict({**tables, "optimiser": {"epochs": 1, "batch_size": 20, "freeze_epoch": 0}})
    parts = open_splits(config.data, config.network.inputs)
    trainer = Trainer(config, parts.train, parts.test, Ranks.single(), validation=parts.validation)
    metrics = trainer.run(tmp_path)
    assert parts.validation is not None
    found = evaluate(trainer.model, parts.validation)
    assert {k: metrics[f"val_{k}"] for k in found} == pytest.approx(found)
    assert any(metrics[f"val_{k}"] != metrics[f"test_{k}"] for k in found)


def test_sgd_is_the_formula() -> None:
    """v <- m v + g + d w, w <- w - r v, momentum constant under the one-cycle schedule; seen failing with torch's cycled momentum."""
    o = OptimiserConfig(epochs=2, method="sgd", momentum=0.9, learning_rate=0.3, weight_decay=0.05)
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimiser = make_optimiser([w], o)
    schedule = make_schedule(optimiser, o, 10)
    expected, v = np.array([1.0, -2.0]), np.zeros(2)
    for k in range(20):
        rate = optimiser.param_groups[0]["lr"]
        g = np.array([np.sin(k), 0.5])
        v = 0.9 * v + g + 0.05 * expected
        expected = expected - rate * v
        w.grad = torch.from_numpy(g)
        optimiser.step()
        schedule.step()
    np.testing.assert_allclose(w.detach().numpy(), expected, atol=1e-12)
