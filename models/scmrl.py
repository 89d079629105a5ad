"""The host part of S-CMRL in torch: cross-modal residual learning on tokens, and the readout (trained; deployed as NumPy)."""

import copy
from typing import Any

import torch
from torch import nn

from taaf.models.config import ModelConfig
from taaf.models.cross_modal import CrossModalOptions, cross_modal, tokens_of
from taaf.models.fusion import FUSIONS
from taaf.models.head import TORCH_OPS, TaafOutput, host_lif, uniform_linear
from taaf.models.qat import QatDense

V_UNITS = 128  # of a host neuron's threshold: weights are multiples of 1/64, biases of 1/128


class _TokenDense(QatDense):
    """Quantisation-aware dense layer over the last axis."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = super().forward(x.reshape(-1, x.shape[-1]))
        return y.reshape(*x.shape[:-1], -1)


class _Folded(nn.Module):
    """What a `_TokenDense` is deployed as: the folded weight and bias, fixed in float64."""

    def __init__(self, layer: QatDense) -> None:
        super().__init__()
        self.weight = (layer.integer_weight() / layer.v_th_mant).detach().double()
        self.bias = (layer.integer_bias() / layer.v_th_mant).detach().double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T + self.bias


def options_of(config: ModelConfig) -> CrossModalOptions:
    """The cross-modal part that a configuration describes."""
    c = config
    return CrossModalOptions(c.modalities, c.token_channels, c.attention_heads, c.mlp_ratio, c.cross_modal, c.residual_alpha)


class ScmrlHead(nn.Module):
    """Aligned token spikes of both stems -> per-step logits; the readout is their mean over time.

    A modality alone is the head with the other one silent. While training only the fused output is computed: no loss of
    S-CMRL uses the others, and batch norms must not see them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.options = config, options_of(config)
        self.projections = nn.ModuleDict(
            {name: _TokenDense(n_in, n_out, V_UNITS) for name, (n_out, n_in) in self.options.projections().items()}
        )
        self.fusion = FUSIONS[config.fusion]
        self.weights = uniform_linear(self.fusion.shapes(config.token_channels, config.classes))

    def joint(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """Fused logits (N, T, classes) and the mean residual of each modality, (N, T, C)."""
        tokens = (tokens_of(x, self.config.token_channels) for x in (first, second))
        (one, res_one), (two, res_two) = cross_modal(self.options, host_lif, self._project, *tokens)
        return self.fusion.outputs(TORCH_OPS, dict(self.weights.items()), one, two)[0], [res_one, res_two]

    def _project(self, name: str, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.projections[name](x)
        return y

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> TaafOutput:
        """Aligned spikes (N, T, 2 C n) x 2 -> logits; ``residuals`` is what the SAO loss compares."""
        fused, residuals = self.joint(first, second)
        logits = {"fused": fused}
        if not self.training:
            silent = torch.zeros_like(first), torch.zeros_like(second)
            pairs = ((first, silent[1]), (silent[0], second))
            logits |= {m: self.joint(*pair)[0] for m, pair in zip(self.config.modalities, pairs, strict=True)}
        alpha = {u: torch.full_like(o[..., 0], 1 / o.shape[1]) for u, o in logits.items()}
        found = {m: r for m, r in zip(self.config.modalities, residuals, strict=True) if r is not None}
        return TaafOutput(logits, alpha, residuals=found)

    def deployed(self) -> "ScmrlHead":
        """A copy as it is deployed: folded integers as training rounds them (in float32), all arithmetic in float64."""
        fixed = copy.deepcopy(self)
        fixed.projections = nn.ModuleDict({name: _Folded(layer) for name, layer in self.projections.items()})  # type: ignore[arg-type]
        return fixed.double().eval()

    def arrays(self) -> dict[str, torch.Tensor]:
        """What `taaf.models.scmrl_host.ScmrlHostHead` takes."""
        found = dict(self.weights.items())
        for name, layer in self.deployed().projections.items():
            found |= {f"{name}_weight": layer.weight, f"{name}_bias": layer.bias}
        return found

    def spec(self) -> dict[str, Any]:
        """What `taaf.models.scmrl_host.ScmrlHostHead` must know beside the arrays."""
        c = self.config
        keys = ("fusion", "classes", "token_channels", "attention_heads", "mlp_ratio", "cross_modal", "residual_alpha")
        tokens = {m: height * width for m, (height, width) in c.token_maps.items()}
        return {"type": "scmrl", **{k: getattr(c, k) for k in keys}, "tokens": tokens, "modalities": list(c.modalities)}
