"""Decision by spike count, the readout of SLAYER's tutorials: the class whose feature neurons fired most; the first of equals.

Every class has F / C neurons, one after the other (one each where F = C). Several modalities add their counts. Nothing is
trained here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taaf.models.errors import ConfigError
from taaf.models.heads.base import FUSED, Arrays, Features, Head, Ops, Project, StepOutputs
from taaf.models.settings import Count


@dataclass(frozen=True)
class Options:
    """Settings of ``[head] type = "rate"``.

    Attributes
    ----------
    counted_steps : int
        Only the first so many steps of a window are counted; 0: all. SLAYER's ``delay_shift`` costs a step per block, and its
        window ends before the last spikes arrive: with L blocks it counts the first T - L steps.
    """

    counted_steps: Count = 0


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

    def run(
        self, ops: Ops, arrays: Arrays, project: Project, features: Mapping[str, Any], which: Sequence[str] | None = None
    ) -> StepOutputs:
        steps = max(x.steps for x in self.inputs.values())
        logits = {m: self._per_class(ops.whole_steps(features[m], steps)) for m in self.modalities}
        fused = logits[self.modalities[0]]
        for m in self.modalities[1:]:
            fused = fused + logits[m]
        logits = {u: o for u, o in {FUSED: fused, **logits}.items() if which is None or u in which}
        return StepOutputs(logits, {u: ops.ones_like(o[..., 0]) for u, o in logits.items()})

    def _per_class(self, x: Any) -> Any:
        """Spikes (N, T, F) -> spikes per class (N, T, C), the steps that are not counted left out."""
        counted = self.options.counted_steps or x.shape[1]
        return x[:, :counted].reshape(len(x), -1, self.classes, x.shape[-1] // self.classes).sum(-1)

    def mac_parts(self) -> dict[str, int]:
        return {"counting": 0}

    def stages(self) -> list[tuple[str, str]]:
        counted = self.options.counted_steps
        return [("spike count", f"{self.classes} classes, {f'first {counted}' if counted else 'all'} steps")]


HEAD = RateHead
