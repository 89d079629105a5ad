"""Readings of an energy figure: the same counted work under conventions that differ in what is charged as what.

Energy of one window is linear in a few quantities,

    E = sum over terms of quantity x picojoule,

and each quantity is either fixed by the architecture (multiply-accumulates, neuron updates) or grows with the firing rate r
(synaptic operations ``r x MACs``, spikes ``r x updates``). Hence the rate at which a given figure would be met:

    r = (figure - fixed) / slope.

Constants come from ``chips/*.toml``, with their sources. There is no Loihi 2 reading: no official energy per operation exists.
"""

import math
from dataclasses import dataclass
from typing import Any

from taaf.hw_sim.energy import load_chip
from taaf.hw_sim.mapper.workload import Workload, paper_network
from taaf.models.errors import ConfigError

RATES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
STEPS = (1, 2, 3, 4, 6, 8)
RESOLUTIONS = (0.5, 0.75, 1.0, 1.25, 1.5)
_NJ = 1e-3  # per pJ


@dataclass(frozen=True)
class Reading:
    """One way to charge the work.

    Attributes
    ----------
    chip : str
        File of the constants.
    dense : tuple of str
        Roles charged as dense multiply-accumulates in every pass; "first" only where the input is real-valued.
    outside : tuple of str
        Roles that are not charged (done elsewhere); "first" only where the input is real-valued.
    neurons : bool
        Whether neuron updates and spike messages are charged, too.
    """

    key: str
    title: str
    says: str
    chip: str
    dense: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    neurons: bool = False


def readings() -> tuple[Reading, ...]:
    """All of them; the first is ours."""
    binary = (
        "first layer of a real-valued input as MACs, everything behind it as accumulates per spike (our network: binary spikes)"
    )
    sew = "SEW-style: sums of spikes are no longer binary, so layers that read a block's output are charged as dense MACs"
    return (
        Reading("fp32_binary", "45 nm FP32, binary spikes", binary, "cmos45_fp32", ("first",)),
        Reading("fp32_sew", "45 nm FP32, SEW adds as MACs", f"{sew}, the first layer too", "cmos45_fp32", ("first", "join")),
        Reading(
            "fp32_sew_body", "45 nm FP32, SEW adds as MACs, without first layer",
            f"{sew}; the first layer counts as encoder and is left out", "cmos45_fp32", ("join",), ("first",),
        ),
        Reading("int8_binary", "45 nm INT8, binary spikes", binary, "cmos45_int8", ("first",)),
        Reading("int8_sew", "45 nm INT8, SEW adds as MACs", f"{sew}, the first layer too", "cmos45_int8", ("first", "join")),
        Reading(
            "loihi1_synapses", "Loihi 1, synapses only",
            "every spike through a synapse is a synaptic operation; a real-valued first layer is on the host", "loihi1_davies2018",
            (), ("first",),
        ),
        Reading(
            "loihi1", "Loihi 1, synapses, neurons, spikes",
            "and every neuron update (as active) and one spike message per spike", "loihi1_davies2018", (), ("first",), True,
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class Constants:
    """Picojoule per operation of a chip file."""

    synop: float
    mac: float | None
    update: float
    spike: float
    source: str

    @staticmethod
    def of(chip: str) -> "Constants":
        data = load_chip(chip)
        pj = {t["quantity"]: t["pj"] for t in data["term"]}
        return Constants(
            pj["effective_synops"], data.get("ann_mac_pj"), pj.get("neuron_updates", 0.0), pj.get("spikes", 0.0), data["source"]
        )


def _split(reading: Reading, work: Workload) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Roles charged dense, and per spike."""
    spiking_first = not work.real_input
    dense = tuple(r for r in reading.dense if not (r == "first" and spiking_first))
    outside = () if spiking_first else reading.outside
    events = tuple(r for r in ("first", "join", "binary", "extra") if r not in (*dense, *outside))
    return dense, events


def terms(reading: Reading, work: Workload, rate: float | None = None) -> dict[str, tuple[float, float]]:
    """What is charged: name -> (operations per window, nJ).

    Parameters
    ----------
    rate : float or None
        Mean input rate of everything that reads spikes, 0..1 (then nothing needs to have run; "extra" costs nothing), or
        None for the counted spikes.
    """
    c = Constants.of(reading.chip)
    dense, events = _split(reading, work)
    macs = work.macs(*dense) if dense else 0
    synops = work.synops(*events) if rate is None else rate * work.macs(*events)
    found = {"MAC": (float(macs), macs * (c.mac or 0.0) * _NJ), "SynOp": (synops, synops * c.synop * _NJ)}
    if reading.neurons:
        spikes = (work.spikes or 0.0) if rate is None else rate * work.updates
        found["neuron update"] = (float(work.updates), work.updates * c.update * _NJ)
        found["spike"] = (spikes, spikes * c.spike * _NJ)
    return found


def energy_nj(reading: Reading, work: Workload, rate: float | None = None) -> float:
    """Sum of `terms`."""
    return math.fsum(nj for _, nj in terms(reading, work, rate).values())


def rate_for(reading: Reading, work: Workload, figure_nj: float) -> float | None:
    """Rate at which ``figure_nj`` would be met; may be above 1 (impossible with binary spikes), None if it is below 0."""
    fixed = energy_nj(reading, work, 0.0)
    slope = energy_nj(reading, work, 1.0) - fixed
    rate = (figure_nj - fixed) / slope
    return rate if rate >= 0 else None


def ann_nj(work: Workload, chip: str = "cmos45_fp32", elementwise: bool = False) -> float:
    """The ANN twin: all multiply-accumulates of all passes, with the profilers' elementwise operations or without."""
    mac = Constants.of(chip).mac
    if mac is None:
        raise ConfigError(f"{chip}: has no energy of a multiply-accumulate (ann_mac_pj); allowed a chip that does")
    return (work.macs() + (work.passes * work.elementwise if elementwise else 0)) * mac * _NJ


def closest(energies_nj: dict[str, float], figure_nj: float) -> str:
    """Key whose energy has the smallest ratio to the figure, either way."""
    return min(energies_nj, key=lambda k: abs(math.log(energies_nj[k] / figure_nj)) if energies_nj[k] > 0 else math.inf)


def sweep(rate: float, steps: int = 3, pool: str = "max") -> dict[str, list[dict[str, Any]]]:
    """Energies of the paper's architecture in nJ: over the firing rate, over T, over the resolution; the others fixed."""

    def point(at: float, value: float, work: Workload) -> dict[str, Any]:
        found = {r.key: energy_nj(r, work, at) for r in readings()}
        return {"value": value, "macs": work.macs(), "ann_nj": ann_nj(work), "energy_nj": found}

    whole = paper_network(steps, pool=pool)
    return {
        "rate": [point(r, r, whole) for r in RATES],
        "steps": [point(rate, t, paper_network(t, pool=pool)) for t in STEPS],
        "resolution": [point(rate, s, paper_network(steps, s, pool)) for s in RESOLUTIONS],
    }


def study(measured: Workload, figures: dict[str, Any]) -> dict[str, Any]:
    """Everything `taaf-deploy --energy-study` says, as plain data.

    Parameters
    ----------
    measured : Workload
        Of a network that ran, with counted SynOps and spikes.
    figures : dict
        ``chips/taaf_paper.toml``: the cited energies.
    """
    paper = paper_network()
    unit = {"mJ": 1e6}[figures["unit"]]
    cited, cited_ann = figures["snn"] * unit, figures["ann"] * unit
    rows: list[dict[str, Any]] = []
    for r in readings():
        ours = energy_nj(r, measured)
        ceiling = energy_nj(r, paper, 1.0)
        met = rate_for(r, paper, cited)
        rows.append(
            {
                "key": r.key, "title": r.title, "says": r.says, "source": Constants.of(r.chip).source,
                "measured": {"terms": _named(terms(r, measured)), "energy_nj": ours},
                "paper_network": {
                    "terms": _named(terms(r, paper, measured.rate)), "energy_nj": energy_nj(r, paper, measured.rate),
                    "floor_nj": energy_nj(r, paper, 0.0), "ceiling_nj": ceiling, "rate_for_cited": met,
                    "reachable": met is not None and met <= 1,
                },
            }
        )  # fmt: skip
    at_rate = {row["key"]: row["paper_network"]["energy_nj"] for row in rows}
    mac_pj = Constants.of("cmos45_fp32").mac
    return {
        "network": measured.name, "rate": measured.rate,
        "is_paper_scale": measured.real_input and of_papers_size(measured.macs()),
        "split": {
            "macs": {role: measured.macs(role) for role in ("first", "join", "binary")},
            "synops": {role: measured.synops(role) for role in ("first", "join", "binary", "extra")},
            "real_input": measured.real_input, "updates": measured.updates, "spikes": measured.spikes,
            "parts": {b: [{"name": p.name, "role": p.role, "macs": p.macs, "synops": p.synops} for p in ps]
                      for b, ps in measured.parts.items()},
        },
        "ann_twin": {
            "macs": paper.macs(), "macs_per_pass": {b: sum(p.macs for p in ps) for b, ps in paper.parts.items()},
            "passes": paper.passes, "mac_pj": mac_pj, "energy_nj": ann_nj(paper),
            "elementwise": paper.elementwise * paper.passes, "energy_with_elementwise_nj": ann_nj(paper, elementwise=True),
            "cited_nj": cited_ann, "cited_macs": cited_ann / _NJ / (mac_pj or 1.0),
            "inferences_if_mj": cited_ann * 1e9 / ann_nj(paper), "conv_pool_macs": paper_network(pool="conv").macs(),
        },
        "cited": figures, "readings": rows, "closest": closest(at_rate, cited),
        "sweep": sweep(measured.rate), "sweep_rate": measured.rate,
    }  # fmt: skip


def _named(found: dict[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    return {name: {"operations": n, "nj": nj} for name, (n, nj) in found.items() if n}


def of_papers_size(macs: int) -> bool:
    """Whether an ANN twin needs the paper's multiply-accumulates within 15 % (the chip's pool convolves; padding may be left out)."""
    return abs(macs / paper_network().macs() - 1) < 0.15
