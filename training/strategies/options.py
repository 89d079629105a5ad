"""Settings that all balance strategies share; reading them needs no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from taaf.models.settings import Fraction, NotNegative, Range

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LossOptions:
    """What every strategy shares: Eq. 9's ``lam`` and ``phi``, Eq. 10's ``beta``, and the readings of alpha.

    ``suppression`` is the strength of k_u (and of OGM-GE, AGM and PMR where they have one). ``alpha_detach`` stops the
    gradient through alpha, ``alpha_batch_mean`` weights every sample of a batch with the mean alpha, ``entropy_floor``
    and ``entropy_weight`` keep alpha from collapsing (`taaf.training.losses.entropy_deficit`). Of S-CMRL: ``smoothing`` of
    labels, weight ``sao`` and temperature of the semantic alignment.

    ``k_per``: "output", ``k_u = 1 - tanh(suppression rho_u)``; or "step", ``k_u(t) = 1 - tanh(alpha_u(t) rho_u)`` for every sample,
    the paper's "at individual timesteps" taken literally: its alpha is then the attention, without gradient, and no strength is
    left to choose. ``k_from``: rho_u of the "batch", or once per epoch of the "validation" part after the epoch before it
    (Algorithm 1, line 12; k = 1 in the first epoch), where s_u is that of the deployed network.

    ``readout_weight`` w adds ``w CE(sum_t alpha_u(t) O_u(t), y)`` to every L_u (`taaf.training.losses.readout_loss`). Eq. 8 rewards
    an alpha that weighs the easiest step; with ``alpha_detach`` it weighs steps without being moved by that, and alpha learns from
    the decision that it makes. A reading of ours.
    """

    lam: Fraction = 1e-3
    phi: NotNegative = 1.0
    beta: NotNegative = 1.0
    suppression: NotNegative = 0.5
    alpha_detach: bool = False
    alpha_batch_mean: bool = False
    entropy_floor: Fraction = 0.0
    entropy_weight: NotNegative = 0.0
    smoothing: Annotated[float, Range(0.0, 0.99)] = 0.1
    sao: NotNegative = 1.0
    sao_temperature: float = 0.07
    k_per: Literal["output", "step"] = "output"
    k_from: Literal["batch", "validation"] = "batch"
    readout_weight: NotNegative = 0.0

    def weights(self, alpha: "torch.Tensor") -> "torch.Tensor":
        """The temporal weights of the loss for an attention alpha (N, T)."""
        from taaf.training.losses import batch_mean

        alpha = alpha.detach() if self.alpha_detach else alpha
        return batch_mean(alpha)[None].expand_as(alpha) if self.alpha_batch_mean else alpha
