"""The host part in torch: time alignment, fusion, classifier and temporal attention (trained; deployed as NumPy)."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from taaf.models.config import ModelConfig
from taaf.models.errors import BackendUnavailableError
from taaf.models.fusion import FUSIONS, SPIKING_GRID, SPIKING_LIMIT, Ops, temporal_attention
from taaf.models.lava_python import lava_remedy
from taaf.models.qat import round_ste

TAU, THRESHOLD = 0.5, 1.0


def on_grid(x: torch.Tensor) -> torch.Tensor:
    """Multiples of 1/64 within [-4, 4], with the identity as derivative inside."""
    return round_ste(x.clamp(-SPIKING_LIMIT, SPIKING_LIMIT) * SPIKING_GRID) / SPIKING_GRID


class _NoDerivative(torch.autograd.Function):
    """Spikes where x > 0; training through it is refused rather than given a derivative of zero."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        raise BackendUnavailableError(
            f"norse, whose surrogate derivative the host part is trained with, is missing; {lava_remedy()}"
        )


def _threshold() -> Callable[[torch.Tensor], torch.Tensor]:
    """Spikes where x > 0, with norse's SuperSpike derivative (Zenke & Ganguli 2018) where norse is installed."""
    try:
        from norse.torch.functional.threshold import threshold
    except ImportError:
        return _NoDerivative.apply
    return lambda x: threshold(x, "super", torch.tensor(2.0, device=x.device))


def host_lif(current: torch.Tensor) -> torch.Tensor:
    """``v <- v / 2 + I(t)``; a spike and ``v <- 0`` where v > 1. Current and spikes are (N, T, F).

    With binary inputs and weights on the grid every intermediate value is a short dyadic number: float32 and float64
    agree exactly, and the spikes do not depend on the order of summation.
    """
    fire = _threshold()
    voltage = torch.zeros_like(current[:, 0])
    spikes = []
    for now in current.unbind(1):  # its gradient is one stack; that of an index is a whole tensor of zeros per step
        voltage = TAU * voltage + now
        fired = fire(voltage - THRESHOLD)
        voltage = voltage * (1 - fired)
        spikes.append(fired)
    return torch.stack(spikes, 1)


TORCH_OPS = Ops(
    sigmoid=torch.sigmoid, zeros_like=torch.zeros_like, concatenate=lambda xs: torch.cat(xs, -1),
    softmax=lambda x: x.softmax(-1), on_grid=on_grid, lif=host_lif,
)  # fmt: skip


class TimeAlignment(nn.Module):
    """Time alignment T_in -> T_out: Conv1d with time as channels (kernel 3 along features), then LIF.

    The paper's alignment [50] is not public; this one is ours. Weights are multiples of 1/64 (see `host_lif`).
    It starts as resampling: output step k listens to the input steps it covers. ``learned=False`` keeps exactly that:
    an aligned step spikes where any input step it covers did.
    """

    def __init__(self, steps_in: int, steps_out: int, learned: bool = True) -> None:
        super().__init__()
        weight = torch.zeros(steps_out, steps_in, 3)
        for out in range(steps_out):
            first, last = out * steps_in // steps_out, -(-(out + 1) * steps_in // steps_out)
            weight[out, first:last, 1] = 1.1
        if learned:
            weight = weight + 0.02 * torch.randn_like(weight)
        self.weight = nn.Parameter(weight, requires_grad=learned)
        self.bias = nn.Parameter(torch.zeros(steps_out), requires_grad=learned)

    def quantised(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (T_out, T_in, 3) and bias (T_out,), multiples of 1/64 within [-4, 4]."""
        return on_grid(self.weight), on_grid(self.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, F, T_in) spikes -> (N, T_out, F) spikes."""
        weight, bias = (p.to(features.dtype) for p in self.quantised())
        return host_lif(nn.functional.conv1d(features.transpose(1, 2), weight, bias, padding=1))


def uniform_linear(shapes: Mapping[str, tuple[int, ...]]) -> nn.ParameterDict:
    """Initial values of a fusion's arrays, as torch's Linear has them; spiking ones wide enough to fire at 20 % active inputs."""
    found, fan_in = nn.ParameterDict(), 1  # filled one by one: made from a dict it would sort them
    for name, shape in shapes.items():
        value = torch.empty(shape)
        if name.endswith("_spiking_weight"):
            nn.init.normal_(value, 0, (2 / (0.2 * shape[1])) ** 0.5)
        elif len(shape) == 2:  # a bias follows its weight
            fan_in = shape[1]
            nn.init.kaiming_uniform_(value, a=5**0.5)
        else:
            nn.init.uniform_(value, -(fan_in**-0.5), fan_in**-0.5)
        found[name] = nn.Parameter(value)
    return found


class TaafHead(nn.Module):
    """Fusion, classifier (`taaf.models.fusion`) and temporal attention (Eqs 5-7)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.fusion = FUSIONS[config.fusion]
        self.weights = uniform_linear(self.fusion.shapes(config.features, config.classes))
        n_in = config.classes if config.attention_on == "logits" else 2 * config.features
        for name in ("query", "key"):
            value = torch.eye(n_in, config.classes) + 0.02 * torch.randn(n_in, config.classes)
            self.weights[name] = nn.Parameter(value, requires_grad=config.attention == "taaf")

    def outputs(self, first: torch.Tensor, second: torch.Tensor) -> dict[str, torch.Tensor]:
        """Per-step logits O_u(t): (N, T, F) x 2 -> {"fused", "first", "second"} of (N, T, C)."""
        fused, one, two = self.fusion.outputs(TORCH_OPS, dict(self.weights.items()), first, second)
        return {"fused": fused, "first": one, "second": two}

    def alpha(self, scores_from: torch.Tensor) -> torch.Tensor:
        """Temporal attention alpha(t): (N, T, D) -> (N, T), non-negative, sums to 1."""
        if self.config.attention == "uniform":
            return torch.full_like(scores_from[..., 0], 1 / scores_from.shape[1])
        return temporal_attention(TORCH_OPS, scores_from, self.weights["query"], self.weights["key"])

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> "TaafOutput":
        """Aligned feature spikes (N, T, F) x 2 -> logits and attention of the fused output and of each modality."""
        found = self.outputs(first, second)
        logits = dict(zip(("fused", *self.config.modalities), found.values(), strict=True))
        if self.config.attention_on == "logits":
            return TaafOutput(logits, {name: self.alpha(o) for name, o in logits.items()})
        silent = torch.zeros_like(first)
        pairs = ((first, second), (first, silent), (silent, second))
        alpha = [self.alpha(torch.cat(pair, -1)) for pair in pairs]
        return TaafOutput(logits, dict(zip(logits, alpha, strict=True)))

    def deployed(self) -> "TaafHead":
        """A copy in float64, as it is deployed."""
        return copy.deepcopy(self).double()

    def arrays(self) -> dict[str, torch.Tensor]:
        """What `taaf.models.host_head.HostHead` takes beside the alignment."""
        return dict(self.weights.items())

    def spec(self) -> dict[str, Any]:
        """What `taaf.models.host_head.HostHead` must know beside the arrays."""
        keys = ("fusion", "attention", "attention_on", "features", "classes")
        return {k: getattr(self.config, k) for k in keys} | {"modalities": list(self.config.modalities)}


@dataclass
class TaafOutput:
    """Everything the losses and reports need; keys are "fused" and the modalities (of either head)."""

    logits: dict[str, torch.Tensor]  # (N, T, C)
    alpha: dict[str, torch.Tensor]  # (N, T)
    features: dict[str, torch.Tensor] | None = None  # aligned, (N, T, F) per modality
    residuals: dict[str, torch.Tensor] = field(default_factory=dict)  # S-CMRL: x_res, mean over tokens, (N, T, C)

    def decision(self, which: str = "fused") -> torch.Tensor:
        """Readout logits sum_t alpha(t) O(t), (N, C)."""
        return (self.alpha[which][..., None] * self.logits[which]).sum(1)


def deployed_forward(align: nn.ModuleDict, head: Any, features: dict[str, torch.Tensor]) -> TaafOutput:
    """`host_forward` as it is deployed, in float64."""
    wide = {m: f.double() for m, f in features.items()}
    return host_forward(copy.deepcopy(align).double(), head.deployed(), wide)


def host_forward(align: nn.ModuleDict, head: Any, features: dict[str, torch.Tensor]) -> TaafOutput:
    """Alignment and head on the branches' feature spikes, each (N, F, T_m); runs in the modules' precision."""
    aligned = {m: align[m](features[m]) for m in head.config.modalities}
    output = head(*aligned.values())
    output.features = aligned
    return output
