"""Loops over time of training's neurons, forward and backward: windows (N, T, F), the last axis contiguous, a step at a time.

Neurons are taken in blocks whose state stays in the first cache. Voltages are whole numbers in float64: exact below 2^41 in
magnitude, and vector instructions know them. What SLAYER rounds to float32 is rounded here.
"""

import numpy as np

from taaf.models.kernels.jit import Compiler

kernel = Compiler("the kernels of training's neurons", __file__).kernel
_BLOCK = 1024
_UNIT = np.float32(1 / 4096)  # SLAYER's states are integers, its voltages these integers times this
_F32, _F64 = "f4[:, :, ::1]", "f8[:, :, ::1]"
_ONE, _NONE = np.float32(1), np.float32(0)


@kernel(f"void({_F32}, f8, f8, f8, f4, f4, {_F32}, {_F32})")
def slayer_forward(x, i_keep, v_keep, scale, threshold, tau, distance, spikes):  # type: ignore[no-untyped-def]
    """SLAYER's CUBA neuron, see `taaf.models.slayer_lif`; ``distance`` becomes -|v - threshold| / tau if it is as large as x."""
    n, steps, size = x.shape
    u, v = np.empty(_BLOCK), np.empty(_BLOCK)
    for window in range(n):
        for first in range(0, size, _BLOCK):
            width = min(_BLOCK, size - first)
            u[:] = v[:] = 0.0
            for t in range(steps):
                now, out = x[window, t, first : first + width], spikes[window, t, first : first + width]
                for k in range(width):
                    u[k] = np.trunc(u[k] * i_keep) + np.trunc(np.float64(now[k]) * scale)
                    new = np.trunc(v[k] * v_keep) + np.float64(np.float32(u[k]))
                    fires = np.float32(new) * _UNIT >= threshold
                    out[k] = _ONE if fires else _NONE
                    v[k] = new
                if distance.size:
                    far = distance[window, t, first : first + width]
                    for k in range(width):
                        far[k] = -abs(np.float32(v[k]) * _UNIT - threshold) / tau
                for k in range(width):
                    v[k] = 0.0 if out[k] else v[k]


@kernel(f"void({_F32}, {_F32}, f4, f4, f4, f4, {_F32})")
def slayer_backward(slope, grad, factor, i_keep, v_keep, unit, out):  # type: ignore[no-untyped-def]
    """Its gradient, back in time through both leaks, none through the reset; ``slope`` is exp(distance)."""
    n, steps, size = slope.shape
    u, v = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    for window in range(n):
        for first in range(0, size, _BLOCK):
            width = min(_BLOCK, size - first)
            u[:] = v[:] = _NONE
            for t in range(steps - 1, -1, -1):
                s, g = slope[window, t, first : first + width], grad[window, t, first : first + width]
                o = out[window, t, first : first + width]
                for k in range(width):
                    v[k] = v_keep * v[k] + (factor * s[k]) * g[k]
                    u[k] = i_keep * u[k] + v[k]
                    o[k] = u[k] * unit


@kernel(f"void({_F32}, f4[:, ::1], i8, f8, f8, f4, f4, f4, f8[:, ::1], f8[:, ::1], f4[:, ::1], {_F32}, {_F32})")
def slayer_step(  # type: ignore[no-untyped-def]
    x, feedback, t, i_keep, v_keep, unit, threshold, tau, u, v, fired, distance, spikes
):
    """One step of a recurrent population, whose states SLAYER keeps as float32 between steps."""
    n, _, size = x.shape
    for window in range(n):
        for k in range(size):
            drive = x[window, t, k] * unit + feedback[window, k]
            current = np.trunc(u[window, k] * i_keep) + np.trunc(np.float64(drive) * 4096.0)
            u[window, k] = np.float64(np.float32(current))
            voltage = np.float32(np.trunc(v[window, k] * v_keep) + u[window, k])
            fires = voltage * _UNIT >= threshold
            v[window, k] = 0.0 if fires else np.float64(voltage)
            fired[window, k] = spikes[window, t, k] = _ONE if fires else _NONE
            distance[window, t, k] = -abs(voltage * _UNIT - threshold) / tau


@kernel(f"void({_F32}, f4, f4, b1, {_F32}, {_F32})", f"void({_F64}, f8, f8, b1, {_F64}, {_F64})")
def host_forward(x, half, one, closed, voltage, spikes):  # type: ignore[no-untyped-def]
    """The host's neuron, see `taaf.models.fused_lif.host_lif`: v <- v / 2 + x; a spike and v <- 0 where v > 1, ``closed``: v >= 1.

    Constants have x's type.
    """
    n, steps, size = x.shape
    none = one - one
    v = np.empty(_BLOCK, x.dtype)
    for window in range(n):
        for first in range(0, size, _BLOCK):
            width = min(_BLOCK, size - first)
            v[:] = none
            for t in range(steps):
                now, before = x[window, t, first : first + width], voltage[window, t, first : first + width]
                out = spikes[window, t, first : first + width]
                for k in range(width):
                    before[k] = half * v[k] + now[k]
                    fires = before[k] > one or (closed and before[k] == one)
                    out[k] = one if fires else none
                    v[k] = none if fires else before[k]


@kernel(f"void({_F32}, {_F32}, {_F32}, f4, f4, {_F32})", f"void({_F64}, {_F64}, {_F64}, f8, f8, {_F64})")
def host_backward(voltage, spikes, grad, half, one, out):  # type: ignore[no-untyped-def]
    """Its gradient, through the reset as well; SuperSpike's derivative is 1 / (|v - 1| + 1)^2."""
    n, steps, size = grad.shape
    a = np.empty(_BLOCK, grad.dtype)
    for window in range(n):
        for first in range(0, size, _BLOCK):
            width = min(_BLOCK, size - first)
            a[:] = one - one
            for t in range(steps - 1, -1, -1):
                v, s = voltage[window, t, first : first + width], spikes[window, t, first : first + width]
                g, o = grad[window, t, first : first + width], out[window, t, first : first + width]
                for k in range(width):
                    wide = abs(v[k] - one) + one
                    o[k] = a[k] * (one - s[k]) + (g[k] - a[k] * v[k]) / (wide * wide)
                    a[k] = half * o[k]
