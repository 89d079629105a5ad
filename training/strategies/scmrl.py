"""How S-CMRL is trained (arXiv 2502.12488): cross entropy with smoothed labels, and semantic alignment of the residuals.

Differences from the public code: gradients go through the membranes from step to step, on the chip's part (SLAYER) as in the head;
there every membrane is detached after its step, so that a weight's gradient sees the present step alone. Results are those of the last
epoch; there the epoch with the best accuracy on the test set is reported, which favours it.
"""

import torch
from torch.nn import functional

from taaf.models.heads.base import FUSED, StepOutputs
from taaf.models.network import MultimodalSnn
from taaf.training.losses import semantic_alignment_loss
from taaf.training.strategies.balance import Readout, Watched


class CrossModal(Readout):
    """ "scmrl": ``L = CE(mean_t O(t), y; smoothing) + sao L_sao``; ``sao = 0`` leaves the alignment out.

    Outputs of modalities that the head computes in training (CMCI's readouts) add ``beta CE(mean_t O_m(t), y; smoothing)`` each.
    """

    def loss(
        self, model: MultimodalSnn, inputs: dict[str, torch.Tensor], output: StepOutputs, labels: torch.Tensor
    ) -> tuple[torch.Tensor, Watched]:
        o = self.options
        loss, watched = super().loss(model, inputs, output, labels)
        for u in output.logits:
            if u != FUSED:
                watched[f"loss_{u}"] = functional.cross_entropy(output.decision(u), labels, label_smoothing=o.smoothing)
                loss = loss + o.beta * watched[f"loss_{u}"]
        if o.sao and output.residuals:
            first, second = (r.mean(1) for r in output.residuals.values())
            watched["loss_sao"] = semantic_alignment_loss(first, second, labels, o.sao_temperature)
            loss = loss + o.sao * watched["loss_sao"]
        return loss, watched
