"""Running a plan: passes over windows, layer by layer; windows, or rows of one window's large layers, side by side in threads."""

import threading
from collections.abc import Collection
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import as_strided

from taaf.hw_sim.activity import Activity
from taaf.hw_sim.engines.event import kernels
from taaf.hw_sim.engines.event.neurons import Neurons, Period, neurons_of, period_of
from taaf.hw_sim.engines.event.plan import Events, LifLayer, MarkLayer, Plan
from taaf.models.ir import Graph
from taaf.models.kernels.threads import n_cpus, side_by_side

_PASS_VALUES = 1 << 24  # neurons of the widest layer times slots of a pass
_ACC_BYTES = 1 << 18  # of a layer's currents at a time: they stay in the cache
_ACC_BYTES_GATHERED = 1 << 21  # where every block of weights is read once per such segment
_KEPT_BYTES = 1 << 25  # of buffers that a thread keeps


class _Totals:
    """Counts of all passes; threads add to them one after another."""

    def __init__(self, plan: Plan, n: int, steps: int) -> None:
        self.activity = Activity(n, steps)
        self._plan, self._lock = plan, threading.Lock()
        for name in (plan.graph.input.name, *(lif.name for lif in plan.graph.lifs())):
            self.activity.spikes[name] = np.zeros(plan.layouts[name].shape, np.int64)

    def add(self, name: str, counts: np.ndarray, saturated: tuple[int, int] = (0, 0)) -> None:
        """Counts by index, which are cleared, and numbers of wraps and clips."""
        layout, activity = self._plan.layouts[name], self.activity
        with self._lock:
            kernels.add_counts(counts, layout.pixels, layout.cp, layout.shape[0], activity.spikes[name].reshape(-1))
            for total, times in zip((activity.wraps, activity.clips), saturated, strict=True):
                if times:
                    total[name] = total.get(name, 0) + times


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
        self._periods: dict[str, Period] = {}
        self._fits: dict[tuple[str, int], bool] = {}
        self._splits = any(isinstance(layer, LifLayer) and layer.gathers for layer in self.plan.layers)

    def run(self, spikes: np.ndarray, wanted: Collection[str]) -> tuple[dict[str, np.ndarray], Activity]:
        """Spikes (N, ..., T) uint8 of ``wanted`` nodes, and counts; ``spikes`` (N, *shape, T) hold zeros and ones."""
        n, steps = len(spikes), spikes.shape[-1]
        for layer in self.plan.layers:
            if isinstance(layer, LifLayer):
                self._prepare(layer, steps)
        widest = max(layout.n for layout in self.plan.layouts.values())
        chunk = max(1, min(self.chunk, _PASS_VALUES // (widest * steps)))
        parts = 1
        if self._splits and n < self.threads:
            parts = self.threads
        else:
            chunk = max(1, min(chunk, -(-n // self.threads)))
        out = {name: np.zeros((n, steps, *self.graph.shapes[name]), np.uint8) for name in wanted}

        totals = _Totals(self.plan, n, steps)

        def one(start: int) -> None:
            found = self._pass(spikes[start : start + chunk], parts, totals)
            for name, given in out.items():
                shared = self.plan.events_of[name]
                layout, events, block = self.plan.layouts[shared], found[shared], given[start : start + chunk]
                size = int(np.prod(layout.shape))
                kernels.to_bytes(events.ev, events.ptr, len(block) * steps, layout.rows, layout.width, layout.place,
                                 block.reshape(-1), size)  # fmt: skip

        side_by_side(one, range(0, n, chunk), 1 if parts > 1 else self.threads)
        return {name: np.moveaxis(x, 1, -1) for name, x in out.items()}, totals.activity

    def _prepare(self, layer: LifLayer, steps: int) -> None:
        """Which kernel runs a layer in windows of this length, and its parameters."""
        name = layer.lif.name
        if (name, steps) not in self._fits:
            self._fits[name, steps] = fits = layer.leak is not None and self.plan.fits(layer, steps)
            if fits and name not in self._periods:
                self._periods[name] = period_of(layer)
            elif not fits and name not in self._neurons:
                self._neurons[name] = neurons_of(layer)

    def _pass(self, windows: np.ndarray, parts: int, totals: _Totals) -> dict[str, Events]:
        """Some windows, every layer; ``parts`` of a large layer at a time."""
        slots, name = len(windows) * windows.shape[-1], self.graph.input.name
        try:
            found = {name: self._input(windows, totals)}
            for layer in self.plan.layers:
                if isinstance(layer, MarkLayer):
                    found[layer.name] = self._mark(layer, found, slots)
                else:
                    found[layer.lif.name] = self._lif(layer, found, slots, windows.shape[-1], parts, totals)
        except BaseException:  # Control-C, too
            _BUFFERS.forget()
            raise
        return found

    def _lif(
        self, layer: LifLayer, events: dict[str, Events], slots: int, steps: int, parts: int, totals: _Totals
    ) -> Events:  # fmt: skip
        """Spikes of a layer."""
        name, layout, rows = layer.lif.name, layer.layout, layer.layout.size[0]
        ptr = np.empty(slots * (layout.rows * (layout.width + 1) if layer.gathers else 2), np.int64)
        counts, saturated = _BUFFERS.take("counts", layout.n, np.int64), np.zeros((rows, 2), np.int64)

        def one(part: tuple[int, int]) -> np.ndarray:
            try:
                return self._rows(layer, events, slots, steps, part, ptr, counts, saturated[part[0]])
            except BaseException:
                _BUFFERS.forget()
                raise

        bounds = sorted({rows * k // parts for k in range(parts + 1)}) if layer.gathers else [0, rows]
        ranges = list(pairwise(bounds))
        found = side_by_side(one, ranges, self.threads)
        totals.add(name, counts, (int(saturated[:, 0].sum()), int(saturated[:, 1].sum())))
        if len(found) == 1:
            given = Events(found[0], ptr)
            return given if layer.gathers else self._indexed(name, given, slots)
        by_row, at = ptr.reshape(slots, rows, -1), 0
        for (y0, y1), part in zip(ranges, found, strict=True):
            by_row[:, y0:y1] += at
            at += len(part)
        return Events(np.concatenate(found), ptr)

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
        small, fits = layer.acc is np.int16, self._fits[name, steps]
        segment = max(1, min(slots, (_ACC_BYTES_GATHERED if layer.gathers else _ACC_BYTES) // (n * (2 if small else 4))))
        acc, ev, at = _BUFFERS.take("acc", segment * n, layer.acc), _BUFFERS.take("ev", segment * n, np.int32), 0
        if fits:
            period = self._periods[name]
            v = _BUFFERS.take("v", n, np.int32)[:n]
            bias, threshold = (x[own] if len(x) == layout.n else x for x in (period.bias, period.threshold))
        else:
            u, v64 = (_BUFFERS.take(use, n, np.int64)[:n] for use in ("u", "v"))
            fired = _BUFFERS.take("fired", n, np.uint8)[:n]
            neurons = self._neurons[name]
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
        fired, at = _BUFFERS.take("fired", segment * layout.n, np.uint8)[: segment * layout.n], 0
        ev = _BUFFERS.take("ev", segment * layout.n, np.int32)
        for first in range(0, slots, segment):
            last = min(slots, first + segment)
            for name, tap_ptr, tap_out in layer.places:
                given, source = events[name], self.plan.layouts[name]
                kernels.mark(given.ev, given.ptr, source.rows, source.width, first, last, tap_ptr, tap_out, fired, layout.n)
            if len(ev) - at < (last - first) * layout.n:
                ev = _grown(ev, at, (last - first) * layout.n)
            at = kernels.collect(fired.view(np.int64), first, last, rows, width, cp, ev, at, ptr, counts)
        return Events(ev[:at].copy(), ptr)

    def _input(self, windows: np.ndarray, totals: _Totals) -> Events:
        layout = self.plan.layouts[self.graph.input.name]
        n, steps, size = len(windows), windows.shape[-1], layout.n
        counts = _BUFFERS.take("counts", layout.n, np.int64)
        flat, window_stride, step_stride = _bytes_of(windows)
        ev, words = _BUFFERS.take("ev", n * steps * size, np.int32), -(-size // 8)
        given = (flat.view(np.int64), n, steps, words, window_stride // 8, step_stride // 8)
        ptr = np.empty(n * steps * layout.rows * (layout.width + 1), np.int64)
        if layout.by_pixel:
            next_of = np.empty(layout.pixels, np.int64)
            at = kernels.input_pixels(*given, layout.shape[0], *layout.size, next_of, ev, ptr, counts)
        else:
            at = kernels.input_words(*given, layout.index, ev, ptr, counts)
        totals.add(self.graph.input.name, counts)
        return Events(ev[:at].copy(), ptr)


def _grown(ev: np.ndarray, used: int, needed: int) -> np.ndarray:
    """A larger list for the thread, with what is in it so far."""
    more = _BUFFERS.take("ev", 2 * used + needed, np.int32)
    more[:used] = ev[:used]
    return more


def _bytes_of(windows: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Windows (N, ..., T) as flat bytes and the strides of windows and steps, multiples of 8; without a copy if it can."""
    by_step = np.moveaxis(windows, -1, 1)  # (N, T, ...)
    n, steps, *shape = by_step.shape
    size = int(np.prod(shape))
    ordered = np.dtype(windows.dtype).itemsize == 1 and n > 0 and by_step[0, 0].flags.c_contiguous
    window_stride, step_stride = by_step.strides[:2]
    if n == 1:
        window_stride = 0
    if steps == 1:
        step_stride = 0
    aligned = all(x % 8 == 0 for x in (size, window_stride, step_stride, windows.__array_interface__["data"][0]))
    if ordered and aligned and window_stride >= 0 and step_stride >= 0:
        length = (n - 1) * window_stride + (steps - 1) * step_stride + size
        return as_strided(by_step.view(np.uint8), (length,), (1,)), window_stride, step_stride
    padded = -(-size // 8) * 8
    copy = np.zeros((steps, n, padded), np.uint8)
    copy[:, :, :size] = by_step.swapaxes(0, 1).reshape(steps, n, size)
    return copy.reshape(-1), padded, n * padded
