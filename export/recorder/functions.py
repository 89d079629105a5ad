"""What torch functions do to recorded values: handlers by name, called as ``handler(call)`` and answering with the new value.

A function without a handler, or whose handler raises `NoExactForm`, leaves the chip: its result is a `Host` value. Reading shapes
is free; a decision that depends on data (``if x.mean() > 0.5``) is refused.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from taaf.export.recorder.maps import Conv, Matrix, Scale, added, mixed, scaled, viewed
from taaf.export.recorder.places import NoExactForm
from taaf.export.recorder.values import Beside, Linear, Term, spikes_of

Pair = tuple[int, int]


@dataclass
class Call:
    """One call of a torch function; ``value`` is the first recorded argument, ``get`` looks up any tensor's value."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    value: Linear
    tensor: torch.Tensor  # whose value it is
    get: Callable[[object], Linear | None]
    n_and_t: Pair

    def given(self, position: int, key: str, default: Any = None) -> Any:
        """An argument by position or name."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(key, default)


HANDLERS: dict[str, Callable[[Call], Any]] = {}

# what only asks for metadata, or makes a tensor that holds nothing of the recorded one
CONSTANTS = {
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones", "new_empty", "new_full",
    "new_tensor",
}  # fmt: skip
DECIDES = {
    "__bool__", "item", "__int__", "__float__", "__index__", "__complex__", "__contains__", "equal", "allclose", "is_nonzero",
}  # fmt: skip
WRITES = {"__setitem__", "__set__"}  # they return nothing

_REASONS = {
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d", "conv_transpose2d", "conv_transpose3d", "linear", "matmul", "bmm", "mm", "einsum", "bilinear"),
        "{} of torch has real weights, and only the host computes with them; between chip layers use slayer.synapse or slayer.block",
    ),
    **dict.fromkeys(
        ("batch_norm", "layer_norm", "group_norm", "instance_norm"),
        "{} is not folded; use norm=slayer.neuron.norm.MeanOnlyBatchNorm in the neurons, or taaf's QatConv2d and QatDense",
    ),
    "__setitem__": "a part of a tensor is written in place; build the tensor from whole ones (torch.cat)",
    "__set__": "the data of a tensor are replaced; make a new tensor",
    "stack": "stacks tensors along a new axis; concatenate channels (torch.cat(..., 1)) instead",
}  # fmt: skip


def reason_for(name: str) -> str:
    """Why a function's result can only be the host's."""
    return _REASONS.get(name, "{} of spikes or currents has no exact form on LIF hardware").format(name)


def in_place(name: str) -> bool:
    """Whether a function changes its first argument."""
    ends = name.endswith("_") and not name.startswith("__") and name not in ("detach_", "requires_grad_", "share_memory_")
    return ends or name in WRITES or (name.startswith("__i") and name not in ("__invert__", "__index__"))


def handles(*names: str) -> Callable[[Callable[[Call], Any]], Callable[[Call], Any]]:
    """Register a handler under these names of torch functions."""

    def register(handler: Callable[[Call], Any]) -> Callable[[Call], Any]:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


# -- the same values


@handles(
    "contiguous", "clone", "detach", "detach_", "requires_grad_", "data", "float", "double", "to", "type", "type_as", "alias"
)
def _same(call: Call) -> Linear:
    if not isinstance(call.out, torch.Tensor) or not call.out.is_floating_point():
        raise NoExactForm(f"{call.name} makes {getattr(call.out, 'dtype', 'no tensor')} of spikes; keep them float32")
    return call.value


@handles("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
def _dropout(call: Call) -> Linear:
    if call.given(2, "training", True):
        raise NoExactForm("dropout is switched on although the module is in eval mode; pass training=self.training")
    return call.value


@handles("relu", "relu_")
def _relu(call: Call) -> Linear:
    if call.value.spikes is None:
        raise NoExactForm("relu of currents has no exact form on LIF hardware")
    return call.value


# -- sums


@handles("add", "__add__", "__radd__", "add_", "__iadd__")
def _add(call: Call) -> Linear:
    return _plus(call, call.given(2, "alpha", 1) if call.name in ("add", "add_") else 1)


@handles("sub", "__sub__", "sub_", "__isub__", "subtract")
def _sub(call: Call) -> Linear:
    return _plus(call, -call.kwargs.get("alpha", 1))


def _plus(call: Call, gain: float) -> Linear:
    first, second = call.args[0], call.given(1, "other")
    a, b = call.get(first), call.get(second)
    if a is None or b is None:
        if a is None and (gain != 1 or in_place(call.name)):
            raise NoExactForm(f"{call.name} changes a constant; write: spikes + constant")
        return _with_constant(call, a or b, second if b is None else first, gain)  # type: ignore[arg-type]
    if a.shape != b.shape or a.layout != b.layout:
        raise NoExactForm(f"{call.name} of {a.shape} and {b.shape}: only the same neurons can be added")
    require_together(a, b)
    terms = _merged((*a.terms, *(replace(t, map=_times(t.map, gain)) for t in b.terms)))
    biases = [x for x in (a.bias, None if b.bias is None else gain * b.bias) if x is not None]
    return replace(a, terms=terms, bias=np.sum(biases, 0) if biases else None, calls=a.calls | b.calls)


def _merged(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """Spikes that are added to themselves are spikes with a gain (where no synapse is between: weights have their range)."""
    found: list[Term] = []
    for term in terms:
        for i, old in enumerate(found):
            together = term.source is old.source and not term.label and not old.label and term.delay is old.delay
            m = added(old.map, term.map) if together else None
            if m is not None:
                found[i] = replace(old, map=m)
                break
        else:
            found.append(term)
    return tuple(found)


def _with_constant(call: Call, value: Linear, constant: object, gain: float) -> Linear:
    array = np.asarray(constant.detach().double().numpy() if isinstance(constant, torch.Tensor) else constant, np.float64)
    if not array.any():
        return value
    if not value.plain:
        raise NoExactForm(f"{call.name} of a constant to a permuted tensor")
    if tuple(call.out.shape[1:-1]) != value.shape:
        raise NoExactForm(f"{call.name} of a constant of another shape")
    full = np.broadcast_to(array, tuple(call.out.shape))
    if (full != full[:1, ..., :1]).any():
        raise NoExactForm(f"{call.name} of a tensor that differs from window to window or from step to step")
    bias = full[0, ..., 0] * gain
    return replace(value, bias=bias if value.bias is None else value.bias + bias)


def require_together(*values: Linear) -> None:
    """Joins need one modality and one number of steps behind the input."""
    modalities = sorted(set().union(*(v.modalities for v in values)))
    if len(modalities) > 1:
        raise NoExactForm(
            f"joins spikes of {' and '.join(modalities)}; a chip graph takes one modality, so fuse the branches' output spikes on the "
            "host (no SLAYER layer behind the join)"
        )
    lags = [v.lag for v in values]
    if len(set(lags)) > 1:
        raise NoExactForm(
            f"joins paths that arrive {' and '.join(map(str, lags))} steps after the input, {max(lags) - min(lags)} apart (every block "
            "with delay_shift is one); the chip has no such steps: set delay_shift=False in all blocks, or record(..., "
            "delay_shift=False), and compare the accuracy"
        )


@handles("cat", "concat", "concatenate")
def _cat(call: Call) -> Linear:
    tensors = call.given(0, "tensors")
    parts = [call.get(t) for t in tensors]
    dim = call.given(1, "dim", 0) % tensors[0].dim()
    if any(p is None for p in parts):
        raise NoExactForm("concatenates spikes with something that is none")
    values: list[Linear] = parts  # type: ignore[assignment]
    if any(v.layout != values[0].layout for v in values) or values[0].layout[dim] != 0:
        raise NoExactForm("concatenates along another axis than the channels")
    require_together(*values)
    total, at = sum(v.shape[0] for v in values), 0
    shape = (total, *values[0].shape[1:])
    calls = frozenset().union(*(v.calls for v in values))
    spikes = [v.spikes for v in values]
    if all(s is not None for s in spikes):
        seen = tuple((s, v.shape) for s, v in zip(spikes, values, strict=True) if s is not None)
        beside = Beside(seen[0][0].modality, shape, values[0].lag, seen)
        return replace(spikes_of(beside), layout=values[0].layout, calls=calls)
    terms: list[Term] = []
    bias = np.zeros(shape)
    for v in values:
        place = np.zeros((total, v.shape[0]))
        place[np.arange(at, at + v.shape[0]), np.arange(v.shape[0])] = 1
        terms += [replace(t, map=mixed(viewed(t.map, v.shape), place)) for t in v.terms]
        if v.bias is not None:
            bias[at : at + v.shape[0]] = v.bias
        at += v.shape[0]
    return replace(values[0], shape=shape, terms=tuple(terms), bias=bias if bias.any() else None, calls=calls)


@handles(
    "mul", "__mul__", "__rmul__", "mul_", "__imul__", "multiply", "div", "__truediv__", "div_", "__itruediv__", "true_divide"
)
def _scale(call: Call) -> Linear:
    factors = [a for a in (*call.args[:2], call.kwargs.get("other")) if a is not None and call.get(a) is None]
    if len(factors) != 1 or (isinstance(factors[0], torch.Tensor) and factors[0].numel() != 1):
        raise NoExactForm(f"{call.name} of two tensors (a gate) has no exact form on LIF hardware")
    factor = float(factors[0])
    divides = "div" in call.name
    if divides and call.args[0] is factors[0]:
        raise NoExactForm("divides by spikes")
    return _gained(call.value, 1 / factor if divides and factor else factor, f"{call.name} by {factor:g}")


@handles("neg", "__neg__", "negative")
def _negative(call: Call) -> Linear:
    return _gained(call.value, -1.0, "neg")


def _gained(value: Linear, gain: float, what: str) -> Linear:
    terms = tuple(replace(t, map=_times(t.map, gain, what)) for t in value.terms)
    return replace(value, terms=terms, bias=None if value.bias is None else value.bias * gain)


def _times(m: Scale | Conv | Matrix, gain: float, what: str = "alpha") -> Scale | Conv | Matrix:
    if gain == 0 or not math.isfinite(gain) or math.frexp(abs(gain))[0] != 0.5:
        raise NoExactForm(f"{what} is not exact: SLAYER rounds and truncates it; powers of two are (0.5, 2, 4)")
    return scaled(m, gain)
