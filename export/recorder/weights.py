"""Integers of a SLAYER module as its own forward uses them; what has no integer form is refused with the reason."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from taaf.export.recorder.places import NoExactForm
from taaf.models.ir import Shape
from taaf.models.lif import WEIGHT_MAX, WEIGHT_MIN

_STEPS = 4096  # SLAYER's decays are multiples of 1/4096; its states of 1/(64 scale)


def used_weight(synapse: Any) -> np.ndarray:
    """Weights as the synapse has just used them (float64), quantised by its ``pre_hook_fx``.

    Read after a forward: only then is ``weight`` up to date where ``weight_norm`` is on.
    """
    with torch.no_grad():
        weight = synapse.weight if synapse.pre_hook_fx is None else synapse.pre_hook_fx(synapse.weight)
    return weight.detach().double().numpy()


def integers(weight: np.ndarray, unit: int, name: str) -> np.ndarray:
    """``weight * unit`` as even integers in [-256, 254]; ``name`` is the synapse's, for messages.

    Raises
    ------
    NoExactForm
        If any value is something else.
    """
    levels = weight * unit
    whole = np.rint(levels)
    if (levels != whole).any() or (whole % 2).any():
        odd = float(weight[(levels != whole) | (whole % 2 != 0)].flat[0])
        raise NoExactForm(
            f"needs a weight of {odd:.6g} in {name}, which is no even multiple of 1/{unit}; set pre_hook_fx = neuron.quantize_8bit, "
            "and put neurons between two layers of weights (sums and means of spikes become part of the next weights)"
        )
    if whole.min() < WEIGHT_MIN or whole.max() > WEIGHT_MAX:
        raise NoExactForm(
            f"needs weights of {int(whole.min())}..{int(whole.max())} / {unit} in {name} (allowed {WEIGHT_MIN}..{WEIGHT_MAX})"
        )
    return whole.astype(np.int32)


@dataclass(frozen=True)
class NeuronIntegers:
    """Parameters of a CUBA neuron on the chip; arrays have the layer's ``shape``. 1.0 of SLAYER's current is ``unit``."""

    i_decay: np.ndarray
    v_decay: np.ndarray
    v_th_mant: int
    bias: np.ndarray
    unit: int


def neuron_integers(neuron: Any, shape: Shape, constant: np.ndarray | None, recurrent: bool) -> NeuronIntegers:
    """Read a CUBA neuron after its forward.

    Parameters
    ----------
    constant : numpy.ndarray or None
        Constant current that the user's code adds before the neuron (``shape``).
    recurrent : bool
        Whether the neuron is called once per step, with ``persistent_state``.

    Raises
    ------
    NoExactForm
        Where SLAYER computes something that a LIF of the chip does not.
    """
    from lava.lib.dl.slayer.neuron.cuba import Neuron

    if changed := [n for n in ("forward", "dynamics", "spike") if getattr(type(neuron), n, None) is not getattr(Neuron, n)]:
        raise NoExactForm(
            f"has {type(neuron).__name__} neurons with a {changed[0]} of their own; use slayer.neuron.cuba.Neuron"
        )
    if neuron.graded_spike:
        raise NoExactForm("sends graded spikes; the chip's LIF sends zeros and ones (graded_spike=False)")
    unit, threshold = int(neuron.w_scale), neuron._threshold
    if unit & (unit - 1) or neuron.s_scale != 64 * unit or neuron.p_scale != _STEPS:
        raise NoExactForm(f"has scale {unit}; states are exact for powers of two only (the default is 64)")
    if threshold is None or threshold < 0:
        raise NoExactForm(f"has threshold {threshold} and never fires; the chip's populations send spikes")
    high = np.float64(threshold + neuron.threshold_eps)
    if np.float32(high * neuron.s_scale) <= threshold * neuron.s_scale or np.float32(high) <= threshold:
        raise NoExactForm(
            f"has threshold {threshold:g}, from which on SLAYER fires at the threshold itself (float32 loses its threshold_eps), "
            "the chip only above it; scale weights and threshold down, below 64"
        )
    i_decay, v_decay = (_decay(neuron, name, shape) for name in ("current_decay", "voltage_decay"))
    norm = _norm_bias(neuron, shape)
    if recurrent and norm.any() and (i_decay < _STEPS).any():
        raise NoExactForm("has a norm and a current memory: SLAYER's recurrent step keeps the norm's offset in the current")
    added = np.zeros(shape) if constant is None else constant
    if added.any() and (i_decay < _STEPS).any():
        raise NoExactForm(
            "gets a constant current, which its current memory accumulates; a bias of the chip acts on the voltage. "
            "Use norm=slayer.neuron.norm.MeanOnlyBatchNorm, or current_decay=1"
        )
    bias = norm + added * unit
    if (bias != np.rint(bias)).any():
        raise NoExactForm(f"gets a bias that is no multiple of 1/{unit}; quantise it as the weights are")
    if neuron.drop is not None and not isinstance(neuron.drop, torch.nn.modules.dropout._DropoutNd):
        raise NoExactForm(f"has a dropout {type(neuron.drop).__name__} that is not known to do nothing in eval mode")
    return NeuronIntegers(i_decay, v_decay, int(neuron.v_th_mant), np.rint(bias).astype(np.int64), unit)


def _decay(neuron: Any, name: str, shape: Shape) -> np.ndarray:
    """SLAYER multiplies (N, *shape) by a vector of decays, which therefore lies along the last axis."""
    value = np.rint(np.clip(getattr(neuron, name).detach().double().numpy(), 0, _STEPS)).astype(np.int64)
    return np.broadcast_to(value if value.size > 1 else value.reshape(()), shape)


def _norm_bias(neuron: Any, shape: Shape) -> np.ndarray:
    norm = neuron.norm
    if norm is None:
        return np.zeros(shape)
    mean = norm_mean(norm)
    return np.broadcast_to(-mean.reshape(-1, *[1] * (len(shape) - 1)), shape) * int(neuron.w_scale)


def norm_mean(norm: Any) -> np.ndarray:
    """What a MeanOnlyBatchNorm subtracts in eval mode, per channel."""
    from lava.lib.dl.slayer.neuron.norm import MeanOnlyBatchNorm

    if type(norm) is not MeanOnlyBatchNorm:
        raise NoExactForm(
            f"normalises with {type(norm).__name__}, which also scales; the chip's neurons have a bias only. "
            "Use slayer.neuron.norm.MeanOnlyBatchNorm, or taaf's QatConv2d and QatDense, which fold the norm into weights"
        )
    with torch.no_grad():
        return norm.pre_hook_fx(norm.running_mean).detach().double().numpy().reshape(-1)


def axonal_delay(delay: Any) -> np.ndarray:
    """Whole steps per channel, as SLAYER's forward shifts."""
    return np.floor(delay.delay.detach().numpy().reshape(-1) / delay.sampling_time).astype(np.int64)
