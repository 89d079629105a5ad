"""Loihi 2 as a range: what published measurements of other networks imply for an operation, and how well that predicts them.

No official energy per operation exists for Loihi 2. Two things can be told apart in what was published:

    c_step  = E / steps                     of networks so small that nothing else counts (role "step")
    c_synop = (E - steps x c_step) / SynOps of the others; neuron updates, spikes and input are in it
    E       = steps x c_step + SynOps x c_synop,  each from the smallest to the largest measured

The share of neuron updates cannot be separated from so few networks; `EnergyRange.update_pj_at_most` bounds it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from taaf.hw_sim.measurements.records import Interval, Measurement, Run, load_measurements

Kind = Literal["dynamic", "total"]
NAME, TITLE = "loihi2_range", "Loihi 2 (range)"
Point = tuple[Measurement, Run]


@dataclass(frozen=True)
class Coefficients:
    """pJ per effective SynOp and nJ per time step, smallest to largest; None where no measurement tells."""

    pj_per_synop: Interval | None
    nj_per_step: Interval | None

    def predict_nj(self, synops: float, steps: float) -> Interval | None:
        """Smallest and largest energy of so many operations; None without a figure for a SynOp."""
        if self.pj_per_synop is None:
            return None
        low, high = ((self.nj_per_step or (0.0, 0.0))[i] * steps + self.pj_per_synop[i] * synops / 1000 for i in (0, 1))
        return low, high


@dataclass(frozen=True)
class LeftOut:
    """A measurement predicted from the others.

    Attributes
    ----------
    left_out : str
        "run" (its network's other runs stay) or "network".
    predicted_uj : (float, float) or None
        None: nothing else was measured from which a SynOp could be told.
    factor : float or None
        Geometric middle of the prediction / measured.
    """

    left_out: Literal["run", "network"]
    network: str
    run: str
    measured_uj: float
    predicted_uj: Interval | None
    factor: float | None


@dataclass(frozen=True)
class EnergyRange:
    """The range, with its provenance and its error.

    Attributes
    ----------
    dynamic, total : Coefficients
        Without and with static power.
    update_pj_at_most : float
        Of one neuron update, if all dynamic energy were theirs.
    one_synop_pj : (float, float)
        Dynamic energy / SynOps over all measurements, steps not taken apart: how wide that would be.
    left_out : tuple of LeftOut
        Dynamic energy, every run and every network left out once.
    """

    title: str
    kind: str
    source: str
    includes: str
    excludes: str
    networks: tuple[str, ...]
    n_measurements: int
    dynamic: Coefficients
    total: Coefficients
    update_pj_at_most: float
    one_synop_pj: Interval
    left_out: tuple[LeftOut, ...]

    def of(self, per_window: Mapping[str, float], steps: float) -> dict[str, Any]:
        """Smallest and largest energy of a window, with everything needed to read them; plain data.

        Parameters
        ----------
        per_window : mapping
            Operations per window, `taaf.hw_sim.energy.quantities`.
        steps : float
            Time steps the chip runs per window.
        """
        synops = per_window["effective_synops"]
        found = {f"{kind}_nj": list(self.coefficients(kind).predict_nj(synops, steps) or ()) for kind in ("dynamic", "total")}
        return {"convention": NAME, "steps": steps, **found, **self.to_dict()}

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def coefficients(self, kind: str) -> Coefficients:
        return self.dynamic if kind == "dynamic" else self.total


def loihi2_range() -> EnergyRange:
    """From the measurements that are shipped; a further file joins them."""
    points = [(m, run) for m in load_measurements("loihi2") if m.unusable is None for run in m.runs]
    networks = tuple(dict.fromkeys(m.title for m, _ in points))
    per_synop = [1e6 * _measured(run, "dynamic") / _synops(m, run) for m, run in points]
    updates = [m.quantities(run)[0]["neuron_updates"] for m, run in points]
    return EnergyRange(
        title=TITLE,
        kind=f"estimated: counted operations x a range derived from {len(points)} published measurements of {len(networks)} other networks",
        source="; ".join(dict.fromkeys(m.source for m, _ in points)),
        includes="everything the chip did, charged to effective SynOps (neuron updates, spikes and input with them) and to time steps",
        excludes="host; total adds the chip's static power over the time those networks took",
        networks=networks, n_measurements=len(points),
        dynamic=_coefficients(points, "dynamic"), total=_coefficients(points, "total"),
        update_pj_at_most=min(1e6 * _measured(run, "dynamic") / n for (_, run), n in zip(points, updates, strict=True)),
        one_synop_pj=(min(per_synop), max(per_synop)), left_out=tuple(_leave_out(points)),
    )  # fmt: skip


def _measured(run: Run, kind: Kind) -> float:
    value = run.dynamic_uj if kind == "dynamic" else run.total_uj
    assert value is not None, f"{run.name}: a measurement of a range has both energies"
    return value


def _synops(m: Measurement, run: Run) -> float:
    low, high = (q["effective_synops"] for q in m.quantities(run))
    assert low == high > 0, f"{m.key}: its operations are known"
    return low


def _coefficients(points: list[Point], kind: Kind) -> Coefficients:
    small = [1000 * _measured(run, kind) / m.steps_of(run) for m, run in points if m.role == "step"]
    step = (min(small), max(small)) if small else None
    low_step, high_step = step or (0.0, 0.0)
    large = [(m, run) for m, run in points if m.role == "operations"]
    low = [(1e6 * _measured(run, kind) - 1000 * high_step * m.steps_of(run)) / _synops(m, run) for m, run in large]
    high = [(1e6 * _measured(run, kind) - 1000 * low_step * m.steps_of(run)) / _synops(m, run) for m, run in large]
    return Coefficients((min(low), max(high)) if large else None, step)


def _leave_out(points: list[Point]) -> Iterable[LeftOut]:
    for m, run in points:
        yield _predicted("run", m, run, [(o, r) for o, r in points if r is not run])
    for m, run in points:
        yield _predicted("network", m, run, [(o, r) for o, r in points if o is not m])


def _predicted(kind: Literal["run", "network"], m: Measurement, run: Run, others: list[Point]) -> LeftOut:
    found = _coefficients(others, "dynamic").predict_nj(_synops(m, run), m.steps_of(run))
    measured = _measured(run, "dynamic")
    if found is None:
        return LeftOut(kind, m.title, run.name, measured, None, None)
    low, high = (nj / 1000 for nj in found)
    return LeftOut(kind, m.title, run.name, measured, (low, high), math.sqrt(low * high) / measured)
