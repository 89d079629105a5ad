"""What S-CMRL (arXiv 2502.12488) is compared with in its public code, on the same tokens, written once for torch and NumPy.

WeightAttention, per modality with tokens x and those of the other modality y:

    w(t) = W_2 (W_1 [mean_i x(t, i), mean_i y(t, i)] + b_1) + b_2,   x <- w(t) x,   x <- x + MLP(x),   f(t) = mean_i x(t, i)

no softmax, no spikes in between; f of both are added (or joined) and read out as S-CMRL's. CMCI (cross-modality current integration,
ICONIP 2023) has three readouts, each trained with its own cross entropy:

    z = LIF(BN(W [x, y])),  z <- z + MLP(z),   O = W_f mean_i z + b_f          all modalities
    x <- x + MLP_m(x),                         O_m = W_m mean_i x + b_m        each alone

Ours, and why: the means in front of W_1 are sums times a power of two next to 1 / n, and W_1, W_2 and w are rounded to 1/64 within
+-4, because then all of it is exact; one batch norm on CMCI's summed currents; where the numbers of tokens differ, z has the tokens of
the first modality, and its token i reads token floor(i n_second / n_first) of the second.
"""

from collections.abc import Mapping
from typing import Any

from taaf.models.cross_modal import divisor_bits, mlp_shapes, paired, with_mlp
from taaf.models.fusion_parts import linear
from taaf.models.heads.base import FUSED, Array, Ops, Project

WEIGHT_ATTENTION, CMCI = "weight_attention", "cmci"
Names = tuple[str, str]


def weight_arrays(names: Names, channels: int) -> dict[str, Array]:
    """W_1, b_1, W_2 and b_2 of both modalities."""
    found: dict[str, Array] = {}
    for m in names:
        found |= {f"{m}_squeeze_weight": Array((channels, 2 * channels)), f"{m}_squeeze_bias": Array((channels,))}
        found |= {f"{m}_score_weight": Array((1, channels)), f"{m}_score_bias": Array((1,))}
    return found


def weight_attention(ops: Ops, arrays: Mapping[str, Any], project: Project, tokens: Mapping[str, Any]) -> list[Any]:
    """Tokens (N, T, n, C) of both modalities -> features f (N, T, C) of both."""
    mean = {m: x.sum(axis=2) * 2.0 ** -divisor_bits(x.shape[2]) for m, x in tokens.items()}
    found = []
    for m, other in zip(tokens, reversed(list(tokens)), strict=True):
        p = {
            role: ops.on_grid(arrays[f"{m}_{role}"])
            for role in ("squeeze_weight", "squeeze_bias", "score_weight", "score_bias")
        }
        hidden = linear(ops.concatenate([mean[m], mean[other]]), p["squeeze_weight"], p["squeeze_bias"])
        weight = ops.on_grid(linear(hidden, p["score_weight"], p["score_bias"]))  # (N, T, 1)
        x = with_mlp(ops.lif, project, m, weight[..., None] * tokens[m])
        found.append(x.sum(axis=2) / x.shape[2])
    return found


def current_shapes(names: Names, channels: int, ratio: int) -> dict[str, tuple[int, int]]:
    """CMCI's spiking dense layers -> (outputs, inputs)."""
    found = {f"{FUSED}_current": (channels, 2 * channels)}
    return found | {f"{m}_{role}": s for m in (FUSED, *names) for role, s in mlp_shapes(channels, ratio).items()}


def readout_arrays(names: Names, channels: int, classes: int) -> dict[str, Array]:
    """CMCI's three classifiers."""
    found: dict[str, Array] = {}
    for u in (FUSED, *names):
        found |= {f"readout_{u}_weight": Array((classes, channels)), f"readout_{u}_bias": Array((classes,))}
    return found


def current_integration(ops: Ops, arrays: Mapping[str, Any], project: Project, tokens: Mapping[str, Any], output: str) -> Any:
    """Logits (N, T, classes) of one output of CMCI: "fused" or a modality."""
    if output == FUSED:
        first, second = tokens.values()
        both = ops.concatenate([first, second[:, :, paired(first.shape[2], second.shape[2])]])
        x = ops.lif(project(f"{FUSED}_current", both))
    else:
        x = tokens[output]
    x = with_mlp(ops.lif, project, output, x)
    return linear(x.sum(axis=2) / x.shape[2], arrays[f"readout_{output}_weight"], arrays[f"readout_{output}_bias"])


def mac_parts(kind: str, tokens: Mapping[str, int], channels: int, ratio: int, steps: int) -> dict[str, int]:
    """Dense multiply-accumulates of one fused decision by part, as S-CMRL's are told apart."""
    first, n = next(iter(tokens.values())), sum(tokens.values())
    mlp = 2 * steps * channels * channels * ratio
    if kind == CMCI:
        return {"attention products": 0, "attention projections": 2 * steps * first * channels * channels, "mlp": first * mlp}
    squeeze = 2 * steps * (2 * channels * channels + channels)
    return {"attention products": steps * n * channels, "attention projections": squeeze, "mlp": n * mlp}
