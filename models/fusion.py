"""Fusion of feature streams into per-step logits, written once for torch and NumPy.

Every fusion takes the aligned feature spikes h_1, ..., h_M of shape (N, T, F_m) and a dictionary of arrays, and returns the
logits of all modalities together and of each alone, (N, T, C) each. Only operations that torch tensors and NumPy arrays
share are used; what differs between the two libraries is passed in as `Ops`. Training runs these functions on torch
float32, the deployed host head on NumPy float64.

The parts they share are in `taaf.models.fusion_parts`; fusions with neurons of their own in `taaf.models.spiking_fusion`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from taaf.models.fusion_parts import ALONE, Shapes, Sizes, classifier, linear, of_each, ordinal, total
from taaf.models.heads.base import Arrays, Ops
from taaf.models.spiking_fusion import cmci, cmci_shapes, misnet, misnet_shapes, sca, sca_shapes

SPIKING_GRID = 64  # weights in front of a spiking fusion neuron are multiples of 1/64: exact sums in any order
SPIKING_LIMIT = 4.0


@dataclass(frozen=True)
class Fusion:
    """One way to fuse.

    Attributes
    ----------
    shapes : callable
        (feature neurons per modality, classes C) -> {array name: shape}; one-dimensional arrays are biases.
    outputs : callable
        (ops, arrays, [h_1, ..., h_M]) -> [fused, first alone, ..., last alone].
    source : str
        Where the definition comes from, and what of it is ours.
    uses : int
        How often each weight matrix is applied per step; 0: once per modality.
    pairs_only : bool
        Defined for two modalities.
    equal_sizes : bool
        All modalities must have as many features.
    spikes_in : bool
        Its classifier sees spikes only, so that on a grid its sums are exact in any order and may drive neurons.
    additive : bool
        The joint output is the sum of the single ones, ``O_f = sum_m O_m``.
    """

    shapes: Callable[[Sizes, int], Shapes]
    outputs: Callable[[Ops, Arrays, list[Any]], list[Any]]
    source: str
    uses: int = 1
    pairs_only: bool = False
    equal_sizes: bool = True
    spikes_in: bool = False
    additive: bool = False

    def problem(self, sizes: Sizes) -> str | None:
        """Why it cannot fuse modalities of these sizes, or None."""
        if self.pairs_only and len(sizes) != 2:
            return f"is defined for two branches, found {len(sizes)}; allowed for any number: {', '.join(any_number())}"
        if self.equal_sizes and len(set(sizes)) > 1:
            allowed = [n for n, f in FUSIONS.items() if not f.equal_sizes and (len(sizes) == 2 or not f.pairs_only)]
            return f"needs branches of one size, found {', '.join(map(str, sizes))} features; allowed: {', '.join(allowed)}"
        return None

    def n_macs(self, sizes: Sizes, classes: int) -> int:
        """Dense multiply-accumulates of one fused step: the sizes of the weight matrices that it reads, times `uses`."""
        read = (shape for name, shape in self.shapes(sizes, classes).items() if len(shape) == 2 and ALONE not in name)
        return (self.uses or len(sizes)) * sum(shape[0] * shape[1] for shape in read)


def any_number() -> list[str]:
    """Fusions that are defined for any number of modalities."""
    return [name for name, fusion in FUSIONS.items() if not fusion.pairs_only]


def additive() -> list[str]:
    """Fusions whose joint output is the sum of the single ones."""
    return [name for name, fusion in FUSIONS.items() if fusion.additive]


def by_silence(joint: Callable[..., Any]) -> Callable[[Ops, Arrays, list[Any]], list[Any]]:
    """Outputs of a fusion that has no separate parts: a modality alone is the fusion with the others silent."""

    def outputs(ops: Ops, p: Arrays, hs: list[Any]) -> list[Any]:
        alone = [[h if i == k else ops.zeros_like(h) for i, h in enumerate(hs)] for k in range(len(hs))]
        return [joint(ops, p, *given) for given in (hs, *alone)]

    return outputs


def _concat(_ops: Ops, p: Arrays, hs: list[Any]) -> list[Any]:
    """O_f = W [h_1, ..., h_M] + b,  O_m = W_m h_m + b / M (arXiv 2505.14535, Eq. 4, M = 2)."""
    weight, bias, parts, at = p["classifier_weight"], p["classifier_bias"], [], 0
    for h in hs:
        parts.append(linear(h, weight[:, at : at + h.shape[-1]]))
        at += h.shape[-1]
    return [total(parts) + bias, *(part + bias / len(hs) for part in parts)]


def _sum_shared(_ops: Ops, p: Arrays, hs: list[Any]) -> list[Any]:
    """O_f = W sum_m h_m + b,  O_m = W h_m + b / M."""
    parts, bias = [linear(h, p["classifier_weight"]) for h in hs], p["classifier_bias"]
    return [total(parts) + bias, *(part + bias / len(hs) for part in parts)]


def _sum_separate(_ops: Ops, p: Arrays, hs: list[Any]) -> list[Any]:
    """O_m = W_m h_m + b_m,  O_f = sum_m O_m."""
    parts = [linear(h, p[f"{ordinal(i)}_weight"], p[f"{ordinal(i)}_bias"]) for i, h in enumerate(hs)]
    return [total(parts), *parts]


def _softmax_gated(ops: Ops, p: Arrays, *hs: Any) -> Any:
    """g = softmax_m(w_m h_m + b_m);  O = W sum_m g_m h_m + b."""
    scores = [linear(h, p[f"{ordinal(i)}_gate_weight"], p[f"{ordinal(i)}_gate_bias"])[..., 0] for i, h in enumerate(hs)]
    gate = ops.softmax(ops.stack(scores))
    mixed = total([gate[..., i : i + 1] * h for i, h in enumerate(hs)])
    return linear(mixed, p["classifier_weight"], p["classifier_bias"])


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


def _weight_attention_shapes(s: Sizes, c: int) -> Shapes:
    f = s[0]
    shapes: Shapes = {}
    for name in ("first", "second"):
        shapes |= {f"{name}_squeeze_weight": (f, 2 * f), f"{name}_squeeze_bias": (f,)}
        shapes |= {f"{name}_score_weight": (1, f), f"{name}_score_bias": (1,)}
    return shapes | classifier(2 * f, c)


def _gated_shapes(s: Sizes, c: int) -> Shapes:
    f = s[0]
    return {"gate_weight": (f, f), "gate_bias": (f,), "value_weight": (f, f), "value_bias": (f,), **classifier(f, c)}


FUSIONS: dict[str, Fusion] = {
    "concat": Fusion(
        lambda s, c: classifier(sum(s), c),
        _concat,
        "arXiv 2505.14535, Eq. 4; for M modalities ours",
        equal_sizes=False,
        additive=True,
        spikes_in=True,
    ),
    "sum": Fusion(
        lambda s, c: classifier(s[0], c),
        _sum_shared,
        "arXiv 2505.14535 names it; shared head with a part of the bias each is our reading",
        uses=0,
        spikes_in=True,
        additive=True,
    ),
    "sum_separate": Fusion(
        lambda s, c: of_each(s, lambda f: {"weight": (c, f), "bias": (c,)}),
        _sum_separate,
        "SumFusion of OGM-GE (CVPR 2022): a head per modality",
        equal_sizes=False,
        spikes_in=True,
        additive=True,
    ),
    "softmax_gated": Fusion(
        lambda s, c: of_each(s, lambda f: {"gate_weight": (1, f), "gate_bias": (1,)}) | classifier(s[0], c),
        by_silence(_softmax_gated),
        "ours: a softmax over the modalities, per step, weighs their features",
    ),
    "film": Fusion(
        lambda s, c: {"film_weight": (2 * s[0], s[0]), "film_bias": (2 * s[0],), **classifier(s[0], c)},
        by_silence(_film),
        "FiLM of OGM-GE (CVPR 2022): audio modulates the other modality",
        pairs_only=True,
    ),
    "gated": Fusion(
        _gated_shapes,
        by_silence(_gated),
        "GatedFusion of OGM-GE (CVPR 2022): audio gates the other modality",
        pairs_only=True,
    ),
    "weight_attention": Fusion(
        _weight_attention_shapes,
        by_silence(_weight_attention),
        "WeightAttention as in S-CMRL's comparison code; ours: no tokens to average, concatenation instead of the sum",
        pairs_only=True,
    ),
    "sca": Fusion(
        sca_shapes,
        by_silence(sca),
        "spiking cross attention (SMMT) as in S-CMRL's comparison code; ours: the time steps are the tokens, 8 heads, no batch "
        "norm, tau 0.5, weights on a 1/64 grid, concatenation",
        pairs_only=True,
        spikes_in=True,
    ),
    "cmci": Fusion(
        cmci_shapes,
        cmci,
        "cross-modality current integration (ICONIP 2023) as in S-CMRL's comparison code: three heads, the fused one on the common "
        'neuron, one per modality on its own features, trained with `balance = "cmci"`; ours: no spiking MLP behind the neuron and '
        "the features, no bias in the currents, tau 0.5, weights on a 1/64 grid; more than two modalities",
    ),
    "misnet": Fusion(
        misnet_shapes,
        misnet,
        'interaction cell of ISNet (public code SinoLeu/ISNet), trained with `balance = "misnet"`: MLIF with both potentials halved '
        "in the comparison, soft reset, spikes added to the cell's input, a head per output. As in the paper the currents are a "
        "projection of the features (the code computes it and then feeds the features themselves). Ours: one cell behind the "
        "branches, weights on a 1/64 grid, no batch norm. Not built, MISNET-L and -XL: cells between the convolution stages of both "
        "branches, their complementary LIF (CLIF) neurons and spike-element-wise blocks, dropout, average pooling",
        pairs_only=True,
        equal_sizes=False,
    ),
}


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
