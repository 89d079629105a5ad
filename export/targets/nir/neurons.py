"""NIR neurons -> decays, gains and biases of the IR: the equations, once.

NIR (Pedersen et al. 2024, doi 10.1038/s41467-024-52259-9) states differential equations and no time step. With a step dt
they are integrated as Norse does it (explicit Euler; the new current enters the voltage in the same step):

    IF       dv/dt = R I                              v <- v + dt R I
    LIF      tau dv/dt = (v_leak - v) + R I           v <- v + k_m ((v_leak - v) + R I),          k_m = dt / tau
    CubaLIF  tau_syn dI/dt = -I + w_in S              I <- I + k_s (-I + w_in S),                 k_s = dt / tau_syn
             tau_mem dv/dt = (v_leak - v) + R I       v <- v + k_m ((v_leak - v) + R I),          k_m = dt / tau_mem

then a spike where v > v_threshold (strict), and v <- v_reset there in the same step. With x = (v - v_reset) / theta and
theta = v_threshold - v_reset this is the neuron of `taaf.models.ir`:

    u <- (1 - k_s) u + gain (W s);   x <- (1 - k_m) x + u + gain b + k_m (v_leak - v_reset) / theta;   spike: x > 1, x <- 0

    gain = dt R / theta (IF),  k_m R / theta (LIF),  k_s w_in k_m R / theta (CubaLIF)
    v_decay = round(4096 k_m) (0 for IF),  i_decay = round(4096 k_s) (4096 without current memory)

The rounded decays are part of the measured deviation (`taaf.export.ptq.calibrate`). NIR holds no initial state: a neuron starts
at rest, v_leak, which must be v_reset; where they differ, the node's metadata must say ``v_initial`` = v_reset. NIR holds
no reset *mode* either: the value v_reset is taken as a hard reset. A network that was trained with subtracting reset
gives the same file, so this cannot be seen from the file; `taaf.export.targets.nir.read.from_norse` looks at the modules.
"""

from dataclasses import dataclass
from typing import Any

import nir
import numpy as np

from taaf.export.limits import V_TH_MAX
from taaf.models.errors import UnsupportedLayerError

NEURONS = (nir.IF, nir.LIF, nir.CubaLIF)
_K_TOLERANCE = 1e-6  # tau is often float32


@dataclass(frozen=True)
class Neurons:
    """One population, mapped.

    Attributes
    ----------
    kind : str
        NIR's name.
    k_syn, k_mem : float
        Ideal leaks per step, 0..1.
    gain : numpy.ndarray
        (C,): synaptic sum -> thresholds, per channel (or neuron of a flat layer).
    leak_bias : numpy.ndarray
        (C,) thresholds per step that come from v_leak.
    v_th_mant : int or None
        Threshold mantissa if the node's metadata state it (files of `taaf.export.targets.nir.write`), else to be calibrated.
    """

    kind: str
    k_syn: float
    k_mem: float
    gain: np.ndarray
    leak_bias: np.ndarray
    v_th_mant: int | None

    @property
    def i_decay(self) -> int:
        return round(4096 * self.k_syn)

    @property
    def v_decay(self) -> int:
        return round(4096 * self.k_mem)

    def mapping(self, layer: str) -> dict[str, Any]:
        """Line of the report: what became of tau and dt."""
        return {
            "layer": layer, "nir": self.kind, "dt_over_tau_syn": self.k_syn, "i_decay": self.i_decay,
            "dt_over_tau_mem": self.k_mem, "v_decay": self.v_decay,
            "gain_thresholds_per_unit": [float(self.gain.min()), float(self.gain.max())],
        }  # fmt: skip


def array(value: Any) -> np.ndarray:
    """A NIR parameter (NumPy array, number, or torch tensor in graphs made in memory) in float64.

    Raises
    ------
    UnsupportedLayerError
        If it is complex: NumPy would drop imaginary parts, as of resonate-and-fire layers, with a warning only.
    """
    found = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
    if found.dtype.kind == "c":
        raise UnsupportedLayerError(f"a parameter of {found.dtype} {found.shape}; allowed real numbers (no resonate-and-fire)")
    return found.astype(np.float64)


def map_neurons(where: str, node: nir.NIRNode, shape: tuple[int, ...], dt: float) -> Neurons:
    """Map one NIR population of this shape.

    Raises
    ------
    UnsupportedLayerError
        Naming the node, if a leak differs between neurons or lies outside what 12 bits hold, the threshold is not above
        the reset, a gain differs within a channel, or the initial voltage is not known.
    """

    def per_channel(name: str) -> np.ndarray:
        return _per_channel(where, name, getattr(node, name), shape)

    def leak(name: str) -> float:
        tau = per_channel(name)
        if tau.min() != tau.max():
            raise UnsupportedLayerError(
                f"{where}: {name} varies from {tau.min():g} to {tau.max():g}; allowed one value per layer, as on the chip"
            )
        return _leak(where, name, float(tau[0]), dt)

    reset, threshold = per_channel("v_reset"), per_channel("v_threshold")
    theta = threshold - reset
    if (theta <= 0).any():
        raise UnsupportedLayerError(f"{where}: v_threshold {threshold.min():g} is not above v_reset {reset.max():g}")
    k_syn, k_mem, leak_bias = 1.0, 0.0, np.zeros(shape[0])
    if isinstance(node, nir.IF):
        gain = dt * per_channel("r") / theta
    else:
        gain = per_channel("r") / theta
        k_mem = leak("tau" if isinstance(node, nir.LIF) else "tau_mem")
        gain = k_mem * gain
        if isinstance(node, nir.CubaLIF):
            k_syn = leak("tau_syn")
            gain = k_syn * per_channel("w_in") * gain
        leak_bias = k_mem * (per_channel("v_leak") - reset) / theta
        _check_start(where, node, leak_bias, reset)
    return Neurons(type(node).__name__, k_syn, k_mem, gain, leak_bias, _stored_mantissa(where, node))


def _leak(where: str, name: str, tau: float, dt: float) -> float:
    k = dt / tau if tau > 0 else np.inf
    if not 0.5 / 4096 <= k <= 1 + _K_TOLERANCE:
        raise UnsupportedLayerError(
            f"{where}: {name} = {tau:g} is {tau / dt:.3g} time steps of {dt:g}; allowed 1 to 8192 steps; is the time step "
            f"right (--dt)?{time_step_hint(tau)}"
        )
    return min(k, 1.0)


def time_step_hint(tau: float) -> str:
    """What --dt a file may need whose time constants are no seconds, by their size: tools differ in what they write."""
    if 1 <= tau < np.inf:
        return " sinabs writes tau in time steps: give --dt 1 for such a file"
    if 0 < tau < 1e-4:
        return " Norse's to_nir(dt=0.001) writes tau dt instead of tau: give --dt 1e-06 for such a file"
    return ""


def _check_start(where: str, node: nir.NIRNode, leak_bias: np.ndarray, reset: np.ndarray) -> None:
    stated = node.metadata.get("v_initial")
    if leak_bias.any() and (stated is None or (array(stated) != reset).any()):
        raise UnsupportedLayerError(
            f"{where}: v_leak differs from v_reset, and NIR does not say where the voltage starts; allowed v_leak = v_reset, "
            "or metadata v_initial = v_reset"
        )


def _stored_mantissa(where: str, node: nir.NIRNode) -> int | None:
    if "v_th_mant" not in node.metadata:
        return None
    value = float(array(node.metadata["v_th_mant"]))
    if value != int(value) or not 1 <= value <= V_TH_MAX:
        raise UnsupportedLayerError(f"{where}: metadata v_th_mant {value:g}; allowed whole numbers 1..{V_TH_MAX}")
    return int(value)


def _per_channel(where: str, name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter (a number, one per channel, or one per neuron) as one per channel."""
    found = array(value)
    if not np.isfinite(found).all():
        raise UnsupportedLayerError(f"{where}: {name} holds values that are NaN or infinite")
    if found.shape == shape[:1]:
        return found
    try:
        full = np.broadcast_to(found.reshape(found.shape[1:]) if found.shape == (1, *shape) else found, shape)
    except ValueError:
        raise UnsupportedLayerError(f"{where}: {name} has shape {found.shape}; the layer has {shape}") from None
    rows = full.reshape(shape[0], -1)
    if (rows != rows[:, :1]).any():
        raise UnsupportedLayerError(f"{where}: {name} varies within a channel; allowed one value per channel")
    return rows[:, 0].copy()
