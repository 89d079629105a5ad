"""The shape of a network, as stored in checkpoints and training configurations."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from taaf.models.errors import CheckpointError

CHOICES = {
    "first_name": ("event", "visual"),
    "first_branch": ("conv", "resnet18"),
    "audio_branch": ("dense", "resnet18"),
    "alignment": ("learned", "fixed"),
    "attention": ("taaf", "uniform"),
    "attention_on": ("logits", "features"),
}
MAX_STEPS = 1024
MAX_SIZE = 1 << 16  # any other width


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a TAAF-SNN. Widths count channels or neurons; steps count time steps.

    Attributes
    ----------
    first_name : str
        Name of the first modality, "event" or "visual"; the second is "audio".
    first_branch, audio_branch : str
        "conv" and "dense" (small, of the embedded model), or "resnet18" (of the paper; `resnet_width` channels).
    event_channels, block_channels, event_size : int
        Channels of the conv branch's stem and residual block, side of its square input.
    audio_inputs, audio_hidden : int
        Channels and hidden neurons of the dense branch.
    features : int
        Feature neurons F per branch.
    event_steps, audio_steps, aligned_steps : int
        Time steps of the first and the second input, and after time alignment.
    alignment : str
        "learned" time alignment, or "fixed": an aligned step spikes if any input step it covers did (no parameters).
    fusion : str
        A name of `taaf.models.fusion.FUSIONS`.
    attention : str
        "taaf" (Eqs 5-7), or "uniform" (1/T, which recovers TET).
    attention_on : str
        Queries and keys from "logits" (default reading) or from the fused "features".
    """

    event_channels: int = 8
    block_channels: int = 16
    audio_inputs: int = 160
    audio_hidden: int = 128
    features: int = 128
    event_steps: int = 8
    audio_steps: int = 12
    aligned_steps: int = 6
    classes: int = 10
    attention: str = "taaf"
    attention_on: str = "logits"
    fusion: str = "concat"
    alignment: str = "learned"
    first_name: str = "event"
    first_branch: str = "conv"
    audio_branch: str = "dense"
    event_size: int = 34
    resnet_width: int = 64
    surrogate_width: float = 0.5
    surrogate_scale: float = 1.0

    @property
    def modalities(self) -> tuple[str, str]:
        """Names of the two inputs, in order."""
        return (self.first_name, "audio")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "ModelConfig":
        """Inverse of `to_dict`; raises `CheckpointError` on unknown, missing or not allowed values."""
        known = {f.name for f in fields(ModelConfig)}
        if set(values) != known:
            raise CheckpointError(f"model config: unknown or missing keys {sorted(set(values) ^ known)}")
        if wrong := [k for k, allowed in CHOICES.items() if values[k] not in allowed]:
            raise CheckpointError(f"model config: {wrong[0]} (={values[wrong[0]]!r}): allowed {', '.join(CHOICES[wrong[0]])}")
        for f in fields(ModelConfig):
            if problem := size_problem(f.name, values[f.name], f.default):
                raise CheckpointError(f"model config: {problem}")
        return ModelConfig(**values)


def size_problem(key: str, value: Any, like: Any) -> str | None:
    """Why ``value`` cannot be this number of a `ModelConfig` (``like``: one that can), or None."""
    if type(value) is not type(like):
        return f"{key} (={str(value)[:40]!r}): expected {type(like).__name__}, found {type(value).__name__}"
    highest = MAX_STEPS if key.endswith("_steps") else MAX_SIZE
    if isinstance(value, int) and not 1 <= value <= highest:
        return f"{key} (={str(value)[:40]}): allowed 1 to {highest}"
    if isinstance(value, float) and not (math.isfinite(value) and value > 0):
        return f"{key} (={value}): allowed finite numbers above 0"
    return None
