"""Fusion of two feature streams into per-step logits, written once for torch and NumPy.

Every fusion takes the aligned feature spikes h_1, h_2 of shape (N, T, F) and a dictionary of arrays, and returns the
logits of both modalities together and of each alone, (N, T, C) each. Only operations that torch tensors and NumPy arrays
share are used; what differs between the two libraries is passed in as `Ops`. Training runs these functions on torch
float32, the deployed host head on NumPy float64.

Linear maps are stored as (out, in) like torch's: ``linear(h, W, b) = h W^T + b``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Arrays = Mapping[str, Any]
Logits = tuple[Any, Any, Any]  # fused, first alone, second alone
SPIKING_GRID = 64  # weights in front of a spiking fusion neuron are multiples of 1/64: exact sums in any order
SPIKING_LIMIT = 4.0
SCA_HEADS = 8


@dataclass(frozen=True)
class Ops:
    """What torch and NumPy spell differently.

    Attributes
    ----------
    sigmoid, zeros_like : callable
        Elementwise.
    concatenate : callable
        Of a list of arrays along the last axis.
    softmax : callable
        Over the last axis.
    on_grid : callable
        Round to multiples of 1/`SPIKING_GRID` within +-`SPIKING_LIMIT` (torch: straight-through derivative).
    lif : callable
        The host neuron over axis 1 of a current (N, T, F): ``v <- v / 2 + I``, a spike and a reset to 0 where v > 1.
    """

    sigmoid: Callable[[Any], Any]
    zeros_like: Callable[[Any], Any]
    concatenate: Callable[[list[Any]], Any]
    softmax: Callable[[Any], Any]
    on_grid: Callable[[Any], Any]
    lif: Callable[[Any], Any]


@dataclass(frozen=True)
class Fusion:
    """One way to fuse.

    Attributes
    ----------
    shapes : callable
        (features F, classes C) -> {array name: shape}; one-dimensional arrays are biases.
    outputs : callable
        (ops, arrays, h_1, h_2) -> (fused, first alone, second alone).
    source : str
        Where the definition comes from, and what of it is ours.
    uses : int
        How often each weight matrix is applied per step.
    """

    shapes: Callable[[int, int], dict[str, tuple[int, ...]]]
    outputs: Callable[[Ops, Arrays, Any, Any], Logits]
    source: str
    uses: int = 1

    def n_macs(self, features: int, classes: int) -> int:
        """Dense multiply-accumulates of one step: the sizes of the weight matrices, times `uses`."""
        return self.uses * sum(shape[0] * shape[1] for shape in self.shapes(features, classes).values() if len(shape) == 2)


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """``x W^T + b`` over the last axis."""
    y = x @ weight.T
    return y if bias is None else y + bias


def by_silence(joint: Callable[[Ops, Arrays, Any, Any], Any]) -> Callable[[Ops, Arrays, Any, Any], Logits]:
    """Outputs of a fusion that has no separate halves: a modality alone is the fusion with the other one silent."""

    def outputs(ops: Ops, p: Arrays, first: Any, second: Any) -> Logits:
        silent = ops.zeros_like(first), ops.zeros_like(second)
        return joint(ops, p, first, second), joint(ops, p, first, silent[1]), joint(ops, p, silent[0], second)

    return outputs


def _concat(_ops: Ops, p: Arrays, first: Any, second: Any) -> Logits:
    """O_f = W [h1, h2] + b,  O_1 = W1 h1 + b/2,  O_2 = W2 h2 + b/2 (arXiv 2505.14535, Eq. 4)."""
    weight, half = p["classifier_weight"], first.shape[-1]
    one, two = linear(first, weight[:, :half]), linear(second, weight[:, half:])
    bias = p["classifier_bias"]
    return one + two + bias, one + bias / 2, two + bias / 2


def _sum_shared(_ops: Ops, p: Arrays, first: Any, second: Any) -> Logits:
    """O_f = W (h1 + h2) + b,  O_m = W h_m + b/2."""
    one, two, bias = linear(first, p["classifier_weight"]), linear(second, p["classifier_weight"]), p["classifier_bias"]
    return one + two + bias, one + bias / 2, two + bias / 2


def _sum_separate(_ops: Ops, p: Arrays, first: Any, second: Any) -> Logits:
    """O_m = W_m h_m + b_m,  O_f = O_1 + O_2."""
    one = linear(first, p["first_weight"], p["first_bias"])
    two = linear(second, p["second_weight"], p["second_bias"])
    return one + two, one, two


def _film(_ops: Ops, p: Arrays, first: Any, second: Any) -> Any:
    """gamma, beta = split(W_film h2 + b_film);  O = W (gamma * h1 + beta) + b."""
    modulation, half = linear(second, p["film_weight"], p["film_bias"]), first.shape[-1]
    modulated = modulation[..., :half] * first + modulation[..., half:]
    return linear(modulated, p["classifier_weight"], p["classifier_bias"])


def _gated(ops: Ops, p: Arrays, first: Any, second: Any) -> Any:
    """O = W (sigmoid(W_g h2 + b_g) * (W_v h1 + b_v)) + b."""
    gate = ops.sigmoid(linear(second, p["gate_weight"], p["gate_bias"]))
    value = linear(first, p["value_weight"], p["value_bias"])
    return linear(gate * value, p["classifier_weight"], p["classifier_bias"])


def _weight_attention(ops: Ops, p: Arrays, first: Any, second: Any) -> Any:
    """w_m = FC(F -> 1)(FC(2 F -> F)([h_m, h_other])), no softmax;  O = W [w_1 h_1, w_2 h_2] + b."""
    gated = []
    for name, own, other in (("first", first, second), ("second", second, first)):
        hidden = linear(ops.concatenate([own, other]), p[f"{name}_squeeze_weight"], p[f"{name}_squeeze_bias"])
        gated.append(own * linear(hidden, p[f"{name}_score_weight"], p[f"{name}_score_bias"]))
    return linear(ops.concatenate(gated), p["classifier_weight"], p["classifier_bias"])


def _sca(ops: Ops, p: Arrays, first: Any, second: Any) -> Any:
    """q = LIF(W_q h_own), k, v = LIF(W_k,v h_other);  x = LIF(W_o LIF(0.25 (q k^T) v)) replaces h_own."""
    crossed = []
    for name, own, other in (("first", first, second), ("second", second, first)):
        weight = {k: ops.on_grid(p[f"{name}_{k}_spiking_weight"]) for k in ("q", "k", "v", "o")}
        q, k, v = (ops.lif(linear(x, weight[w])) for x, w in ((own, "q"), (other, "k"), (other, "v")))
        heads = [_heads(x) for x in (q, k, v)]  # each (N, heads, T, F / heads)
        mixed = 0.25 * (heads[0] @ heads[1].swapaxes(2, 3) @ heads[2])
        mixed = ops.lif(mixed.swapaxes(1, 2).reshape(own.shape))
        crossed.append(ops.lif(linear(mixed, weight["o"])))
    return linear(ops.concatenate(crossed), p["classifier_weight"], p["classifier_bias"])


def _heads(x: Any) -> Any:
    n, steps, features = x.shape
    count = SCA_HEADS if features % SCA_HEADS == 0 else 1
    return x.reshape(n, steps, count, features // count).swapaxes(1, 2)


def _cmci(ops: Ops, p: Arrays, first: Any, second: Any) -> Any:
    """z = LIF(W_1 h_1 + W_2 h_2);  O = W z + b."""
    weights = (ops.on_grid(p[f"{name}_spiking_weight"]) for name in ("first", "second"))
    current = sum(linear(h, weight) for h, weight in zip((first, second), weights, strict=True))
    return linear(ops.lif(current), p["classifier_weight"], p["classifier_bias"])


def _gate_shapes(f: int, c: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("first", "second"):
        shapes |= {f"{name}_squeeze_weight": (f, 2 * f), f"{name}_squeeze_bias": (f,)}
        shapes |= {f"{name}_score_weight": (1, f), f"{name}_score_bias": (1,)}
    return shapes | _classifier(2 * f, c)


def _classifier(n_in: int, classes: int) -> dict[str, tuple[int, ...]]:
    return {"classifier_weight": (classes, n_in), "classifier_bias": (classes,)}


FUSIONS: dict[str, Fusion] = {
    "concat": Fusion(lambda f, c: _classifier(2 * f, c), _concat, "arXiv 2505.14535, Eq. 4"),
    "sum": Fusion(
        lambda f, c: _classifier(f, c), _sum_shared, "arXiv 2505.14535 names it; shared head with halved bias is our reading",
        uses=2,
    ),
    "sum_separate": Fusion(
        lambda f, c: {"first_weight": (c, f), "first_bias": (c,), "second_weight": (c, f), "second_bias": (c,)},
        _sum_separate, "SumFusion of OGM-GE (CVPR 2022): a head per modality",
    ),
    "film": Fusion(
        lambda f, c: {"film_weight": (2 * f, f), "film_bias": (2 * f,), **_classifier(f, c)},
        by_silence(_film), "FiLM of OGM-GE (CVPR 2022): audio modulates the other modality",
    ),
    "gated": Fusion(
        lambda f, c: {
            "gate_weight": (f, f), "gate_bias": (f,), "value_weight": (f, f), "value_bias": (f,), **_classifier(f, c)
        },
        by_silence(_gated), "GatedFusion of OGM-GE (CVPR 2022): audio gates the other modality",
    ),
    "weight_attention": Fusion(
        _gate_shapes, by_silence(_weight_attention),
        "WeightAttention as in S-CMRL's comparison code; ours: no tokens to average, concatenation instead of the sum",
    ),
    "sca": Fusion(
        lambda f, c: {f"{n}_{k}_spiking_weight": (f, f) for n in ("first", "second") for k in "qkvo"} | _classifier(2 * f, c),
        by_silence(_sca),
        "spiking cross attention (SMMT) as in S-CMRL's comparison code; ours: the time steps are the tokens, 8 heads, no batch "
        "norm, tau 0.5, weights on a 1/64 grid, concatenation",
    ),
    "cmci": Fusion(
        lambda f, c: {f"{n}_spiking_weight": (f, f) for n in ("first", "second")} | _classifier(f, c), by_silence(_cmci),
        "cross-modality current integration (ICONIP 2023) as in S-CMRL's comparison code; ours: no spiking MLP behind it, the "
        "single-modality outputs by silencing, tau 0.5, weights on a 1/64 grid",
    ),
}  # fmt: skip


def temporal_attention(ops: Ops, scores_from: Any, query: Any, key: Any) -> Any:
    """alpha(t): mean over queries of softmax over keys of ``Q K^T / sqrt(d)`` (arXiv 2505.14535, Eqs 5-7).

    Parameters
    ----------
    scores_from : array
        (N, T, D): the logits O_u (default reading, D = C) or the fused features (option, D = 2 F).
    query, key : array
        W^Q and W^K, (D, d).

    Returns
    -------
    array
        (N, T), non-negative, rows sum to 1.
    """
    q, k = scores_from @ query, scores_from @ key
    return ops.softmax(q @ k.swapaxes(1, 2) / query.shape[-1] ** 0.5).mean(1)
