"""TAAF-SNN (arXiv 2505.14535): two spiking branches, time alignment, and the temporal-attention head.

    event spikes (N, 2, 34, 34, 8)  -> EventBranch -> h (N, 128, 8)  -> TimeAlignment -> (N, 6, 128) -+
    audio spikes (N, 160, 12)       -> AudioBranch -> h (N, 128, 12) -> TimeAlignment -> (N, 6, 128) -+-> TaafHead

The branches run on the chip; alignment and head run on the host.
"""

import copy
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import nn

from taaf.models.errors import CheckpointError
from taaf.models.qat import QatConv2d, QatDense, over_time, round_ste
from taaf.models.slayer_lif import LifParameters, SlayerLif

ALIGN_GRID = 64  # alignment weights are multiples of 1/64, so its sums are exact in float32 and float64
ALIGN_TAU = 0.5
ALIGN_THRESHOLD = 1.0


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a TAAF-SNN. Widths count channels or neurons; steps count time steps."""

    event_channels: int = 8
    block_channels: int = 16
    audio_inputs: int = 160
    audio_hidden: int = 128
    features: int = 128
    event_steps: int = 8
    audio_steps: int = 12
    aligned_steps: int = 6
    classes: int = 10
    attention: str = "taaf"  # "taaf" (Eqs 5-7) or "uniform" (recovers TET)
    surrogate_width: float = 0.5
    surrogate_scale: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "ModelConfig":
        known = {f.name for f in fields(ModelConfig)}
        if set(values) != known:
            raise CheckpointError(f"model config: unknown or missing keys {sorted(set(values) ^ known)}")
        return ModelConfig(**values)


class EventBranch(nn.Module):
    """conv/2 - LIF - [conv/2 - LIF - conv + 1x1/2 shortcut] - LIF - dense - LIF; (N, 2, 34, 34, T) -> (N, 128, T).

    The bracket is the block of TET's spiking ResNet: the shortcut's current is added before the second LIF.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        narrow, wide = config.event_channels, config.block_channels
        self.stem = QatConv2d(2, narrow, 3, 2, v_th_mant=64)
        self.stem_lif = _lif(64, config)
        self.block1 = QatConv2d(narrow, wide, 3, 2, v_th_mant=128)
        self.block1_lif = _lif(128, config)
        self.block2 = QatConv2d(wide, wide, 3, 1, v_th_mant=128, gain=0.7)
        self.shortcut = QatConv2d(narrow, wide, 1, 2, v_th_mant=128, gain=0.7)
        self.block2_lif = _lif(128, config)
        self.readout = QatDense(wide * 81, config.features, v_th_mant=128)
        self.readout_lif = _lif(128, config)

    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        return self.trace(spikes)["readout_lif"]

    def trace(self, spikes: torch.Tensor) -> dict[str, torch.Tensor]:
        """Spikes of every LIF population, by name."""
        stem = self.stem_lif(over_time(self.stem, spikes))  # (N, 8, 17, 17, T)
        inner = self.block1_lif(over_time(self.block1, stem))  # (N, 16, 9, 9, T)
        outer = self.block2_lif(over_time(self.block2, inner) + over_time(self.shortcut, stem))  # (N, 16, 9, 9, T)
        features = self.readout_lif(over_time(self.readout, outer.flatten(1, 3)))  # (N, 128, T)
        return {"stem_lif": stem, "block1_lif": inner, "block2_lif": outer, "readout_lif": features}


class AudioBranch(nn.Module):
    """dense - LIF - dense - LIF; (N, 160, T) -> (N, 128, T)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.hidden = QatDense(config.audio_inputs, config.audio_hidden, v_th_mant=128)
        self.hidden_lif = _lif(128, config)
        self.readout = QatDense(config.audio_hidden, config.features, v_th_mant=128)
        self.readout_lif = _lif(128, config)

    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        return self.trace(spikes)["readout_lif"]

    def trace(self, spikes: torch.Tensor) -> dict[str, torch.Tensor]:
        """Spikes of every LIF population, by name."""
        hidden = self.hidden_lif(over_time(self.hidden, spikes))
        return {"hidden_lif": hidden, "readout_lif": self.readout_lif(over_time(self.readout, hidden))}


class TimeAlignment(nn.Module):
    """Learnable time alignment T_in -> T_out: Conv1d with time as channels (kernel 3 along features), then LIF.

    The paper's alignment [50] is not public; this one is ours. Weights are rounded to multiples of 1/64 and
    tau = 0.5, so with binary input every intermediate value is a short dyadic number: float32 and float64 agree
    exactly, and the spikes do not depend on the order of summation.
    """

    def __init__(self, steps_in: int, steps_out: int) -> None:
        super().__init__()
        weight = torch.zeros(steps_out, steps_in, 3)
        for out in range(steps_out):  # start as resampling: output step k listens to the input steps it covers
            first, last = out * steps_in // steps_out, -(-(out + 1) * steps_in // steps_out)
            weight[out, first:last, 1] = 1.1
        self.weight = nn.Parameter(weight + 0.02 * torch.randn_like(weight))
        self.bias = nn.Parameter(torch.zeros(steps_out))

    def quantised(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (T_out, T_in, 3) and bias (T_out,), multiples of 1/64 within [-4, 4]."""
        return tuple(round_ste(p.clamp(-4, 4) * ALIGN_GRID) / ALIGN_GRID for p in (self.weight, self.bias))  # type: ignore[return-value]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, F, T_in) spikes -> (N, T_out, F) spikes."""
        from norse.torch.functional.threshold import threshold

        weight, bias = (p.to(features.dtype) for p in self.quantised())
        current = nn.functional.conv1d(features.transpose(1, 2), weight, bias, padding=1)  # (N, T_out, F)
        voltage = torch.zeros_like(current[:, 0])
        spikes = []
        for step in range(current.shape[1]):
            voltage = ALIGN_TAU * voltage + current[:, step]
            fired = threshold(voltage - ALIGN_THRESHOLD, "super", torch.tensor(2.0))
            voltage = voltage * (1 - fired)
            spikes.append(fired)
        return torch.stack(spikes, 1)


class TaafHead(nn.Module):
    """Concatenation fusion, shared classifier halves (Eq. 4) and temporal attention (Eqs 5-7).

    O_f = W [h1, h2] + b,  O_m1 = W1 h1 + b/2,  O_m2 = W2 h2 + b/2
    Q = O W^Q, K = O W^K, A = softmax(Q K^T / sqrt(C)) over keys, alpha(t) = mean over queries of A, sum_t alpha = 1
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = config.attention
        self.classifier = nn.Linear(2 * config.features, config.classes)
        self.query = nn.Parameter(torch.eye(config.classes) + 0.02 * torch.randn(config.classes, config.classes))
        self.key = nn.Parameter(torch.eye(config.classes) + 0.02 * torch.randn(config.classes, config.classes))

    def outputs(self, first: torch.Tensor, second: torch.Tensor) -> dict[str, torch.Tensor]:
        """Per-step logits O_u(t): (N, T, F) x 2 -> {"fused", "first", "second"} of (N, T, C)."""
        weight, bias = self.classifier.weight, self.classifier.bias
        half = first.shape[-1]
        o_first = first @ weight[:, :half].T
        o_second = second @ weight[:, half:].T
        return {"fused": o_first + o_second + bias, "first": o_first + bias / 2, "second": o_second + bias / 2}

    def alpha(self, logits: torch.Tensor) -> torch.Tensor:
        """Temporal attention alpha(t): (N, T, C) -> (N, T), non-negative, sums to 1."""
        if self.attention == "uniform":
            return torch.full_like(logits[..., 0], 1 / logits.shape[1])
        scores = (logits @ self.query) @ (logits @ self.key).transpose(1, 2) / logits.shape[-1] ** 0.5
        return scores.softmax(-1).mean(1)


@dataclass
class TaafOutput:
    """Everything the losses and reports need; keys "fused", "event", "audio"."""

    logits: dict[str, torch.Tensor]  # (N, T, C)
    alpha: dict[str, torch.Tensor]  # (N, T)

    def decision(self, which: str = "fused") -> torch.Tensor:
        """Readout logits sum_t alpha(t) O(t), (N, C)."""
        return (self.alpha[which][..., None] * self.logits[which]).sum(1)


class TaafSnn(nn.Module):
    """The whole network."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.branches = nn.ModuleDict({"event": EventBranch(config), "audio": AudioBranch(config)})
        self.align = nn.ModuleDict(
            {
                "event": TimeAlignment(config.event_steps, config.aligned_steps),
                "audio": TimeAlignment(config.audio_steps, config.aligned_steps),
            }
        )
        self.head = TaafHead(config)

    def forward(self, event: torch.Tensor, audio: torch.Tensor) -> TaafOutput:
        features = {"event": self.branches["event"](event), "audio": self.branches["audio"](audio)}
        return host_forward(self.align, self.head, features)

    @torch.no_grad()
    def predict(self, event: torch.Tensor, audio: torch.Tensor) -> tuple[dict[str, torch.Tensor], TaafOutput]:
        """What is deployed: integer branches (eval mode) and the host part in float64.

        Returns
        -------
        features : dict
            Feature spikes per modality, (N, 128, T_m), in {0, 1}.
        output : TaafOutput
            float64 logits and attention.
        """
        was_training = self.training
        self.eval()
        features = {"event": self.branches["event"](event), "audio": self.branches["audio"](audio)}
        align, head = copy.deepcopy(self.align).double(), copy.deepcopy(self.head).double()
        output = host_forward(align, head, {m: f.double() for m, f in features.items()})
        self.train(was_training)
        return features, output


def host_forward(align: nn.ModuleDict, head: TaafHead, features: dict[str, torch.Tensor]) -> TaafOutput:
    """Alignment and head on the branches' feature spikes, each (N, 128, T_m); runs in the modules' precision."""
    outputs = head.outputs(*(align[m](features[m]) for m in ("event", "audio")))
    logits = {"fused": outputs["fused"], "event": outputs["first"], "audio": outputs["second"]}
    return TaafOutput(logits, {name: head.alpha(o) for name, o in logits.items()})


def _lif(v_th_mant: int, config: ModelConfig) -> SlayerLif:
    return SlayerLif(LifParameters(v_th_mant=v_th_mant), config.surrogate_width, config.surrogate_scale)
