"""Head of TAAF-SNN (arXiv 2505.14535): time alignment, fusion, classifier (Eq. 4) and temporal attention (Eqs 5-7)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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
    attention_weights : str
        "separate": matrices W^Q_u, W^K_u of every output u, the joint one and each modality, as Eqs 5-6 write them. They start as
        torch's Linear does, uniform within ``1 / sqrt(D)`` for D inputs (the paper names no initialisation, this one is what its
        framework gives), so that attention starts nearly uniform. "shared": one pair for all outputs, which starts as the identity
        and a little noise; what files hold that were written before there was a choice.
    classifier : str
        "linear": O_u(t) are currents, as TET has it. "spiking": they are the spikes of one LIF neuron per class and output that
        these currents drive; weights and biases on a 1/64 grid, fusions whose classifier sees spikes.
    """

    aligned_steps: int = 6
    alignment: Literal["learned", "fixed"] = "learned"
    fusion: str = "concat"
    attention: Literal["taaf", "uniform"] = "taaf"
    attention_on: Literal["logits", "features"] = "logits"
    attention_weights: Literal["separate", "shared"] = "separate"
    classifier: Literal["linear", "spiking"] = "linear"


class TaafHead(Head):
    """See the module; `Options` says what can be chosen."""

    kind = "taaf"
    options_type = Options
    options: Options
    unsaid: ClassVar[Mapping[str, Any]] = {"attention_weights": "shared"}

    def __init__(self, inputs: Mapping[str, Features], classes: int, options: Options) -> None:
        super().__init__(inputs, classes, options)
        if options.fusion not in FUSIONS:
            raise ConfigError(f"head.fusion (={options.fusion[:40]!r}): unknown; {did_you_mean(options.fusion, FUSIONS)}")
        self.fusion = FUSIONS[options.fusion]
        self.sizes = [x.size for x in self.inputs.values()]
        if problem := self.fusion.problem(self.sizes):
            raise ConfigError(f"head.fusion (={options.fusion!r}): {problem}")
        if options.classifier == "spiking" and not self.fusion.spikes_in:
            allowed = ", ".join(name for name, fusion in FUSIONS.items() if fusion.spikes_in)
            raise ConfigError(
                f"head.fusion (={options.fusion!r}): its classifier sees products of real numbers; allowed with classifier "
                f'"spiking": {allowed}'
            )

    def arrays(self) -> dict[str, Array]:
        o, found = self.options, alignment_arrays(self.inputs, self.options.aligned_steps, self.options.alignment)
        for name, shape in self.fusion.shapes(self.sizes, self.classes).items():
            fires = name.endswith("_spiking_weight") or (o.classifier == "spiking" and len(shape) == 2)
            found[name] = Array(shape, "spiking" if fires else "linear")
        shape = (self.classes if o.attention_on == "logits" else sum(self.sizes), self.classes)
        if o.attention_weights == "shared":
            return found | {name: Array(shape, "eye", _NOISE, o.attention == "taaf") for name in ("query", "key")}
        if o.attention == "taaf":
            found |= {f"{name}_{u}": Array(shape, "linear_transposed") for u in self.outputs for name in ("query", "key")}
        return found

    def run(
        self, ops: Ops, arrays: Arrays, project: Project, features: Mapping[str, Any], which: Sequence[str] | None = None
    ) -> StepOutputs:
        aligned = align(ops, arrays, {m: features[m] for m in self.modalities})
        given = dict(zip(self.outputs, self._outputs(ops, arrays, list(aligned.values())), strict=True))
        logits = {u: o for u, o in given.items() if which is None or u in which}
        attended = logits
        if self.options.attention_on == "features":
            parts = {FUSED: list(aligned.values()), **{m: silenced(self.modalities, aligned, ops, m) for m in aligned}}
            attended = {u: ops.concatenate(parts[u]) for u in logits}
        return StepOutputs(logits, {u: self.alpha(ops, arrays, x, u) for u, x in attended.items()}, aligned)

    def _outputs(self, ops: Ops, arrays: Arrays, aligned: list[Any]) -> list[Any]:
        """O_u(t) of every output; of a spiking classifier spikes of currents that are exact in float32 and float64."""
        if self.options.classifier == "linear":
            return self.fusion.outputs(ops, arrays, aligned)
        n, shapes = len(aligned), self.fusion.shapes(self.sizes, self.classes)
        on_grid = {k: n * ops.on_grid(arrays[k] / n) if len(s) == 1 else ops.on_grid(arrays[k]) for k, s in shapes.items()}
        return [ops.lif(current) for current in self.fusion.outputs(ops, on_grid, aligned)]

    def alpha(self, ops: Ops, arrays: Arrays, scores_from: Any, output: str = FUSED) -> Any:
        """Temporal attention alpha(t) of one output: (N, T, D) -> (N, T), non-negative, sums to 1."""
        if self.options.attention == "uniform":
            return ops.ones_like(scores_from[..., 0]) / scores_from.shape[1]
        own = "" if self.options.attention_weights == "shared" else f"_{output}"
        return temporal_attention(ops, scores_from, arrays[f"query{own}"], arrays[f"key{own}"])

    def mac_parts(self) -> dict[str, int]:
        """Dense count of alignment, fusion and attention.

        Fusions that use a weight matrix once per step are counted by the sizes of their matrices; products of
        activations (gates, the q k^T v of cross attention) are not included.
        """
        steps, o = self.options.aligned_steps, self.options
        attend = steps * self.classes  # the readout
        if o.attention == "taaf":
            n_in = self.classes if o.attention_on == "logits" else sum(self.sizes)
            attend += 2 * steps * n_in * self.classes + steps**2 * self.classes
        fusion = steps * self.fusion.n_macs(self.sizes, self.classes)
        return {"alignment": alignment_macs(self.inputs, steps), "fusion": fusion, "attention and readout": attend}

    def stages(self) -> list[tuple[str, str]]:
        o = self.options
        seen = {"taaf": "softmax over time steps", "uniform": "uniform, 1/T"}[o.attention]
        given = "logits" if o.classifier == "linear" else "spikes of the classifier"
        return [
            alignment_stage(self.inputs, o.aligned_steps),
            (f"fusion: {o.fusion}", f"{given}, {self.classes} classes × {o.aligned_steps} steps"),
            ("temporal attention", f"{seen}, on {o.attention_on}"),
        ]


HEAD = TaafHead
