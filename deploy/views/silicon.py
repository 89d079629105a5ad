"""`taaf-deploy --check-estimates`: published measurements, our estimates beside them, and the range derived for Loihi 2."""

from collections.abc import Iterable
from typing import Any

from taaf.hw_sim.energy import CONVENTIONS, load_chip
from taaf.hw_sim.measurements.checks import Check, check_estimates
from taaf.hw_sim.measurements.loihi2_range import Coefficients, EnergyRange, LeftOut, loihi2_range

SCHEMA_VERSION = 1
CHIPS = {"loihi1": "Loihi 1", "loihi2": "Loihi 2"}
_SHORT = {"loihi1_davies2018": "Davies", "loihi1_sanafe": "SANA-FE", "cmos45_fp32": "45nm FP32", "cmos45_int8": "45nm INT8"}


def silicon_report() -> dict[str, Any]:
    """Plain data: ``schema_version`` 1, ``kind`` "silicon", ``checks`` (one per run) and ``loihi2_range``."""
    return {
        "schema_version": SCHEMA_VERSION, "kind": "silicon", "conventions": {n: load_chip(n)["title"] for n in CONVENTIONS},
        "checks": [c.to_dict() for c in check_estimates()], "loihi2_range": loihi2_range().to_dict(),
    }  # fmt: skip


def render_silicon() -> str:
    """The same as text."""
    checks = check_estimates()
    return "\n\n".join([_energies(checks), _times(checks), _range(loihi2_range()), _sources(checks)])


def _energies(checks: list[Check]) -> str:
    networks = len({c.measurement.key for c in checks})
    lines = [
        f"Estimates against silicon: {len(checks)} published runs of {networks} networks; estimate / measured energy per inference",
        f"  {'network':26s} {'run':24s} {'measured':>18s} {'operations':>10s} "
        + " ".join(f"{_SHORT[n]:>13s}" for n in CONVENTIONS),
    ]
    for chip, name in CHIPS.items():
        lines.append(f"  measured on {name}, by the source given below")
        for c in (c for c in checks if c.measurement.chip == chip):
            m = c.measurement
            told = "-" if c.measured is None else f"{microjoule(c.measured[1])} {c.measured[0]}"
            ratios = (
                " ".join(f"{interval(c.ratio[n]):>13s}" for n in CONVENTIONS)
                if c.ratio
                else f"not comparable: {m.unusable or 'no energy measured'}"
            )
            lines.append(f"    {m.title:24s} {c.run.name:24s} {told:>18s} {m.method:>10s} {ratios}")
    lines += [
        "  Estimates: published constants x operations (counted by our engine, or bounded by the published architecture: then from",
        "  lowest to highest). They leave out static power, embedded processors and host; 45 nm figures are of no chip at all.",
    ]
    return "\n".join(lines)


def _times(checks: list[Check]) -> str:
    lines = ["Time of a step: busiest core (published cores per layer, loads divided evenly) and barrier / measured time"]
    for c in checks:
        if not c.step:
            continue
        lines.append(f"  {c.measurement.title}, {c.run.name}: measured {c.run.step_us:.4g} us per step")
        for s in c.step:
            told = ""
            if s.estimated_us is not None and s.ratio is not None:
                told = f"{_SHORT[s.convention]:8s} {interval(s.estimated_us)} us, ratio {interval(s.ratio)}: "
            lines.append(f"    {told}{s.arithmetic}")
    lines.append("  Not estimated: runs whose cores per layer are not published, or whose time is that of input and host.")
    return "\n".join(lines)


def _range(r: EnergyRange) -> str:
    low, high = r.one_synop_pj
    lines = [
        f"Loihi 2 as a range: derived from {r.n_measurements} published measurements of {len(r.networks)} networks "
        f"({', '.join(r.networks)}); no official energy per operation exists",
        f"  dynamic  {_coefficients(r.dynamic)}",
        f"  total    {_coefficients(r.total)}",
        f"  {r.includes}; not: {r.excludes}",
        f"  a neuron update cannot be told apart from a SynOp: at most {r.update_pj_at_most:,.0f} pJ, if SynOps cost nothing",
        f"  charged to SynOps alone, these measurements would range from {low:,.0f} to {high:,.0f} pJ (x {high / low:,.0f}): no figure",
        "  leave-one-out, dynamic energy (middle of the prediction / measured):",
    ]
    return "\n".join(lines + [f"    {_left_out(x)}" for x in r.left_out])


def _coefficients(c: Coefficients) -> str:
    assert c.pj_per_synop is not None and c.nj_per_step is not None
    return f"{interval(c.pj_per_synop)} pJ per effective SynOp + {interval(c.nj_per_step)} nJ per time step"


def _left_out(x: LeftOut) -> str:
    what = f"without {x.network}" + (f", run {x.run}" if x.left_out == "run" else f" at all, its run {x.run}")
    if x.predicted_uj is None or x.factor is None:
        return f"{what}: measured {microjoule(x.measured_uj)}; no other network tells what a SynOp costs"
    low, high = (microjoule(v) for v in x.predicted_uj)
    return f"{what}: predicted {low} to {high}, measured {microjoule(x.measured_uj)}: x {x.factor:.3g}"


def _sources(checks: list[Check]) -> str:
    lines = ["Sources and conditions"]
    for m in dict.fromkeys(c.measurement for c in checks):
        lines += [f"  {m.title} ({CHIPS[m.chip]}): {m.network}; input: {m.input}", f"    measured: {m.source}"]
        if m.secondary:
            lines.append(f"    secondary source, the paper itself was not read: {m.secondary}")
        lines.append(f"    operations {m.method}: {m.how}")
        lines += [f"    {run.name}: {run.conditions}" for run in m.runs]
    return "\n".join(lines)


def interval(values: Iterable[float]) -> str:
    """One number where both ends agree to three digits."""
    low, high = (_short(v) for v in values)
    return low if low == high else f"{low}-{high}"


def _short(value: float) -> str:
    if value and abs(value) < 1e-3:
        return "<0.001"
    return f"{value:.2g}" if abs(value) < 1 else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def microjoule(value: float) -> str:
    """Microjoule with a unit that suits it."""
    for factor, unit in ((1e3, "mJ"), (1.0, "uJ"), (1e-3, "nJ")):
        if abs(value) >= factor:
            return f"{value / factor:.4g} {unit}"
    return f"{value * 1e6:.3g} pJ"
