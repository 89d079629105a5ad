"""No head: the feature spikes of every branch are the result."""

from collections.abc import Mapping, Sequence
from typing import Any

from taaf.models.heads.base import UNTRAINED, Arrays, Head, Ops, Project, StepOutputs


class NoHead(Head):
    """Decides nothing."""

    kind = "none"
    strategies = UNTRAINED

    @property
    def outputs(self) -> tuple[str, ...]:
        return ()

    def run(
        self, ops: Ops, arrays: Arrays, project: Project, features: Mapping[str, Any], which: Sequence[str] | None = None
    ) -> StepOutputs:
        return StepOutputs({}, {})

    def mac_parts(self) -> dict[str, int]:
        return {}

    def stages(self) -> list[tuple[str, str]]:
        return [("feature spikes", "no decision on the host")]


HEAD = NoHead
