"""Where the neurons of a layer lie in the event engine, and where a spike's fan-out lies: tables built once per graph."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from taaf.models.ir import Conv2d, Pool2d, Shape


def up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@dataclass(eq=False)
class Layout:
    """Neurons of ``shape`` pixel by pixel, ``cp`` channels each (a flat layer is one pixel), ``n`` with all padding.

    ``rows`` and ``width`` say how its spikes are indexed: 1 and 1, or by pixel where a convolution gathers them.
    """

    shape: Shape
    cp: int
    n: int
    by_pixel: bool = False
    place: np.ndarray = field(init=False)  # index -> position in C order; -1 of padding

    def __post_init__(self) -> None:
        grid = np.full((self.pixels, self.cp), -1, np.int32)
        size = int(np.prod(self.shape))
        grid[:, : self.shape[0]] = np.arange(size, dtype=np.int32).reshape(self.shape[0], -1).T
        self.place = np.append(grid.ravel(), np.full(self.n - grid.size, -1, np.int32)).astype(np.int32)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return (self.shape[1], self.shape[2]) if len(self.shape) == 3 else (1, 1)

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def rows(self) -> int:
        return self.size[0] if self.by_pixel else 1

    @property
    def width(self) -> int:
        return self.size[1] if self.by_pixel else 1

    @cached_property
    def index(self) -> np.ndarray:
        """Position in C order -> index, int32."""
        found = np.empty(int(np.prod(self.shape)), np.int32)
        real = np.flatnonzero(self.place >= 0)
        found[self.place[real]] = real
        return found

    def spread(self, values: np.ndarray, padding: int) -> np.ndarray:
        """Values per neuron, which broadcast to ``shape``, in the order of indices, int64 (n,)."""
        found = np.full(self.n, padding, np.int64)
        found[self.index] = np.broadcast_to(values, self.shape).reshape(-1)
        return found


@dataclass(frozen=True, eq=False)
class Taps:
    """Fan-out of every pixel: ``out[ptr[p] : ptr[p + 1]]`` are first indices of the pixels reached, ``tap`` the kernel taps."""

    ptr: np.ndarray
    out: np.ndarray
    tap: np.ndarray


def taps_of(
    size: tuple[int, int], reached: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int],
    dilation: tuple[int, int], cp: int,
) -> Taps:  # fmt: skip
    """For a window of ``kernel`` that slides over a map of ``size`` and gives one of ``reached``, cp channels a pixel."""
    along = []
    for axis in range(2):
        at = np.arange(size[axis])[:, None] + padding[axis] - np.arange(kernel[axis]) * dilation[axis]  # (input, tap)
        inside = (at >= 0) & (at % stride[axis] == 0) & (at // stride[axis] < reached[axis])
        along.append((inside, at // stride[axis]))
    (rows_in, rows), (columns_in, columns) = along
    hit = rows_in[:, None, :, None] & columns_in[None, :, None, :]  # (y, x, i, j)
    y, x, i, j = np.nonzero(hit)
    out = (rows[y, i] * reached[1] + columns[x, j]) * cp
    counts = hit.reshape(size[0] * size[1], -1).sum(1)
    ptr = np.append(0, np.cumsum(counts))
    return Taps(ptr.astype(np.int32), out.astype(np.int32), (i * kernel[1] + j).astype(np.int32))


def conv_taps(conv: Conv2d, source: Layout, target: Layout) -> Taps:
    """`taps_of` a convolution."""
    kernel = (conv.weight.shape[2], conv.weight.shape[3])
    return taps_of(source.size, target.size, kernel, conv.stride, conv.padding, conv.dilation, target.cp)


def pool_places(pool: Pool2d, source: Layout, target: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Index of a spike -> indices of the pooled neurons that it sets: pointers (n + 1) and the indices, int32."""
    taps = taps_of(source.size, target.size, pool.kernel, pool.step, pool.padding, (1, 1), target.cp)
    reached = [
        taps.out[taps.ptr[p] : taps.ptr[p + 1]] + c if c < source.shape[0] else np.empty(0, np.int32)
        for p in range(source.pixels)
        for c in range(source.cp)
    ]
    return _joined(reached, source.n)


def concat_places(source: Layout, target: Layout, before: int) -> tuple[np.ndarray, np.ndarray]:
    """The same for spikes whose first one stands at ``before`` in the C order of ``target``."""
    real = source.place >= 0
    ptr = np.append(0, np.cumsum(real)).astype(np.int32)
    return ptr, target.index[source.place[real] + before].astype(np.int32)


def _joined(parts: Sequence[np.ndarray], n: int) -> tuple[np.ndarray, np.ndarray]:
    ptr = np.append(0, np.cumsum([len(part) for part in parts]))
    ptr = np.append(ptr, np.full(n + 1 - len(ptr), ptr[-1]))
    return ptr.astype(np.int32), np.concatenate(parts).astype(np.int32)
