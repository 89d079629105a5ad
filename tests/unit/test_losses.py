"""Eqs 8-10 against float64 formulas written out in NumPy."""

import numpy as np
import pytest
import torch

from taaf.training.losses import agl_loss, modulation, total_loss, true_class_score


def _random(n: int = 5, steps: int = 4, classes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    alpha = rng.random((n, steps))
    return rng.normal(size=(n, steps, classes)), rng.integers(0, classes, n), alpha / alpha.sum(1, keepdims=True)


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -log_p[np.arange(len(labels)), :, labels]  # (N, T)


def test_agl_loss_is_eq_8_and_9() -> None:
    """(1 - lam) sum_t alpha CE + lam mean MSE(O, phi)."""
    logits, labels, alpha = _random()
    expected = 0.9 * (alpha * _cross_entropy(logits, labels)).sum(1).mean() + 0.1 * ((logits - 1.5) ** 2).mean()
    found = agl_loss(torch.tensor(logits), torch.tensor(labels), torch.tensor(alpha), lam=0.1, phi=1.5)
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_uniform_attention_recovers_tet_exactly() -> None:
    """With alpha = 1/T the loss is TET's: (1 - lam) (1/T) sum_t CE + lam MSE."""
    logits, labels, alpha = _random()
    tet = (1 - 1e-3) * _cross_entropy(logits, labels).mean() + 1e-3 * ((logits - 1) ** 2).mean()
    found = agl_loss(torch.tensor(logits), torch.tensor(labels), torch.full(alpha.shape, 0.25, dtype=torch.float64))
    assert found.item() == pytest.approx(tet, abs=1e-12)


def test_true_class_score() -> None:
    """Softmax of the time-averaged logits at the true class, summed over the batch, without gradient."""
    logits, labels, _ = _random()
    p = np.exp(logits.mean(1)) / np.exp(logits.mean(1)).sum(-1, keepdims=True)
    found = true_class_score(torch.tensor(logits, requires_grad=True), torch.tensor(labels))
    assert found.item() == pytest.approx(p[np.arange(len(labels)), labels].sum(), abs=1e-12) and not found.requires_grad


@pytest.mark.parametrize(("score", "other"), [(3.0, 2.0), (2.0, 3.0), (2.0, 2.0)])
def test_modulation_slows_only_the_stronger(score: float, other: float) -> None:
    """k = 1 - tanh(a rho) if rho > 1 else 1."""
    rho, k = modulation(torch.tensor(score), torch.tensor(other), strength=0.5)
    assert rho.item() == pytest.approx(score / other)
    assert k.item() == pytest.approx(1 - np.tanh(0.5 * score / other) if score > other else 1.0)


def test_total_loss_is_eq_10() -> None:
    """beta (k1 L1 + k2 L2) + L_f."""
    losses = {"fused": torch.tensor(3.0), "event": torch.tensor(5.0), "audio": torch.tensor(7.0)}
    assert total_loss(losses, {"event": 0.5, "audio": 1.0}, beta=2.0).item() == 2 * (0.5 * 5 + 7) + 3
