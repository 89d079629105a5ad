"""Linear maps of spikes in SLAYER's units (float64, all values exact binary fractions), and their composition.

A map is a scaling, a convolution or a matrix; maps between two neurons are composed into one, so that the chip needs no
layer for them: pooling followed by a convolution is one convolution of larger kernel.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from taaf.export.recorder.places import NoExactForm
from taaf.models.ir import Shape

MAX_ENTRIES = 1 << 23  # of a map that has to be unrolled into a matrix


@dataclass(frozen=True, eq=False)
class Scale:
    """y = gain x; with gain 1 the spikes themselves."""

    shape: Shape
    gain: float = 1.0

    @property
    def out(self) -> Shape:
        return self.shape


@dataclass(frozen=True, eq=False)
class Conv:
    """Cross-correlation of (C, H, W) ``shape``; fields as in `taaf.models.ir.Conv2d`."""

    shape: Shape
    weight: np.ndarray
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def out(self) -> Shape:
        axes = zip(self.shape[1:], self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True)
        return (len(self.weight), *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes))

    def full(self) -> "Conv":
        """The same with one group."""
        if self.groups == 1:
            return self
        n_out, n_in = len(self.weight), self.weight.shape[1]
        wide = np.zeros((n_out, self.shape[0], *self.weight.shape[2:]))
        per = n_out // self.groups
        for o in range(n_out):
            wide[o, o // per * n_in : (o // per + 1) * n_in] = self.weight[o]
        return replace(self, weight=wide, groups=1)

    @property
    def diagonal(self) -> bool:
        """Whether every channel goes to one channel of its own."""
        return self.groups == self.shape[0] == len(self.weight)


@dataclass(frozen=True, eq=False)
class Matrix:
    """y = M x over the flattened map; M (outputs, inputs)."""

    shape: Shape
    matrix: np.ndarray
    out: Shape


Map = Scale | Conv | Matrix


def size(shape: Shape) -> int:
    """Number of elements."""
    return int(np.prod(shape))


def unrolled(m: Map) -> Matrix:
    """The map as a matrix; `NoExactForm` if that is larger than `MAX_ENTRIES`."""
    if isinstance(m, Matrix):
        return m
    rows, columns = size(m.out), size(m.shape)
    if rows * columns > MAX_ENTRIES:
        raise NoExactForm(
            f"has no form as a convolution, and as a matrix it takes {rows} x {columns} weights (allowed {MAX_ENTRIES:,d})"
        )
    if isinstance(m, Scale):
        return Matrix(m.shape, np.eye(rows) * m.gain, m.out)
    basis = torch.eye(columns, dtype=torch.float64).reshape(columns, *m.shape)
    weight = torch.from_numpy(m.weight)
    columns_of = functional.conv2d(basis, weight, None, m.stride, m.padding, m.dilation, m.groups)
    return Matrix(m.shape, columns_of.reshape(columns, rows).numpy().T, m.out)


def viewed(m: Map, shape: Shape) -> Map:
    """The map with its result seen in another shape of the same size."""
    if m.out == shape:
        return m
    if isinstance(m, Scale):
        return replace(m, shape=shape)
    return replace(unrolled(m), out=shape)


def scaled(m: Map, gain: float) -> Map:
    """``gain`` times the map."""
    if isinstance(m, Scale):
        return replace(m, gain=m.gain * gain)
    if isinstance(m, Conv):
        return replace(m, weight=m.weight * gain)
    return replace(m, matrix=m.matrix * gain)


def mixed(m: Map, mix: np.ndarray) -> Map:
    """The map followed by a mixture of its channels (its first axis); ``mix`` (channels afterwards, channels before)."""
    out = (len(mix), *m.out[1:])
    if isinstance(m, Scale) and len(m.shape) == 3:
        return Conv(m.shape, (mix * m.gain)[:, :, None, None])
    if isinstance(m, Scale):
        return Matrix(m.shape, np.kron(mix * m.gain, np.eye(size(m.shape[1:]))), out)
    if isinstance(m, Conv):
        return replace(m.full(), weight=np.einsum("pc,cihw->pihw", mix, m.full().weight))
    rows = m.matrix.reshape(m.out[0], -1, m.matrix.shape[1])
    return Matrix(m.shape, np.einsum("pc,cri->pri", mix, rows).reshape(size(out), -1), out)


def then(first: Map, second: Conv | Matrix) -> Map:
    """``second`` after ``first``; their shapes fit, up to a view."""
    if isinstance(first, Scale):
        return scaled(second, first.gain)
    if isinstance(second, Matrix):
        return replace(second, shape=first.shape, matrix=_rows_through(second.matrix, first))
    first = viewed(first, second.shape)
    if isinstance(first, Conv):
        joined = _joined(first, second)
        if joined is not None:
            return joined
    columns = unrolled(first)
    maps = torch.from_numpy(columns.matrix.T.copy()).reshape(-1, *second.shape)
    weight = torch.from_numpy(second.weight)
    through = functional.conv2d(maps, weight, None, second.stride, second.padding, second.dilation, second.groups)
    if through.numel() > MAX_ENTRIES:
        raise NoExactForm(f"unrolled to a matrix it takes {through.numel():,d} weights (allowed {MAX_ENTRIES:,d})")
    return Matrix(first.shape, through.reshape(len(maps), -1).numpy().T, second.out)


def _rows_through(matrix: np.ndarray, first: Map) -> np.ndarray:
    """``matrix`` times the unrolled ``first``, without unrolling a convolution: its adjoint is a transposed convolution."""
    if isinstance(first, Matrix):
        return matrix @ first.matrix
    assert isinstance(first, Conv)
    rows = torch.from_numpy(np.ascontiguousarray(matrix)).reshape(len(matrix), *first.out)
    weight = torch.from_numpy(first.weight)
    back = functional.conv_transpose2d(rows, weight, None, first.stride, 0, 0, first.groups, first.dilation)
    (p_h, p_w), (height, width) = first.padding, first.shape[1:]
    lacking = (max(0, p_w + width - back.shape[3]), max(0, p_h + height - back.shape[2]))  # rows that no window reads
    back = functional.pad(back, (0, lacking[0], 0, lacking[1]))[:, :, p_h : p_h + height, p_w : p_w + width]
    return back.reshape(len(matrix), -1).numpy()


def _joined(first: Conv, second: Conv) -> Conv | None:
    """One convolution that does both, or None.

    Where ``second`` reads its padding, the joined kernel must find nothing but padding of ``first``.
    """
    fields: list[tuple[int, int, int]] = []
    for axis in (0, 1):
        k1, s1, p1, d1 = first.weight.shape[2 + axis], first.stride[axis], first.padding[axis], first.dilation[axis]
        k2, s2, p2, d2 = second.weight.shape[2 + axis], second.stride[axis], second.padding[axis], second.dilation[axis]
        before = d1 * (k1 - 1) - s1 - p1  # last row that the first window in the padding reads
        after = first.out[1 + axis] * s1 - p1  # first row that the first window behind the map reads
        if p2 and (before >= 0 or after < first.shape[1 + axis]):
            return None
        fields.append((d2 * s1 * (k2 - 1) + d1 * (k1 - 1) + 1, s1 * s2, p1 + s1 * p2))
    (k_h, s_h, p_h), (k_w, s_w, p_w) = fields
    groups = first.groups if first.diagonal and second.diagonal else 1
    one = first if first.diagonal else first.full()
    two = second if groups > 1 else second.full()
    kernel = np.zeros((len(second.weight), first.shape[0] // groups, k_h, k_w))
    for i1, j1, i2, j2 in np.ndindex(*first.weight.shape[2:], *second.weight.shape[2:]):
        y = first.dilation[0] * i1 + second.dilation[0] * first.stride[0] * i2
        x = first.dilation[1] * j1 + second.dilation[1] * first.stride[1] * j2
        left, right = two.weight[:, :, i2, j2], one.weight[:, :, i1, j1]
        if groups > 1:
            kernel[:, :, y, x] += left * right
        else:
            kernel[:, :, y, x] += left * right[:, 0] if one.diagonal else left @ right
    conv = Conv(first.shape, kernel, (s_h, s_w), (p_h, p_w), (1, 1), groups)
    return conv if conv.out == second.out else None


def shifted(shape: tuple[int, ...], rows: tuple[int, int], columns: tuple[int, int]) -> Conv:
    """A map with ``rows`` (above, below) and ``columns`` (left, right) of zeros around it, as a convolution.

    One-sided padding is a symmetric one and a larger kernel, most of it zeros.
    """
    weight = np.zeros((shape[0], 1, 1 + abs(rows[0] - rows[1]), 1 + abs(columns[0] - columns[1])))
    weight[:, :, max(rows) - rows[0], max(columns) - columns[0]] = 1
    return Conv(shape, weight, (1, 1), (max(rows), max(columns)), (1, 1), shape[0])
