"""From an integer graph to the tables that the kernels read: layouts, weights of the right order and type, neurons.

A layer of maps with 32 channels or more gathers (`gather_conv`: for every output pixel the spikes that it reads, sums in
registers); a smaller one scatters (for every spike its fan-out). Weights that are all even are halved, so that 16-bit sums
last longer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from taaf.hw_sim.engines.event import kernels
from taaf.hw_sim.engines.event.layout import Layout, concat_places, conv_taps, pool_places, up
from taaf.hw_sim.intervals import LifRanges, lif_ranges
from taaf.models.ir import Concat, Conv2d, Dense, Flatten, Graph, Input, Lif, Node, Pool2d, RecurrentDense
from taaf.models.ir.nodes import PerChannel

_MOST_TABLE = 1 << 28  # values of one table of weights


class UnsupportedGraph(Exception):
    """Why the kernels cannot run a graph; the torch engine runs it then."""


@dataclass(frozen=True, eq=False)
class Events:
    """Spikes of one layer in a pass: `taaf.hw_sim.engines.event.kernels` says how ``ev`` and ``ptr`` are read."""

    ev: np.ndarray
    ptr: np.ndarray


@dataclass(frozen=True, eq=False)
class Synapses:
    """One group: ``add(events, steps, first, last, acc, (y0, y1))`` adds its currents of slots first .. last to acc."""

    source: str
    add: Callable[[Events, int, int, int, np.ndarray, tuple[int, int]], None]


@dataclass(frozen=True, eq=False)
class LifLayer:
    """A LIF and everything that ends in it."""

    lif: Lif
    layout: Layout
    synapses: tuple[Synapses, ...]
    acc: type[np.int16] | type[np.int32]
    shift: int
    recurrent: np.ndarray  # rows of weights by index, or empty
    most: int  # such rows whose sum fits 16 bits
    leak: int | None  # v keeps 2^-leak of itself; None: only `lif` can run these neurons
    gathers: bool  # its rows can be computed apart from each other, and are indexed by pixel


@dataclass(frozen=True, eq=False)
class MarkLayer:
    """A concatenation or pooling: per source the places of its spikes."""

    name: str
    layout: Layout
    places: tuple[tuple[str, np.ndarray, np.ndarray], ...]


class Plan:
    """Layouts of all spiking nodes, and layers in order.

    Raises
    ------
    UnsupportedGraph
        If weights exceed 16 bits, sums 32, or a table would be too large.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.layouts: dict[str, Layout] = {}
        self.events_of: dict[str, str] = {}  # spiking node -> the node whose list of spikes it shares (through flattening)
        self.layers: list[LifLayer | MarkLayer] = []
        self._ranges: dict[tuple[str, int | None], LifRanges] = {}
        for node in graph.nodes.values():
            self._plan(node)

    def fits(self, layer: LifLayer, steps: int) -> bool:
        """Whether u and v of the layer stay within 24 bits in windows of ``steps``."""
        for horizon in (None, steps):
            ranges = self.ranges(layer.lif, horizon)
            if not (ranges.may_wrap.any() or ranges.may_clip.any()):
                return True
        return False

    def ranges(self, lif: Lif, steps: int | None) -> LifRanges:
        """`lif_ranges`, kept."""
        if (lif.name, steps) not in self._ranges:
            self._ranges[lif.name, steps] = lif_ranges(self.graph, lif, steps)
        return self._ranges[lif.name, steps]

    def _plan(self, node: Node) -> None:
        shape = self.graph.shapes[node.name]
        if isinstance(node, Flatten):
            (source,) = self.graph.sources(node.name)
            self.events_of[node.name] = self.events_of[source]
            return
        if isinstance(node, Input):
            self._place(node, Layout(shape, shape[0], int(np.prod(shape))))
        elif isinstance(node, Concat | Pool2d):
            cp = up(shape[0], 8)
            self._place(node, Layout(shape, cp, cp * int(np.prod(shape[1:]))))
            self.layers.append(self._marks(node))
        elif isinstance(node, Lif):
            self.layers.append(self._lif(node))

    def _place(self, node: Node, layout: Layout) -> Layout:
        self.layouts[node.name] = layout
        self.events_of[node.name] = node.name
        return layout

    def _source(self, name: str) -> tuple[str, Layout]:
        found = self.events_of[name]
        return found, self.layouts[found]

    def _marks(self, node: Concat | Pool2d) -> MarkLayer:
        target, places, before = self.layouts[node.name], [], 0
        for given in self.graph.sources(node.name):
            name, source = self._source(given)
            if isinstance(node, Pool2d):
                places.append((name, *pool_places(node, source, target)))
            else:
                places.append((name, *concat_places(source, target, before)))
                before += int(np.prod(source.shape))
        return MarkLayer(node.name, target, tuple(places))

    def _lif(self, lif: Lif) -> LifLayer:
        where, shape = f"{self.graph.name}.{lif.name}", self.graph.shapes[lif.name]
        nodes = self.graph.synapses_of(lif.name)
        recurrent = next((n.weight_rec for n in nodes if isinstance(n, RecurrentDense)), None)
        every = [*(n.weight for n in nodes), *([] if recurrent is None else [recurrent])]
        halved = not any((w & 1).any() for w in every)
        largest = max(_largest(w) for w in every) >> halved
        peak = self.ranges(lif, None).a.peak >> halved
        if largest > 32767 or peak > (1 << 31) - 1:
            raise UnsupportedGraph(f"{where}: weights up to {largest} or sums up to {peak}, more than 16 and 32 bits hold")
        maps, channels = len(shape) == 3, shape[0]
        gathers = maps and channels >= 32 and 4 * channels >= 3 * up(channels, 32)
        cp = up(channels, 32 if gathers or not maps else 8)
        layout = self._place(lif, Layout(shape, cp, up(cp * int(np.prod(shape[1:])), 32), by_pixel=gathers))
        leak = _leak(lif, recurrent is not None)
        narrow = maps and any(isinstance(n, Conv2d) and _narrow(n) for n in nodes)
        acc: type[np.int16] | type[np.int32] = (
            np.int16 if maps and not gathers and not narrow and peak < 1 << 15 and leak is not None else np.int32
        )
        synapses: list[Synapses] = []
        for node in nodes:
            (given,) = self.graph.sources(node.name)
            name, source = self._source(given)
            weight = (node.weight >> halved).astype(np.int16)
            if isinstance(node, Conv2d) and _narrow(node):
                synapses.append(_grouped(node, weight, name, source, layout))
            elif isinstance(node, Conv2d) and gathers:
                source.by_pixel = True
                synapses.append(_gathered(node, weight, name, source, layout))
            elif isinstance(node, Conv2d):
                synapses.append(_scattered(node, weight, name, source, layout, acc))
            else:
                synapses += _dense(node, weight, name, source, layout, where)
        rows = np.zeros(0, np.int16)
        if recurrent is not None:
            rows = _rows((recurrent >> halved).astype(np.int16), layout, layout)
        most = 32767 // max(1, largest)
        return LifLayer(lif, layout, tuple(synapses), acc, 6 + halved, rows, most, leak, gathers)


def _integers(values: PerChannel) -> np.ndarray:
    return np.asarray(values).astype(np.int64)


def _leak(lif: Lif, recurrent: bool) -> int | None:
    """The shift by which v leaks, where all neurons have the same and nothing else happens to u and v."""
    kept = 4096 - np.unique(_integers(lif.v_decay))
    if recurrent or np.any(_integers(lif.i_decay) != 4096) or len(kept) != 1 or not 0 <= kept[0] <= 4096:
        return None
    keep = int(kept[0])
    if keep == 0:
        return 31
    return 13 - keep.bit_length() if keep & (keep - 1) == 0 else None


def _narrow(node: Conv2d) -> bool:
    """Grouped, or the identity shortcut of a residual block: every channel reaches few others."""
    if node.groups > 1:
        return True
    weight = node.weight
    square = weight.shape[0] == weight.shape[1] > 1 and weight.shape[2:] == (1, 1)
    return square and np.count_nonzero(weight) == np.count_nonzero(weight[:, :, 0, 0].diagonal())


def _largest(weight: np.ndarray) -> int:
    return max(int(weight.max()), -int(weight.min()))


def _most(weight: np.ndarray) -> int:
    return 32767 // max(1, _largest(weight))


def _scattered(
    node: Conv2d, weight: np.ndarray, name: str, source: Layout, target: Layout, kind: type[np.int16] | type[np.int32]
) -> Synapses:
    taps, (c_out, c_in, kh, kw) = conv_taps(node, source, target), weight.shape
    table = np.zeros((source.cp, kh, kw, target.cp), kind)
    table[:c_in, :, :, :c_out] = weight.transpose(1, 2, 3, 0)
    run, flat, row = kernels.scatter16 if kind is np.int16 else kernels.scatter32, table.ravel(), kh * kw * target.cp
    at = taps.tap * np.int32(target.cp)

    def add(given: Events, _steps: int, first: int, last: int, acc: np.ndarray, _part: tuple[int, int]) -> None:
        run(given.ev, given.ptr, source.rows, source.width, first, last, source.cp, taps.ptr, taps.out, at, flat, row, target.cp,
            acc, target.n)  # fmt: skip

    return Synapses(name, add)


def _grouped(node: Conv2d, weight: np.ndarray, name: str, source: Layout, target: Layout) -> Synapses:
    taps, groups = conv_taps(node, source, target), node.groups
    if groups == 1:  # the identity: a group per channel
        groups, weight = len(weight), weight[:, :, 0, 0].diagonal().reshape(-1, 1, 1, 1)
    c_out, c_in, kh, kw = weight.shape
    per_group = c_out // groups
    table = np.zeros((source.cp, kh * kw, per_group), np.int32)
    table[: c_in * groups] = (
        weight.reshape(groups, per_group, c_in, kh * kw).transpose(0, 2, 3, 1).reshape(-1, kh * kw, per_group)
    )
    to = (np.arange(source.cp) // c_in * per_group).astype(np.int32)
    flat, row, at = table.ravel(), kh * kw * per_group, taps.tap * np.int32(per_group)
    per_row = target.size[1] * target.cp

    def add(given: Events, _steps: int, first: int, last: int, acc: np.ndarray, part: tuple[int, int]) -> None:
        n = target.n if part == (0, target.size[0]) else (part[1] - part[0]) * per_row
        kernels.scatter_groups(given.ev, given.ptr, source.rows, source.width, first, last, source.cp, taps.ptr, taps.out, at, to,
                               flat, row, per_group, acc, n, part[0] * per_row)  # fmt: skip

    return Synapses(name, add)


def _gathered(node: Conv2d, weight: np.ndarray, name: str, source: Layout, target: Layout) -> Synapses:
    c_out, c_in, kh, kw = weight.shape
    block = 64 if target.cp % 64 == 0 else 32
    table = np.zeros((target.cp, source.cp, kh, kw), np.int16)
    table[:c_out, :c_in] = weight
    table = table.reshape(-1, block, source.cp, kh, kw).transpose(0, 3, 4, 2, 1)
    flat, most = np.ascontiguousarray(table).ravel(), _most(weight)
    how = np.array([kh, kw, *node.stride, *node.padding, *node.dilation], np.int64)

    def add(given: Events, _steps: int, first: int, last: int, acc: np.ndarray, part: tuple[int, int]) -> None:
        kernels.gather_conv(given.ev, given.ptr, *source.size, first, last, source.cp, flat, how, *part, target.size[1], target.cp,
                            block, most, acc)  # fmt: skip

    return Synapses(name, add)


def _rows(weight: np.ndarray, source: Layout, target: Layout) -> np.ndarray:
    """(source.n, target.n) int16, flat: the fan-out of every index."""
    table = np.zeros((source.n, target.n), np.int16)
    table[source.index, : len(weight)] = weight.T
    return table.ravel()


def _dense(node: Dense, weight: np.ndarray, name: str, source: Layout, target: Layout, where: str) -> list[Synapses]:
    """One group per delay that occurs."""
    delay = np.zeros((1, 1), np.int64) if node.delay is None else _integers(node.delay)
    found, delays = [], [int(d) for d in np.unique(delay)]
    if (size := len(delays) * source.n * target.n) > _MOST_TABLE:
        raise UnsupportedGraph(f"{where}: {size} weights in {len(delays)} tables of delays, more than {_MOST_TABLE}")
    most = _most(weight)
    for steps_late in delays:
        table = _rows(np.where(delay == steps_late, weight, 0), source, target)

        def add(
            given: Events, steps: int, first: int, last: int, acc: np.ndarray, _part: tuple[int, int],
            late: int = steps_late, table: np.ndarray = table,
        ) -> None:  # fmt: skip
            kernels.gather_dense(
                given.ev, given.ptr, source.rows, source.width, steps, late, first, last, table, target.n, most, acc
            )

        found.append(Synapses(name, add))
    return found
