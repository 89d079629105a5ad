"""Torch functions that pool recorded values: OR of spikes, sums and means over parts of a map, and zeros around it.

Sums and means are linear and become part of the next weights; they are exact where the fractions are powers of two.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from taaf.export.recorder.functions import Call, Pair, handles
from taaf.export.recorder.maps import Conv, Matrix, shifted, size, then
from taaf.export.recorder.places import NoExactForm
from taaf.export.recorder.values import Linear, Pooled, plain, spikes_of


def _two(value: Any, name: str, default: Pair | None = None) -> Pair:
    """The spatial pair of a pooling option for (H, W) or (H, W, T); time must be left alone."""
    if value is None or (isinstance(value, Sequence) and not value):
        assert default is not None
        return default
    numbers = [int(n) for n in value] if isinstance(value, Sequence) else [int(value)] * 3
    idle = 0 if name == "padding" else 1
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) == 3 and numbers[2] != idle:
        raise NoExactForm(f"pools over time ({name} {tuple(numbers)}); use {(*numbers[:2], idle)}")
    return numbers[0], numbers[1]


def _pooling(call: Call) -> tuple[Pair, Pair, Pair]:
    """Kernel, stride and padding over a map."""
    layout, three = call.value.layout, call.name.startswith(("max_pool3d", "avg_pool3d"))
    wanted = (0, 1, 2, "T") if three else (0, 1, 2)
    if len(call.value.shape) != 3 or layout[1:] != wanted:
        raise NoExactForm(f"{call.name} of a tensor that is not (N, C, H, W, T); kernels are (k, k, 1) there")
    kernel = _two(call.given(1, "kernel_size"), "kernel_size")
    if not three and isinstance(call.given(1, "kernel_size"), Sequence) and len(call.given(1, "kernel_size")) == 3:
        raise NoExactForm(f"{call.name} with three sizes")
    stride = _two(call.given(2, "stride"), "stride", kernel)
    return kernel, stride, _two(call.given(3, "padding", 0), "padding")


@handles(
    "max_pool3d", "max_pool2d", "max_pool3d_with_indices", "max_pool2d_with_indices", "_max_pool3d", "_max_pool2d", "boolean_dispatch"
)  # fmt: skip
def _max_pool(call: Call) -> Linear:
    if call.name == "boolean_dispatch":
        call = replace(call, name="max_pool3d" if call.tensor.dim() == 5 else "max_pool2d")
    if call.given(6, "return_indices", False) or not isinstance(call.out, torch.Tensor):
        raise NoExactForm("max pooling with indices")
    kernel, stride, padding = _pooling(call)
    if set(_two(call.given(4, "dilation", 1), "dilation")) != {1} or call.given(5, "ceil_mode", False):
        raise NoExactForm("max pooling with dilation or ceil_mode")
    value, source = call.value, call.value.spikes
    if source is None:
        raise NoExactForm(
            "max pooling of something that is not plain spikes (of a sum, or of currents) has no exact form; pool spikes"
        )
    if source.shape != value.shape:
        raise NoExactForm("max pooling of spikes that were reshaped to a map")
    sizes = zip(value.shape[1:], padding, kernel, stride, strict=True)
    shape = (value.shape[0], *((n + 2 * p - k) // s + 1 for n, p, k, s in sizes))
    pooled = Pooled(source.modality, shape, value.lag, source, kernel, stride, padding)
    return replace(spikes_of(pooled), layout=value.layout, calls=value.calls)


@handles("avg_pool3d", "avg_pool2d")
def _avg_pool(call: Call) -> Linear:
    kernel, stride, padding = _pooling(call)
    divisor = call.given(6, "divisor_override")
    if call.given(4, "ceil_mode", False) or (any(padding) and not call.given(5, "count_include_pad", True)):
        raise NoExactForm("average pooling with ceil_mode or count_include_pad=False")
    return _summed(call, kernel, stride, padding, 1 / (divisor or kernel[0] * kernel[1]), call.value.layout)


def _summed(call: Call, kernel: Pair, stride: Pair, padding: Pair, gain: float, layout: tuple[Any, ...]) -> Linear:
    """Sums over windows of a map, times ``gain``."""
    value = call.value
    if math.frexp(gain)[0] != 0.5:
        raise NoExactForm(
            f"{call.name} averages {round(1 / gain)} spikes; fractions that are no power of two are not exact in SLAYER, which truncates "
            "them. Use sums (slayer.synapse.Pool), windows of 2 or 4, or a strided convolution"
        )
    _no_bias(value, call.name)
    weight = np.full((value.shape[0], 1, *kernel), gain)
    conv = Conv(value.shape, weight, stride, padding, (1, 1), value.shape[0])
    terms = tuple(replace(t, map=then(t.map, conv)) for t in value.terms)
    return replace(value, shape=conv.out, terms=terms, layout=layout)


def _no_bias(value: Linear, name: str) -> None:
    if value.bias is not None:
        raise NoExactForm(f"{name} of a current with a constant part; add the constant after it")


@handles("sum", "mean")
def _total(call: Call) -> Linear:
    dims = call.given(1, "dim")
    axes = [call.value.layout[d] for d in ((dims,) if isinstance(dims, int) else tuple(dims or range(call.tensor.dim())))]
    named = {"N": "windows", "T": "time", "NT": "windows and time"}
    if outside := [named[a] for a in axes if isinstance(a, str)]:
        raise NoExactForm(f"{call.name} over {outside[0]} leaves the chip")
    value = call.value
    keep = bool(call.given(2, "keepdim", False))
    count = size(tuple(value.shape[a] for a in axes))
    if not value.plain:
        raise NoExactForm(f"{call.name} of a permuted tensor")
    if sorted(axes) == [1, 2] and len(value.shape) == 3:
        gain = 1 / count if call.name == "mean" else 1.0
        found = _summed(call, value.shape[1:], (1, 1), (0, 0), gain, value.layout)  # type: ignore[arg-type]
        return found if keep else found.seen(found.shape[:1], plain(found.shape[:1]))
    if call.name == "mean" and math.frexp(1 / count)[0] != 0.5:
        raise NoExactForm(
            f"mean of {count} spikes: fractions that are no power of two are not exact in SLAYER, which truncates them; use sums, "
            "or groups of 2, 4, 8, ..."
        )
    _no_bias(value, call.name)
    places = np.arange(size(value.shape)).reshape(value.shape)
    lines = np.moveaxis(places, axes, range(-len(axes), 0)).reshape(-1, count)
    matrix = np.zeros((len(lines), size(value.shape)))
    matrix[np.arange(len(lines))[:, None], lines] = 1 / count if call.name == "mean" else 1.0
    shape = tuple(1 if i in axes else n for i, n in enumerate(value.shape) if keep or i not in axes)
    terms = tuple(replace(t, map=then(t.map, Matrix(value.shape, matrix, shape))) for t in value.terms)
    return replace(value, shape=shape, layout=plain(shape), terms=terms)


@handles("pad", "constant_pad_nd", "_pad")
def _pad(call: Call) -> Linear:
    amounts, value = list(call.given(1, "pad")), call.value
    mode, filling = call.given(2, "mode", "constant"), call.given(3, "value", 0)
    if mode != "constant" or filling or len(value.shape) != 3 or not value.plain:
        raise NoExactForm("pads otherwise than a map (N, C, H, W, T) with zeros")
    pairs = [tuple(p) for p in zip(amounts[::2], amounts[1::2], strict=True)]  # last axis first: time, width, height
    pairs += [(0, 0)] * (5 - len(pairs))
    if any(any(pairs[i]) for i in (0, 3, 4)):
        raise NoExactForm("pads time, channels or windows")
    _no_bias(value, "pad")
    conv = shifted(value.shape, pairs[2], pairs[1])  # type: ignore[arg-type]
    return value.with_terms(conv.out, tuple(replace(t, map=then(t.map, conv)) for t in value.terms))
