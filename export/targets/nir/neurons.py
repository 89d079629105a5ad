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
at rest, v_leak, which must be v_reset; where they differ, the node's metadata must say ``v_initial`` = v_reset.

NIR holds no reset *mode* either: a network with subtracting reset gives the same file as one with hard reset. The chip resets
hard; what the network did is one of `RESETS`, and the float reference runs it as it was (v in thresholds above v_reset):

    hard           v <- 0 where v > 1                      Norse; snnTorch "zero"; lava-dl; what the chip does
    subtract       v <- v - 1 where v > 1                  Norse's reset_subtract
    subtract-next  the step after a spike takes 1 off v    snnTorch's default: "subtract", reset_delay=True
    subtract-many  s = floor(v), v <- v - s                sinabs' and Rockpool's default: several spikes in one step
    subtract-snntorch  subtract, and what is still above 1 waits: v - 1 decides the next spike    "subtract", reset_delay=False
    zero-next      v = 0 in the step after a spike         snnTorch's Synaptic and RLeaky with "zero", reset_delay=True

All but the first are another network on the chip, and the difference is counted spike by spike, not estimated.
"""

from dataclasses import dataclass
from typing import Any

import nir
import numpy as np

from taaf.export.limits import V_TH_MAX
from taaf.export.targets.nir.file import text
from taaf.models.errors import UnsupportedLayerError
from taaf.models.ir.nodes import PerChannel

NEURONS = (nir.IF, nir.LIF, nir.CubaLIF)
RESETS = ("hard", "subtract", "subtract-next", "subtract-many", "subtract-snntorch", "zero-next")
_K_TOLERANCE = 1e-6  # tau is often float32


@dataclass(frozen=True)
class Neurons:
    """One population, mapped.

    Attributes
    ----------
    kind : str
        NIR's name.
    k_syn, k_mem : numpy.ndarray
        (C,): ideal leaks per step, 0..1, per channel (or neuron of a flat layer).
    gain : numpy.ndarray
        (C,): synaptic sum -> thresholds, per channel (or neuron of a flat layer).
    leak_bias : numpy.ndarray
        (C,) thresholds per step that come from v_leak.
    v_th_mant : int or None
        Threshold mantissa if the node's metadata state it (files of `taaf.export.targets.nir.write`), else to be calibrated.
    reset : str or None
        One of `RESETS`: what the network does that is mapped; None where nothing says it (a foreign file).
    """

    kind: str
    k_syn: np.ndarray
    k_mem: np.ndarray
    gain: np.ndarray
    leak_bias: np.ndarray
    v_th_mant: int | None
    reset: str | None = None

    @property
    def i_decay(self) -> PerChannel:
        return _decay(self.k_syn)

    @property
    def v_decay(self) -> PerChannel:
        return _decay(self.k_mem)

    def mapping(self, layer: str) -> dict[str, Any]:
        """Line of the report: what became of tau and dt."""
        return {
            "layer": layer, "nir": self.kind, "reset": self.reset, "dt_over_tau_syn": _range(self.k_syn), "i_decay": _range(self.i_decay),
            "dt_over_tau_mem": _range(self.k_mem), "v_decay": _range(self.v_decay),
            "gain_thresholds_per_unit": [float(self.gain.min()), float(self.gain.max())],
        }  # fmt: skip


def _decay(k: np.ndarray) -> PerChannel:
    """12-bit decays: one number where they are equal, else one per channel."""
    found = np.rint(4096 * k).astype(np.int64)
    return int(found[0]) if (found == found[0]).all() else found


def _range(value: Any) -> Any:
    """A number, or [smallest, largest] where a layer has several."""
    low, high = np.min(value).item(), np.max(value).item()
    return low if low == high else [low, high]


def array(value: Any) -> np.ndarray:
    """A NIR parameter (NumPy array, number, or torch tensor in graphs made in memory) in float64."""
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value, np.float64)


def map_neurons(where: str, node: nir.NIRNode, shape: tuple[int, ...], dt: float, reset: str | None) -> Neurons:
    """Map one NIR population of this shape, whose reset (one of `RESETS`) is given; the node's metadata go before it.

    Raises
    ------
    UnsupportedLayerError
        Naming the node, if a leak lies outside what 12 bits hold, the threshold is not above the reset, a value differs
        within a channel, or the initial voltage is not known.
    """

    def per_channel(name: str) -> np.ndarray:
        return _per_channel(where, name, getattr(node, name), shape)

    def leak(name: str) -> np.ndarray:
        return _leak(where, name, per_channel(name), dt)

    floor, threshold = per_channel("v_reset"), per_channel("v_threshold")
    theta = threshold - floor
    if (theta <= 0).any():
        raise UnsupportedLayerError(f"{where}: v_threshold {threshold.min():g} is not above v_reset {floor.max():g}")
    k_syn, k_mem, leak_bias = np.ones(shape[0]), np.zeros(shape[0]), np.zeros(shape[0])
    if isinstance(node, nir.IF):
        gain = dt * per_channel("r") / theta
    else:
        gain = per_channel("r") / theta
        k_mem = leak("tau" if isinstance(node, nir.LIF) else "tau_mem")
        gain = k_mem * gain
        if isinstance(node, nir.CubaLIF):
            k_syn = leak("tau_syn")
            gain = k_syn * per_channel("w_in") * gain
        leak_bias = k_mem * (per_channel("v_leak") - floor) / theta
        _check_start(where, node, leak_bias, floor)
    how = text(node.metadata["reset"]) if "reset" in node.metadata else reset
    if how is not None and how not in RESETS:
        raise UnsupportedLayerError(f"{where}: metadata reset {how!r}; allowed {', '.join(RESETS)}")
    return Neurons(type(node).__name__, k_syn, k_mem, gain, leak_bias, _stored_mantissa(where, node), how)


def _leak(where: str, name: str, tau: np.ndarray, dt: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        k = np.where(tau > 0, dt / tau, np.inf)
    wrong = ~((k >= 0.5 / 4096) & (k <= 1 + _K_TOLERANCE))
    if wrong.any():
        first = float(tau[np.argmax(wrong)])
        raise UnsupportedLayerError(
            f"{where}: {name} = {first:g} is {first / dt:.3g} time steps of {dt:g} s; allowed 1 to 8192 steps; is the time step "
            f"right (--dt)? {step_hint(first)}"
        )
    return np.minimum(k, 1.0)


def step_hint(tau: float) -> str:
    """Which exporter writes time constants of this size, and the time step that it means."""
    if tau >= 0.5:
        return "time constants from 1 on look like sinabs' layers, which count in steps: --dt 1"
    if tau < 1e-4:
        return "time constants this small look like those of Norse's to_nir(dt=0.001), which writes tau dt for tau: --dt 1e-06"
    return "snnTorch and lava-dl write files for --dt 1e-4, Rockpool for the dt of its modules (--dt 1e-3 unless changed)"


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
    while found.ndim > len(shape) and found.shape[0] == 1:
        found = found[0]  # axes of batch and time, which exporters leave in
    if found.shape == shape[:1]:
        return found
    try:
        full = np.broadcast_to(found, shape)
    except ValueError:
        raise UnsupportedLayerError(f"{where}: {name} has shape {found.shape}; the layer has {shape}") from None
    rows = full.reshape(shape[0], -1)
    if (rows != rows[:, :1]).any():
        raise UnsupportedLayerError(f"{where}: {name} varies within a channel; allowed one value per channel")
    return rows[:, 0].copy()
