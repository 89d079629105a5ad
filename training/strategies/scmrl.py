"""How S-CMRL is trained (arXiv 2502.12488): cross entropy with smoothed labels, and semantic alignment of the residuals."""

import torch

from taaf.models.heads.base import StepOutputs
from taaf.models.network import MultimodalSnn
from taaf.training.losses import semantic_alignment_loss
from taaf.training.strategies.balance import Readout, Watched


class CrossModal(Readout):
    """ "scmrl": ``L = CE(mean_t O(t), y; smoothing) + sao L_sao``; ``sao = 0`` leaves the alignment out."""

    def loss(
        self, model: MultimodalSnn, inputs: dict[str, torch.Tensor], output: StepOutputs, labels: torch.Tensor
    ) -> tuple[torch.Tensor, Watched]:
        o = self.options
        loss, watched = super().loss(model, inputs, output, labels)
        if o.sao and output.residuals:
            first, second = (r.mean(1) for r in output.residuals.values())
            watched["loss_sao"] = semantic_alignment_loss(first, second, labels, o.sao_temperature)
            loss = loss + o.sao * watched["loss_sao"]
        return loss, watched
