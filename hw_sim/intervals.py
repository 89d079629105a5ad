"""Interval analysis of an integer graph: how far the synaptic sum, u and v of every neuron can go, whatever the input.

With binary spikes the sum of a neuron lies between the sums of its negative and of its positive weights; at the border
of a convolution only the kernel taps inside the map count. Both ends are reached, so ``[low, high]`` is exact per layer:

    low = sum min(W, 0) <= a(t) <= high = sum max(W, 0)

The recurrences of `taaf.models.ir` never decrease when their arguments grow, so running them on the ends bounds every
trace. Let ``k = 4096 - decay``. For a window of T steps the ends are run for T steps; for any length, growth from 0 by
m <- floor(m k / 4096) + d (truncation toward zero) stops at the least fixed point, for d > 0

    m = floor(m k / 4096) + d  <=>  ceil(m decay / 4096) = d   =>   m* = floor((d - 1) 4096 / decay) + 1

v before its reset never exceeds what a neuron exactly at its threshold reaches: ``floor(64 v_th k / 4096) + u + 64 bias``.
Nothing resets a neuron from below, so inhibition goes down to the (window's) end of the recurrence.

u and v are bounded as they would be in training, which has no 24-bit wrap and clip; a neuron whose u could wrap is taken
to have any 24-bit u from then on. The bounds therefore hold with and without wrap and clip.
"""

from dataclasses import dataclass

import numpy as np

from taaf.models.ir import Conv2d, Dense, Graph, Lif, RecurrentDense
from taaf.models.ir.nodes import spread

UV_LIMIT = 1 << 23  # u wraps above 2^23 and at -2^23, v clips to +-(2^23 - 1)
UNBOUNDED = 1 << 62


@dataclass(frozen=True)
class Range:
    """Ends per neuron, both included; int64 of the layer's shape."""

    low: np.ndarray
    high: np.ndarray

    @property
    def ends(self) -> tuple[int, int]:
        """Lowest and highest of the layer."""
        return int(self.low.min()), int(self.high.max())

    @property
    def peak(self) -> int:
        """Largest magnitude of the layer."""
        low, high = self.ends
        return max(-low, high)


@dataclass(frozen=True)
class LifRanges:
    """Ranges of one LIF layer.

    Attributes
    ----------
    a : Range
        Synaptic sum a(t).
    u : Range
        Current before the wrap.
    v : Range
        Voltage before clip and reset.
    retained_u : int
        Largest part of a 24-bit u that the next step keeps.
    """

    a: Range
    u: Range
    v: Range
    retained_u: int

    @property
    def may_wrap(self) -> np.ndarray:
        """Neurons whose u could leave 24 bits."""
        return _may_wrap(self.u.low, self.u.high)

    @property
    def may_clip(self) -> np.ndarray:
        """Neurons whose v could leave 24 bits."""
        outside: np.ndarray = (self.v.high >= UV_LIMIT) | (self.v.low <= -UV_LIMIT)
        return outside

    @property
    def one_wrap_is_enough(self) -> bool:
        """Whether one wrap, which is what Lava does, always brings u back into 24 bits."""
        return self.retained_u + 64 * self.a.peak < 3 * UV_LIMIT


def synaptic_range(graph: Graph, lif: Lif) -> Range:
    """Range of a(t) per neuron, all groups of synapses that end in this LIF together."""
    everywhere = tuple(np.arange(n) for n in graph.shapes[lif.name][1:])
    return _synaptic_range(graph, lif, everywhere)


def _synaptic_range(graph: Graph, lif: Lif, places: tuple[np.ndarray, ...]) -> Range:
    """`synaptic_range` at some rows and columns of the map (of flat layers: everywhere)."""
    shape = (graph.shapes[lif.name][0], *map(len, places))
    low, high = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for node in graph.synapses_of(lif.name):
        inside = [mask[at].astype(np.int64) for mask, at in zip(_taps_inside(graph, node), places, strict=True)]
        low += _end(node, inside, np.minimum)
        high += _end(node, inside, np.maximum)
    return Range(low, high)


def _taps_inside(graph: Graph, node: Conv2d | Dense) -> list[np.ndarray]:
    """Per axis of the map (output position, kernel tap): whether the tap reads a pixel of the map, not padding."""
    if not isinstance(node, Conv2d):
        return []
    (source,) = graph.sources(node.name)
    fields = (
        graph.shapes[source][1:],
        graph.shapes[node.name][1:],
        node.weight.shape[2:],
        node.stride,
        node.padding,
        node.dilation,
    )
    return [
        ((at := np.arange(m)[:, None] * s - p + np.arange(k) * d) >= 0) & (at < n)
        for n, m, k, s, p, d in zip(*fields, strict=True)
    ]


def _end(node: Conv2d | Dense, inside: list[np.ndarray], which: np.ufunc) -> np.ndarray:
    total: np.ndarray = which(node.weight, 0).sum(1, dtype=np.int64)
    if isinstance(node, Conv2d):
        end: np.ndarray = np.einsum("oij,yi,xj->oyx", total, *inside, optimize=True)
        return end
    if isinstance(node, RecurrentDense):
        total = total + which(node.weight_rec, 0).sum(1, dtype=np.int64)
    return total


def _different_places(graph: Graph, lif: Lif) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per axis of the map: positions that stand for all, and which of them stands for each position.

    Positions from which the same taps of all kernels read the map have the same ranges: of a large map few differ.
    """
    masks = [_taps_inside(graph, node) for node in graph.synapses_of(lif.name)]
    if lif.bias is not None and lif.bias.ndim == 3:
        return [(np.arange(n), np.arange(n)) for n in graph.shapes[lif.name][1:]]
    found = []
    for axis in zip(*masks, strict=True):
        _, first, same = np.unique(np.concatenate(axis, axis=1), axis=0, return_index=True, return_inverse=True)
        found.append((first, same.reshape(-1)))
    return found


def lif_ranges(graph: Graph, lif: Lif, steps: int | None = None) -> LifRanges:
    """Ranges of a, u and v of a LIF layer.

    Parameters
    ----------
    graph : Graph
        Integer stage.
    steps : int, optional
        Time steps from rest to the next reset (the window length); by default any number.
    """
    places = _different_places(graph, lif)
    a, shape = _synaptic_range(graph, lif, tuple(first for first, _ in places)), graph.shapes[lif.name]
    drive = Range(64 * a.low, 64 * a.high)
    neuron = _Neuron(
        decay_u=spread(lif.i_decay, shape),
        decay_v=spread(lif.v_decay, shape),
        threshold=spread(lif.v_th_mant, shape) * 64,
        bias=spread(0 if lif.bias is None else lif.bias, shape) * 64,
    )
    u, v = neuron.always(drive) if steps is None else neuron.within(drive, steps)
    a, u, v = (Range(_spread(r.low, places), _spread(r.high, places)) for r in (a, u, v))
    return LifRanges(a, u, v, retained_u=int(_decayed(np.array(UV_LIMIT), neuron.decay_u).max()))


def _spread(values: np.ndarray, places: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """From the positions that stand for all to all positions."""
    for axis, (_, same) in enumerate(places, start=1):
        values = values.take(same, axis=axis)
    return values


@dataclass(frozen=True)
class _Neuron:
    """Parameters in units of u and v."""

    decay_u: np.ndarray
    decay_v: np.ndarray
    threshold: np.ndarray
    bias: np.ndarray

    def always(self, drive: Range) -> tuple[Range, Range]:
        """u and v for any number of steps, from the fixed points."""
        u = Range(-_least_fixed_point(-drive.low, self.decay_u), _least_fixed_point(drive.high, self.decay_u))
        wraps = _may_wrap(u.low, u.high)
        any_u = _with_any_u(u, wraps)
        u = Range(
            np.minimum(u.low, _decayed(any_u.low, self.decay_u) + drive.low),
            np.maximum(u.high, _decayed(any_u.high, self.decay_u) + drive.high),
        )
        low, high = self._added(u, wraps)
        top = np.minimum(_least_fixed_point(high, self.decay_v), _decayed(self.threshold, self.decay_v) + high)
        bottom = -_least_fixed_point(-low, self.decay_v)
        return u, Range(np.where(low < 0, bottom, low), np.where(high > 0, top, high))

    def within(self, drive: Range, steps: int) -> tuple[Range, Range]:
        """u and v over ``steps`` steps from rest, from the recurrences themselves."""
        zero = np.zeros(drive.low.shape, np.int64)
        wraps, nowhere = zero > 0, Range(zero + UNBOUNDED, zero - UNBOUNDED)
        u, v, all_u, all_v = Range(zero, zero), Range(zero, zero), nowhere, nowhere
        for _ in range(steps):
            before = (u, v)
            kept = _with_any_u(u, wraps)
            u = Range(_decayed(kept.low, self.decay_u) + drive.low, _decayed(kept.high, self.decay_u) + drive.high)
            wraps = wraps | _may_wrap(u.low, u.high)
            low, high = self._added(u, wraps)
            kept = self._after_reset(v)
            v = Range(_decayed(kept.low, self.decay_v) + low, _decayed(kept.high, self.decay_v) + high)
            all_u, all_v = _union(all_u, u), _union(all_v, v)
            if all((a.low == b.low).all() and (a.high == b.high).all() for a, b in zip(before, (u, v), strict=True)):
                break  # nothing moves any more
        return all_u, all_v

    def _added(self, u: Range, wraps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What a step adds to v: u (any 24-bit value where it could have wrapped) and the bias."""
        low, high = np.where(wraps, 1 - UV_LIMIT, u.low), np.where(wraps, UV_LIMIT, u.high)
        return low + self.bias, high + self.bias

    def _after_reset(self, v: Range) -> Range:
        """v above the threshold became 0; the clip may have lifted the rest to -(2^23 - 1)."""
        low = np.where(v.high > self.threshold, np.minimum(v.low, 0), v.low)
        return Range(low, np.maximum(np.minimum(v.high, self.threshold), 1 - UV_LIMIT))


def _union(a: Range, b: Range) -> Range:
    return Range(np.minimum(a.low, b.low), np.maximum(a.high, b.high))


def _with_any_u(u: Range, wraps: np.ndarray) -> Range:
    """The range of u and, where it could have wrapped, every 24-bit value too."""
    return Range(np.where(wraps, np.minimum(u.low, 1 - UV_LIMIT), u.low), np.where(wraps, np.maximum(u.high, UV_LIMIT), u.high))


def _decayed(x: np.ndarray, decay: np.ndarray) -> np.ndarray:
    """``tz(x (4096 - decay) / 4096)``."""
    return np.asarray(np.sign(x) * (np.abs(x) * (4096 - decay) >> 12))


def _least_fixed_point(d: np.ndarray, decay: np.ndarray) -> np.ndarray:
    """Limit of m <- floor(m (4096 - decay) / 4096) + d from 0; 0 where d <= 0, `UNBOUNDED` where nothing decays."""
    limit = np.where(decay > 0, (d - 1) * 4096 // np.maximum(decay, 1) + 1, UNBOUNDED)
    return np.where(d > 0, limit, 0)


def _may_wrap(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    outside: np.ndarray = (high > UV_LIMIT) | (low <= -UV_LIMIT)
    return outside
