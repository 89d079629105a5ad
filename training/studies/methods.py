"""The methods that the EAD-36 study compares, each as its changes to the base configuration; strengths are their authors'."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Changes = Mapping[str, Mapping[str, Any]]
UNIFORM = {"attention": "uniform"}
BASELINE = "all losses, k = 1"  # what a method of balance has to beat
TAAF = "TAAF"


@dataclass(frozen=True)
class Method:
    """A row of the study's tables.

    Attributes
    ----------
    name : str
        In tables.
    changes : mapping
        Table of the configuration -> its changed settings.
    only : str
        The single modality it is trained on; "": all.
    """

    name: str
    changes: Changes = field(default_factory=dict)
    only: str = ""

    def apply(self, values: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """A configuration with its changes."""
        found = {table: dict(entries) for table, entries in values.items()}
        for table, entries in self.changes.items():
            found[table] |= entries
        if self.only:
            found["branches"] = {self.only: found["branches"][self.only]}
        return found


def _balanced(name: str, balance: str, beta: float, suppression: float = 0.5, **head: Any) -> Method:
    return Method(name, {"head": UNIFORM | head, "loss": {"balance": balance, "beta": beta, "suppression": suppression}})


def _reading(name: str, loss: Mapping[str, Any], **head: Any) -> Method:
    return Method(name, {"head": {"attention": "taaf"} | head, "loss": {"balance": "taaf"} | dict(loss)})
