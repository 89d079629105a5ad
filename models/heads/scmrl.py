"""Head of S-CMRL (arXiv 2502.12488): cross-modal residual learning on tokens (`taaf.models.cross_modal`), MLP and readout.

Its two branches are patch stems: feature spikes are maps (2 C, H, W) of [p | x], and the tokens are p + x. A modality alone is
the head with the other one silent; the readout is the mean over time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

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
        "residual" (x + residual_alpha x_res), "attention" (x_res alone) or "none".
    residual_alpha : float
        A multiple of 1/64.
    attention_heads, mlp_ratio : int
        See `taaf.models.cross_modal`.
    """

    aligned_steps: int = 4
    alignment: Literal["learned", "fixed"] = "fixed"
    fusion: Literal["sum", "concat"] = "sum"
    cross_modal: Literal["residual", "attention", "none"] = "residual"
    residual_alpha: Annotated[float, Range(ALPHA_GRID, 64, grid=ALPHA_GRID)] = 1.5
    attention_heads: int = 8
    mlp_ratio: int = 4


class ScmrlHead(Head):
    """See the module; `Options` says what can be chosen."""

    kind = "scmrl"
    options_type = Options
    options: Options
    strategies = ("scmrl",)

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
        )
        self.fusion = FUSIONS[options.fusion]

    def arrays(self) -> dict[str, Array]:
        found = alignment_arrays(self.inputs, self.options.aligned_steps, self.options.alignment)
        return found | {n: Array(s) for n, s in self.fusion.shapes([self.channels] * 2, self.classes).items()}

    def projections(self) -> dict[str, tuple[int, int]]:
        return self.cross.projections()

    def run(
        self, ops: Ops, arrays: Arrays, project: Project, features: Mapping[str, Any], which: Sequence[str] | None = None
    ) -> StepOutputs:
        aligned = align(ops, arrays, {m: features[m] for m in self.modalities})
        logits, residuals = {}, {}
        for u in self.outputs if which is None else which:
            pair = list(aligned.values()) if u == FUSED else silenced(self.modalities, aligned, ops, u)
            tokens = (tokens_of(x, self.channels) for x in pair)
            (one, res_one), (two, res_two) = cross_modal(self.cross, ops.lif, project, *tokens)
            logits[u] = self.fusion.outputs(ops, arrays, [one, two])[0]
            if u == FUSED and res_one is not None:
                residuals = dict(zip(self.modalities, (res_one, res_two), strict=True))
        alpha = {u: ops.ones_like(o[..., 0]) / o.shape[1] for u, o in logits.items()}
        return StepOutputs(logits, alpha, aligned, residuals)

    def mac_parts(self) -> dict[str, int]:
        steps, (first, second) = self.options.aligned_steps, self.modalities
        parts = mac_parts(self.cross, (self.tokens[first], self.tokens[second]), steps)
        readout = steps * self.fusion.n_macs([self.channels] * 2, self.classes)
        return {"alignment": alignment_macs(self.inputs, steps), **parts, "readout": readout}

    def stages(self) -> list[tuple[str, str]]:
        o = self.options
        n = " and ".join(f"{n} {m}" for m, n in self.tokens.items())
        bits = "/".join(str(divisor_bits(k, o.aligned_steps)) for k in self.tokens.values())
        crossed = {"residual": f"x + {o.residual_alpha:g} x_res", "attention": "x_res alone", "none": "none"}[o.cross_modal]
        return [
            alignment_stage(self.inputs, o.aligned_steps),
            (f"cross-modal: {crossed}", f"{n} tokens, {o.attention_heads} heads, CCSSA / 2^{bits}"),
            (f"MLP, readout: {o.fusion}", f"ratio {o.mlp_ratio}, mean over {o.aligned_steps} steps"),
        ]

    @property
    def block_windows(self) -> int:
        """Windows whose attention products fit a bounded memory."""
        products = self.options.attention_heads * self.options.aligned_steps * max(self.tokens.values()) ** 2
        return max(1, (1 << 24) // products)


HEAD = ScmrlHead
