"""Batch norm over (N, C, ...) float32 values as two functions, forward and backward, bit-equal to the same operations in torch.

    mean = sum(y) / n,   var = sum(y^2) / n - mean^2        (`moments`: the two sums, per channel, in float64)
    z = (y - mean) gain + offset                            (`normalise`)

On the CPU compiled loops run over rows (`taaf.models.kernels.norm`); elsewhere, and for other types, torch's own operations. Sums
over y of the normalisation's gradients are torch's in either case: float32 sums depend on their order.
"""

from typing import Any

import torch

from taaf.models.kernels import norm
from taaf.models.kernels.tensors import array_of, over_first_axis


def moments(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of y and of its squares per channel (axis 1), float64 (C,): exact, in any order, where y lies on a dyadic grid."""
    if not _compiled(y):
        wide, over = y.double(), _others(y)
        return wide.sum(over), (wide * wide).sum(over)
    total, square = _Moments.apply(y)
    return total, square


def normalise(y: torch.Tensor, mean: torch.Tensor, gain: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """``(y - mean) gain + offset``; y (N, C, ...), the others (C,)."""
    if not _compiled(y):
        shape = (1, -1, *[1] * (y.dim() - 2))
        return (y - mean.reshape(shape)) * gain.reshape(shape) + offset.reshape(shape)
    z: torch.Tensor = _Normalised.apply(y, mean, gain, offset)
    return z


def _compiled(y: torch.Tensor) -> bool:
    return y.device.type == "cpu" and y.dtype == torch.float32 and y.is_contiguous()


def _others(y: torch.Tensor) -> list[int]:
    return [d for d in range(y.dim()) if d != 1]


def _rows(y: torch.Tensor) -> torch.Tensor:
    return y.contiguous().view(len(y), -1)


def _repeated(per_channel: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(C,) -> (R,): of every value of a row, what its channel has."""
    each = rows.shape[1] // len(per_channel)
    return (
        per_channel.contiguous() if each == 1 else per_channel[:, None].expand(-1, each).reshape(-1).contiguous()
    )  # of one channel it is a view


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(y)
        rows = _rows(y)

        def some(y: Any) -> torch.Tensor:
            sums = torch.zeros(2, rows.shape[1], dtype=torch.float64)
            norm.moments(y, *sums.numpy())
            return sums

        sums = torch.stack(over_first_axis(some, rows)).sum(0)
        total, square = sums if y.dim() == 2 else sums.view(2, y.shape[1], -1).sum(2)
        return total, square

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (y,) = ctx.saved_tensors
        rows = _rows(y)
        out, given = torch.empty_like(rows), [array_of(_repeated(g, rows)) for g in grads]
        over_first_axis(lambda y, o: norm.moments_backward(y, *given, o), rows, out)
        return out.view(y.shape)


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: torch.Tensor, mean: torch.Tensor, gain: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(y, mean, gain)
        rows = _rows(y)
        out, given = torch.empty_like(rows), [array_of(_repeated(p, rows)) for p in (mean, gain, offset)]
        over_first_axis(lambda y, o: norm.normalise(y, *given, o), rows, out)
        return out.view(y.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        (y, mean, gain), grad, over = ctx.saved_tensors, grads[0], _others(grads[0])
        if grad.is_contiguous():
            rows, to_y, to_gain = _rows(y), torch.empty_like(y), torch.empty_like(y)
            given = [array_of(_repeated(p, rows)) for p in (mean, gain)]
            over_first_axis(
                lambda y, g, to_y, to_gain: norm.normalise_backward(y, g, *given, to_y, to_gain),
                *(_rows(a) for a in (y, grad, to_y, to_gain)),
            )
        else:  # keeps the gradient's own order in memory, in which it is summed
            shape = (1, -1, *[1] * (y.dim() - 2))
            to_y, to_gain = grad * gain.reshape(shape), grad * (y - mean.reshape(shape))
        return to_y, -to_y.sum(over), to_gain.sum(over), grad.sum(over)
