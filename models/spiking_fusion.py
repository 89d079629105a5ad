"""Fusions with neurons of their own, on the host: SCA, CMCI and MISNET.

Their synapses lie on a 1/64 grid (`Ops.on_grid`) and their inputs are spikes or counts, so that every voltage is a short
dyadic number: torch and NumPy agree on every spike, whatever the order of summation.
"""

from typing import Any

from taaf.models.fusion_parts import Shapes, Sizes, classifier, linear, of_each, ordinal, own_heads, total
from taaf.models.heads.base import Arrays, Ops

SCA_HEADS = 8


def sca(ops: Ops, p: Arrays, first: Any, second: Any) -> Any:
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


def sca_shapes(sizes: Sizes, classes: int) -> Shapes:
    """Arrays of `sca`."""
    return of_each(sizes, lambda f: {f"{k}_spiking_weight": (f, f) for k in "qkvo"}) | classifier(sum(sizes), classes)


def _alone(p: Arrays, hs: list[Any]) -> list[Any]:
    return [linear(h, p[f"{ordinal(i)}_alone_weight"], p[f"{ordinal(i)}_alone_bias"]) for i, h in enumerate(hs)]


def cmci(ops: Ops, p: Arrays, hs: list[Any]) -> list[Any]:
    """z = LIF(sum_m W_m h_m);  O_f = W z + b;  O_m = V_m h_m + c_m: the currents meet in one neuron, a head per output."""
    current = total([linear(h, ops.on_grid(p[f"{ordinal(i)}_spiking_weight"])) for i, h in enumerate(hs)])
    return [linear(ops.lif(current), p["classifier_weight"], p["classifier_bias"]), *_alone(p, hs)]


def cmci_shapes(sizes: Sizes, classes: int) -> Shapes:
    """Arrays of `cmci`."""
    currents = of_each(sizes, lambda f: {"spiking_weight": (sizes[0], f)})
    return currents | classifier(sizes[0], classes) | own_heads(sizes, classes)


def misnet(ops: Ops, p: Arrays, hs: list[Any]) -> list[Any]:
    """s = MLIF([W_1 h_1, ..., W_M h_M]);  z_m = h_m + s_m;  O_f = W [z_1, ..., z_M] + b;  O_m = V_m z_m + c_m.

    MLIF (`Ops.mlif`) is one layer of neurons over the concatenated currents of all modalities, ``v <- v / 2 + I``; it spikes
    where ``v / 2 >= 1`` and then loses 1. No neuron reads another's voltage, so that z_m depends on h_m alone: the modalities meet
    in the classifier.
    """
    currents = [linear(h, ops.on_grid(p[f"{ordinal(i)}_spiking_weight"])) for i, h in enumerate(hs)]
    spikes, at, mixed = ops.mlif(ops.concatenate(currents)), 0, []
    for h in hs:
        mixed.append(h + spikes[..., at : at + h.shape[-1]])
        at += h.shape[-1]
    return [linear(ops.concatenate(mixed), p["classifier_weight"], p["classifier_bias"]), *_alone(p, mixed)]


def misnet_shapes(sizes: Sizes, classes: int) -> Shapes:
    """Arrays of `misnet`."""
    return of_each(sizes, lambda f: {"spiking_weight": (f, f)}) | classifier(sum(sizes), classes) | own_heads(sizes, classes)
