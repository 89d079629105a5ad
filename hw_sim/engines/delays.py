"""Dense layers with delays, all steps at once: ``a_i(t) = sum_j W_ij s_j(t - delay_ij)``, nothing before the window."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional


@dataclass(frozen=True)
class DelayPlan:
    """Delays of a dense layer, broadcastable to (F', F), and which of them occur."""

    steps: torch.Tensor
    distinct: tuple[int, ...]


def delay_plan(delay: np.ndarray) -> DelayPlan:
    """Prepare ``Dense.delay``."""
    return DelayPlan(torch.from_numpy(delay.astype(np.int64)), tuple(int(d) for d in np.unique(delay)))


def delayed_linear(x: torch.Tensor, weight: torch.Tensor, plan: DelayPlan) -> torch.Tensor:
    """Currents (T, N, F') of spikes (T, N, F).

    Delays of the targets move rows of the result, delays of the sources move the spikes, and delays of single synapses
    take one product per delay. Sums are those of the undelayed layer with some spikes left out, so its bound holds.
    """
    rows, columns = plan.steps.shape
    if columns == 1:
        return _moved(functional.linear(x, weight), plan.steps.flatten(), plan.distinct)
    if rows == 1:
        return functional.linear(_moved(x, plan.steps.flatten(), plan.distinct), weight)
    out = x.new_zeros(*x.shape[:2], len(weight))
    for d in plan.distinct:
        if d < len(x):
            out[d:] += functional.linear(x[: len(x) - d], weight * (plan.steps == d))
    return out


def _moved(x: torch.Tensor, steps: torch.Tensor, distinct: tuple[int, ...]) -> torch.Tensor:
    """Column i of (T, N, F) later by ``steps[i]`` (or all by ``steps[0]``)."""
    out = torch.zeros_like(x)
    for d in distinct:
        if d < len(x):
            which = (steps == d).expand(x.shape[-1])
            out[d:, :, which] = x[: len(x) - d, :, which]
    return out
