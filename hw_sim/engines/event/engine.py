"""Running a plan: passes over windows, layer by layer; windows, or rows of one window's large layers, side by side in threads."""

import threading
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import as_strided

from taaf.hw_sim.activity import Activity
from taaf.hw_sim.engines.event import kernels
from taaf.hw_sim.engines.event.plan import NEVER, Events, LifLayer, MarkLayer, Neurons, Plan, neurons_of
from taaf.hw_sim.engines.threads import n_cpus, side_by_side
from taaf.models.ir import Graph

_PASS_VALUES = 1 << 24  # neurons of the widest layer times slots of a pass
_ACC_BYTES = 1 << 18  # of a layer's currents at a time: they stay in the cache
_ACC_BYTES_GATHERED = 1 << 21  # where every block of weights is read once per such segment
_KEPT_BYTES = 1 << 25  # of buffers that a thread keeps


@dataclass(frozen=True, eq=False)
class _Period:
    """int32 parameters of as many neurons as repeat."""

    bias: np.ndarray
    threshold: np.ndarray


@dataclass(eq=False)
class _Pass:
    """What a pass over some windows gives."""

    events: dict[str, Events]
    counts: dict[str, np.ndarray]  # by index
    wraps: dict[str, int]
    clips: dict[str, int]


class _Buffers(threading.local):
    """Memory that a thread uses again: fresh pages cost more than what is written into them."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], np.ndarray] = {}

    def take(self, use: str, size: int, kind: np.dtype | type) -> np.ndarray:
        """An array of at least ``size``, zeros when new; whoever has it now leaves it as the next expects it."""
        key = (use, np.dtype(kind).str)
        found = self._known.get(key)
        if found is None or len(found) < size:
            found = np.zeros(size, kind)
            if found.nbytes <= _KEPT_BYTES:
                self._known[key] = found
        return found

    def forget(self) -> None:
        """After a failure nobody knows what they hold."""
        self._known.clear()


_BUFFERS = _Buffers()


class EventEngine:
    """An integer graph, event by event, exactly.

    Parameters
    ----------
    graph : Graph
        Integer stage.
    chunk : int
        Most windows per pass.
    threads : int, optional
        Passes, or parts of a layer, at the same time; by default the CPUs this process may use.

    Raises
    ------
    UnsupportedGraph
        If the kernels cannot run this graph.
    """

    def __init__(self, graph: Graph, chunk: int = 32, threads: int | None = None) -> None:
        self.graph, self.chunk, self.threads = graph, chunk, threads or n_cpus()
        self.plan = Plan(graph)
        self._neurons: dict[str, Neurons] = {}
        self._periods: dict[str, _Period] = {}
        self._fits: dict[tuple[str, int], bool] = {}
        for layer in self.plan.layers:
            if isinstance(layer, LifLayer):
                self._neurons[layer.lif.name] = neurons_of(layer)
                self._periods[layer.lif.name] = _period(layer, self._neurons[layer.lif.name])
        self._splits = any(isinstance(layer, LifLayer) and layer.gathers for layer in self.plan.layers)

    def run(self, spikes: np.ndarray, wanted: Collection[str]) -> tuple[dict[str, np.ndarray], Activity]:
        """Spikes (N, ..., T) uint8 of ``wanted`` nodes, and counts; ``spikes`` (N, *shape, T) hold zeros and ones."""
        n, steps = len(spikes), spikes.shape[-1]
        for layer in self.plan.layers:
            if isinstance(layer, LifLayer):
                self._fits[layer.lif.name, steps] = self.plan.fits(layer, steps)
        widest = max(layout.n for layout in self.plan.layouts.values())
        chunk = max(1, min(self.chunk, _PASS_VALUES // (widest * steps)))
        parts = 1
        if self._splits and n < self.threads:
            parts = self.threads
        else:
            chunk = max(1, min(chunk, -(-n // self.threads)))
        out = {name: np.zeros((n, steps, *self.graph.shapes[name]), np.uint8) for name in wanted}

        def one(start: int) -> _Pass:
            done = self._pass(spikes[start : start + chunk], parts)
            for name, given in out.items():
                shared = self.plan.events_of[name]
                layout, events, block = self.plan.layouts[shared], done.events[shared], given[start : start + chunk]
                size = int(np.prod(layout.shape))
                kernels.to_bytes(events.ev, events.ptr, len(block) * steps, layout.rows, layout.width, layout.place,
                                 block.reshape(-1), size)  # fmt: skip
            done.events.clear()
            return done

        passes = side_by_side(one, range(0, n, chunk), 1 if parts > 1 else self.threads)
        return {name: np.moveaxis(x, 1, -1) for name, x in out.items()}, self._activity(passes, n, steps)

    def _activity(self, passes: list[_Pass], n: int, steps: int) -> Activity:
        activity = Activity(n, steps)
        for name in (self.graph.input.name, *(lif.name for lif in self.graph.lifs())):
            layout = self.plan.layouts[name]
            total = np.zeros(layout.n, np.int64)
            for done in passes:
                total += done.counts[name]
            activity.spikes[name] = total[layout.index].reshape(layout.shape)
        for done in passes:
            for found, total_of in ((done.wraps, activity.wraps), (done.clips, activity.clips)):
                for name, times in found.items():
                    total_of[name] = total_of.get(name, 0) + times
        return activity

    def _pass(self, windows: np.ndarray, parts: int) -> _Pass:
        """Some windows, every layer; ``parts`` of a large layer at a time."""
        slots, done = len(windows) * windows.shape[-1], _Pass({}, {}, {}, {})
        name = self.graph.input.name
        done.events[name], done.counts[name] = self._input(windows)
        for layer in self.plan.layers:
            if isinstance(layer, MarkLayer):
                done.events[layer.name] = self._mark(layer, done.events, slots)
            else:
                self._lif(layer, done, slots, windows.shape[-1], parts)
        return done

    def _lif(self, layer: LifLayer, done: _Pass, slots: int, steps: int, parts: int) -> None:
        """Spikes, counts and saturation of a layer."""
        name, layout, rows = layer.lif.name, layer.layout, layer.layout.size[0]
        ptr = np.empty(slots * (layout.rows * (layout.width + 1) if layer.gathers else 2), np.int64)
        counts, saturated = np.zeros(layout.n, np.int64), np.zeros((rows, 2), np.int64)

        def one(part: tuple[int, int]) -> np.ndarray:
            try:
                return self._rows(layer, done.events, slots, steps, part, ptr, counts, saturated[part[0]])
            except BaseException:  # Control-C, too: the currents in the thread's buffers are not zero
                _BUFFERS.forget()
                raise

        bounds = sorted({rows * k // parts for k in range(parts + 1)}) if layer.gathers else [0, rows]
        ranges = list(pairwise(bounds))
        found = side_by_side(one, ranges, self.threads)
        if len(found) > 1:
            by_row, at = ptr.reshape(slots, rows, -1), 0
            for (y0, y1), part in zip(ranges, found, strict=True):
                by_row[:, y0:y1] += at
                at += len(part)
        events = Events(np.concatenate(found), ptr)
        done.events[name] = events if layer.gathers else self._indexed(name, events, slots)
        done.counts[name] = counts
        for total, times in ((done.wraps, saturated[:, 0].sum()), (done.clips, saturated[:, 1].sum())):
            if times:
                total[name] = int(times)

    def _rows(
        self, layer: LifLayer, events: dict[str, Events], slots: int, steps: int, part: tuple[int, int], ptr: np.ndarray,
        counts: np.ndarray, saturated: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        """Spikes of rows ``part`` of a layer; fills ``ptr`` and ``counts`` there."""
        layout, name = layer.layout, layer.lif.name
        whole = part == (0, layout.size[0])
        rows, width, cp = (part[1] - part[0], layout.width, layout.cp) if layer.gathers else (1, 1, layout.n)
        n, row0, all_rows = rows * width * cp, part[0] if layer.gathers else 0, layout.rows if layer.gathers else 1
        own = slice(None) if whole else slice(row0 * width * cp, (row0 + rows) * width * cp)
        small, fits = layer.acc is np.int16, self._fits[name, steps] and layer.leak is not None
        segment = max(1, min(slots, (_ACC_BYTES_GATHERED if layer.gathers else _ACC_BYTES) // (n * (2 if small else 4))))
        acc, ev, at = _BUFFERS.take("acc", segment * n, layer.acc), _BUFFERS.take("ev", segment * n, np.int32), 0
        neurons, period = self._neurons[name], self._periods[name]
        if fits:
            v = np.zeros(n, np.int32)
            bias, threshold = (x[own] if len(x) == layout.n else x for x in (period.bias, period.threshold))
        else:
            u, v64, fired = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.uint8)
            own_neurons = [x[own] for x in (neurons.keep_u, neurons.keep_v, neurons.bias, neurons.threshold)]
        for first in range(0, slots, segment):
            last = min(slots, first + segment)
            for group in layer.synapses:
                group.add(events[group.source], steps, first, last, acc, part)
            if len(ev) - at < (last - first) * n:
                ev = _grown(ev, at, (last - first) * n)
            if fits:
                at = (kernels.fire16 if small else kernels.fire32)(
                    acc, v, bias, threshold, layer.leak, layer.shift, steps, first, last, rows, width, cp, ev, at, ptr, counts,
                    all_rows, row0,
                )  # fmt: skip
            else:
                at = (kernels.lif16 if small else kernels.lif32)(
                    acc, u, v64, *own_neurons, layer.shift, layer.recurrent, layer.most, fired, fired.view(np.int64), steps, first,
                    last, rows, width, cp, ev, at, ptr, counts, all_rows, row0, saturated,
                )  # fmt: skip
        return ev[:at].copy()

    def _indexed(self, name: str, events: Events, slots: int) -> Events:
        """By pixel, if somebody gathers them."""
        layout = self.plan.layouts[name]
        if not layout.by_pixel:
            return events
        height, width = layout.size
        ptr = np.empty(slots * height * (width + 1), np.int64)
        kernels.index_pixels(events.ev, events.ptr, slots, height, width, layout.cp, ptr)
        return Events(events.ev, ptr)

    def _mark(self, layer: MarkLayer, events: dict[str, Events], slots: int) -> Events:
        layout = layer.layout
        rows, width, cp = (*layout.size, layout.cp) if layout.by_pixel else (1, 1, layout.n)
        ptr, counts = np.empty(slots * rows * (width + 1), np.int64), np.zeros(layout.n, np.int64)
        segment = max(1, min(slots, _ACC_BYTES // layout.n))
        fired, ev, at = np.zeros(segment * layout.n, np.uint8), _BUFFERS.take("ev", segment * layout.n, np.int32), 0
        for first in range(0, slots, segment):
            last = min(slots, first + segment)
            for name, tap_ptr, tap_out in layer.places:
                given, source = events[name], self.plan.layouts[name]
                kernels.mark(given.ev, given.ptr, source.rows, source.width, first, last, tap_ptr, tap_out, fired, layout.n)
            if len(ev) - at < (last - first) * layout.n:
                ev = _grown(ev, at, (last - first) * layout.n)
            at = kernels.collect(fired.view(np.int64), first, last, rows, width, cp, ev, at, ptr, counts)
        return Events(ev[:at].copy(), ptr)

    def _input(self, windows: np.ndarray) -> tuple[Events, np.ndarray]:
        layout = self.plan.layouts[self.graph.input.name]
        n, steps, size = len(windows), windows.shape[-1], layout.n
        counts = np.zeros(layout.n, np.int64)
        flat, window_stride, step_stride = _bytes_of(windows, 1 if layout.by_pixel else 8)
        ev = _BUFFERS.take("ev", n * steps * size, np.int32)
        if layout.by_pixel:
            ptr = np.empty(n * steps * layout.rows * (layout.width + 1), np.int64)
            at = kernels.input_pixels(
                flat, n, steps, window_stride, step_stride, layout.shape[0], *layout.size, ev, ptr, counts
            )
        else:
            ptr, words = np.empty(2 * n * steps, np.int64), -(-size // 8)
            at = kernels.input_words(flat.view(np.int64), n, steps, words, window_stride // 8, step_stride // 8, layout.index, ev, ptr,
                                counts)  # fmt: skip
        return Events(ev[:at].copy(), ptr), counts


def _grown(ev: np.ndarray, used: int, needed: int) -> np.ndarray:
    """A larger list for the thread, with what is in it so far."""
    more = _BUFFERS.take("ev", 2 * used + needed, np.int32)
    more[:used] = ev[:used]
    return more


def _period(layer: LifLayer, neurons: Neurons) -> _Period:
    """One pixel's parameters where all pixels have the same, in steps of 32 neurons; else all of them."""
    bias = np.clip(neurons.bias, -NEVER, NEVER).astype(np.int32)
    threshold = np.clip(neurons.threshold, -NEVER, NEVER).astype(np.int32)
    period = int(np.lcm(layer.layout.cp, 32))
    n = layer.layout.n
    no_padding = n % period == 0 and n == layer.layout.pixels * layer.layout.cp  # after the last pixel
    if no_padding and all(np.array_equal(x, np.resize(x[:period], n)) for x in (bias, threshold)):
        return _Period(bias[:period].copy(), threshold[:period].copy())
    return _Period(bias, threshold)


def _bytes_of(windows: np.ndarray, multiple: int) -> tuple[np.ndarray, int, int]:
    """Windows (N, ..., T) as flat bytes and the strides of windows and steps, multiples of ``multiple``; without a copy if it can."""
    by_step = np.moveaxis(windows, -1, 1)  # (N, T, ...)
    n, steps, *shape = by_step.shape
    size = int(np.prod(shape))
    ordered = np.dtype(windows.dtype).itemsize == 1 and n > 0 and by_step[0, 0].flags.c_contiguous
    window_stride, step_stride = by_step.strides[:2]
    if n == 1:
        window_stride = 0
    if steps == 1:
        step_stride = 0
    aligned = all(x % multiple == 0 for x in (size, window_stride, step_stride, windows.__array_interface__["data"][0]))
    if ordered and aligned and window_stride >= 0 and step_stride >= 0:
        length = (n - 1) * window_stride + (steps - 1) * step_stride + size
        return as_strided(by_step.view(np.uint8), (length,), (1,)), window_stride, step_stride
    padded = -(-size // multiple) * multiple
    copy = np.zeros((steps, n, padded), np.uint8)
    copy[:, :, :size] = by_step.swapaxes(0, 1).reshape(steps, n, size)
    return copy.reshape(-1), padded, n * padded
