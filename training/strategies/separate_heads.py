"""Strategies whose loss is a sum over heads: late fusion, and CMCI and MISNET as their code trains them."""

import torch
from torch.nn import functional

from taaf.models.fusion import FUSIONS, additive
from taaf.models.heads.base import FUSED, Head, StepOutputs
from taaf.models.network import MultimodalSnn
from taaf.training.strategies.balance import Balance, Watched


class LateFusion(Balance):
    """ "late_fusion": unimodal losses only, ``L = sum_m L_m`` (Eqs 8, 9); the decision is that of the summed logits.

    Needs logits that add up, ``O_f = sum_m O_m``, so that the fused output has no weights of its own, and ``attention =
    "uniform"``. With ``fusion = "sum_separate"`` no weight is shared: every branch and its head train as they would alone.
    """

    @classmethod
    def misfit(cls, head: Head) -> str | None:
        fusion, attention = (getattr(head.options, name, "") for name in ("fusion", "attention"))
        if fusion not in FUSIONS or not FUSIONS[fusion].additive:
            return f"sums the logits of single modalities; set head.fusion (={fusion!r}) to one of {', '.join(additive())}"
        if attention != "uniform":
            return 'has no loss that trains the attention of the fused output; set head.attention = "uniform"'
        return super().misfit(head)

    def combine(self, losses: dict[str, torch.Tensor], k: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.stack([losses[m] for m in k]).sum()


class ThreeLosses(Balance):
    """ "cmci": ``L = sum_u CE(O_u, y; smoothing)`` over the joint and every single output, O_u its readout (S-CMRL's comparison code).

    Goes with ``fusion = "cmci"`` and ``attention = "uniform"``, whose readout is their time mean. They train with AdamW, learning
    rate 5e-3 * batch / 1024, cosine, 5 epochs of warm-up, smoothing 0.1; their membranes are detached after every step, ours are not.
    """

    def loss(
        self, model: MultimodalSnn, inputs: dict[str, torch.Tensor], output: StepOutputs, labels: torch.Tensor
    ) -> tuple[torch.Tensor, Watched]:
        smoothing = self.options.smoothing
        losses = {u: functional.cross_entropy(output.decision(u), labels, label_smoothing=smoothing) for u in output.logits}
        return torch.stack(list(losses.values())).sum(), {f"loss_{u}": v for u, v in losses.items()}


class Misnet(Balance):
    """ "misnet" (public code SinoLeu/ISNet): squared distance of readouts from the one-hot label, over all N x C entries.

        L = MSE(O_f, y) + beta (0.1 MSE(O_1, y) + 0.9 MSE(O_2, y))

    The weights are their default for the visual and the audio modality, in this order; their ablation sweeps 0.1 to 0.9. Goes with
    ``fusion = "misnet"`` and ``attention = "uniform"``. They train with Adam, learning rate 1e-4 (1e-3 for UrbanSound8K-AV),
    batches of 16, and keep the best test epoch.

    Reading: O_u is the time mean, as their paper says; their code overwrites the running sum with each step's output, so that its
    readout is 2 / T times the last step's.
    """

    pairs_only = True
    WEIGHTS = (0.1, 0.9)

    def loss(
        self, model: MultimodalSnn, inputs: dict[str, torch.Tensor], output: StepOutputs, labels: torch.Tensor
    ) -> tuple[torch.Tensor, Watched]:
        losses = {}
        for u in output.logits:
            readout = output.decision(u)
            losses[u] = functional.mse_loss(readout, functional.one_hot(labels, readout.shape[1]).to(readout.dtype))
        alone = [u for u in losses if u != FUSED]
        weighted = [w * losses[u] for w, u in zip(self.WEIGHTS, alone, strict=True)]
        return losses[FUSED] + self.options.beta * torch.stack(weighted).sum(), {f"loss_{u}": v for u, v in losses.items()}
