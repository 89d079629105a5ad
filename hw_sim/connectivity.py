"""Who reads whom, tile by tile: what a piece of a layer needs of memory and axons, and which core a spike goes to.

Neurons of a layer lie in a box (C, H, W); a flat layer is (F, 1, 1). A core holds a tile of one box. All questions a
mapper asks factor into channels, rows and columns, so no connection is ever listed one by one.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from taaf.hw_sim.counters import spiking_source
from taaf.hw_sim.mapper.chip_limits import ChipLimits
from taaf.models.ir import Conv2d, Dense, Graph, RecurrentDense, Shape

Box = tuple[int, int, int]


def box_of(shape: Shape) -> Box:
    """(C, H, W) of a layer's shape."""
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (shape[0], 1, 1)


def starts(n: int, size: int) -> np.ndarray:
    """First positions of the tiles of ``size`` along an axis of ``n``."""
    return np.arange(0, n, size)


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution: output o reads input ``o stride - padding + k dilation``, k = 0 .. kernel - 1."""

    n_in: int
    n_out: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    @cached_property
    def source(self) -> np.ndarray:
        """(n_out, kernel): the input read, or -1 (padding)."""
        at = np.arange(self.n_out)[:, None] * self.stride - self.padding + np.arange(self.kernel) * self.dilation
        return np.where((at >= 0) & (at < self.n_in), at, -1)

    @lru_cache(maxsize=4096)  # noqa: B019  (axes live as long as the mapping)
    def reads(self, size: int) -> np.ndarray:
        """(tiles, n_in) bool: which inputs each tile of ``size`` outputs reads."""
        first = starts(self.n_out, size)
        found = np.zeros((len(first), self.n_in), bool)
        for tile, low in enumerate(first):
            at = self.source[low : low + size]
            found[tile, at[at >= 0]] = True
        return found

    @lru_cache(maxsize=4096)  # noqa: B019
    def n_read(self, size: int) -> np.ndarray:
        """(tiles,): how many inputs each tile of ``size`` outputs reads."""
        return self.reads(size).sum(1)

    @lru_cache(maxsize=4096)  # noqa: B019
    def tap_sets(self, size: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Distinct sets of taps that inputs have in a tile.

        Returns
        -------
        kind : numpy.ndarray
            Tile -> index into the list; tiles with the same sets share it.
        sets : list of numpy.ndarray
            Each (n_sets, kernel) bool.
        """
        kind: list[int] = []
        sets: list[np.ndarray] = []
        known: dict[bytes, int] = {}
        for low in starts(self.n_out, size):
            at = self.source[low : low + size]
            used = np.zeros((self.n_in, self.kernel), bool)
            _, tap = np.nonzero(at >= 0)
            used[at[at >= 0], tap] = True
            distinct = np.unique(used[used.any(1)], axis=0)
            key = distinct.tobytes()
            if key not in known:
                known[key] = len(sets)
                sets.append(distinct)
            kind.append(known[key])
        return np.array(kind), sets


class ConvGroup:
    """The synapses of one convolution onto a layer."""

    def __init__(self, node: Conv2d, source: str, in_box: Box, out_box: Box) -> None:
        self.name, self.source, self.node, self.in_box, self.out_box = node.name, source, node, in_box, out_box
        axes = zip(in_box[1:], out_box[1:], node.weight.shape[2:], node.stride, node.padding, node.dilation, strict=True)
        self.rows, self.columns = (Axis(*a) for a in axes)
        self.nonzero = (node.weight != 0).sum(1, dtype=np.int64)  # (C', kH, kW)

    def memory_bits(self, chip: ChipLimits, tile: Box) -> np.ndarray:
        """Synaptic memory of every tile, (tiles of C, of H, of W), bits; zero weights take none where that saves any."""
        entries = np.add.reduceat(self.nonzero, starts(self.out_box[0], tile[0]), axis=0)  # (S, kH, kW)
        if chip.shared_kernel:
            size = np.diff(np.append(starts(self.out_box[0], tile[0]), self.out_box[0]))
            dense = chip.list_bits(size * self.node.weight[0].size, index=False)
            bits = np.minimum(chip.list_bits(entries.sum((1, 2)), index=True), dense)
            n_rows, n_columns = (len(starts(n, t)) for n, t in zip(self.out_box[1:], tile[1:], strict=True))
            return np.broadcast_to(bits[:, None, None], (len(bits), n_rows, n_columns))
        (row_kind, row_sets), (column_kind, column_sets) = self.rows.tap_sets(tile[1]), self.columns.tap_sets(tile[2])
        table = np.array([
            [chip.list_bits(r.astype(np.int64) @ entries @ c.T.astype(np.int64), index=True).sum((1, 2)) for c in column_sets]
            for r in row_sets
        ])  # (row kinds, column kinds, S)  # fmt: skip
        return np.moveaxis(table, 2, 0)[:, row_kind][:, :, column_kind]

    def in_axons(self, tile: Box) -> np.ndarray:
        """(tiles of C, of H, of W): one axon per pixel read, shared by all its channels."""
        rows, columns = self.rows.n_read(tile[1]), self.columns.n_read(tile[2])
        n = len(starts(self.out_box[0], tile[0]))
        return np.broadcast_to(np.outer(rows, columns), (n, len(rows), len(columns)))

    def most_in_axons(self, tile: Box) -> int:
        """Of any tile."""
        return int(self.rows.n_read(tile[1]).max() * self.columns.n_read(tile[2]).max())


class DenseGroup:
    """The synapses of one matrix onto a layer; every core of the layer receives every spike of its source."""

    def __init__(self, name: str, weight: np.ndarray, source: str, in_box: Box) -> None:
        self.name, self.source, self.in_box = name, source, in_box
        self.nonzero = weight != 0  # (F', F)

    def memory_bits(self, chip: ChipLimits, tile: Box) -> np.ndarray:
        """Synaptic memory of every tile, (tiles, 1, 1), bits: one list per input, sparse or dense, whichever is smaller."""
        n_out, n_in = self.nonzero.shape
        first = starts(n_out, tile[0])
        size = np.diff(np.append(first, n_out))
        sparse = [chip.list_bits(self.nonzero[a : a + tile[0]].sum(0), index=True).sum() for a in first]
        return np.minimum(sparse, n_in * chip.list_bits(size, index=False))[:, None, None]

    def in_axons(self, tile: Box) -> np.ndarray:
        """(tiles, 1, 1): one axon per input."""
        n_out, n_in = self.nonzero.shape
        return np.full((len(starts(n_out, tile[0])), 1, 1), n_in)

    def most_in_axons(self, tile: Box) -> int:
        """Of any tile."""
        return int(self.nonzero.shape[1])


Group = ConvGroup | DenseGroup


def groups_of(graph: Graph, lif: str) -> list[Group]:
    """Every synapse group that ends on this LIF, its own recurrence included."""
    found: list[Group] = []
    box = box_of(graph.shapes[lif])
    for node in graph.synapses_of(lif):
        (before,) = graph.sources(node.name)
        source = spiking_source(graph, before)
        if isinstance(node, Conv2d):
            found.append(ConvGroup(node, source, box_of(graph.shapes[source]), box))
        else:
            assert isinstance(node, Dense)
            found.append(DenseGroup(node.name, node.weight, source, box_of(graph.shapes[source])))
            if isinstance(node, RecurrentDense):
                found.append(DenseGroup(f"{node.name} (recurrent)", node.weight_rec, lif, box))
    return found
