"""Quantisation-aware synapses: the forward pass uses exactly the folded integer weights and biases that are exported.

A synapse group computes, in threshold units,

    y = W_q * s + b_q,   W_q = 2 round(W g / sigma * V / 2) / V,   b_q = round((beta - mu g / sigma) V) / V

with V = ``v_th_mant``, (g, beta) the batch norm's gain and offset and (mu, sigma) its *running* statistics. While
statistics are being learned (``frozen`` is False) and the module trains, the offset and an extra gain come from the
batch instead (Krishnamoorthi, arXiv 1806.08342, section 3.2.2: correction, then freeze). In ``eval`` mode or when
frozen, y is what the chip computes, bit for bit.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from taaf.models.fused_norm import moments, normalise
from taaf.models.lif import BIAS_LIMIT, WEIGHT_MAX, WEIGHT_MIN

EPS = 1e-5
_MOMENTUM = 0.1
GAIN_MIN = 0.05


def round_ste(x: torch.Tensor) -> torch.Tensor:
    """Round to nearest even, with the identity as derivative."""
    return x + (torch.round(x) - x).detach()


def batch_moments(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance per channel (axis 1) over the batch, which under torchrun is that of all ranks.

    The sums are taken in float64: y lies on a dyadic grid for binary inputs, so they do not depend on how the batch is
    spread over ranks.
    """
    n = y.numel() // y.shape[1]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        from torch.distributed.nn.functional import all_reduce

        everywhere = all_reduce(torch.cat([*moments(y), torch.full((1,), n, dtype=torch.float64, device=y.device)]))
        mean, square = (everywhere[:-1] / everywhere[-1]).chunk(2)
    else:
        mean, square = (total / n for total in moments(y))
    return mean.to(y.dtype), (square - mean * mean).clamp_min(0).to(y.dtype)


class _EvenIntegers(torch.autograd.Function):
    """``2 round(x)`` for ``x = clip(w scale v_th / 2)``, with the identity as the rounding's derivative; scale (C,) or None."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, scale: torch.Tensor | None, v_th: int) -> torch.Tensor:
        by = None if scale is None else scale.reshape(-1, *[1] * (weight.dim() - 1))
        x = (weight if by is None else weight * by) * (v_th / 2)
        ctx.v_th = v_th
        ctx.save_for_backward(weight, by, (x >= WEIGHT_MIN / 2) & (x <= WEIGHT_MAX / 2))
        return x.clamp_(WEIGHT_MIN / 2, WEIGHT_MAX / 2).round_().mul_(2).add_(0.0)  # no negative zeros, which files would show

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, by, inside = ctx.saved_tensors
        grad = torch.where(
            inside, grads[0] * ctx.v_th, grads[0].new_zeros(())
        )  # in the order of `inside`, in which it is summed
        if by is None:
            return grad, None, None
        to_scale = (grad * weight).sum(list(range(1, weight.dim()))) if ctx.needs_input_grad[1] else None
        return grad.mul_(by), to_scale, None


class QatSynapse(nn.Module):
    """Base of the two synapse kinds; holds the weight, the batch norm and the folding."""

    def __init__(self, weight: torch.Tensor, v_th_mant: int, gain: float) -> None:
        super().__init__()
        n_out = weight.shape[0]
        self.v_th_mant = v_th_mant
        self.frozen = False
        self.weight = nn.Parameter(weight)
        self.gain = nn.Parameter(torch.full((n_out,), float(gain)))
        self.offset = nn.Parameter(torch.zeros(n_out))
        self.register_buffer("running_mean", torch.zeros(n_out))
        self.register_buffer("running_var", torch.ones(n_out))

    @abstractmethod
    def linear(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Apply the linear map; x is (N * T, ...)."""

    def fold_scale(self) -> torch.Tensor:
        """Per-channel factor ``g / sigma`` that batch norm puts on the weights.

        In float64 first: torch's float32 root is not correctly rounded everywhere (MKL), and the compiler's must be the same.
        """
        sigma = torch.sqrt(self.running_var.double() + EPS)
        return (self.gain.clamp_min(GAIN_MIN).double() / sigma).to(self.gain.dtype)

    def integer_weight(self, scale: torch.Tensor | None = None) -> torch.Tensor:
        """Folded weight as even integers in [-256, 254] (float tensor, differentiable); ``scale``: `fold_scale`, if it is known."""
        found: torch.Tensor = _EvenIntegers.apply(self.weight, self.fold_scale() if scale is None else scale, self.v_th_mant)
        return found

    def integer_bias(self) -> torch.Tensor:
        """Folded bias as integers in [-4095, 4095] (float tensor, differentiable)."""
        bias = (self.offset - self.running_mean * self.fold_scale()) * self.v_th_mant
        return round_ste(bias.clamp(-BIAS_LIMIT, BIAS_LIMIT))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.fold_scale()
        y = self.linear(x, self.integer_weight(scale) / self.v_th_mant)
        if self.frozen or not self.training:
            shape = (1, -1, *[1] * (y.dim() - 2))
            # the bias scales anew: its gradient for the gain is rounded apart from the weight's
            return y + (self.integer_bias() / self.v_th_mant).reshape(shape)
        mean, var = batch_moments(y)
        with torch.no_grad():
            self.running_mean += _MOMENTUM * (mean / scale - self.running_mean)
            self.running_var += _MOMENTUM * (var / scale**2 - self.running_var)
        gain = self.gain.clamp_min(GAIN_MIN) / torch.sqrt(var + EPS)
        return normalise(y, mean, gain, self.offset)


def _random_weight(*shape: int) -> torch.Tensor:
    weight = torch.empty(shape)
    return weight if weight.is_meta else nn.init.kaiming_normal_(weight)  # slow on the meta device, where it does nothing


class QatConv2d(QatSynapse):
    """Convolution (square odd kernel, padding k // 2) without bias, with batch norm; x (N, C, H, W) -> (N, C', H', W')."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, v_th_mant: int, gain: float = 1.0) -> None:
        super().__init__(_random_weight(n_out, n_in, kernel, kernel), v_th_mant, gain)
        self.stride, self.padding = stride, kernel // 2

    def linear(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, weight, stride=self.stride, padding=self.padding)


class QatDense(QatSynapse):
    """Fully connected synapses without bias, with batch norm; x (N, F) -> (N, F')."""

    def __init__(self, n_in: int, n_out: int, v_th_mant: int, gain: float = 1.0) -> None:
        super().__init__(_random_weight(n_out, n_in), v_th_mant, gain)

    def linear(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, weight)


class QatRecurrent(QatDense):
    """`QatDense`, and synapses from the fed population's own spikes of the step before: weight_rec (F', F').

    Batch norm acts on what arrives from outside; ``W_rec_q = 2 round(W_rec V / 2) / V`` has no scale but its own.
    """

    def __init__(self, n_in: int, n_out: int, v_th_mant: int, gain: float = 1.0) -> None:
        super().__init__(n_in, n_out, v_th_mant, gain)
        recurrent = torch.empty(n_out, n_out)
        self.weight_rec = nn.Parameter(recurrent if recurrent.is_meta else nn.init.normal_(recurrent, 0, 0.5 * n_out**-0.5))

    def integer_recurrent_weight(self) -> torch.Tensor:
        """Recurrent weight as even integers in [-256, 254] (float tensor, differentiable)."""
        found: torch.Tensor = _EvenIntegers.apply(self.weight_rec, None, self.v_th_mant)
        return found


def over_time(synapse: Callable[[torch.Tensor], torch.Tensor], spikes: torch.Tensor) -> torch.Tensor:
    """Apply a synapse group, or another map of single steps, to every step at once: (N, ..., T) -> (N, ..., T)."""
    n, steps = spikes.shape[0], spikes.shape[-1]
    flat = spikes.movedim(-1, 1).reshape(n * steps, *spikes.shape[1:-1])
    y = synapse(flat)
    return y.reshape(n, steps, *y.shape[1:]).movedim(1, -1)


def freeze_statistics(module: nn.Module, frozen: bool = True) -> None:
    """From now on train with the running statistics, i.e. with exactly what will be deployed."""
    for part in module.modules():
        if isinstance(part, QatSynapse):
            part.frozen = frozen


def is_frozen(module: nn.Module) -> bool:
    """Whether `freeze_statistics` is in force."""
    return any(part.frozen for part in module.modules() if isinstance(part, QatSynapse))
