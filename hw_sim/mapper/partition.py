"""One layer over cores: the tile (channels, rows, columns) that needs the fewest cores without exceeding a limit.

Layers are cut from the last to the first, so that a layer knows how many cores read each of its neurons (output axons).
A core holds neurons of one layer only, as nengo-loihi and NetX place them.
"""

import itertools
import math
from dataclasses import dataclass, field

import numpy as np

from taaf.hw_sim.connectivity import Box, DenseGroup, Group, starts
from taaf.hw_sim.mapper.chip_limits import LIMITS, ChipLimits

_ONE: Box = (1, 1, 1)


@dataclass
class Readers:
    """How many cores read a layer, as far as its consumers are cut already.

    Attributes
    ----------
    every : int
        Cores that read every neuron (dense consumers; the host, which reads the output, counts as one).
    pixels : list of (int, numpy.ndarray, numpy.ndarray)
        Per convolution: output slots per pixel, and how many tiles read each row (H,) and each column (W,).
    """

    every: int = 0
    pixels: list[tuple[int, np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, group: Group, tile: Box, chip: ChipLimits) -> None:
        """Count a consumer that has been cut into tiles."""
        if isinstance(group, DenseGroup):
            self.every += len(starts(len(group.nonzero), tile[0]))
            return
        channels = len(starts(group.out_box[0], tile[0]))
        rows, columns = group.rows.reads(tile[1]).sum(0), group.columns.reads(tile[2]).sum(0)
        self.pixels.append((chip.pixel_axon_slots * channels, rows, columns))


@dataclass(frozen=True)
class Cut:
    """A layer cut into tiles.

    Attributes
    ----------
    tile : (int, int, int)
        Channels, rows and columns of a core; the last ones along an axis may be smaller.
    grid : (int, int, int)
        Cores along each axis.
    used : numpy.ndarray
        (4, *grid) int64: neurons, bits of synapse memory, input and output axons of every core, in the order of `LIMITS`.
    exceeded : tuple of (int, int)
        (index in `LIMITS`, what a core of a single neuron needs) where even that is more than the limit.
    binding : int
        Limit without which the layer would need the fewest cores (index in `LIMITS`).
    without_binding : int
        Cores the layer would need then.
    """

    tile: Box
    grid: Box
    used: np.ndarray
    exceeded: tuple[tuple[int, int], ...]
    binding: int
    without_binding: int

    @property
    def n_cores(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]


class Cutter:
    """Cuts one layer; remembers what it worked out."""

    def __init__(self, chip: ChipLimits, box: Box, groups: list[Group], readers: Readers, recurrent: bool) -> None:
        self.chip, self.box, self.groups, self.readers, self.recurrent = chip, box, groups, readers, recurrent
        self._memory: dict[Box, int] = {}

    def cut(self, explain: bool = True) -> Cut:
        """The best cut. A limit that a single neuron exceeds is reported, and raised to what that neuron needs."""
        need = self._need(_ONE)
        allowed = list(self.chip.allowed())
        exceeded = tuple((i, need[i]) for i, limit in enumerate(allowed) if limit is not None and need[i] > limit)
        for i, found in exceeded:
            allowed[i] = found
        tile = self._search(tuple(allowed))
        grid = self._grid(tile)
        used = self._used(tile)
        n = grid[0] * grid[1] * grid[2]
        without: dict[int, int] = {}
        for i, limit in enumerate(allowed):
            if explain and limit is not None and n > 1:
                lifted = tuple(None if j == i else a for j, a in enumerate(allowed))
                without[i] = math.prod(self._grid(self._search(lifted, at_most=n)))
        fill = [float(used[i].max()) / a if a else 0.0 for i, a in enumerate(self.chip.allowed())]
        order = sorted(range(len(LIMITS)), key=lambda i: (without.get(i, n), -fill[i]))
        binding = exceeded[0][0] if exceeded else order[0]
        return Cut(tile, grid, used, exceeded, binding, without.get(binding, n))

    def _search(self, allowed: tuple[int | None, ...], at_most: int | None = None) -> Box:
        """Fewest cores, then fewest input axons; ``at_most``: cores of a cut that is known to be possible."""
        best: tuple[int, int, Box] | None = None
        channels = _sizes(self.box[0])
        planes = sorted(
            (len(starts(self.box[1], r)) * len(starts(self.box[2], c)), r, c)
            for r, c in itertools.product(_sizes(self.box[1]), _sizes(self.box[2]))
        )
        for spatial, rows, columns in planes:
            most = best[0] if best else at_most or spatial * self.box[0]
            useful = [i for i, size in enumerate(channels) if spatial * len(starts(self.box[0], size)) <= most]
            if not useful or not self._fits((channels[useful[0]], rows, columns), allowed):
                continue
            low, high = useful[0], len(channels) - 1  # the largest number of channels that fits
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if self._fits((channels[middle], rows, columns), allowed) else (low, middle - 1)
            tile = (channels[low], rows, columns)
            found = (spatial * len(starts(self.box[0], tile[0])), self._axons_in(tile), tile)
            best = found if best is None or found[:2] < best[:2] else best
        assert best is not None, "a single neuron fits: what it exceeds was raised"
        return best[2]

    def _fits(self, tile: Box, allowed: tuple[int | None, ...]) -> bool:
        if allowed[0] is not None and math.prod(tile) > allowed[0]:
            return False
        if allowed[2] is not None and self._axons_in(tile) > allowed[2]:
            return False
        if allowed[3] is not None and self._axons_out(tile) > allowed[3]:
            return False
        return allowed[1] is None or self._bits(tile) <= allowed[1]

    def _need(self, tile: Box) -> tuple[int, ...]:
        return (math.prod(tile), self._bits(tile), self._axons_in(tile), self._axons_out(tile))

    def _bits(self, tile: Box) -> int:
        if tile not in self._memory:
            synapses = sum(int(g.memory_bits(self.chip, tile).max()) for g in self.groups)
            self._memory[tile] = synapses + self.chip.neuron_bits * math.prod(tile)
        return self._memory[tile]

    def _axons_in(self, tile: Box) -> int:
        return sum(g.most_in_axons(tile) for g in self.groups)

    def _axons_out(self, tile: Box) -> int:
        own = len(starts(self.box[0], tile[0])) if self.recurrent else 0
        total = math.prod(tile) * (self.readers.every + own)
        for slots, rows, columns in self.readers.pixels:
            total += slots * int(_sums(rows, tile[1]).max() * _sums(columns, tile[2]).max())
        return total

    def _grid(self, tile: Box) -> Box:
        a, b, c = (len(starts(n, t)) for n, t in zip(self.box, tile, strict=True))
        return (a, b, c)

    def _used(self, tile: Box) -> np.ndarray:
        """(4, *grid): what every core uses of each limit."""
        sizes = [np.diff(np.append(starts(n, t), n)) for n, t in zip(self.box, tile, strict=True)]
        neurons = sizes[0][:, None, None] * sizes[1][:, None] * sizes[2]
        own = len(sizes[0]) if self.recurrent else 0
        zero = np.zeros_like(neurons)
        bits = sum((g.memory_bits(self.chip, tile) for g in self.groups), start=zero) + self.chip.neuron_bits * neurons
        axons_in = sum((g.in_axons(tile) for g in self.groups), start=zero)
        axons_out = neurons * (self.readers.every + own)
        for slots, rows, columns in self.readers.pixels:
            axons_out = axons_out + slots * np.outer(_sums(rows, tile[1]), _sums(columns, tile[2]))
        return np.stack([neurons, bits, axons_in, axons_out])


def _sizes(n: int) -> list[int]:
    """Ascending tile sizes worth trying along an axis of ``n``: one per number of tiles."""
    return sorted({-(-n // k) for k in range(1, n + 1)})


def _sums(values: np.ndarray, size: int) -> np.ndarray:
    """Sums over the tiles of ``size``."""
    return np.add.reduceat(values, starts(len(values), size))
