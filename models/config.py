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
MAX_SCALE = 64  # of an encoder: a current is then a multiple of the chip's own unit
_ADDED = ("frame_size", "audio_bins", "audio_frames", "frame_scale", "audio_scale")  # older checkpoints do not have them


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
    frame_size, audio_bins, audio_frames : int
        Input of "resnet18" branches: frames (3, frame_size, frame_size), spectrograms (1, audio_bins, audio_frames).
    frame_scale, audio_scale : int
        Levels per unit of their 8-bit input (`taaf.models.host_encoder`), a power of two: 32 covers -4..3.97 (normalised
        frames), 8 covers -16..15.9 (logarithms of magnitudes).
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
    frame_size: int = 224
    audio_bins: int = 257
    audio_frames: int = 188
    frame_scale: int = 32
    audio_scale: int = 8
    surrogate_width: float = 0.5
    surrogate_scale: float = 1.0

    @property
    def modalities(self) -> tuple[str, str]:
        """Names of the two inputs, in order."""
        return (self.first_name, "audio")

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one time step of each input."""
        frames, spectrogram = (3, self.frame_size, self.frame_size), (1, self.audio_bins, self.audio_frames)
        first = frames if self.first_branch == "resnet18" else (2, self.event_size, self.event_size)
        second = spectrogram if self.audio_branch == "resnet18" else (self.audio_inputs,)
        return dict(zip(self.modalities, (first, second), strict=True))

    @property
    def input_scales(self) -> dict[str, int]:
        """Levels per unit of the inputs that are real numbers; none of inputs that are spikes."""
        kinds = (self.first_branch, self.audio_branch)
        scales = zip(self.modalities, kinds, (self.frame_scale, self.audio_scale), strict=True)
        return {m: scale for m, kind, scale in scales if kind == "resnet18"}

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "ModelConfig":
        """Inverse of `to_dict`; raises `CheckpointError` on unknown, missing or not allowed values."""
        known = {f.name: f.default for f in fields(ModelConfig)}
        values = {k: known[k] for k in _ADDED} | values
        if set(values) != set(known):
            raise CheckpointError(f"model config: unknown or missing keys {sorted(set(values) ^ set(known))}")
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
    if key.endswith("_scale") and isinstance(value, int) and (value > MAX_SCALE or value & (value - 1)):
        return f"{key} (={value}): allowed powers of two up to {MAX_SCALE}"
    if isinstance(value, float) and not (math.isfinite(value) and value > 0):
        return f"{key} (={value}): allowed finite numbers above 0"
    return None
