"""The spiking neuron of training: lava-dl SLAYER's CUBA neuron, configured as the paper's LIF (Eqs 1-3).

    u(t) = tau u(t-1) + I(t),   a(t) = 1 if u(t) > V_th else 0,   u(t) <- u(t) (1 - a(t))

SLAYER runs it on integers (state scale 2^12 = 64 x 64) with the decay of the chip; the forward here *is* what the
chip does. Training runs our form of it (`taaf.models.fused_lif`), bit-equal to lava-dl's and without lava-dl; proofs run
lava-dl's own where it is installed (`prove_by_lava_dl`).
"""

import warnings
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import nn

from taaf.models.errors import BackendUnavailableError
from taaf.models.fused_lif import SlayerNeuron, slayer_lif, slayer_recurrent
from taaf.models.lava_python import lava_remedy
from taaf.models.lif import LifParameters
from taaf.models.shell.pictures import allow_matplotlib

W_SCALE = 64  # SLAYER's weight scale: one weight unit on the chip is 1/64 in SLAYER
_TAU_MULT, _SCALE_MULT = 100, 0.1  # lava-dl's TAU_RHO_MULT and SCALE_RHO_MULT


def require_lava_dl() -> None:
    """Raise `BackendUnavailableError` with the remedy if lava-dl cannot be imported."""
    allow_matplotlib()
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # it chats at import
            warnings.simplefilter("ignore")
            import lava.lib.dl.slayer  # noqa: F401
    except Exception as error:
        raise BackendUnavailableError(f"lava-dl (SLAYER) cannot be imported: {error}; " f"{lava_remedy()}") from error


class _Decays(nn.Module):
    """What checkpoints store of SLAYER's neuron."""

    def __init__(self, parameters: LifParameters) -> None:
        super().__init__()
        self.current_decay = nn.Parameter(torch.tensor([float(parameters.i_decay)]), requires_grad=False)
        self.voltage_decay = nn.Parameter(torch.tensor([float(parameters.v_decay)]), requires_grad=False)


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

    Examples
    --------
    >>> lif = SlayerLif(LifParameters(), 0.5, 1.0)
    >>> lif(torch.tensor([[[1.0, 0.75, 0.0, 0.0]]]))  # 1 does not fire: v > threshold; 0.5 + 0.75 does
    tensor([[[0., 1., 0., 0.]]])
    """

    def __init__(self, parameters: LifParameters, surrogate_width: float, surrogate_scale: float) -> None:
        super().__init__()
        if parameters.v_th_mant & (parameters.v_th_mant - 1):
            raise ValueError(f"v_th_mant (={parameters.v_th_mant}) must be a power of two")
        self.parameters_ = parameters
        self.unit = parameters.v_th_mant / W_SCALE
        self.surrogate = surrogate_width, surrogate_scale
        self.neuron = _Decays(parameters)
        # SLAYER's derivative is scale_rho / (2 tau_rho) exp(-|v - th| / tau_rho); the products round as its own do
        tau, scale = surrogate_width / _TAU_MULT * self.unit * _TAU_MULT, surrogate_scale * 2 * surrogate_width
        self.fused = SlayerNeuron(
            self.unit, parameters.i_decay, parameters.v_decay, tau, scale / _SCALE_MULT * _SCALE_MULT, self.unit
        )
        self._lava: list[Any] = []  # lava-dl's neuron where it runs instead; in a list, so that torch does not register it

    def by_lava_dl(self) -> None:
        """Run lava-dl's own neuron from now on; raises `BackendUnavailableError` without lava-dl."""
        self._lava = [self.lava_neuron()]

    @property
    def runs_lava_dl(self) -> bool:
        """Whether `by_lava_dl` is in force."""
        return bool(self._lava)

    def lava_neuron(self) -> Any:
        """lava-dl's neuron with these parameters, a new one; raises `BackendUnavailableError` without lava-dl."""
        require_lava_dl()
        from lava.lib.dl.slayer.neuron import cuba

        width, scale = self.surrogate
        return cuba.Neuron(
            threshold=self.unit,
            current_decay=self.parameters_.i_decay / 4096,
            voltage_decay=self.parameters_.v_decay / 4096,
            tau_grad=width / cuba.TAU_RHO_MULT,
            scale_grad=scale * 2 * width / cuba.SCALE_RHO_MULT,
        )

    def recurrent(self, current: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Spikes with feedback: ``I(t) = current(t) + weight s(t - 1)``, as SLAYER's own recurrence gives them.

        Parameters
        ----------
        current : torch.Tensor
            (N, F, T), threshold units.
        weight : torch.Tensor
            (F, F), threshold units.
        """
        if not self._lava:
            return slayer_recurrent(current, weight, self.fused)
        from lava.lib.dl.slayer.utils.recurrent import CustomRecurrent

        neuron = self._lava[0]
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
        if not self._lava:
            return slayer_lif(current, self.fused)
        self._lava[0].shape = None  # SLAYER pins the first shape it sees; one module may serve several batch shapes
        spikes: torch.Tensor = self._lava[0](current * self.unit)
        return spikes


def prove_by_lava_dl(module: nn.Module) -> bool:
    """Let every `SlayerLif` in ``module`` run lava-dl's own neuron from now on, if lava-dl is there; says whether it is."""
    try:
        require_lava_dl()
    except BackendUnavailableError:
        return False
    for part in module.modules():
        if isinstance(part, SlayerLif):
            part.by_lava_dl()
    return True
