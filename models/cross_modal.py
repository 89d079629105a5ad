"""Cross-modal residual learning of S-CMRL (arXiv 2502.12488) on tokens, written once for torch and NumPy.

Per modality, x are its tokens and y those of the other modality, (N, T, n, C):

    q = LIF(BN(W_q x)),  k = LIF(BN(W_k y)),  v = LIF(BN(W_v y))
    SCSA = LIF(BN(W_o LIF(0.25 (q k^T) v)))      attention over the tokens of each step, several heads, no softmax
    TCSA = the same over the time steps of each token, with weights of its own
    CCSSA(t, i) = mean_j SCSA(t, j) * mean_s TCSA(s, i)
    x_res = LIF(W_r CCSSA),   x <- x + alpha x_res,   x <- x + LIF(BN(W_2 LIF(BN(W_1 x))))
    f(t) = mean_i x(t, i)

Without semantic alignment their code adds CCSSA itself (``residual_layer = "none"``: x_res = CCSSA); their comparisons take SCSA
or TCSA for CCSSA (``attention_kind = "spatial"``, ``"temporal"``). Their SCA (SMMT's cross attention) is SCSA instead of the tokens:
mode "attention", kind "spatial", residual layer "none", without the position bias that their code draws anew at every call.

Neurons. The original's LIF, in its public code, is ``m <- m + (I - m) / 2``, a spike and m <- 0 where m >= theta, with theta = 1
everywhere: the ``v_threshold=0.5`` that its attention neurons are given is no parameter of that class and has no effect. The
host neuron is ``v <- v / 2 + J``, a spike and v <- 0 where v > 1, or v >= 1. With v = m / theta and J = I / (2 theta) both are the same:

    m / theta <- (m / 2 + I / 2) / theta = v / 2 + I / (2 theta),      m >= theta  <=>  v >= 1

Behind a batch norm the factor 1 / (2 theta) is the norm's. The inner LIF has none: it gets J = 0.25 (q k^T) v / (2 theta), which is
0.125 (q k^T) v at theta = 1. The products are whole numbers, so m = theta happens often (q k^T v = 8 in the first step), and
``at_threshold`` makes that a spike. At theta = 0.5 eight becomes four. Files that say neither mean 0.5 and a spike only above it.

Ours, and why: 2^-b for 1 / (n T) in front of W_r, b = round(log2(n T)), because a power of two is exact and the batch norm behind
takes the rest of the factor; 1 / (n T) rounded to ten significant bits where CCSSA is added as it is; a batch norm behind W_r,
because weights are quantised; where modalities have unequal numbers of tokens, token i attends over time to token
floor(i n_other / n) of the other. TCSA joins its heads per time step, as SCSA does; the public code leaves out a
transposition there and so mixes heads with steps. Their neurons fire at equality everywhere, ours only in the attention, where
equality is no accident. Training differentiates through v from step to step; theirs detaches the membrane after every step.

With weights on a 1/64 grid and biases on a 1/128 grid every voltage is a short dyadic number: float64 sums are exact in any
order, and so are the spikes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ATTENTION_SCALE = 0.25
MEAN_BITS = 10  # significant bits of 1 / (n T) where CCSSA is added as it is

Project = Callable[[str, Any], Any]  # name, (..., C) -> current (..., C')
Lif = Callable[..., Any]  # current (N, T, ...), at_threshold=False -> spikes


@dataclass(frozen=True)
class CrossModalOptions:
    """What is computed.

    Attributes
    ----------
    names : tuple of str
        Of the two modalities.
    channels, heads, mlp_ratio : int
        C, attention heads, width of the MLP in C.
    mode : str
        "none", "attention" (x_res instead of x) or "residual"; another one computes what these options do not say.
    alpha : float
        Weight of x_res; a multiple of 1/64.
    kind : str
        "spatiotemporal" (CCSSA), "spatial" (SCSA) or "temporal" (TCSA).
    residual_layer : str
        "spiking" (x_res = LIF(BN(W_r A)) of the attention A) or "none" (x_res = A).
    threshold : float
        theta of the inner attention neurons, 1.0 or 0.5.
    at_threshold : bool
        Whether they fire at m = theta.
    """

    names: tuple[str, str]
    channels: int
    heads: int
    mlp_ratio: int
    mode: str = "residual"
    alpha: float = 1.5
    kind: str = "spatiotemporal"
    residual_layer: str = "spiking"
    threshold: float = 1.0
    at_threshold: bool = True

    @property
    def kinds(self) -> tuple[str, ...]:
        """The attentions that are computed."""
        if self.mode not in ("attention", "residual"):
            return ()
        return ("spatial", "temporal") if self.kind == "spatiotemporal" else (self.kind,)

    def projections(self) -> dict[str, tuple[int, int]]:
        """Name of every spiking dense layer -> (outputs, inputs)."""
        c, roles = self.channels, [f"{kind}_{part}" for kind in self.kinds for part in "qkvo"]
        if roles and self.residual_layer == "spiking":
            roles.append("residual")
        return {
            f"{m}_{role}": shape
            for m in self.names
            for role, shape in (dict.fromkeys(roles, (c, c)) | mlp_shapes(c, self.mlp_ratio)).items()
        }

    def attend(self, lif: Lif, project: Project, name: str, own: Any, other: Any) -> Any:
        """A of modality ``name``: own (N, T, n, C), other (N, T, m, C) -> (N, T, n, C)."""
        found = [attend(lif, project, f"{name}_{kind}", own, other, self) for kind in self.kinds]
        if len(found) == 1:
            return found[0]
        n = own.shape[1] * own.shape[2]
        scale = 2.0 ** -divisor_bits(n) if self.residual_layer == "spiking" else nearly(1 / n)
        return scale * (found[0].sum(axis=2, keepdims=True) * found[1].sum(axis=1, keepdims=True))


def mlp_shapes(channels: int, ratio: int) -> dict[str, tuple[int, int]]:
    """The two layers of an MLP."""
    return {"mlp1": (channels * ratio, channels), "mlp2": (channels, channels * ratio)}


def with_mlp(lif: Lif, project: Project, name: str, x: Any) -> Any:
    """``x + LIF(BN(W_2 LIF(BN(W_1 x))))``."""
    return x + lif(project(f"{name}_mlp2", lif(project(f"{name}_mlp1", x))))


def tokens_of(spikes: Any, channels: int) -> Any:
    """Spikes of a stem (N, T, 2 C n), [p | x] -> tokens p + x, (N, T, n, C) in {0, 1, 2}."""
    both = spikes.reshape(*spikes.shape[:2], 2, channels, -1)
    return (both[:, :, 0] + both[:, :, 1]).swapaxes(2, 3)


def paired(n_own: int, n_other: int) -> list[int]:
    """Token of the other modality that each own token attends to over time."""
    return [i * n_other // n_own for i in range(n_own)]


def attend(lif: Lif, project: Project, name: str, own: Any, other: Any, options: CrossModalOptions) -> Any:
    """SCSA (``name`` ends in "spatial") or TCSA ("temporal"): own (N, T, n, C), other (N, T, m, C) -> spikes (N, T, n, C)."""
    q, k, v = (lif(project(f"{name}_{part}", x)) for part, x in (("q", own), ("k", other), ("v", other)))
    temporal = name.endswith("temporal")
    if temporal:
        pairs = paired(own.shape[2], other.shape[2])
        q, k, v = q.swapaxes(1, 2), k[:, :, pairs].swapaxes(1, 2), v[:, :, pairs].swapaxes(1, 2)  # (N, n, T, C)
    split = [x.reshape(*x.shape[:3], options.heads, -1).swapaxes(2, 3) for x in (q, k, v)]  # (N, ., heads, ., C / heads)
    mixed = ATTENTION_SCALE / (2 * options.threshold) * (split[0] @ split[1].swapaxes(3, 4) @ split[2])
    mixed = mixed.swapaxes(2, 3).reshape(q.shape)
    mixed = mixed.swapaxes(1, 2) if temporal else mixed
    return lif(project(f"{name}_o", lif(mixed, at_threshold=options.at_threshold)))


def divisor_bits(terms: int) -> int:
    """b of CCSSA in front of W_r: 2^b is the power of two next to the number of a product's terms, n T."""
    return round(math.log2(terms))


def nearly(value: float) -> float:
    """``value`` rounded to `MEAN_BITS` significant bits, within 0.1 %: exact in every later product."""
    fraction, exponent = math.frexp(value)
    return math.ldexp(round(math.ldexp(fraction, MEAN_BITS)), exponent - MEAN_BITS)


def cross_modal(options: CrossModalOptions, lif: Lif, project: Project, first: Any, second: Any) -> list[tuple[Any, Any]]:
    """Tokens (N, T, n, C) of both modalities -> per modality features f and mean residual, (N, T, C) each.

    The mean over tokens of x_res (None in mode "none") is what the semantic alignment of training compares.
    """
    found = []
    for name, own, other in zip(options.names, (first, second), (second, first), strict=True):
        n_tokens, x, residual = own.shape[2], own, None
        if options.mode != "none":
            branch = options.attend(lif, project, name, own, other)
            if options.residual_layer == "spiking":
                branch = lif(project(f"{name}_residual", branch))
            x = branch if options.mode == "attention" else own + options.alpha * branch
            residual = branch.sum(axis=2) / n_tokens
        found.append((with_mlp(lif, project, name, x).sum(axis=2) / n_tokens, residual))
    return found


def mac_parts(options: CrossModalOptions, tokens: tuple[int, int], steps: int) -> dict[str, int]:
    """Dense multiply-accumulates of one window by part: q k^T v products, projections of the attention, and MLP."""
    c, parts = options.channels, {"attention products": 0, "attention projections": 0, "mlp": 0}
    for n, m in (tokens, tokens[::-1]):
        others = {"spatial": m, "temporal": steps}
        parts["attention products"] += sum(2 * c * steps * n * others[kind] for kind in options.kinds)
        parts["attention products"] += c * steps * n * (len(options.kinds) == 2)  # the product of the two
        parts["attention projections"] += steps * c * c * (2 * n + 2 * m) * len(options.kinds)  # q, o; k, v
        if options.kinds and options.residual_layer == "spiking":
            parts["attention projections"] += steps * c * c * n
        parts["mlp"] += 2 * steps * n * c * c * options.mlp_ratio
    return parts
