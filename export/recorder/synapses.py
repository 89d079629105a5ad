"""Currents that SLAYER's synapses, and ours, make of recorded values."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from taaf.export.recorder import maps
from taaf.export.recorder.maps import Conv, Matrix, shifted, size, then
from taaf.export.recorder.places import NoExactForm
from taaf.export.recorder.values import Leaf, Linear, Term, Value, plain
from taaf.export.recorder.weights import used_weight
from taaf.models.ir import Shape
from taaf.models.qat import QatConv2d, QatSynapse

if TYPE_CHECKING:
    from taaf.export.recorder.mode import Recorder


def require_plain(value: Linear) -> None:
    """SLAYER's modules take (N, neurons..., T)."""
    if not value.plain:
        raise NoExactForm("gets a tensor whose axes are not (N, neurons..., T) in order; permute back first")


def synapse(recorder: "Recorder", leaf: Leaf) -> Value:
    """A bare SLAYER synapse: its currents."""
    current = current_of(leaf)
    return replace(current, calls=current.calls | {leaf.index})


def current_of(leaf: Leaf) -> Linear:
    """The current that a SLAYER synapse makes of a value."""
    value, synapse = leaf.value, leaf.module
    require_plain(value)
    if value.bias is not None:
        raise NoExactForm("gets a current with a constant part; put neurons between two synapses")
    shape = tuple(leaf.out.shape[1:-1])
    second = _map_of(synapse, value.shape, shape)
    terms = tuple(Term(t.source, then(t.map, second), t.delay, leaf.name) for t in value.terms)
    return Linear(shape, plain(shape), terms, value.lag, None, value.calls)


def _map_of(synapse: Any, shape: Shape, out: Shape) -> Conv | Matrix:
    """The linear map of a SLAYER synapse from ``shape`` to ``out``."""
    from lava.lib.dl.slayer.synapse import layer

    if isinstance(synapse, layer.Dense):
        weight = used_weight(synapse)
        if size(out) == len(weight):  # every neuron sees everything
            return Matrix(shape, weight.reshape(len(weight), -1), out)
        return Conv(shape, weight[..., 0])
    pairs = [tuple(int(n) for n in field[:2]) for field in (synapse.stride, synapse.padding, synapse.dilation)]
    stride, padding, dilation = pairs
    if isinstance(synapse, layer.Conv):
        return Conv(shape, used_weight(synapse)[..., 0], stride, padding, dilation, synapse.groups)  # type: ignore[arg-type]
    kernel = tuple(int(n) for n in synapse.kernel_size[:2])
    if isinstance(synapse, layer.Pool) and stride == kernel and padding == (0, 0) and dilation == (1, 1):
        # SLAYER pads n % k zeros behind an axis that k does not divide: with k = 2 what is missing, else something irregular
        more = [n % k for n, k in zip(shape[1:], kernel, strict=True)]
        if all((n + m) % k == 0 for n, m, k in zip(shape[1:], more, kernel, strict=True)):
            weight = np.broadcast_to(used_weight(synapse)[..., 0], (shape[0], 1, *kernel)).copy()
            padded = shifted(shape, (0, more[0]), (0, more[1]))
            pooled = then(padded, Conv(padded.out, weight, stride, groups=shape[0]))  # type: ignore[arg-type]
            if isinstance(pooled, Conv):
                return pooled
    return _unrolled(synapse, shape, out)


def _unrolled(synapse: Any, shape: Shape, out: Shape) -> Matrix:
    """The synapse's answers to single spikes; SLAYER's pooling and unpooling have edges of their own, so it is asked itself."""
    n = size(shape)
    if n * size(out) > maps.MAX_ENTRIES:
        raise NoExactForm(
            f"{type(synapse).__name__} has no form on the chip but a matrix, here of {size(out)} x {n} weights (allowed "
            f"{maps.MAX_ENTRIES:,d}); use it on smaller maps"
        )
    columns = type(synapse).forward(synapse, torch.eye(n).reshape(n, *shape, 1))
    return Matrix(shape, columns.detach().double().reshape(n, -1).numpy().T, out)


def qat_synapse(recorder: "Recorder", leaf: Leaf) -> Value:
    """Our own layers, one step at a time: (N T, C, H, W), in threshold units."""
    part: QatSynapse = leaf.module
    value = leaf.value
    if value.layout != ("NT", *range(len(value.shape))) or value.bias is not None:
        raise NoExactForm("takes spikes of single steps, (N T, C, H, W); use taaf.models.qat.over_time(layer, spikes)")
    with torch.no_grad():
        weight = part.integer_weight().double().numpy() / part.v_th_mant
        bias = part.integer_bias().double().numpy() / part.v_th_mant
    second: Conv | Matrix
    if isinstance(part, QatConv2d):
        second = Conv(value.shape, weight, (part.stride,) * 2, (part.padding,) * 2)
    else:
        second = Matrix(value.shape, weight, (len(weight),))
    terms = tuple(Term(t.source, then(t.map, second), t.delay, leaf.name) for t in value.terms)
    added = np.broadcast_to(bias.reshape(-1, *[1] * (len(second.out) - 1)), second.out) if bias.any() else None
    layout = ("NT", *range(len(second.out)))
    return Linear(second.out, layout, terms, value.lag, added, value.calls | {leaf.index})
