"""Balance strategies: how training keeps one modality from monopolising the optimisation.

Each is an object with the hooks of `Balance`. TAAF and LA scale unimodal *losses* by k_u (arXiv 2505.14535, Eq. 10);
the paper's baselines are in `taaf.training.strategies.baselines`, the table of all in `taaf.training.strategies.step`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from taaf.models.heads.base import Head, StepOutputs
from taaf.models.network import MultimodalSnn
from taaf.training.losses import (
    agl_loss,
    entropy_deficit,
    modulation,
    readout_loss,
    total_loss,
    true_class_score,
)
from taaf.training.strategies.options import LossOptions

Watched = dict[str, torch.Tensor]


class Balance:
    """Strategy "none": Eq. 10 with k_u = 1. Base class of the others.

    With ``beta = 1`` all losses count alike: the baseline that a balance strategy has to beat, for unimodal losses alone cure most of
    the imbalance. ``beta = 0`` is the fused loss alone.

    ``active`` is False from ``modulation_end`` on; then every strategy is this one with its own loss weights.
    """

    pairs_only = False  # defined for two modalities
    weighs_time = True  # losses weighted by alpha(t); False: uniformly

    def __init__(self, options: LossOptions) -> None:
        self.options = options
        self.active = True
        self.epoch = 0
        self.scales: dict[str, torch.Tensor] = {}
        self.validated: dict[str, float] = {}

    def start_epoch(self, model: MultimodalSnn, epoch: int, active: bool, batches: Callable[[float], Any]) -> None:
        """Called before an epoch; ``batches(share)`` iterates over (inputs, labels): this rank's part of the first ``share`` of its
        batches, rounded down, at least one, as they are read.
        """
        self.epoch, self.active = epoch, active

    def end_epoch(self, scores: Mapping[str, float]) -> None:
        """Called after an epoch, with s_u of every output on the validation part, if there is one (`trainer.evaluate`)."""
        self.validated = dict(scores)

    @classmethod
    def misfit(cls, head: Head) -> str | None:
        """Why this strategy cannot train this head, or None."""
        if cls.pairs_only and len(head.modalities) != 2:
            return f"is defined for two branches, found {len(head.modalities)}"
        if not cls.weighs_time and getattr(head.options, "attention", "uniform") != "uniform":
            return 'weights all steps equally and cannot train attention; set head.attention = "uniform"'
        return None

    def output_losses(
        self, output: StepOutputs, labels: torch.Tensor, k: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """L_u of every output (Eqs 8, 9); ``k``: scale of every sample and step (N, T) of some of them."""
        o, losses = self.options, {}
        for u, logits in output.logits.items():
            alpha = output.alpha[u]
            losses[u] = agl_loss(logits, labels, self.weights(alpha), o.lam, o.phi, (k or {}).get(u))
            if o.readout_weight:
                losses[u] = losses[u] + o.readout_weight * readout_loss(logits, labels, alpha)
            if o.entropy_weight:
                losses[u] = losses[u] + o.entropy_weight * entropy_deficit(alpha, o.entropy_floor)
        return losses

    def weights(self, alpha: torch.Tensor) -> torch.Tensor:
        """Weights of the steps in the loss, (N, T)."""
        return self.options.weights(alpha) if self.weighs_time else torch.full_like(alpha, 1 / alpha.shape[1])

    def balance_of(self, output: StepOutputs, labels: torch.Tensor) -> tuple[dict[str, torch.Tensor], Watched]:
        """k_u if the strategy were active, and rho_u to be logged.

        ``rho_m = s_m / mean_{n != m} s_n``: of two modalities the paper's ratio; of more, ours. A single modality has rho = 1.
        """
        o, k, watched = self.options, {}, {}
        score = {m: self.score(m, logits, labels) for m, logits in output.logits.items() if m != "fused"}
        for m, own in score.items():
            others = [s for n, s in score.items() if n != m] or [own]
            strength: float | torch.Tensor = o.suppression if o.k_per == "output" else self.weights(output.alpha[m]).detach()
            rho, k[m] = modulation(own, torch.stack(others).mean(0), strength)
            watched[f"rho_{m}"] = rho
        return k, watched

    def score(self, name: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """s_u of the batch, or of the validation part; before anything was measured 1 for all."""
        if self.options.k_from == "batch":
            return true_class_score(logits, labels)
        return torch.tensor(self.validated.get(name, 1.0), device=logits.device, dtype=logits.dtype)

    def loss(
        self, model: MultimodalSnn, inputs: dict[str, torch.Tensor], output: StepOutputs, labels: torch.Tensor
    ) -> tuple[torch.Tensor, Watched]:
        """The loss of one batch, and scalars to be logged."""
        k, watched = self.balance_of(output, labels)
        k = self.used(k)
        per_step = self.options.k_per == "step"
        losses = self.output_losses(output, labels, k if per_step else None)
        watched |= {f"k_{m}": v.mean() for m, v in k.items()} | {f"loss_{u}": v.detach() for u, v in losses.items()}
        return self.combine(losses, {m: torch.ones_like(v[0, 0]) for m, v in k.items()} if per_step else k), watched

    def used(self, k: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The k_u that enter the loss: all 1 here."""
        return {m: torch.ones_like(v) for m, v in k.items()}

    def combine(self, losses: dict[str, torch.Tensor], k: dict[str, torch.Tensor]) -> torch.Tensor:
        """Eq. 10."""
        return total_loss(losses, k, self.options.beta)

    def after_backward(self, model: MultimodalSnn, rng: torch.Generator) -> None:
        """Called between ``backward`` and the optimiser's step."""

    def state(self) -> dict[str, Any]:
        """What a resumed training needs: tensors and numbers."""
        return {"validated": self.validated}

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.validated = {str(u): float(s) for u, s in state["validated"].items()}


class Readout(Balance):
    """ "readout": ``L = CE(sum_t alpha(t) O(t), y; smoothing)``, for heads that are read out once per window, e.g. spike counts."""

    def loss(
        self, model: MultimodalSnn, inputs: dict[str, torch.Tensor], output: StepOutputs, labels: torch.Tensor
    ) -> tuple[torch.Tensor, Watched]:
        loss = functional.cross_entropy(output.decision(), labels, label_smoothing=self.options.smoothing)
        return loss, {"loss_fused": loss}


class LossAdjustment(Balance):
    """ "la": k_u scales the unimodal losses, all time steps weigh the same (the paper's LA without attention)."""

    weighs_time = False

    def used(self, k: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return k if self.active else super().used(k)


class Taaf(LossAdjustment):
    """ "taaf": temporal adaptive balanced fusion loss: k_u scales losses that are weighted by alpha_u(t) (Eqs 8-10)."""

    weighs_time = True
