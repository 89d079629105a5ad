"""Head of S-CMRL (arXiv 2502.12488): cross-modal residual learning on tokens (`taaf.models.cross_modal`), MLP and readout.

Its two branches are patch stems: feature spikes are maps (2 C, H, W) of [p | x], and the tokens are p + x. A modality alone is
the head with the other one silent (CMCI reads it out on its own); the readout is the mean over time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from taaf.models import token_comparisons as comparisons
from taaf.models.cross_modal import CrossModalOptions, cross_modal, divisor_bits, mac_parts, tokens_of
from taaf.models.errors import ConfigError
from taaf.models.fusion import FUSIONS
from taaf.models.heads.alignment import align, alignment_arrays, alignment_macs, alignment_stage
from taaf.models.heads.base import FUSED, Array, Arrays, Features, Head, Ops, Project, StepOutputs, silenced
from taaf.models.settings import Range

ALPHA_GRID = 1 / 64  # residual_alpha is a multiple of it, so that tokens stay short dyadic numbers


@dataclass(frozen=True)
class Options:
    """Settings of ``[head] type = "scmrl"``.

    Attributes
    ----------
    aligned_steps, alignment
        As of "taaf".
    fusion : str
        "sum" (the paper's "add") or "concat".
    cross_modal : str
        "residual" (x + residual_alpha x_res), "attention" (x_res alone) or "none"; "weight_attention" or "cmci", the paper's
        comparisons (`taaf.models.token_comparisons`). Its SCA: "attention" with attention_kind "spatial" and residual_layer "none".
    attention_kind : str
        "spatiotemporal" (CCSSA), "spatial" (SCSA) or "temporal" (TCSA).
    residual_layer : str
        "spiking" (a spiking layer behind the attention) or "none" (the attention itself is added, as without alignment there).
    residual_alpha : float
        A multiple of 1/64, from 0 (the attention has no part in the decision).
    attention_threshold : float
        Of the inner attention neurons, 1.0 (as the public code runs) or 0.5 (as it is written).
    attention_at_threshold : bool
        Whether they also fire at that voltage, as there; False: only above it, as in files that do not say.
    attention_heads, mlp_ratio : int
        See `taaf.models.cross_modal`.
    """

    aligned_steps: int = 4
    alignment: Literal["learned", "fixed"] = "fixed"
    fusion: Literal["sum", "concat"] = "sum"
    cross_modal: Literal["residual", "attention", "none", "weight_attention", "cmci"] = "residual"
    attention_kind: Literal["spatiotemporal", "spatial", "temporal"] = "spatiotemporal"
    residual_layer: Literal["spiking", "none"] = "spiking"
    residual_alpha: Annotated[float, Range(0, 64, grid=ALPHA_GRID)] = 1.5
    attention_threshold: Annotated[float, Range(0.5, 1.0, grid=0.5)] = 1.0
    attention_at_threshold: bool = True
    attention_heads: int = 8
    mlp_ratio: int = 4


class ScmrlHead(Head):
    """See the module; `Options` says what can be chosen."""

    kind = "scmrl"
    options_type = Options
    options: Options
    strategies = ("scmrl",)
    unsaid: ClassVar[Mapping[str, Any]] = {"attention_threshold": 0.5, "attention_at_threshold": False}

    def __init__(self, inputs: Mapping[str, Features], classes: int, options: Options) -> None:
        super().__init__(inputs, classes, options)
        shapes = {m: x.shape for m, x in self.inputs.items()}
        channels = {s[0] for s in shapes.values() if len(s) == 3 and s[0] % 2 == 0}
        if len(self.inputs) != 2 or len(channels) != 1 or any(len(s) != 3 for s in shapes.values()):
            found = ", ".join(f"{m} {s}" for m, s in shapes.items())
            raise ConfigError(
                'head.type (="scmrl"): is defined for two branches that end in token maps (2 C, H, W) of one C: '
                f'network = "patch_stem"; found {found}'
            )
        self.channels = channels.pop() // 2
        if self.channels % options.attention_heads:
            raise ConfigError(
                f"head.attention_heads (={options.attention_heads}): must divide the tokens' channels (={self.channels})"
            )
        self.tokens = {m: x.size // (2 * self.channels) for m, x in self.inputs.items()}
        first, second = self.modalities
        self.cross = CrossModalOptions(
            (first, second),
            self.channels,
            options.attention_heads,
            options.mlp_ratio,
            options.cross_modal,
            options.residual_alpha,
            options.attention_kind,
            options.residual_layer,
            options.attention_threshold,
            options.attention_at_threshold,
        )
        self.fusion = FUSIONS[options.fusion]

    @property
    def trained_outputs(self) -> tuple[str, ...] | None:
        return None if self.cross.mode == comparisons.CMCI else (FUSED,)

    def arrays(self) -> dict[str, Array]:
        found = alignment_arrays(self.inputs, self.options.aligned_steps, self.options.alignment)
        if self.cross.mode == comparisons.CMCI:
            return found | comparisons.readout_arrays(self.cross.names, self.channels, self.classes)
        if self.cross.mode == comparisons.WEIGHT_ATTENTION:
            found |= comparisons.weight_arrays(self.cross.names, self.channels)
        return found | {n: Array(s) for n, s in self.fusion.shapes([self.channels] * 2, self.classes).items()}

    def projections(self) -> dict[str, tuple[int, int]]:
        if self.cross.mode == comparisons.CMCI:
            return comparisons.current_shapes(self.cross.names, self.channels, self.options.mlp_ratio)
        return self.cross.projections()

    def run(
        self, ops: Ops, arrays: Arrays, project: Project, features: Mapping[str, Any], which: Sequence[str] | None = None
    ) -> StepOutputs:
        aligned = align(ops, arrays, {m: features[m] for m in self.modalities})
        logits: dict[str, Any] = {}
        residuals: dict[str, Any] = {}
        for u in self.outputs if which is None else which:
            given = list(aligned.values())
            if u != FUSED and self.cross.mode != comparisons.CMCI:
                given = silenced(self.modalities, aligned, ops, u)
            tokens = {m: tokens_of(x, self.channels) for m, x in zip(self.modalities, given, strict=True)}
            logits[u], found = self._decide(ops, arrays, project, tokens, u)
            residuals = found if u == FUSED else residuals
        alpha = {u: ops.ones_like(o[..., 0]) / o.shape[1] for u, o in logits.items()}
        return StepOutputs(logits, alpha, aligned, residuals)

    def _decide(
        self, ops: Ops, arrays: Arrays, project: Project, tokens: Mapping[str, Any], output: str
    ) -> tuple[Any, dict[str, Any]]:
        """Logits of one output, and the mean residuals."""
        if self.cross.mode == comparisons.CMCI:
            return comparisons.current_integration(ops, arrays, project, tokens, output), {}
        if self.cross.mode == comparisons.WEIGHT_ATTENTION:
            read = [(f, None) for f in comparisons.weight_attention(ops, arrays, project, tokens)]
        else:
            read = cross_modal(self.cross, ops.lif, project, *tokens.values())
        residuals = {m: r for m, (_, r) in zip(tokens, read, strict=True) if r is not None}
        return self.fusion.outputs(ops, arrays, [f for f, _ in read])[0], residuals

    def mac_parts(self) -> dict[str, int]:
        o, (first, second) = self.options, self.modalities
        steps = o.aligned_steps
        if self.cross.mode in (comparisons.CMCI, comparisons.WEIGHT_ATTENTION):
            parts = comparisons.mac_parts(self.cross.mode, self.tokens, self.channels, o.mlp_ratio, steps)
        else:
            parts = mac_parts(self.cross, (self.tokens[first], self.tokens[second]), steps)
        one = self.cross.mode == comparisons.CMCI
        readout = steps * (self.channels * self.classes if one else self.fusion.n_macs([self.channels] * 2, self.classes))
        return {"alignment": alignment_macs(self.inputs, steps), **parts, "readout": readout}

    def stages(self) -> list[tuple[str, str]]:
        o = self.options
        n = " and ".join(f"{n} {m}" for m, n in self.tokens.items())
        aligned, mean = alignment_stage(self.inputs, o.aligned_steps), f"ratio {o.mlp_ratio}, mean over {o.aligned_steps} steps"
        if self.cross.mode == comparisons.CMCI:
            return [aligned, ("cross-modality current integration", f"{n} tokens"), ("MLP, three readouts", mean)]
        if self.cross.mode == comparisons.WEIGHT_ATTENTION:
            return [aligned, ("weight attention", f"{n} tokens"), (f"MLP, readout: {o.fusion}", mean)]
        return [aligned, (f"cross-modal: {self._residual()}", self._attention(n)), (f"MLP, readout: {o.fusion}", mean)]

    def _residual(self) -> str:
        o = self.options
        return {"residual": f"x + {o.residual_alpha:g} x_res", "attention": "x_res alone", "none": "none"}[o.cross_modal]

    def _attention(self, tokens: str) -> str:
        o = self.options
        bits = "/".join(str(divisor_bits(k * o.aligned_steps)) for k in self.tokens.values())
        crossed = f"CCSSA / 2^{bits}" if o.residual_layer == "spiking" else "CCSSA added"
        attention = {"spatiotemporal": crossed, "spatial": "SCSA", "temporal": "TCSA"}[o.attention_kind]
        return f"{tokens} tokens, {o.attention_heads} heads, {attention}, threshold {o.attention_threshold:g}"

    @property
    def block_windows(self) -> int:
        """Windows whose attention products fit a bounded memory."""
        products = self.options.attention_heads * self.options.aligned_steps * max(self.tokens.values()) ** 2
        return max(1, (1 << 24) // products)


HEAD = ScmrlHead
