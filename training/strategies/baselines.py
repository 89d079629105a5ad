"""Balance strategies of other authors, the baselines of the paper's Table 1: OGM-GE, PMR and AGM, after their public code.

All train the fused loss with their own correction. What differs from that code is said in each docstring; of all it holds that
their networks see one feature vector per sample, where ours is read out over time steps (scores are of the time mean of logits or
features), and that they keep the best test epoch, where ours is the last.

Their authors train with ``[optimiser] method = "sgd"``, momentum 0.9, weight decay 1e-4, batches of 64 and a learning rate of
1e-3 that falls to a tenth after 70 epochs. AdamW divides a gradient by its own running size: a factor that changes slowly is all
but undone, only the noise and the changes of the factor remain. Under AdamW these are other methods.

Their epochs of modulation include the last, ``modulation_end`` does not: OGM-GE's 0 to 50 is ``modulation_end = 51``.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from taaf.models.heads.base import StepOutputs
from taaf.models.network import MultimodalSnn
from taaf.models.qat import freeze_statistics, is_frozen
from taaf.training.losses import agl_loss, all_sum, true_class_score
from taaf.training.strategies.balance import Balance, Watched
from taaf.training.strategies.options import LossOptions


class OgmGe(Balance):
    """ "ogm_ge" (Peng et al., CVPR 2022, public code GeWu-Lab/OGM-GE_CVPR2022): gradients of a branch are scaled and get noise.

    With s_m the summed probability of the true class, rho_m = s_m / s_other and k_m = 1 - tanh(a rho_m) if rho_m > 1 else 1,

        g <- k_m g + N(0, (std(g) + 1e-8)^2)

    of every weight tensor of a branch, std the sample deviation (n - 1) of the unscaled tensor; both branches get noise. The fused
    loss alone is trained. They recommend a = 0.8 for CREMA-D and 0.1 for VGGSound, epochs 0 to 50.

    Readings. They take the tensors with four axes, which in their ResNet18 branches is all but batch norm; here it is all with two
    or more, so that dense branches count too. For FiLM and gated fusion their code reads unimodal logits off the classifier's
    halves, which those do not have; ours silence the other modality. More than two modalities: rho against the mean of the others.
    """

    def combine(self, losses: dict[str, torch.Tensor], k: dict[str, torch.Tensor]) -> torch.Tensor:
        self.scales = k
        return losses["fused"]

    def used(self, k: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return k if self.active else super().used(k)

    def after_backward(self, model: MultimodalSnn, rng: torch.Generator) -> None:
        if not self.active:
            return
        for m, scale in self.scales.items():
            for p in model.branches[m].parameters():
                if p.grad is not None and p.dim() >= 2:
                    deviation = p.grad.std(correction=min(1, p.numel() - 1)) + 1e-8
                    noise = torch.randn(p.shape, generator=rng).to(p.grad) * deviation
                    p.grad.mul_(scale).add_(noise)


class Pmr(Balance):
    """ "pmr" (Fan et al., CVPR 2023, public code fanyunfeng-bit/Modal-Imbalance-PMR): prototypes pull the slower modality along.

    Prototypes c_k: class means of a branch's features (here the time mean of the aligned features, (N, F)) over a tenth of the
    training batches, before the first epoch and after every one; from the second of these on ``c <- 0.2 c_old + 0.8 c_new``.
    With z = -||f - c_k||, rho = sum_B softmax(z_1)_y / sum_B softmax(z_2)_y and PCE_m = CE(z_m, y),

        L = L_fused + a PCE_2 if rho > 1,   L_fused + a PCE_1 if rho < 1

    Their default is a = 1, their scripts for CREMA-D take 2 and 3 (and no momentum), epochs 0 to 100.

    Readings. Samples of the prototypes are not augmented; for AVE they take the validation part. A class without a sample keeps its
    prototype (theirs becomes NaN). `PmrPaper` has graded coefficients.
    """

    pairs_only = True
    MOMENTUM, SHARE = 0.2, 0.1

    def __init__(self, options: LossOptions) -> None:
        super().__init__(options)
        self.prototypes: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def start_epoch(self, model: MultimodalSnn, epoch: int, active: bool, batches: Callable[[float], Any]) -> None:
        super().start_epoch(model, epoch, active, batches)
        if not active:
            return
        classes = model.config.head.classes
        sums: dict[str, torch.Tensor] = {}
        model.eval()
        for inputs, labels in batches(self.SHARE):
            output = model(inputs)
            members = functional.one_hot(labels, classes).to(torch.float32)  # (N, C)
            for m, aligned in output.features.items():
                sums[m] = sums.get(m, torch.zeros((), device=labels.device)) + members.T.to(aligned.dtype) @ aligned.mean(1)
            sums["n"] = sums.get("n", torch.zeros((), device=labels.device)) + members.sum(0)
        model.train()
        count = all_sum(sums.pop("n"))[:, None]
        kept = 0.0 if epoch < 2 else self.MOMENTUM
        for m, value in sums.items():
            new = all_sum(value) / count.clamp_min(1)
            old = self.prototypes.get(m, new).to(new)
            self.prototypes[m] = torch.where(count > 0, kept * old + (1 - kept) * new, old)

    def loss(
        self, model: MultimodalSnn, inputs: dict[str, torch.Tensor], output: StepOutputs, labels: torch.Tensor
    ) -> tuple[torch.Tensor, Watched]:
        loss, watched = super().loss(model, inputs, output, labels)
        if not self.active:
            return loss, watched
        z = {m: -torch.cdist(f.mean(1), self.prototypes[m].to(f)) for m, f in output.features.items()}
        one, two = z
        score = {m: true_class_score(z[m][:, None], labels) for m in z}
        rho = score[one] / score[two]
        weight = dict(zip((one, two), self.coefficients(rho), strict=True))
        for m in z:
            loss = loss + self.options.suppression * weight[m] * functional.cross_entropy(z[m], labels)
            watched[f"k_{m}"] = 1 + self.options.suppression * weight[m]
        watched |= {f"rho_{one}": rho, f"rho_{two}": 1 / rho}
        return loss + self.regulariser(z, weight), watched

    def coefficients(self, rho: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the prototype cross entropies of the first and the second modality."""
        return (rho < 1).to(rho.dtype), (rho > 1).to(rho.dtype)

    def regulariser(self, z: dict[str, torch.Tensor], weight: dict[str, torch.Tensor]) -> torch.Tensor:
        """What is added to the loss: nothing here."""
        return next(iter(z.values())).new_zeros(())

    def combine(self, losses: dict[str, torch.Tensor], k: dict[str, torch.Tensor]) -> torch.Tensor:
        return losses["fused"]

    def state(self) -> dict[str, Any]:
        return {"prototypes": self.prototypes}

    def load(self, state: dict[str, Any]) -> None:
        self.prototypes = state["prototypes"]


class PmrPaper(Pmr):
    """ "pmr_paper": PMR with graded coefficients, as its paper is quoted by later work (we have not had it); rho, PCE as in `Pmr`.

        L = L_fused + a (b_1 PCE_1 + b_2 PCE_2) - mu (b_2 H_1 + b_1 H_2),  b_1 = clip(1/rho - 1, 0, 1), b_2 = clip(rho - 1, 0, 1)

    H_m is the batch mean of the entropy of softmax(z_m), mu = 0.01 in the first 10 epochs and 0 afterwards.
    """

    MU, ENTROPY_EPOCHS = 0.01, 10

    def coefficients(self, rho: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (1 / rho - 1).clamp(0, 1), (rho - 1).clamp(0, 1)

    def regulariser(self, z: dict[str, torch.Tensor], weight: dict[str, torch.Tensor]) -> torch.Tensor:
        found = super().regulariser(z, weight)
        if self.epoch < self.ENTROPY_EPOCHS:
            for m, other in zip(z, reversed(z), strict=True):
                p = z[m].softmax(-1)
                found = found + self.MU * weight[other] * (p * p.clamp_min(1e-12).log()).sum(-1).mean()
        return found


class Agm(Balance):
    """ "agm" (Li et al., ICCV 2023, public code lihong2303/AGM_ICCV2023): gradients of Shapley shares of the logits are scaled.

        phi_1 = (f(x1, x2) - f(0, x2) + f(x1, 0)) / 2,   phi_2 likewise;   their sum is f(x1, x2)
        s_u = -mean_B log max(p_u, 1e-8), p_u = softmax(phi_u)_y;  r_1 = exp(s_2 - s_1);  tau_1 = exp(S_2 - S_1)
        kappa_u = exp(a min(tau_u - r_u, 10)) multiplies dL/dphi_u

    S_u is the mean of s_u over all steps before this one, 0 at the first. The loss is the fused one. Silenced passes use running
    batch-norm statistics, with gradients, as theirs do. Where an entry of the classifier's gradient leaves [-1, 1], that of the whole
    network is clipped to norm 1, also when nothing is modulated any more. Their default is a = 1, epochs 1 to 20, their example 2.5.

    Reading: their unimodal accuracies are of phi_u, the ones told here of the head's own outputs.
    """

    pairs_only = True
    CAP, LEAST, MAX_NORM = 10.0, 1e-8, 1.0
    CLASSIFIERS = ("classifier_weight", "first_weight", "second_weight")

    def __init__(self, options: LossOptions) -> None:
        super().__init__(options)
        self.running: dict[str, float] = {}
        self.n_seen = 0

    def loss(
        self, model: MultimodalSnn, inputs: dict[str, torch.Tensor], output: StepOutputs, labels: torch.Tensor
    ) -> tuple[torch.Tensor, Watched]:
        if not self.active:
            return super().loss(model, inputs, output, labels)
        full, alpha = output.logits["fused"], output.alpha["fused"]
        frozen = is_frozen(model)
        freeze_statistics(model)
        one, two = model.config.modalities
        alone = [model({**inputs, m: torch.zeros_like(inputs[m])}).logits["fused"] for m in (two, one)]
        freeze_statistics(model, frozen)
        shares = dict(zip((one, two), ((full - alone[1] + alone[0]) / 2, (full - alone[0] + alone[1]) / 2), strict=True))
        kappa, watched = self._kappa(shares, labels)
        for m, share in shares.items():
            share.register_hook(lambda g, scale=kappa[m]: g * scale)
        o = self.options
        watched |= {f"loss_{u}": v.detach() for u, v in self.output_losses(output, labels).items()}
        return agl_loss(sum(shares.values(), start=torch.zeros_like(full)), labels, o.weights(alpha), o.lam, o.phi), watched

    @torch.no_grad()
    def _kappa(self, shares: dict[str, torch.Tensor], labels: torch.Tensor) -> tuple[dict[str, torch.Tensor], Watched]:
        n = all_sum(torch.tensor(float(len(labels)), device=labels.device))
        s = {}
        for m, phi in shares.items():
            each = functional.cross_entropy(phi.mean(1), labels, reduction="none").clamp_max(-math.log(self.LEAST))
            s[m] = all_sum(each.sum()) / n
        kappa: dict[str, torch.Tensor] = {}
        watched: Watched = {}
        for m, other in zip(s, reversed(s), strict=True):
            ratio = torch.exp(s[other] - s[m])
            target = torch.exp(torch.tensor(self.running.get(other, 0.0) - self.running.get(m, 0.0))).to(ratio)
            kappa[m] = torch.exp(self.options.suppression * (target - ratio).clamp_max(self.CAP))
            watched |= {f"rho_{m}": ratio, f"k_{m}": kappa[m]}
        self.n_seen += 1
        for m in s:
            self.running[m] = self.running.get(m, 0.0) + (s[m].item() - self.running.get(m, 0.0)) / self.n_seen
        return kappa, watched

    def combine(self, losses: dict[str, torch.Tensor], k: dict[str, torch.Tensor]) -> torch.Tensor:
        return losses["fused"]

    def after_backward(self, model: MultimodalSnn, rng: torch.Generator) -> None:
        grads = [p.grad for name, p in model.head.weights.items() if name in self.CLASSIFIERS and p.grad is not None]
        if any(g.abs().max() > 1 for g in grads):
            torch.nn.utils.clip_grad_norm_(model.parameters(), self.MAX_NORM)

    def state(self) -> dict[str, Any]:
        return {"running": self.running, "n_seen": self.n_seen}

    def load(self, state: dict[str, Any]) -> None:
        self.running, self.n_seen = dict(state["running"]), int(state["n_seen"])
