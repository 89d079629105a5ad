"""The shape of a network, as stored in checkpoints and training configurations."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from taaf.models.errors import CheckpointError

CHOICES = {
    "head": ("taaf", "scmrl"),
    "cross_modal": ("none", "attention", "residual"),
    "first_name": ("event", "visual"),
    "first_branch": ("conv", "resnet18", "sps", "sps_real"),
    "audio_branch": ("dense", "resnet18", "sps", "sps_real"),
    "alignment": ("learned", "fixed"),
    "attention": ("taaf", "uniform"),
    "attention_on": ("logits", "features"),
    "stem_downsampling": ("stride", "max_pool"),
}
REAL = ("resnet18", "sps_real")  # kinds of branches that take frames and spectrograms
STEMS = ("sps", "sps_real")
MAX_STEPS = 1024
MAX_SIZE = 1 << 16  # any other width
MAX_SCALE = 64  # of an encoder: a current is then a multiple of the chip's own unit
STEM_STAGES = 4
SCMRL_FUSIONS = ("concat", "sum")
ALPHA_GRID = 64  # residual_alpha is a multiple of 1/64, so that tokens stay short dyadic numbers
_ADDED = (  # older checkpoints do not have them
    "frame_size", "audio_bins", "audio_frames", "frame_scale", "audio_scale",
    "head", "cross_modal", "residual_alpha", "token_channels", "stem_halvings", "attention_heads", "mlp_ratio", "audio_levels",
    "stem_downsampling",
)  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a network. Widths count channels or neurons; steps count time steps.

    Attributes
    ----------
    head : str
        "taaf" (TAAF-SNN, arXiv 2505.14535) or "scmrl" (S-CMRL, arXiv 2502.12488; both branches are then patch stems).
    first_name : str
        Name of the first modality, "event" or "visual"; the second is "audio".
    first_branch, audio_branch : str
        "conv" and "dense" (small, of the embedded model), "resnet18" (of the paper; `resnet_width` channels), or spiking
        patch stems (`taaf.models.sps`): "sps" takes spikes, "sps_real" frames or spectrograms.
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
        Input of "resnet18" and "sps_real" branches: frames (3, frame_size, frame_size), spectrograms (1, audio_bins, audio_frames).
    frame_scale, audio_scale : int
        Levels per unit of their 8-bit input (`taaf.models.encoder`), a power of two: 32 covers -4..3.97 (normalised
        frames), 8 covers -16..15.9 (logarithms of magnitudes).
    token_channels, stem_halvings, audio_levels : int
        Of patch stems: channels C of a token; how many of the four convolutions halve the map (the original: each, so that its
        128x128 frames become 8x8 = 64 tokens); of "sps" the levels per audio band, so that the audio map is
        (1, audio_inputs / audio_levels, audio_levels).
    stem_downsampling : str
        Of patch stems: halve by "stride" 2 of the convolution, or by "max_pool" (3x3, stride 2) of its spikes.
    cross_modal : str
        Of head "scmrl": "residual" (x + residual_alpha x_res), "attention" (x_res alone) or "none".
    residual_alpha, attention_heads, mlp_ratio : float, int, int
        Of head "scmrl" (`taaf.models.cross_modal`).
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
    head: str = "taaf"
    cross_modal: str = "residual"
    residual_alpha: float = 1.5
    token_channels: int = 64
    stem_halvings: int = 3
    attention_heads: int = 8
    mlp_ratio: int = 4
    audio_levels: int = 4
    stem_downsampling: str = "stride"
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
        first = frames if self.first_branch in REAL else (2, self.event_size, self.event_size)
        bands = (1, self.audio_inputs // self.audio_levels, self.audio_levels)
        second = {**dict.fromkeys(REAL, spectrogram), "sps": bands}.get(self.audio_branch, (self.audio_inputs,))
        return dict(zip(self.modalities, (first, second), strict=True))

    @property
    def token_maps(self) -> dict[str, tuple[int, int]]:
        """Height and width of the map of tokens of each patch stem: 3x3 kernels with padding 1, strided or pooling."""

        def side(n: int) -> int:
            return -(-n // (1 << self.stem_halvings))

        return {m: (side(shape[-2]), side(shape[-1])) for m, shape in self.input_shapes.items() if len(shape) == 3}

    def problem(self) -> str | None:
        """Why these values do not make a network together, or None."""
        stems = (self.first_branch in STEMS) + (self.audio_branch in STEMS)
        if self.head == "taaf":
            return f'head "taaf" with {stems} patch stems; set head = "scmrl", or other branches' if stems else None
        c, alpha = self.token_channels, self.residual_alpha
        wrong = {
            'head "scmrl" takes two branches "sps" (spikes) or "sps_real"; set first_branch and audio_branch': stems != 2,
            f'fusion (={self.fusion!r}): head "scmrl" allows {", ".join(SCMRL_FUSIONS)}': self.fusion not in SCMRL_FUSIONS,
            'attention: head "scmrl" averages over time; set attention = "uniform"': self.attention != "uniform",
            f"token_channels (={c}): must be a multiple of 8 and of attention_heads (={self.attention_heads})": c % 8
            or c % self.attention_heads,
            f"stem_halvings (={self.stem_halvings}): a stem has {STEM_STAGES} convolutions": self.stem_halvings > STEM_STAGES,
            f"audio_inputs (={self.audio_inputs}): must be a multiple of audio_levels (={self.audio_levels})": self.audio_inputs
            % self.audio_levels,
            f"residual_alpha (={alpha}): must be a multiple of 1/{ALPHA_GRID} up to {ALPHA_GRID}": alpha * ALPHA_GRID % 1
            or alpha > ALPHA_GRID,
        }
        return next((why for why, is_so in wrong.items() if is_so), None)

    @property
    def input_scales(self) -> dict[str, int]:
        """Levels per unit of the inputs that are real numbers; none of inputs that are spikes."""
        kinds = (self.first_branch, self.audio_branch)
        scales = zip(self.modalities, kinds, (self.frame_scale, self.audio_scale), strict=True)
        return {m: scale for m, kind, scale in scales if kind in REAL}

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
        config = ModelConfig(**values)
        if problem := config.problem():
            raise CheckpointError(f"model config: {problem}")
        return config


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
