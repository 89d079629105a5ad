"""Head of TAAF-SNN (arXiv 2505.14535): time alignment, fusion, classifier (Eq. 4) and temporal attention (Eqs 5-7)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from taaf.models.errors import ConfigError, did_you_mean
from taaf.models.fusion import FUSIONS, temporal_attention
from taaf.models.heads.alignment import align, alignment_arrays, alignment_macs, alignment_stage
from taaf.models.heads.base import FUSED, Array, Arrays, Features, Head, Ops, Project, StepOutputs, silenced

_NOISE = 0.02


@dataclass(frozen=True)
class Options:
    """Settings of ``[head] type = "taaf"``.

    Attributes
    ----------
    aligned_steps : int
        Time steps after alignment.
    alignment : str
        "learned", or "fixed": an aligned step spikes if any input step it covers did (no parameters).
    fusion : str
        A name of `taaf.models.fusion.FUSIONS`.
    attention : str
        "taaf" (Eqs 5-7), or "uniform" (1/T, which recovers TET).
    attention_on : str
        Queries and keys from "logits" (default reading) or from the aligned "features".
    """

    aligned_steps: int = 6
    alignment: Literal["learned", "fixed"] = "learned"
    fusion: str = "concat"
    attention: Literal["taaf", "uniform"] = "taaf"
    attention_on: Literal["logits", "features"] = "logits"


class TaafHead(Head):
    """See the module; `Options` says what can be chosen."""

    kind = "taaf"
    options_type = Options
    options: Options

    def __init__(self, inputs: Mapping[str, Features], classes: int, options: Options) -> None:
        super().__init__(inputs, classes, options)
        if options.fusion not in FUSIONS:
            raise ConfigError(f"head.fusion (={options.fusion[:40]!r}): unknown; {did_you_mean(options.fusion, FUSIONS)}")
        self.fusion = FUSIONS[options.fusion]
        self.sizes = [x.size for x in self.inputs.values()]
        if problem := self.fusion.problem(self.sizes):
            raise ConfigError(f"head.fusion (={options.fusion!r}): {problem}")

    def arrays(self) -> dict[str, Array]:
        o, found = self.options, alignment_arrays(self.inputs, self.options.aligned_steps, self.options.alignment)
        for name, shape in self.fusion.shapes(self.sizes, self.classes).items():
            found[name] = Array(shape, "spiking" if name.endswith("_spiking_weight") else "linear")
        n_in = self.classes if o.attention_on == "logits" else sum(self.sizes)
        for name in ("query", "key"):
            found[name] = Array((n_in, self.classes), "eye", _NOISE, o.attention == "taaf")
        return found

    def run(
        self, ops: Ops, arrays: Arrays, project: Project, features: Mapping[str, Any], which: Sequence[str] | None = None
    ) -> StepOutputs:
        aligned = align(ops, arrays, {m: features[m] for m in self.modalities})
        given = dict(zip(self.outputs, self.fusion.outputs(ops, arrays, list(aligned.values())), strict=True))
        logits = {u: o for u, o in given.items() if which is None or u in which}
        attended = logits
        if self.options.attention_on == "features":
            parts = {FUSED: list(aligned.values()), **{m: silenced(self.modalities, aligned, ops, m) for m in aligned}}
            attended = {u: ops.concatenate(parts[u]) for u in logits}
        return StepOutputs(logits, {u: self.alpha(ops, arrays, x) for u, x in attended.items()}, aligned)

    def alpha(self, ops: Ops, arrays: Arrays, scores_from: Any) -> Any:
        """Temporal attention alpha(t): (N, T, D) -> (N, T), non-negative, sums to 1."""
        if self.options.attention == "uniform":
            return ops.ones_like(scores_from[..., 0]) / scores_from.shape[1]
        return temporal_attention(ops, scores_from, arrays["query"], arrays["key"])

    def mac_parts(self) -> dict[str, int]:
        """Dense count of alignment, fusion and attention.

        Fusions that use a weight matrix once per step are counted by the sizes of their matrices; products of
        activations (gates, the q k^T v of cross attention) are not included.
        """
        steps, o = self.options.aligned_steps, self.options
        attend = steps * self.classes  # the readout
        if o.attention == "taaf":
            n_in, width = self.arrays()["query"].shape
            attend += 2 * steps * n_in * width + steps**2 * self.classes
        fusion = steps * self.fusion.n_macs(self.sizes, self.classes)
        return {"alignment": alignment_macs(self.inputs, steps), "fusion": fusion, "attention and readout": attend}

    def stages(self) -> list[tuple[str, str]]:
        o = self.options
        seen = {"taaf": "softmax over time steps", "uniform": "uniform, 1/T"}[o.attention]
        return [
            alignment_stage(self.inputs, o.aligned_steps),
            (f"fusion: {o.fusion}", f"logits, {self.classes} classes × {o.aligned_steps} steps"),
            ("temporal attention", f"{seen}, on {o.attention_on}"),
        ]


HEAD = TaafHead
