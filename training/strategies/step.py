"""One training step as a module, and the table of balance strategies."""

import torch
from torch import nn

from taaf.models.network import MultimodalSnn
from taaf.training.strategies.balance import Balance, LossAdjustment, Readout, Taaf, Watched
from taaf.training.strategies.baselines import Agm, OgmGe, Pmr, PmrPaper
from taaf.training.strategies.scmrl import CrossModal
from taaf.training.strategies.separate_heads import LateFusion, Misnet, ThreeLosses

STRATEGIES: dict[str, type[Balance]] = {
    "none": Balance, "la": LossAdjustment, "taaf": Taaf, "late_fusion": LateFusion, "ogm_ge": OgmGe, "pmr": Pmr,
    "pmr_paper": PmrPaper, "agm": Agm, "cmci": ThreeLosses, "misnet": Misnet, "scmrl": CrossModal, "readout": Readout,
}  # fmt: skip


class TrainingStep(nn.Module):
    """Forward pass and loss as one module, so that DistributedDataParallel sees every use of a parameter."""

    def __init__(self, model: MultimodalSnn, balance: Balance) -> None:
        super().__init__()
        self.model = model
        self.balance = balance

    def forward(self, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> tuple[torch.Tensor, Watched]:
        """Loss of one batch, and what is logged of it, without gradients: losses, accuracies, k_u, rho_u, alpha_u(t)."""
        output = self.model(inputs)
        loss, watched = self.balance.loss(self.model, inputs, output, labels)
        for u in output.logits:
            watched[f"train_{u}"] = 100 * (output.decision(u).argmax(1) == labels).to(loss.dtype).mean()
            watched[f"alpha_{u}"] = output.alpha[u].mean(0)
        return loss, {"loss": loss.detach()} | {name: value.detach() for name, value in watched.items()}
