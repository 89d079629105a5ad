"""Torch functions that see recorded values in another way: reshaping, permuting, picking, splitting, repeating neighbours."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from taaf.export.recorder.functions import Call, handles
from taaf.export.recorder.maps import Conv, Matrix, Scale, mixed, size, then, viewed
from taaf.export.recorder.places import NoExactForm
from taaf.export.recorder.values import Linear, relaid, reshaped_layout


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


@handles("interpolate", "upsample")
def _enlarge(call: Call) -> Linear:
    """Nearest neighbours: every neuron of the larger map repeats one of the smaller."""
    value = call.value
    _, *_, steps = call.tensor.shape
    if not value.plain or len(value.shape) != 3 or call.given(3, "mode", "nearest") != "nearest" or steps != call.out.shape[-1]:
        raise NoExactForm(f"{call.name} otherwise than by nearest neighbours of a map (N, C, H, W, T) has no exact form")
    if value.bias is not None:
        raise NoExactForm(f"{call.name} of a current with a constant part; add the constant after it")
    places = torch.arange(size(value.shape), dtype=torch.float64).reshape(1, *value.shape, 1)
    chosen = torch.nn.functional.interpolate(places, size=(*call.out.shape[2:4], 1))[0, ..., 0].numpy().astype(np.int64)
    terms = tuple(replace(t, map=_picked(viewed(t.map, value.shape), chosen, False)) for t in value.terms)
    return value.with_terms(chosen.shape, terms)


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
