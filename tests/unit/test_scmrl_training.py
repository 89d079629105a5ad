"""S-CMRL's losses and learning rate against float64 formulas, and its ablations."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scmrl_nets import small_config, small_tables
from small_networks import AUDIO, EVENT

from taaf.models.config import NetworkConfig
from taaf.models.errors import ConfigError
from taaf.models.heads.base import StepOutputs
from taaf.models.network import MultimodalSnn
from taaf.training.config import LossConfig, OptimiserConfig, TrainConfig, from_dict
from taaf.training.data import InMemory
from taaf.training.distributed import Ranks
from taaf.training.losses import semantic_alignment_loss
from taaf.training.schedule import cosine_factor, make_schedule
from taaf.training.strategies.options import LossOptions
from taaf.training.strategies.scmrl import CrossModal
from taaf.training.trainer import Trainer


def _sao(first: np.ndarray, second: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    total, n = 0.0, len(labels)
    for i in range(n):
        scores = [float(first[i] @ second[j]) / temperature for j in range(n)]
        norm = max(scores) + math.log(sum(math.exp(s - max(scores)) for s in scores))
        total += sum(scores[j] - norm for j in range(n) if labels[i] == labels[j])
    return -total / n**2


def test_semantic_alignment() -> None:
    """-mean_ij 1[y_i = y_j] log softmax_j(f_1 f_2^T / tau). Seen failing with softmax over i, with a mean over pairs only."""
    rng = np.random.default_rng(0)
    first, second, labels = rng.random((9, 5)), rng.random((9, 5)), rng.integers(0, 3, 9)
    for temperature in (0.07, 1.0):
        found = semantic_alignment_loss(*map(torch.from_numpy, (first, second, labels)), temperature)
        assert found.item() == pytest.approx(_sao(first, second, labels, temperature), abs=1e-12)
    assert semantic_alignment_loss(*map(torch.from_numpy, (first, second, labels))).item() == pytest.approx(
        _sao(first, second, labels, 0.07), abs=1e-12
    )


@pytest.mark.parametrize("sao", [0.0, 0.5])
def test_whole_loss(sao: float) -> None:
    """CE of the time mean with smoothed labels, plus the weighted alignment of residuals averaged over time.

    Seen failing with cross entropy per step, with alignment of the last step only.
    """
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(6, 4, 3)), rng.integers(0, 3, 6)
    residuals = {m: rng.random((6, 4, 5)) for m in ("event", "audio")}
    mean = logits.mean(1)
    log_p = mean - np.log(np.exp(mean).sum(1, keepdims=True))
    target = 0.9 * np.eye(3)[labels] + 0.1 / 3
    expected = -(target * log_p).sum(1).mean() + sao * _sao(*(r.mean(1) for r in residuals.values()), labels, 0.07)
    alpha = torch.full((6, 4), 0.25, dtype=torch.float64)
    wide = {m: torch.from_numpy(r) for m, r in residuals.items()}
    output = StepOutputs({"fused": torch.from_numpy(logits)}, {"fused": alpha}, residuals=wide)
    loss, watched = CrossModal(LossOptions(sao=sao)).loss(None, {}, output, torch.from_numpy(labels))  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert ("loss_sao" in watched) == bool(sao)


def test_warm_up_and_cosine() -> None:
    """Linear over the warm-up, then half a cosine to 0, as AdamW sees it. Seen failing with a warm-up of one step more."""
    o = OptimiserConfig(epochs=4, schedule="cosine", warmup_epochs=1, learning_rate=0.3)
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=o.learning_rate)
    schedule, rates = make_schedule(optimiser, o, 5), []
    for _ in range(20):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    rising = [0.3 * (k + 1) / 6 for k in range(5)]
    falling = [0.3 * 0.5 * (1 + math.cos(math.pi * k / 15)) for k in range(15)]
    np.testing.assert_allclose(rates, rising + falling, atol=1e-12)
    assert cosine_factor(20, 5, 20) == 0 and cosine_factor(0, 0, 1) == 1


def test_loss_of_three_readouts() -> None:
    """CMCI: the cross entropies of all three, with smoothed labels; beta weighs those of the modalities."""
    rng = np.random.default_rng(2)
    logits, labels = {u: rng.normal(size=(6, 4, 3)) for u in ("fused", "event", "audio")}, rng.integers(0, 3, 6)
    target, expected = 0.8 * np.eye(3)[labels] + 0.2 / 3, 0.0
    for u, x in logits.items():
        mean = x.mean(1)
        log_p = mean - np.log(np.exp(mean).sum(1, keepdims=True))
        expected -= (target * log_p).sum(1).mean() * (1 if u == "fused" else 0.5)
    alpha = torch.full((6, 4), 0.25, dtype=torch.float64)
    output = StepOutputs({u: torch.from_numpy(x) for u, x in logits.items()}, dict.fromkeys(logits, alpha))
    options = LossOptions(beta=0.5, smoothing=0.2)
    loss, watched = CrossModal(options).loss(None, {}, output, torch.from_numpy(labels))  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(expected, abs=1e-12) and {"loss_fused", "loss_event", "loss_audio"} <= set(watched)


@pytest.mark.parametrize(
    ("head", "layers"),
    [
        ({"cross_modal": "none"}, 4),
        ({"cross_modal": "attention"}, 22),
        ({}, 22),
        ({"residual_layer": "none"}, 20),
        ({"attention_kind": "temporal"}, 14),
        ({"cross_modal": "weight_attention"}, 4),
        ({"cross_modal": "cmci"}, 7),
    ],
    ids=str,
)
def test_ablations_train(head: dict[str, Any], layers: int) -> None:
    """Each variant has the layers it uses, and every parameter but SAO's gets a gradient."""
    torch.manual_seed(0)
    model = MultimodalSnn(small_config(**head)).train()
    assert len(model.head.projections) == layers
    inputs = {"event": (torch.rand(4, 2, 34, 34, 8) < 0.2).float(), "audio": (torch.rand(4, 160, 12) < 0.3).float()}
    output = model(inputs)
    mode = head.get("cross_modal", "residual")
    assert set(output.logits) == ({"fused", "event", "audio"} if mode == "cmci" else {"fused"})
    assert set(output.residuals) == ({"event", "audio"} if mode in ("attention", "residual") else set())
    loss, _ = CrossModal(LossOptions()).loss(model, inputs, output, torch.arange(4))
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_head_and_strategy_go_together() -> None:
    """One line says which setting does not fit."""
    rng = np.random.default_rng(0)
    data = InMemory(
        {"event": rng.random((4, 2, 34, 34, 8)) < 0.2, "audio": rng.random((4, 160, 12)) < 0.3},
        np.arange(4),
        tuple("0123456789"),
    )
    rate = {"branches": {"event": {**EVENT, "features": 20}, "audio": {**AUDIO, "features": 20}}, "head": {"type": "rate"}}
    counted = NetworkConfig.from_dict(rate)
    onnx = NetworkConfig.from_dict(rate | {"head": {"type": "onnx"}})
    for config, mention in (
        (TrainConfig(network=small_config()), r"loss\.balance \(='taaf'\): head 'scmrl' is trained with scmrl"),
        (
            TrainConfig(loss=LossConfig(balance="scmrl")),
            r"\(='scmrl'\): head 'taaf' is trained with none, la, taaf, late_fusion, ogm_ge, pmr, pmr_paper, agm, cmci, misnet$",
        ),
        (TrainConfig(loss=LossConfig(balance="readout")), r"\(='readout'\): head 'taaf' is trained with none"),
        (TrainConfig(network=onnx), r"\(='onnx'\): is made by exporting a module of one's own, not trained here"),
        (TrainConfig(network=counted), r"\(='taaf'\): head 'rate' is trained with readout"),
    ):
        with pytest.raises(ConfigError, match=mention):
            Trainer(config, data, data, Ranks.single())
    with pytest.raises(ConfigError, match="head.type \\(='both'\\): unknown; allowed: none, onnx, rate, scmrl, taaf"):
        from_dict({"head": {"type": "both"}})
    with pytest.raises(ConfigError, match="head.fusion \\(='film'\\): unknown; allowed: sum, concat"):
        from_dict(small_tables(fusion="film"))


def test_modality_drop_silences_one_of_both() -> None:
    """Half of the samples, either modality, never both; seen failing with both conditions on the same draw."""
    n = 400
    data = InMemory(
        {"event": np.ones((n, 2, 34, 34, 8)), "audio": np.ones((n, 160, 12))}, np.arange(n) % 10, tuple("0123456789")
    )
    optimiser = OptimiserConfig(batch_size=n, shift_pixels=0, audio_drop=0.0, modality_drop=0.5)
    config = TrainConfig(network=small_config(), loss=LossConfig(balance="scmrl"), optimiser=optimiser)
    trainer = Trainer(config, data, data, Ranks.single())
    inputs, _ = trainer._augmented(data.batch(range(n)), n, torch.Generator().manual_seed(0))
    kept = torch.stack([x.flatten(1).mean(1) for x in inputs.values()])
    assert set(kept.unique().tolist()) == {0.0, 1.0} and (kept.sum(0) >= 1).all()
    assert all(0.17 < float(1 - k.mean()) < 0.33 for k in kept)
