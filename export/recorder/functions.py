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

from taaf.export.recorder.maps import Conv, Matrix, Scale, mixed, scaled, size, then, viewed
from taaf.export.recorder.places import NoExactForm
from taaf.export.recorder.values import Beside, Linear, Term, relaid, reshaped_layout, spikes_of

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
IN_PLACE = {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__setitem__"}

_REASONS = {
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d", "conv_transpose2d", "conv_transpose3d", "linear", "matmul", "bmm", "mm", "einsum", "bilinear"),
        "{} of torch has real weights, and only the host computes with them; between chip layers use slayer.synapse or slayer.block",
    ),
    **dict.fromkeys(
        ("batch_norm", "layer_norm", "group_norm", "instance_norm"),
        "{} is not folded; use norm=slayer.neuron.norm.MeanOnlyBatchNorm in the neurons, or taaf's QatConv2d and QatDense",
    ),
    "__setitem__": "an element is written in place; build the tensor from whole ones",
    "stack": "stacks tensors along a new axis; concatenate channels (torch.cat(..., 1)) instead",
}  # fmt: skip


def reason_for(name: str) -> str:
    """Why a function's result can only be the host's."""
    return _REASONS.get(name, "{} of spikes or currents has no exact form on LIF hardware").format(name)


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


# -- other views


@handles("reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "ravel")
def _reshape(call: Call) -> Linear:
    found = reshaped_layout(call.value.layout, tuple(call.tensor.shape), tuple(call.out.shape), call.n_and_t)
    if found is None:
        raise NoExactForm(
            f"{call.name} of {tuple(call.tensor.shape)} to {tuple(call.out.shape)} mixes windows, time and neurons; "
            "keep (N, neurons..., T)"
        )
    return call.value.seen(*found)


@handles("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis")
def _permute(call: Call) -> Linear:
    sizes = tuple(range(2, 2 + call.tensor.dim()))  # all different: the result says where each axis went
    moved = getattr(torch, call.name)(torch.empty(sizes, device="meta"), *call.args[1:], **call.kwargs).shape \
        if call.name != "permute" else torch.empty(sizes, device="meta").permute(*call.args[1:], **call.kwargs).shape  # fmt: skip
    return replace(call.value, layout=tuple(call.value.layout[n - 2] for n in moved))


@handles("__getitem__", "narrow", "select")
def _getitem(call: Call) -> Linear:
    index = call.args[1] if call.name == "__getitem__" else None
    index = index if isinstance(index, tuple) else (index,)
    if (
        all(i is None or i is Ellipsis or (isinstance(i, slice) and i == slice(None)) for i in index)
        and call.name == "__getitem__"
    ):
        return _reshape(call)
    if call.name != "__getitem__" or any(not (i is Ellipsis or isinstance(i, int | slice)) for i in index):
        raise NoExactForm("picks by something else than slices and numbers")
    value = call.value
    rest = [slice(None)] * (len(value.layout) - sum(i is not Ellipsis for i in index))
    at = index.index(Ellipsis) if Ellipsis in index else len(index)
    full: list[Any] = [*index[:at], *rest, *index[at + 1 :]]
    picks: dict[int, Any] = {}
    for axis, pick, n in zip(value.layout, full, call.tensor.shape, strict=True):
        if isinstance(axis, int):
            picks[axis] = pick
        elif not isinstance(pick, slice) or pick.indices(n) != (0, n, 1):
            raise NoExactForm("picks single steps or windows; the chip runs all steps of a window")
    chosen = np.arange(size(value.shape)).reshape(value.shape)[tuple(picks[i] for i in range(len(value.shape)))]
    layout = relaid(value.layout, chosen.ndim)
    bias = None if value.bias is None else value.bias.reshape(-1)[chosen]
    if size(chosen.shape) == size(value.shape):
        return value.seen(chosen.shape, layout)
    whole = [picks[i] == slice(None) or value.shape[i] == 1 for i in range(1, len(value.shape))]
    terms = tuple(replace(t, map=_picked(viewed(t.map, value.shape), chosen, all(whole))) for t in value.terms)
    terms = tuple(replace(t, map=viewed(t.map, chosen.shape)) for t in terms)
    return replace(value, shape=chosen.shape, layout=layout, terms=terms, bias=bias)


def _picked(m: Scale | Conv | Matrix, chosen: np.ndarray, channels: bool) -> Scale | Conv | Matrix:
    if channels and chosen.ndim == len(m.out):
        per = size(m.out[1:])
        return mixed(m, np.eye(m.out[0])[chosen.reshape(len(chosen), -1)[:, 0] // per])
    return then(m, Matrix(m.out, _rows_of_eye(size(m.out), chosen.reshape(-1)), chosen.shape))


def _rows_of_eye(n: int, rows: np.ndarray) -> np.ndarray:
    picked = np.zeros((len(rows), n))
    picked[np.arange(len(rows)), rows] = 1
    return picked


@handles("chunk", "split", "tensor_split", "split_with_sizes")
def _split(call: Call) -> list[Linear]:
    dim = call.given(2, "dim", 0) % call.tensor.dim()
    if call.value.layout[dim] != 0:
        raise NoExactForm(f"{call.name} along another axis than the channels")
    found, start = [], 0
    for part in call.out:
        index = (*[slice(None)] * dim, slice(start, start := start + part.shape[dim]))
        found.append(_getitem(replace(call, name="__getitem__", args=(call.tensor, index), kwargs={})))
    return found


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
        if a is None and gain != 1:
            raise NoExactForm(f"{call.name} subtracts spikes or currents from a constant")
        return _with_constant(call, a or b, second if b is None else first, gain)  # type: ignore[arg-type]
    if a.shape != b.shape or a.layout != b.layout:
        raise NoExactForm(f"{call.name} of {a.shape} and {b.shape}: only the same neurons can be added")
    require_together(a, b)
    terms = (*a.terms, *(replace(t, map=_times(t.map, gain)) for t in b.terms))
    biases = [x for x in (a.bias, None if b.bias is None else gain * b.bias) if x is not None]
    return replace(a, terms=terms, bias=np.sum(biases, 0) if biases else None, calls=a.calls | b.calls)


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
    added = full[0, ..., 0] * gain
    return replace(value, bias=added if value.bias is None else value.bias + added)


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
            "with delay_shift is one); set delay_shift=False in all blocks, as the chip's window-relative time has none"
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
