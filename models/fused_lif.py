"""Spiking neurons over all steps of a window as one function each, forward and backward, bit-equal to those they stand for.

`slayer_lif` and `slayer_recurrent` are lava-dl SLAYER's CUBA neuron, on its own and with feedback; `host_lif` is the neuron of
heads. On the CPU compiled loops run over time (`taaf.models.kernels.neurons`); on other devices SLAYER's neuron is the same
arithmetic in torch.

    u(t) = tz((1 - d_u) u(t-1)) + tz(4096 x(t)),   v(t) = tz((1 - d_v) v(t-1)) + float32(u(t))
    s(t) = float32(v(t)) / 4096 >= threshold + 0.01 / 4096;   v(t) <- 0 where s(t)

u, v are integers and tz truncates toward zero. Thresholds of 64 or more lose the hundredth in float32: they fire at v = threshold,
as SLAYER's do. The derivative is ``scale / (2 tau) exp(-|v - threshold| / tau)``; gradients pass both leaks and ignore the reset;
those of a recurrent population pass its synapses only, because SLAYER detaches the state between its steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from taaf.models.kernels import neurons
from taaf.models.kernels.tensors import over_first_axis

_LEVELS = 4096


@dataclass(frozen=True)
class SlayerNeuron:
    """What SLAYER's CUBA neuron is made with.

    Attributes
    ----------
    threshold : float
        A multiple of 1/64.
    i_decay, v_decay : int
        Decays of current and voltage, 0..4096.
    tau, scale : float
        SLAYER's ``tau_rho`` and ``scale_rho``, its multipliers included.
    unit : float
        Inputs are multiplied by it first: a power of two.
    """

    threshold: float
    i_decay: int
    v_decay: int
    tau: float
    scale: float
    unit: float

    @property
    def fires_at(self) -> np.float32:
        """The threshold as float32, with SLAYER's hundredth, which makes >= the chip's >."""
        return np.float32(self.threshold + 0.01 / _LEVELS)

    @property
    def keeps(self) -> tuple[float, float]:
        """What a step leaves of current and voltage, exactly."""
        return (_LEVELS - self.i_decay) / _LEVELS, (_LEVELS - self.v_decay) / _LEVELS

    @property
    def peak(self) -> np.float32:
        """The derivative at the threshold, rounded as SLAYER rounds it."""
        return np.float32(np.float32(np.float32(self.scale) / np.float32(2)) / np.float32(self.tau))


def slayer_lif(x: torch.Tensor, neuron: SlayerNeuron) -> torch.Tensor:
    """Spikes of a population, (N, ..., T) float32 -> (N, ..., T) in {0, 1}; the memory of the result runs over time first."""
    _require_float32(x)
    spikes: torch.Tensor = _SlayerLif.apply(x, neuron)
    return spikes


def slayer_recurrent(x: torch.Tensor, weight: torch.Tensor, neuron: SlayerNeuron) -> torch.Tensor:
    """Spikes with feedback, ``x(t) + weight s(t - 1)``: (N, F, T) float32 and (F, F) -> (N, F, T); both are scaled by ``unit``."""
    _require_float32(x)
    spikes: torch.Tensor = _SlayerRecurrent.apply(x, weight, neuron)
    return spikes


def host_lif(current: torch.Tensor, at_threshold: bool = False) -> torch.Tensor:
    """``v <- v / 2 + I(t)``; a spike and ``v <- 0`` where v > 1, ``at_threshold``: where v >= 1. Both are (N, T, ...).

    With binary inputs and weights on the grid every intermediate value is a short dyadic number: float32 and float64
    agree exactly, and the spikes do not depend on the order of summation. Trained with SuperSpike's derivative,
    ``1 / (|v - 1| + 1)^2`` (Zenke & Ganguli, Neural Computation 30, 2018, section 3.3.2), and through the reset.
    """
    if current.device.type != "cpu":
        return _host_steps(current, at_threshold)
    spikes: torch.Tensor = _HostLif.apply(current, at_threshold)
    return spikes


def _require_float32(x: torch.Tensor) -> None:
    if x.dtype != torch.float32:
        raise TypeError(f"SLAYER's neuron takes float32, found {x.dtype}")


def _time_first(x: torch.Tensor) -> torch.Tensor:
    """(N, ..., T) -> (N, T, F), contiguous; a view where memory runs over time first already."""
    first = x.movedim(-1, 1)
    return first.reshape(*first.shape[:2], -1).contiguous()


def _time_last(x: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    return x.view(shape[0], shape[-1], *shape[1:-1]).movedim(1, -1)


class _SlayerLif(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, neuron: SlayerNeuron) -> torch.Tensor:
        y, ctx.neuron, ctx.shape = _time_first(x), neuron, x.shape
        spikes = torch.empty_like(y)
        distance = torch.empty_like(y) if ctx.needs_input_grad[0] else y.new_empty(len(y), 0, 1)
        (i_keep, v_keep), at, tau, scale = neuron.keeps, neuron.fires_at, np.float32(neuron.tau), neuron.unit * _LEVELS
        if x.device.type in LOOPS:
            over_first_axis(
                lambda y, d, s: neurons.slayer_forward(y, i_keep, v_keep, scale, at, tau, d, s), y, distance, spikes
            )
        else:
            _steps(y, neuron, distance, spikes)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(distance.exp_())
        return _time_last(spikes, x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (slope,), neuron, grad = ctx.saved_tensors, ctx.neuron, _time_first(grads[0])
        out, keeps = torch.empty_like(slope), [np.float32(k) for k in neuron.keeps]
        if slope.device.type in LOOPS:
            peak, unit = neuron.peak, np.float32(neuron.unit)
            over_first_axis(lambda s, g, o: neurons.slayer_backward(s, g, peak, *keeps, unit, o), slope, grad, out)
        else:
            _steps_backward(slope, grad, neuron, out)
        return _time_last(out, ctx.shape), None


def _steps(y: torch.Tensor, neuron: SlayerNeuron, distance: torch.Tensor, spikes: torch.Tensor) -> None:
    """`taaf.models.kernels.neurons.slayer_forward` in torch."""
    (i_keep, v_keep), at = neuron.keeps, float(neuron.fires_at)
    u = v = torch.zeros_like(y[:, 0], dtype=torch.float64)
    for t in range(y.shape[1]):
        u = (u * i_keep).trunc() + (y[:, t].double() * (neuron.unit * _LEVELS)).trunc()
        v = (v * v_keep).trunc() + u.float().double()
        voltage = v.float() / _LEVELS
        fires = voltage >= at
        spikes[:, t] = fires
        if distance.numel():
            distance[:, t] = -(voltage - at).abs() / neuron.tau
        v = v * ~fires


def _steps_backward(slope: torch.Tensor, grad: torch.Tensor, neuron: SlayerNeuron, out: torch.Tensor) -> None:
    (i_keep, v_keep), along = neuron.keeps, slope * float(neuron.peak) * grad
    u = v = torch.zeros_like(slope[:, 0])
    for t in range(slope.shape[1])[::-1]:
        v = v_keep * v + along[:, t]
        u = i_keep * u + v
        out[:, t] = u * neuron.unit


class _SlayerRecurrent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, neuron: SlayerNeuron) -> torch.Tensor:
        y, matrix, ctx.neuron, ctx.shape = _time_first(x), weight * neuron.unit, neuron, x.shape
        distance, spikes = torch.empty_like(y), torch.empty_like(y)
        fired, back = torch.zeros_like(y[:, 0]), matrix.T
        u, v = (torch.zeros_like(fired, dtype=torch.float64) for _ in range(2))
        step = LOOPS.get(x.device.type, _torch_step)
        for t in range(y.shape[1]):
            step(neuron, y, fired @ back, t, u, v, fired, distance, spikes)
        ctx.save_for_backward(distance.exp_(), spikes, matrix)
        return _time_last(spikes, x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        (slope, spikes, matrix), peak, unit = ctx.saved_tensors, float(ctx.neuron.peak), ctx.neuron.unit
        slope = slope * peak
        grad, back = grads[0], torch.zeros_like(slope[:, 0])
        out = torch.zeros_like(grad)
        for t in range(slope.shape[1])[::-1]:
            now = slope[:, t] * (back + grad[..., t])
            back = now @ matrix
            out[..., t] = now
        found, given = _time_last(spikes, ctx.shape), out[..., 1:].transpose(0, 1)
        to_matrix = given.reshape(len(matrix), -1) @ found[..., :-1].transpose(1, 2).reshape(-1, len(matrix))
        return out * unit, to_matrix * unit, None


def _compiled_step(neuron: SlayerNeuron, y: torch.Tensor, feedback: torch.Tensor, t: int, *states: torch.Tensor) -> None:
    fixed = (*neuron.keeps, np.float32(neuron.unit), neuron.fires_at, np.float32(neuron.tau))
    neurons.slayer_step(y.numpy(), feedback.numpy(), t, *fixed, *(s.numpy() for s in states))


def _torch_step(
    neuron: SlayerNeuron, y: torch.Tensor, feedback: torch.Tensor, t: int, u: torch.Tensor, v: torch.Tensor,
    fired: torch.Tensor, distance: torch.Tensor, spikes: torch.Tensor,
) -> None:  # fmt: skip
    (i_keep, v_keep), at = neuron.keeps, float(neuron.fires_at)
    drive = y[:, t] * neuron.unit + feedback
    u.copy_(((u * i_keep).trunc() + (drive.double() * _LEVELS).trunc()).float())
    voltage = ((v * v_keep).trunc() + u).float()
    spikes[:, t] = fired[:] = voltage / _LEVELS >= at
    v.copy_(voltage * (1 - fired))
    distance[:, t] = -(voltage / _LEVELS - at).abs() / neuron.tau


LOOPS: dict[str, Callable[..., None]] = {
    "cpu": _compiled_step
}  # devices with compiled loops, and a recurrent population's step


class _HostLif(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, current: torch.Tensor, at_threshold: bool) -> torch.Tensor:
        y = current.reshape(*current.shape[:2], -1).contiguous()
        voltage, spikes = torch.empty_like(y), torch.empty_like(y)
        one = y.numpy().dtype.type(1)
        over_first_axis(lambda y, v, s: neurons.host_forward(y, one / 2, one, at_threshold, v, s), y, voltage, spikes)
        ctx.save_for_backward(voltage, spikes)
        return spikes.view(current.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        voltage, spikes = ctx.saved_tensors
        grad, out = grads[0].reshape(voltage.shape).contiguous(), torch.empty_like(voltage)
        one = grad.numpy().dtype.type(1)
        over_first_axis(lambda v, s, g, o: neurons.host_backward(v, s, g, one / 2, one, o), voltage, spikes, grad, out)
        return out.view(grads[0].shape), None


class _SuperSpike(torch.autograd.Function):
    """Spikes where x > 0, ``at_threshold``: where x >= 0; derivative 1 / (|x| + 1)^2."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, at_threshold: bool) -> torch.Tensor:
        ctx.save_for_backward(x)
        return (x >= 0 if at_threshold else x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        return grads[0] / (x.abs() + 1).pow(2), None


def _host_steps(current: torch.Tensor, at_threshold: bool) -> torch.Tensor:
    """`host_lif` step by step, for devices without compiled loops."""
    voltage, spikes = torch.zeros_like(current[:, 0]), []
    for now in current.unbind(1):
        voltage = voltage / 2 + now
        fired: torch.Tensor = _SuperSpike.apply(voltage - 1, at_threshold)
        voltage = voltage * (1 - fired)
        spikes.append(fired)
    return torch.stack(spikes, 1)
