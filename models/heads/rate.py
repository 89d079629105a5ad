"""Decision by spike count, the readout of SLAYER's tutorials: the class whose feature neurons fired most; the first of equals.

Every class has F / C neurons, one after the other (one each where F = C). Several modalities add their counts. Nothing is
trained here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taaf.models.errors import ConfigError
from taaf.models.heads.base import FUSED, Arrays, Features, Head, Ops, Project, StepOutputs


@dataclass(frozen=True)
class Options:
    """Settings of ``[head] type = "rate"``.

    Attributes
    ----------
    counted_steps : tuple of int
        Per modality: only the first so many steps of a window are counted; empty: all. SLAYER's ``delay_shift`` costs a step per
        block, and its window ends before the last spikes arrive: with L blocks it counts the first T - L steps.
    """

    counted_steps: tuple[int, ...] = ()


class RateHead(Head):
    """See the module; logits are spikes per class and step, the readout their sum."""

    kind = "rate"
    options_type = Options
    options: Options
    strategies = ("readout",)

    def __init__(self, inputs: Mapping[str, Features], classes: int, options: Options) -> None:
        super().__init__(inputs, classes, options)
        if wrong := [f"{m} has {x.size}" for m, x in self.inputs.items() if not classes or x.size % classes]:
            raise ConfigError(
                f'head.type (="rate"): {", ".join(wrong)} feature neurons; allowed multiples of classes (={classes})'
            )
        steps, counted = self.input_steps, options.counted_steps
        if counted and (
            len(counted) != len(steps) or any(not 0 < n <= most for n, most in zip(counted, steps.values(), strict=True))
        ):
            told = ", ".join(f"{m} {n}" for m, n in steps.items())
            raise ConfigError(
                f"head.counted_steps (={list(counted)}): allowed one number per branch, up to its steps: {told}; or none"
            )
        self.counted = counted or tuple(steps.values())

    def run(
        self, ops: Ops, arrays: Arrays, project: Project, features: Mapping[str, Any], which: Sequence[str] | None = None
    ) -> StepOutputs:
        steps = max(x.steps for x in self.inputs.values())
        logits = {}
        for m, counted in zip(self.modalities, self.counted, strict=True):
            logits[m] = self._per_class(ops.whole_steps(features[m][..., :counted], steps))
        fused = logits[self.modalities[0]]
        for m in self.modalities[1:]:
            fused = fused + logits[m]
        logits = {u: o for u, o in {FUSED: fused, **logits}.items() if which is None or u in which}
        return StepOutputs(logits, {u: ops.ones_like(o[..., 0]) for u, o in logits.items()})

    def _per_class(self, x: Any) -> Any:
        """Spikes (N, T, F) -> spikes per class (N, T, C)."""
        return x.reshape(len(x), -1, self.classes, x.shape[-1] // self.classes).sum(-1)

    def mac_parts(self) -> dict[str, int]:
        return {"counting": 0}

    def stages(self) -> list[tuple[str, str]]:
        every = self.counted == tuple(self.input_steps.values())
        counted = "all" if every else f"first {' and '.join(map(str, dict.fromkeys(self.counted)))}"
        return [("spike count", f"{self.classes} classes, {counted} steps")]


HEAD = RateHead
