"""The spiking neuron of training: lava-dl SLAYER's CUBA neuron, configured as the paper's LIF (Eqs 1-3).

    u(t) = tau u(t-1) + I(t),   a(t) = 1 if u(t) > V_th else 0,   u(t) <- u(t) (1 - a(t))

SLAYER runs it on integers (state scale 2^12 = 64 x 64) with the decay of the chip; the forward here *is* what the
chip does. lava-dl is imported when a neuron is built, not when this module is imported. Without lava-dl networks can be
built, loaded and compiled; only their forward pass is refused.
"""

import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from torch import nn

from taaf.models.errors import BackendUnavailableError
from taaf.models.lava_python import lava_remedy
from taaf.models.shell.pictures import allow_matplotlib

W_SCALE = 64  # SLAYER's weight scale: one weight unit on the chip is 1/64 in SLAYER


@dataclass(frozen=True)
class LifParameters:
    """Chip-side parameters of one LIF population (NetX names).

    Attributes
    ----------
    i_decay : int
        Current decay, 1..4096; 4096 means no current memory (the paper's Eq. 1).
    v_decay : int
        Voltage decay, 0..4096; ``tau = 1 - v_decay / 4096``, so tau 0.5 is 2048.
    v_th_mant : int
        Threshold mantissa, 1..131071; the neuron fires when ``v > v_th_mant * 64``.
    """

    i_decay: int = 4096
    v_decay: int = 2048
    v_th_mant: int = 64


def require_lava_dl() -> None:
    """Raise `BackendUnavailableError` with the remedy if lava-dl cannot be imported."""
    allow_matplotlib()
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # it chats at import
            warnings.simplefilter("ignore")
            import lava.lib.dl.slayer  # noqa: F401
    except Exception as error:
        raise BackendUnavailableError(
            f"lava-dl (SLAYER), which trains and proves exports against its forward pass, cannot be imported: {error}; "
            f"{lava_remedy()}"
        ) from error


class _DecaysOnly(nn.Module):
    """Stands where SLAYER's neuron would: keeps what checkpoints store of it, and refuses to run."""

    def __init__(self, parameters: LifParameters) -> None:
        super().__init__()
        self.current_decay = nn.Parameter(torch.tensor([float(parameters.i_decay)]), requires_grad=False)
        self.voltage_decay = nn.Parameter(torch.tensor([float(parameters.v_decay)]), requires_grad=False)

    def forward(self, current: torch.Tensor) -> torch.Tensor:
        require_lava_dl()
        raise AssertionError("lava-dl was missing when this neuron was built and is there now")


class SlayerLif(nn.Module):
    """One SLAYER CUBA population.

    Input and output have shape (N, ..., T). The input is the weighted sum in *threshold units*: 1.0 is the
    threshold. Values on the grid ``integer / v_th_mant`` give exactly the integers the chip sees.

    Parameters
    ----------
    parameters : LifParameters
        ``v_th_mant`` must be a power of two, so that the change of units is exact in float32.
    surrogate_width, surrogate_scale : float
        The surrogate derivative is ``surrogate_scale * exp(-|v - 1| / surrogate_width)``, v in threshold units.
    """

    def __init__(self, parameters: LifParameters, surrogate_width: float, surrogate_scale: float) -> None:
        super().__init__()
        if parameters.v_th_mant & (parameters.v_th_mant - 1):
            raise ValueError(f"v_th_mant (={parameters.v_th_mant}) must be a power of two")
        self.parameters_ = parameters
        self.unit = parameters.v_th_mant / W_SCALE
        self.neuron = self._neuron(surrogate_width, surrogate_scale)

    def _neuron(self, surrogate_width: float, surrogate_scale: float) -> nn.Module:
        try:
            require_lava_dl()
        except BackendUnavailableError:
            return _DecaysOnly(self.parameters_)
        from lava.lib.dl.slayer.neuron import cuba

        neuron: nn.Module = cuba.Neuron(
            threshold=self.unit,
            current_decay=self.parameters_.i_decay / 4096,
            voltage_decay=self.parameters_.v_decay / 4096,
            # SLAYER's derivative is scale_rho / (2 tau_rho) exp(-|v - th| / tau_rho) with its own multipliers
            tau_grad=surrogate_width / cuba.TAU_RHO_MULT,
            scale_grad=surrogate_scale * 2 * surrogate_width / cuba.SCALE_RHO_MULT,
        )
        return neuron

    def recurrent(self, current: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Spikes with feedback: ``I(t) = current(t) + weight s(t - 1)``, by SLAYER's own recurrence, step by step.

        Parameters
        ----------
        current : torch.Tensor
            (N, F, T), threshold units.
        weight : torch.Tensor
            (F, F), threshold units.
        """
        require_lava_dl()
        from lava.lib.dl.slayer.utils.recurrent import CustomRecurrent

        neuron: Any = self.neuron
        neuron.shape, neuron.persistent_state = None, True
        state = torch.zeros(current.shape[:-1], device=current.device)
        neuron.current_state, neuron.voltage_state = state, state.clone()
        try:
            spikes: torch.Tensor = CustomRecurrent.apply(current * self.unit, neuron, weight * self.unit)
        finally:
            neuron.persistent_state = False
            neuron.current_state, neuron.voltage_state = torch.zeros(1), torch.zeros(1)
        return spikes

    def forward(self, current: torch.Tensor) -> torch.Tensor:
        self.neuron.shape = None  # type: ignore[assignment]  # SLAYER pins the first shape it sees; one module may serve several batch shapes
        spikes: torch.Tensor = self.neuron(current * self.unit)
        return spikes
