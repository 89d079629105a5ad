"""Balance strategies of other authors, the baselines of the paper's Table 1: OGM-GE, PMR and AGM.

All train the fused loss with their own correction. Names and constants are those of their public code; what we had to
choose is said in each docstring.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from taaf.models.heads.base import StepOutputs
from taaf.models.network import MultimodalSnn
from taaf.models.qat import freeze_statistics, is_frozen
from taaf.training.losses import agl_loss, all_sum, true_class_score
from taaf.training.strategies.balance import Balance, LossOptions, Watched


class OgmGe(Balance):
    """ "ogm_ge" (Peng et al., CVPR 2022): gradients of a branch are scaled by k_u and get Gaussian noise.

    ``g <- k_u g + N(0, std(g)^2)`` with std(g) that of the unscaled gradient tensor + 1e-8; both branches get noise.
    The fused loss alone is trained. Their code touches 4-D (convolution) weights only; our audio branch has none, so
    all weight matrices of the branches count here (ours).
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
                    noise = torch.randn(p.shape, generator=rng).to(p.grad) * (p.grad.std(unbiased=False) + 1e-8)
                    p.grad.mul_(scale).add_(noise)


class Pmr(Balance):
    """ "pmr" (Fan et al., CVPR 2023): prototype cross entropy pulls the slower modality along.

    Prototypes c_k: class means of a branch's features, here the time-averaged aligned features (N, F), taken once per
    epoch on 500 training samples or one batch, ``c <- 0.2 c_old + 0.8 c_new`` (their code). Logits ``z = -||f - c_k||``,
    rho = sum_B softmax(z_1)_y / sum_B softmax(z_2)_y,

        L = L_fused + a (b_1 PCE_1 + b_2 PCE_2) - mu (b_2 H_1 + b_1 H_2),  b_1 = clip(1/rho - 1, 0, 1), b_2 = clip(rho - 1, 0, 1)

    with the entropy term (mu = 0.01) in the first 10 epochs. The clipped coefficients and the entropy term are the
    paper's as quoted by other implementations (their own repository has 0/1 coefficients and no entropy term).
    """

    pairs_only = True
    MOMENTUM, MU, ENTROPY_EPOCHS, MAX_SAMPLES = 0.2, 0.01, 10, 500

    def __init__(self, options: LossOptions) -> None:
        super().__init__(options)
        self.prototypes: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def start_epoch(self, model: MultimodalSnn, epoch: int, active: bool, batches: Callable[[int], Any]) -> None:
        super().start_epoch(model, epoch, active, batches)
        if not active:
            return
        classes = model.config.head.classes
        sums: dict[str, torch.Tensor] = {}
        model.eval()
        for inputs, labels in batches(self.MAX_SAMPLES):
            output = model(inputs)
            members = functional.one_hot(labels, classes).to(torch.float32)  # (N, C)
            for m, aligned in output.features.items():
                sums[m] = sums.get(m, torch.zeros((), device=labels.device)) + members.T.to(aligned.dtype) @ aligned.mean(1)
            sums["n"] = sums.get("n", torch.zeros((), device=labels.device)) + members.sum(0)
        model.train()
        count = all_sum(sums.pop("n")).clamp_min(1)[:, None]
        for m, value in sums.items():
            new, old = all_sum(value) / count, self.prototypes.get(m)
            self.prototypes[m] = new if old is None else self.MOMENTUM * old.to(new) + (1 - self.MOMENTUM) * new

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
        b = {one: (1 / rho - 1).clamp(0, 1), two: (rho - 1).clamp(0, 1)}
        for m, other in ((one, two), (two, one)):
            loss = loss + self.options.suppression * b[m] * functional.cross_entropy(z[m], labels)
            if self.epoch < self.ENTROPY_EPOCHS:
                p = z[m].softmax(-1)
                loss = loss + self.MU * b[other] * (p * p.clamp_min(1e-12).log()).sum(-1).mean()
            watched[f"k_{m}"] = 1 + self.options.suppression * b[m]
        watched |= {f"rho_{one}": rho, f"rho_{two}": 1 / rho}
        return loss, watched

    def combine(self, losses: dict[str, torch.Tensor], k: dict[str, torch.Tensor]) -> torch.Tensor:
        return losses["fused"]

    def state(self) -> dict[str, Any]:
        return {"prototypes": self.prototypes}

    def load(self, state: dict[str, Any]) -> None:
        self.prototypes = state["prototypes"]


class Agm(Balance):
    """ "agm" (Li et al., ICCV 2023): the gradient of each modality's Shapley share of the logits is scaled by kappa_u.

        phi_1 = (f(x1, x2) - f(0, x2) + f(x1, 0)) / 2,   phi_2 likewise;   their sum is f(x1, x2)
        s_u = mean_B CE(phi_u, y);  r_1 = exp(s_2 - s_1);  tau_1 = exp(S_2 - S_1), S_u the running mean of s_u
        kappa_u = exp(a min(tau_u - r_u, 10)) multiplies dL/dphi_u

    The loss is the fused one. Silenced passes use running batch-norm statistics, with gradients, as theirs do.
    """

    pairs_only = True
    CAP = 10.0

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
        s = {m: all_sum(functional.cross_entropy(phi.mean(1), labels, reduction="sum")) / n for m, phi in shares.items()}
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

    def state(self) -> dict[str, Any]:
        return {"running": self.running, "n_seen": self.n_seen}

    def load(self, state: dict[str, Any]) -> None:
        self.running, self.n_seen = dict(state["running"]), int(state["n_seen"])
