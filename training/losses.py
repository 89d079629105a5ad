"""Losses of TAAF-SNN (arXiv 2505.14535, Eqs 8-10) and TET (Deng et al. 2022), as we read them.

Sums over the batch go through `all_sum`, so that under torchrun they run over the global batch.
"""

import math

import torch
from torch.nn import functional


def all_sum(x: torch.Tensor) -> torch.Tensor:
    """Sum of ``x`` over the ranks of a distributed run (no gradient); ``x`` itself in a single process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        x = x.detach().clone()
        torch.distributed.all_reduce(x)
    return x


def batch_mean(x: torch.Tensor) -> torch.Tensor:
    """Mean of the rows of ``x`` (N, ...) over the global batch, with gradient."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return x.mean(0)
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(x.sum(0)) / all_sum(torch.tensor(float(len(x)), device=x.device))


def agl_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    alpha: torch.Tensor,
    lam: float = 1e-3,
    phi: float = 1.0,
    k: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention-guided loss of one output (Eqs 8, 9), batch mean.

    ``L = (1 - lam) sum_t k(t) alpha(t) CE(O(t), y) + lam mean_t k(t) MSE(O(t), phi)``. With ``k = 1``, ``alpha = 1/T`` this is
    TET's loss.

    Parameters
    ----------
    logits : torch.Tensor
        O(t), shape (N, T, C).
    labels : torch.Tensor
        Class indices, shape (N,).
    alpha : torch.Tensor
        Temporal weights, shape (N, T), each row sums to 1.
    lam, phi : float
        Weight and target of the mean-square term.
    k : torch.Tensor, optional
        Scale of each step, shape (N, T); default 1.
    """
    n, steps, classes = logits.shape
    ce = functional.cross_entropy(
        logits.reshape(n * steps, classes), labels.repeat_interleave(steps), reduction="none"
    ).reshape(n, steps)
    square = (logits - phi) ** 2
    if k is not None:
        alpha, square = k * alpha, k[..., None] * square
    return (1 - lam) * (alpha * ce).sum(1).mean() + lam * square.mean()


def readout_loss(logits: torch.Tensor, labels: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """``CE(sum_t alpha(t) O(t), y)``, batch mean: cross entropy of what is decided by, for logits (N, T, C) and alpha (N, T)."""
    return functional.cross_entropy((alpha[..., None] * logits).sum(1), labels)


def entropy_deficit(alpha: torch.Tensor, floor: float) -> torch.Tensor:
    """``mean_N max(0, floor log T - H(alpha))``: zero while the attention's entropy is above a fraction of its maximum.

    Ours: gradients flow through alpha, which can collapse on the easiest step. ``floor`` in 0..1.
    """
    entropy = -(alpha * alpha.clamp_min(1e-12).log()).sum(1)
    return (floor * math.log(alpha.shape[1]) - entropy).clamp_min(0).mean()


def semantic_alignment_loss(
    first: torch.Tensor, second: torch.Tensor, labels: torch.Tensor, temperature: float = 0.07
) -> torch.Tensor:
    """Semantic alignment optimisation of S-CMRL (arXiv 2502.12488, their public code): residual features of a class agree.

    ``S = f_1 f_2^T / temperature``, ``L_sao = -mean_ij 1[y_i = y_j] log softmax_j(S)_ij``; under torchrun per process.

    Parameters
    ----------
    first, second : torch.Tensor
        f_m (N, C): x_res averaged over tokens and time.
    labels : torch.Tensor
        Class indices, shape (N,).
    """
    score = (first @ second.T / temperature).log_softmax(1)
    return -(score * (labels[:, None] == labels[None, :])).mean()


def true_class_score(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """s_u summed over the batch: softmax probability of the true class of the time-averaged logits (no gradient)."""
    with torch.no_grad():
        return all_sum(logits.mean(1).softmax(-1).gather(1, labels[:, None]).sum())


def modulation(score: torch.Tensor, other: torch.Tensor, strength: float | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """rho = score / other and k = 1 - tanh(strength * rho) if rho > 1 else 1: the stronger modality is slowed.

    ``k`` has the shape of ``strength``: one number, or one per sample and step.
    """
    rho = score / other
    return rho, torch.where(rho > 1, 1 - torch.tanh(strength * rho), torch.ones_like(rho))


def total_loss(losses: dict[str, torch.Tensor], k: dict[str, torch.Tensor] | dict[str, float], beta: float) -> torch.Tensor:
    """Eq. 10: ``L = beta sum_m k_m L_m + L_fused``; ``losses`` holds "fused" and the modalities, ``k`` the modalities."""
    unimodal = sum((k[m] * losses[m] for m in k), start=torch.zeros((), device=losses["fused"].device))
    return beta * unimodal + losses["fused"]
