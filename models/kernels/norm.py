"""Loops of batch norm over rows (M, R) of float32 values; parameters of a row's values are repeated to length R.

The values of a map are R = channels x positions. Every loop rounds as torch's operations would, one by one.
"""

import numpy as np

from taaf.models.kernels.jit import Compiler

kernel = Compiler("the kernels of training's batch norm", __file__).kernel
_BLOCK = 2048
_ROWS, _F32, _F64 = "f4[:, ::1]", "f4[::1]", "f8[::1]"


@kernel(f"void({_ROWS}, {_F64}, {_F64})")
def moments(y, total, square):  # type: ignore[no-untyped-def]
    """Add the sum over rows of y and of its squares to ``total`` and ``square``, in float64."""
    m, size = y.shape
    for first in range(0, size, _BLOCK):
        width = min(_BLOCK, size - first)
        t, s = total[first : first + width], square[first : first + width]
        for row in range(m):
            values = y[row, first : first + width]
            for k in range(width):
                wide = np.float64(values[k])
                t[k] += wide
                s[k] += wide * wide


@kernel(f"void({_ROWS}, {_F64}, {_F64}, {_ROWS})")
def moments_backward(y, g_total, g_square, out):  # type: ignore[no-untyped-def]
    """Gradient of both sums: g_total + 2 g_square y, in float64, then float32."""
    m, size = y.shape
    for row in range(m):
        for k in range(size):
            out[row, k] = np.float32(2.0 * (g_square[k] * np.float64(y[row, k])) + g_total[k])


@kernel(f"void({_ROWS}, {_F32}, {_F32}, {_F32}, {_ROWS})")
def normalise(y, mean, gain, offset, out):  # type: ignore[no-untyped-def]
    """(y - mean) gain + offset."""
    m, size = y.shape
    for row in range(m):
        for k in range(size):
            out[row, k] = (y[row, k] - mean[k]) * gain[k] + offset[k]


@kernel(f"void({_ROWS}, {_ROWS}, {_F32}, {_F32}, {_ROWS}, {_ROWS})")
def normalise_backward(y, grad, mean, gain, to_y, to_gain):  # type: ignore[no-untyped-def]
    """Gradient for y, and what sums up to that for the gain."""
    m, size = y.shape
    for row in range(m):
        for k in range(size):
            to_y[row, k] = grad[row, k] * gain[k]
            to_gain[row, k] = grad[row, k] * (y[row, k] - mean[k])
