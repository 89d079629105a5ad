"""Our energies beside measured ones: every convention on every run, and estimate / measured."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from taaf.hw_sim.energy import CONVENTIONS, energies_of
from taaf.hw_sim.measurements.records import Interval, Measurement, Run, load_measurements
from taaf.hw_sim.measurements.step_time import StepTime, step_times


@dataclass(frozen=True)
class Check:
    """One run.

    Attributes
    ----------
    measured : (str, float) or None
        "dynamic" or "total", and uJ per inference.
    estimated_uj : dict
        Convention -> lowest and highest estimate.
    ratio : dict
        Convention -> estimate / measured; empty where nothing measured can be compared.
    step : tuple of StepTime
        Estimated step times; empty where the cores are not published.
    """

    measurement: Measurement
    run: Run
    measured: tuple[str, float] | None
    estimated_uj: dict[str, Interval]
    ratio: dict[str, Interval]
    step: tuple[StepTime, ...]

    def to_dict(self) -> dict[str, Any]:
        m, run = self.measurement, self.run
        low, high = m.quantities(run)
        return {
            "key": m.key, "title": m.title, "chip": m.chip, "network": m.network, "input": m.input, "run": run.name,
            "source": m.source, "secondary": m.secondary, "conditions": run.conditions, "unusable": m.unusable,
            "steps": m.steps_of(run), "operations": {"method": m.method, "how": m.how, **{k: [low[k], high[k]] for k in low}},
            "measured": {"dynamic_uj": run.dynamic_uj, "total_uj": run.total_uj, "step_us": run.step_us},
            "compared_with": self.measured and self.measured[0],
            "estimated_uj": {k: list(v) for k, v in self.estimated_uj.items()},
            "ratio": {k: list(v) for k, v in self.ratio.items()},
            "step_time": [s.to_dict() for s in self.step],
        }  # fmt: skip


def check_estimates() -> list[Check]:
    """Every run of every measurement, chips and files in order."""
    found = list(_checks())
    return sorted(found, key=lambda c: c.measurement.chip)


def _checks() -> Iterator[Check]:
    for m in load_measurements():
        for run in m.runs:
            low, high = (energies_of(q) for q in m.quantities(run))
            estimated = {name: (a.snn_nj / 1000, b.snn_nj / 1000) for name, a, b in zip(CONVENTIONS, low, high, strict=True)}
            measured = run.measured_uj
            usable = measured is not None and measured[1] > 0 and m.unusable is None
            ratio = {n: (a / measured[1], b / measured[1]) for n, (a, b) in estimated.items()} if measured and usable else {}
            yield Check(m, run, measured, estimated, ratio, tuple(step_times(m, run)))
