"""The methods that the EAD-36 study compares, each as its changes to the base configuration; strengths are their authors'."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from taaf.training.config import from_dict
from taaf.training.single_modality import alone

Changes = Mapping[str, Mapping[str, Any]]
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
        return alone(from_dict(found), self.only).to_dict() if self.only else found


def _uniform(name: str, balance: str, beta: float, suppression: float = 0.5, fusion: str = "concat") -> Method:
    """Temporal attention off; the strengths are those of the methods' authors."""
    return Method(
        name,
        {
            "head": {"attention": "uniform", "fusion": fusion},
            "loss": {"balance": balance, "beta": beta, "suppression": suppression},
        },
    )


def _reading(
    name: str, loss: Mapping[str, Any] = MappingProxyType({}), head: Mapping[str, Any] = MappingProxyType({})
) -> Method:
    """TAAF with a reading of the paper's text."""
    return Method(name, {"head": {"attention": "taaf", **head}, "loss": {"balance": "taaf", **loss}})


METHODS = (
    Method("events alone", _uniform("", "none", 0.0).changes, only="event"),
    Method("audio alone", _uniform("", "none", 0.0).changes, only="audio"),
    _uniform("fused loss only", "none", 0.0),
    _uniform("late fusion", "late_fusion", 1.0, fusion="sum_separate"),
    _uniform(BASELINE, "none", 1.0),
    _uniform("OGM-GE", "ogm_ge", 0.0, 0.8),
    _uniform("PMR", "pmr", 0.0, 1.0),
    _uniform("AGM", "agm", 0.0, 1.0),
    _uniform("WeightAttention", "none", 0.0, fusion="weight_attention"),
    _uniform("SCA", "none", 0.0, fusion="sca"),
    _uniform("CMCI", "cmci", 1.0, fusion="cmci"),
    _uniform("MISNET cell", "misnet", 1.0, fusion="misnet"),
    _uniform("LA", "la", 1.0),
    _reading(TAAF),
)

# Readings that the paper's text allows, and sweeps of its strengths; compared on the validation part alone.
READINGS = (
    _uniform(BASELINE, "none", 1.0),
    _reading(TAAF),
    _reading("alpha detached", {"alpha_detach": True}),
    _reading("alpha learns from the readout", {"alpha_detach": True, "readout_weight": 1.0}),
    _reading("attention on features", {}, {"attention_on": "features"}),
    _reading(
        "on features, alpha learns from the readout",
        {"alpha_detach": True, "readout_weight": 1.0},
        {"attention_on": "features"},
    ),
    _reading("alpha of the batch", {"alpha_batch_mean": True}),
    _reading("k_u(t)", {"k_per": "step"}),
    _reading("k_u of the validation part", {"k_from": "validation"}),
    _reading("entropy floor 0.9", {"entropy_floor": 0.9, "entropy_weight": 1.0}),
    *(_reading(f"suppression {s:g}", {"suppression": s}) for s in (0.25, 1.0)),
    *(_reading(f"beta {b:g}", {"beta": b}) for b in (0.5, 2.0)),
)
