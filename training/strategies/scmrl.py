"""How S-CMRL is trained (arXiv 2502.12488): cross entropy with smoothed labels, and semantic alignment of the residuals."""

import torch
from torch.nn import functional

from taaf.models.head import TaafOutput
from taaf.models.taaf import TaafSnn
from taaf.training.losses import semantic_alignment_loss
from taaf.training.strategies.balance import Balance, Watched


class CrossModal(Balance):
    """ "scmrl": ``L = CE(mean_t O(t), y; smoothing) + sao L_sao``; ``sao = 0`` leaves the alignment out."""

    def loss(self, model: TaafSnn, inputs: tuple[torch.Tensor, torch.Tensor], output: TaafOutput, labels: torch.Tensor) -> tuple[
        torch.Tensor, Watched
    ]:  # fmt: skip
        o = self.options
        entropy = functional.cross_entropy(output.decision(), labels, label_smoothing=o.smoothing)
        watched, loss = {"loss_fused": entropy}, entropy
        if o.sao and output.residuals:
            first, second = (r.mean(1) for r in output.residuals.values())
            watched["loss_sao"] = semantic_alignment_loss(first, second, labels, o.sao_temperature)
            loss = loss + o.sao * watched["loss_sao"]
        return loss, watched
