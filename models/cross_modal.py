"""Cross-modal residual learning of S-CMRL (arXiv 2502.12488) on tokens, written once for torch and NumPy.

Per modality, x are its tokens and y those of the other modality, (N, T, n, C):

    q = LIF(BN(W_q x)),  k = LIF(BN(W_k y)),  v = LIF(BN(W_v y))
    SCSA = LIF(BN(W_o LIF(0.25 (q k^T) v)))      attention over the tokens of each step, several heads, no softmax
    TCSA = the same over the time steps of each token, with weights of its own
    CCSSA(t, i) = 2^-b  sum_j SCSA(t, j) * sum_s TCSA(s, i)
    x_res = LIF(BN(W_r CCSSA)),   x <- x + alpha x_res,   x <- x + LIF(BN(W_2 LIF(BN(W_1 x))))
    f(t) = mean_i x(t, i)

The host neuron is ``v <- v / 2 + I``, a spike and a reset to 0 where v > 1: the original's LIF (tau 2, ``v <- v + (I - v) / 2``)
in units of half its threshold, and exactly its attention neuron with threshold 0.5.

Ours, and why: sums instead of means in CCSSA with b = round(log2(n T)), because a power of two is exact and the batch norm
behind takes the rest of the factor; a batch norm before x_res, because weights are quantised; where modalities have unequal
numbers of tokens, token i attends over time to token floor(i n_other / n) of the other. With weights on a 1/64 grid and
biases on a 1/128 grid every voltage is a short dyadic number: float64 sums are exact in any order, and so are the spikes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ATTENTION_SCALE = 0.25
ATTENTION_ROLES = tuple(f"{kind}_{part}" for kind in ("spatial", "temporal") for part in "qkvo")

Project = Callable[[str, Any], Any]  # name, (..., C) -> current (..., C')
Lif = Callable[[Any], Any]  # current (N, T, ...) -> spikes


@dataclass(frozen=True)
class CrossModalOptions:
    """``mode``: "none", "attention" (x_res alone) or "residual"; ``names``: of the two modalities; C, heads, MLP ratio, alpha."""

    names: tuple[str, str]
    channels: int
    heads: int
    mlp_ratio: int
    mode: str
    alpha: float

    def projections(self) -> dict[str, tuple[int, int]]:
        """Name of every spiking dense layer -> (outputs, inputs)."""
        c, hidden = self.channels, self.channels * self.mlp_ratio
        own = {} if self.mode == "none" else dict.fromkeys((*ATTENTION_ROLES, "residual"), (c, c))
        own |= {"mlp1": (hidden, c), "mlp2": (c, hidden)}
        return {f"{m}_{role}": shape for m in self.names for role, shape in own.items()}


def tokens_of(spikes: Any, channels: int) -> Any:
    """Spikes of a stem (N, T, 2 C n), [p | x] -> tokens p + x, (N, T, n, C) in {0, 1, 2}."""
    both = spikes.reshape(*spikes.shape[:2], 2, channels, -1)
    return (both[:, :, 0] + both[:, :, 1]).swapaxes(2, 3)


def paired(n_own: int, n_other: int) -> list[int]:
    """Token of the other modality that each own token attends to over time."""
    return [i * n_other // n_own for i in range(n_own)]


def attend(lif: Lif, project: Project, name: str, own: Any, other: Any, heads: int) -> Any:
    """SCSA (``name`` ends in "spatial") or TCSA ("temporal"): own (N, T, n, C), other (N, T, m, C) -> spikes (N, T, n, C)."""
    q, k, v = (lif(project(f"{name}_{part}", x)) for part, x in (("q", own), ("k", other), ("v", other)))
    temporal = name.endswith("temporal")
    if temporal:
        pairs = paired(own.shape[2], other.shape[2])
        q, k, v = q.swapaxes(1, 2), k[:, :, pairs].swapaxes(1, 2), v[:, :, pairs].swapaxes(1, 2)  # (N, n, T, C)
    split = [x.reshape(*x.shape[:3], heads, -1).swapaxes(2, 3) for x in (q, k, v)]  # (N, ., heads, ., C / heads)
    mixed = ATTENTION_SCALE * (split[0] @ split[1].swapaxes(3, 4) @ split[2])
    mixed = mixed.swapaxes(2, 3).reshape(q.shape)
    mixed = mixed.swapaxes(1, 2) if temporal else mixed
    return lif(project(f"{name}_o", lif(mixed)))


def divisor_bits(n_tokens: int, n_steps: int) -> int:
    """b of CCSSA: 2^b is the power of two next to the number of products' terms."""
    return round(math.log2(n_tokens * n_steps))


def cross_modal(options: CrossModalOptions, lif: Lif, project: Project, first: Any, second: Any) -> list[tuple[Any, Any]]:
    """Tokens (N, T, n, C) of both modalities -> per modality features f and mean residual, (N, T, C) each.

    The mean over tokens of x_res (None in mode "none") is what the semantic alignment of training compares.
    """
    found = []
    for name, own, other in zip(options.names, (first, second), (second, first), strict=True):
        n_tokens, x, residual = own.shape[2], own, None
        if options.mode != "none":
            spatial = attend(lif, project, f"{name}_spatial", own, other, options.heads)
            temporal = attend(lif, project, f"{name}_temporal", own, other, options.heads)
            scale = 2.0 ** -divisor_bits(n_tokens, own.shape[1])
            crossed = scale * (spatial.sum(axis=2, keepdims=True) * temporal.sum(axis=1, keepdims=True))
            branch = lif(project(f"{name}_residual", crossed))
            x = branch if options.mode == "attention" else own + options.alpha * branch
            residual = branch.sum(axis=2) / n_tokens
        x = x + lif(project(f"{name}_mlp2", lif(project(f"{name}_mlp1", x))))
        found.append((x.sum(axis=2) / n_tokens, residual))
    return found


def mac_parts(options: CrossModalOptions, tokens: tuple[int, int], steps: int) -> dict[str, int]:
    """Dense multiply-accumulates of one window by part: q k^T v products, projections of the attention, and MLP."""
    c, parts = options.channels, {"attention products": 0, "attention projections": 0, "mlp": 0}
    for n, m in (tokens, tokens[::-1]):
        if options.mode != "none":
            parts["attention products"] += 2 * c * steps * n * (m + steps) + c * steps * n  # SCSA, TCSA, their product
            parts["attention projections"] += steps * c * c * (2 * n + 4 * m + 3 * n)  # q; k, v; o and residual
        parts["mlp"] += 2 * steps * n * c * c * options.mlp_ratio
    return parts
