"""Layers that are maps: populations of different paces in one convolution.

A layer has one map (H, W) and one pace R: its pixels lie R input pixels apart. A population of pace r <= R (r divides R) is
held with factor F = R / r as F^2 groups of channels, its phases (space to depth):

    neuron (c, phase; Y, X)  =  pixel (c; Y F + phase_y, X F + phase_x) of the population

A convolution of stride s, padding P and dilation D reads pixel ``y s - P + i D`` for its pixel y. With y = Y F + phase this is
``Y F s + o``, ``o = phase s + i D - P``; the layer before holds the source with factor G, and R' s_layer = R gives F s = G s_layer:

    pixel Y F s + o  is held by  phase o mod G  at  Y s_layer + floor(o / G)

so every synapse group, and every relay (o = its phase), is a tap of one convolution with stride s_layer = R / R'.
"""

from dataclasses import dataclass, replace
from itertools import product
from math import lcm

import numpy as np

from taaf.export.limits import CONV_FIELD_MAX
from taaf.export.passes.levels import Levels, ungrouped
from taaf.export.passes.report import Part
from taaf.models.ir import Conv2d, Shape
from taaf.models.lif import WEIGHT_MAX

RELAY_WEIGHT = WEIGHT_MAX

Pair = tuple[int, int]


class NoMapError(Exception):
    """Why a layer cannot be a map; it is then unrolled. Never leaves the compiler."""


@dataclass(frozen=True, eq=False)
class Layer:
    """What a layer of the chain holds; ``pace`` is (0, 0) of flat ones."""

    parts: tuple[Part, ...]
    shape: Shape
    pace: Pair = (0, 0)

    def find(self, population: str, phase: Pair = (0, 0)) -> Part | None:
        """The first part that holds this phase of a population."""
        return next((p for p in self.parts if p.population == population and p.phase == phase), None)


def paces(levels: Levels) -> dict[str, Pair | None]:
    """Population -> distance of its pixels in pixels of the input; None of flat ones and where its sources disagree."""
    found: dict[str, Pair | None] = {name: (1, 1) if len(levels.shapes[name]) == 3 else None for name in levels.entries}
    for name, reads in levels.reads.items():
        seen: set[Pair | None] = set()
        for read in reads:
            for source in read.sources:
                pace = found[source]
                ok = isinstance(read.synapse, Conv2d) and pace is not None
                seen.add((pace[0] * read.synapse.stride[0], pace[1] * read.synapse.stride[1]) if ok else None)  # type: ignore[index, union-attr]
        found[name] = seen.pop() if len(seen) == 1 else None
    return found


def map_layer(levels: Levels, level: int, pace_of: dict[str, Pair | None], before: Layer) -> Layer:
    """Lay out a layer as a map, or say why it cannot be one (`NoMapError`)."""
    own, carried = levels.at(level), levels.carried(level)
    if not before.pace[0]:
        raise NoMapError("the layer before it is flat")
    for name in own:
        if len(levels.shapes[name]) == 1:
            raise NoMapError(f"{name} is flat")
        if pace_of[name] is None:
            raise NoMapError(f"{name} reads maps of different pixel distances, which no common stride joins")
    pace = tuple(lcm(before.pace[axis], *(pace_of[n][axis] for n in own)) for axis in (0, 1))  # type: ignore[index]
    own_parts, relays = [], []
    for name in own:
        own_parts += _phases(levels, name, pace, pace_of, None)
    for name, mask in carried.items():
        relays += _phases(levels, name, pace, pace_of, mask)
    rows = [max(p.extent[axis] for p in (*own_parts, *relays)) for axis in (0, 1)]
    parts = [*own_parts, *relays]
    if level == levels.depth:
        parts = [next(p for p in parts if p.population == name) for name in levels.output]
        if any(p.factor != (1, 1) or p.extent != (rows[0], rows[1]) for p in parts):
            raise NoMapError("the output's channels would be mixed with the phases of finer maps, or be larger than they are")
    stride = (pace[0] // before.pace[0], pace[1] // before.pace[1])
    placed, first = [], 0
    for part in parts:
        extent = _reached(part, before, pace_of, stride, rows) if part.relays else part.extent
        placed.append(replace(part, first=first, extent=extent))
        first += len(part.members)
    return Layer(tuple(placed), (first, rows[0], rows[1]), (pace[0], pace[1]))


def _phases(
    levels: Levels, name: str, pace: tuple[int, ...], pace_of: dict[str, Pair | None], mask: np.ndarray | None
) -> list[Part]:
    """The parts of a population: all of it, or what a mask needs of it; ``extent`` is how far they need to go."""
    own, (channels, height, width) = pace_of[name], levels.shapes[name]
    assert own is not None
    factor = (pace[0] // own[0], pace[1] // own[1])
    found = []
    for phase in product(range(factor[0]), range(factor[1])):
        needed = np.ones((channels, height, width), bool) if mask is None else mask
        needed = needed[:, phase[0] :: factor[0], phase[1] :: factor[1]]
        members = np.flatnonzero(needed.any(axis=(1, 2)))
        if len(members):
            extent = [int(np.flatnonzero(needed.any(axis=axes))[-1]) + 1 for axes in ((0, 2), (0, 1))]
            found.append(Part(name, levels.shapes[name], members, 0, mask is not None, factor, phase, (extent[0], extent[1])))
    return found


def _reached(part: Part, before: Layer, pace_of: dict[str, Pair | None], stride: Pair, rows: list[int]) -> Pair:
    """Rows and columns in which relays have a spike to repeat."""
    source, taps = _relayed(part, before, pace_of)
    found = [min(rows[a], (source.extent[a] - 1 - taps[a]) // stride[a] + 1) for a in (0, 1)]
    return found[0], found[1]


def _relayed(part: Part, before: Layer, pace_of: dict[str, Pair | None]) -> tuple[Part, Pair]:
    """Of relays: the part of the layer before that they repeat, and the tap at which they read it."""
    taps, phase = _held(part.phase, _factor(before, pace_of[part.population]))
    source = before.find(part.population, phase)
    assert source is not None
    return source, taps


def _factor(layer: Layer, pace: Pair | None) -> Pair:
    assert pace is not None
    return layer.pace[0] // pace[0], layer.pace[1] // pace[1]


def _held(offset: Pair, factor: Pair) -> tuple[Pair, Pair]:
    """(tap, phase) of a pixel at an offset."""
    return (offset[0] // factor[0], offset[1] // factor[1]), (offset[0] % factor[0], offset[1] % factor[1])


@dataclass(frozen=True, eq=False)
class _Tap:
    """Weights (rows, columns) at one tap."""

    rows: np.ndarray
    columns: np.ndarray
    at: Pair
    weight: np.ndarray


def map_synapses(levels: Levels, layer: Layer, before: Layer, pace_of: dict[str, Pair | None], name: str) -> Conv2d:
    """The one convolution that computes a layer from the layer before."""
    stride = (layer.pace[0] // before.pace[0], layer.pace[1] // before.pace[1])
    taps: list[_Tap] = []
    grids: list[Conv2d] = []  # convolutions that are read as they are: their kernel is kept if all taps lie on it
    for part in layer.parts:
        if part.relays:
            source, at = _relayed(part, before, pace_of)
            columns = _columns(source, levels.shapes[part.population][0])[part.members]
            identity = np.where(np.eye(len(part.members), dtype=bool), RELAY_WEIGHT, 0)
            taps.append(_Tap(_rows(part), columns, at, identity))
            continue
        for read in levels.reads[part.population]:
            assert isinstance(read.synapse, Conv2d)
            grids += [read.synapse] if part.factor == (1, 1) else []
            taps += _taps(levels, part, read.synapse, read.sources, before, pace_of)
    axes = [
        _grid(
            {t.at[a] for t in taps},
            [(c.weight.shape[2 + a], c.padding[a], c.dilation[a]) for c in grids],
            (before.shape[1 + a], layer.shape[1 + a], stride[a]),
        )
        for a in (0, 1)
    ]
    (k_h, p_h, d_h), (k_w, p_w, d_w) = axes
    if max(k_h, k_w, p_h, p_w) > CONV_FIELD_MAX:
        raise NoMapError(f"its kernel would have {k_h} x {k_w} taps (allowed up to {CONV_FIELD_MAX})")
    weight = np.zeros((layer.shape[0], before.shape[0], k_h, k_w), np.int32)
    for tap in taps:
        i, j = (tap.at[0] + p_h) // d_h, (tap.at[1] + p_w) // d_w
        held = tap.columns >= 0
        weight[tap.rows[:, None], tap.columns[held][None], i, j] += tap.weight[:, held]
    return Conv2d(name, weight, stride, (p_h, p_w), (d_h, d_w))


def _taps(
    levels: Levels, part: Part, conv: Conv2d, sources: tuple[str, ...], before: Layer, pace_of: dict[str, Pair | None]
) -> list[_Tap]:
    found, weight, start = [], ungrouped(conv), 0
    for source in sources:
        channels = levels.shapes[source][0]
        block, start = weight[:, start : start + channels], start + channels
        factor = _factor(before, pace_of[source])
        for i, j in np.ndindex(*conv.weight.shape[2:]):
            offset = [
                phase * s + tap * d - p
                for phase, s, tap, d, p in zip(part.phase, conv.stride, (i, j), conv.dilation, conv.padding, strict=True)
            ]
            at, phase = _held((offset[0], offset[1]), factor)
            held = before.find(source, phase)
            columns = np.full(channels, -1) if held is None else _columns(held, channels)
            found.append(_Tap(_rows(part), columns, at, block[:, :, i, j]))
    return found


def _rows(part: Part) -> np.ndarray:
    return part.first + np.arange(len(part.members))


def _columns(part: Part, channels: int) -> np.ndarray:
    """Channel of the population -> channel of the layer that holds it, -1 where nobody needs it."""
    found = np.full(channels, -1)
    found[part.members] = _rows(part)
    return found


def _grid(taps: set[int], kept: list[tuple[int, int, int]], sizes: tuple[int, int, int]) -> tuple[int, int, int]:
    """(kernel, padding, dilation) along an axis that has all taps and makes a map of the wanted size.

    ``sizes`` are those of the map before and after, and the stride. More padding gives room for two more taps and needs one.
    """
    n_in, n_out, stride = sizes

    def makes(kernel: int, padding: int, dilation: int) -> bool:
        rest = n_in + 2 * padding - dilation * (kernel - 1) - 1
        return rest >= 0 and rest // stride + 1 == n_out

    for kernel, padding, dilation in kept:
        if taps <= {i * dilation - padding for i in range(kernel)} and makes(kernel, padding, dilation):
            return kernel, padding, dilation
    padding = max(0, -min(taps))
    while True:
        needed = max(taps) + padding + 1
        for kernel in range(needed, n_in + 2 * padding + 1):
            if makes(kernel, padding, 1):
                return kernel, padding, 1
        padding += 1
