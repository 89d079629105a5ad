"""Published measurements beside our estimates: sources, arithmetic by hand, the range of Loihi 2 and its error."""

import math
from dataclasses import replace

import pytest

from taaf.hw_sim.energy import CONVENTIONS, energies_of
from taaf.hw_sim.measurements import measurement_names
from taaf.hw_sim.measurements.checks import Check, check_estimates
from taaf.hw_sim.measurements.loihi2_range import loihi2_range
from taaf.hw_sim.measurements.records import load_measurement, load_measurements
from taaf.hw_sim.measurements.step_time import step_times
from taaf.models.errors import ConfigError


@pytest.fixture(scope="module")
def checks() -> dict[tuple[str, str], Check]:
    return {(c.measurement.key, c.run.name): c for c in check_estimates()}


def test_at_least_eight_networks_on_both_chips(checks: dict[tuple[str, str], Check]) -> None:
    """Every file is read, has a source and how its operations are known, and says what was measured."""
    assert {key for key, _ in checks} == set(measurement_names()) and len(measurement_names()) >= 8
    assert {m.chip for m in load_measurements()} == {"loihi1", "loihi2"}
    for m in load_measurements():
        assert m.source and m.how and m.network and m.input and m.runs
        for run in m.runs:
            assert run.conditions and (run.measured_uj or run.step_us)
            low, high = m.quantities(run)
            assert all(low[k] <= high[k] for k in low) and low["neuron_updates"] == high["neuron_updates"] > 0
            assert m.method == "bounded" or low == high


def test_an_unknown_measurement() -> None:
    with pytest.raises(ConfigError, match=r"measurement 'x': unknown; allowed: braille, .*quartz_mnist"):
        load_measurement("x")


def test_estimate_over_measured_by_hand(checks: dict[tuple[str, str], Check]) -> None:
    """N-TIDIGITS, counted: 10.5 M SynOps, 2.45 M updates and 67 k spikes against 576 uJ; every convention is there."""
    c = checks["ntidigits", "test set"]
    synops, updates, spikes = 1184 + 291941 + 4165651 + 6057337, 3000 * (64 + 256 + 256 + 242), 1184 + 17138 + 26213 + 22572
    davies = (synops * 23.6 + updates * 81 + spikes * 1.7) / 1e6
    sanafe = (synops * 35.5 + updates * (51.2 + 21.6) + spikes * (69.3 + 111)) / 1e6
    assert set(c.ratio) == set(CONVENTIONS)
    assert c.ratio["loihi1_davies2018"] == pytest.approx((davies / 575.963,) * 2)
    assert c.ratio["loihi1_sanafe"] == pytest.approx((sanafe / 575.963,) * 2)


def test_bounds_by_hand(checks: dict[tuple[str, str], Check]) -> None:
    """Quartz: 5 410 neurons updated in every step; SynOps and spikes between none and twice per synapse and neuron."""
    c = checks["quartz_mnist", "64 steps per value"]
    updates = 331 * 5410 * 81e-6
    synops = 2 * (86400 + 3456 + 115200 + 768 + 23040 + 1200 + 4 * 5410) * 23.6e-6
    assert c.estimated_uj["loihi1_davies2018"] == pytest.approx((updates, updates + synops + 2 * 5410 * 1.7e-6))


def test_totals_and_unusable_runs(checks: dict[tuple[str, str], Check]) -> None:
    """Only a total is known of NxTF; nothing is derived from a run its authors call limited by input."""
    assert checks["nxtf_mnist", "test set"].measured == ("total", 660.0)
    for (key, _), c in checks.items():
        assert (not c.ratio) == (not c.step and key == "pilotnet_sdnn")


@pytest.mark.parametrize(
    ("convention", "core_ns", "barrier_ns"),
    [
        ("loihi1_davies2018", 242 * 8.4 + 22572 / 3000 * 2.1 + 6057337 / 3000 * 3.5, 113 + 30 / 31 * (465 - 113)),
        ("loihi1_sanafe", 26213 / 3000 * 16 + 6057337 / 3000 * 3.8, 1800),
    ],
)
def test_step_time_by_hand(checks: dict[tuple[str, str], Check], convention: str, core_ns: float, barrier_ns: float) -> None:
    """N-TIDIGITS: the core of the readout decides; 20 copies of 6 cores and one more lie behind 31 routers."""
    (step,) = (s for s in checks["ntidigits", "test set"].step if s.convention == convention)
    us = (core_ns + barrier_ns) / 1000
    assert step.estimated_us == pytest.approx((us, us)) and step.ratio == pytest.approx((us / 17.625,) * 2)
    assert "a core of layer4 (1 of 1)" in step.arithmetic and "31 routers" in step.arithmetic


def test_step_time_of_loihi_2_is_turned_around(checks: dict[tuple[str, str], Check]) -> None:
    """No time per operation is published: the busiest core of PilotNet bounds a SynOp and an update."""
    (step,) = checks["pilotnet_lif", "2023-01-10"].step
    assert step.estimated_us is None and step.ratio is None
    synops, updates = 3278203 / 3 / 16, 39600 / 13
    assert f"at most {152840 / synops:.3g} ns per SynOp" in step.arithmetic
    assert f"at most {152840 / updates:.3g} ns per neuron update" in step.arithmetic


def test_no_step_time_without_published_cores() -> None:
    """Neither where the cores are not known, nor where no time was measured."""
    m = load_measurement("keyword_spotting")
    assert not list(step_times(m, m.runs[0]))
    m = load_measurement("ntidigits")
    assert not list(step_times(m, replace(m.runs[0], step_us=None)))


def test_range_of_loihi_2_by_hand() -> None:
    """E = steps x c_step + SynOps x c_synop: c_step from the pair of neurons, c_synop from PilotNet's three runs."""
    found = loihi2_range()
    synops = 40_871_267  # PilotNet's, 16 steps
    step = (26.722, 32.583)
    assert found.dynamic.nj_per_step == pytest.approx(step)
    low, high = (562.239e6 - 16 * step[1] * 1e3) / synops, (1093.544e6 - 16 * step[0] * 1e3) / synops
    assert found.dynamic.pj_per_synop == pytest.approx((low, high))
    assert found.total.nj_per_step == pytest.approx((276.462, 282.047))
    total = (990.769e6 - 16 * 282.047e3) / synops, (1818.389e6 - 16 * 276.462e3) / synops
    assert found.total.pj_per_synop == pytest.approx(total)
    assert found.n_measurements == 6 and set(found.networks) == {"PilotNet LIF", "pair of LIF neurons"}
    assert "derived from 6 published measurements of 2 other networks" in found.kind
    assert found.one_synop_pj == pytest.approx((562.239e6 / synops, 26.722e3 / 0.025))
    report = found.of({"effective_synops": 1000.0}, steps=12)
    assert report["dynamic_nj"] == pytest.approx([12 * step[0] + low, 12 * step[1] + high])
    assert report["total_nj"] == pytest.approx([12 * 276.462 + total[0], 12 * 282.047 + total[1]])


def test_leave_one_out_by_hand() -> None:
    """A run from all others; a network from the other one, of which one alone tells nothing of a SynOp."""
    found = {(x.left_out, x.network, x.run): x for x in loihi2_range().left_out}
    assert len(found) == 12
    first = found["run", "PilotNet LIF", "2022-10-25"]
    ends = [1070.673 - 0.016 * (32.583 - 26.722), 1093.544 + 0.016 * (32.583 - 26.722)]
    assert first.predicted_uj == pytest.approx(ends) and first.factor == pytest.approx(math.sqrt(ends[0] * ends[1]) / 562.239)
    pair = found["network", "pair of LIF neurons", "100 Hz"]
    assert pair.predicted_uj == pytest.approx((0.1 * 562.239 / 40_871_267, 0.1 * 1093.544 / 40_871_267))
    assert pair.factor is not None and pair.factor < 1e-4
    assert found["network", "PilotNet LIF", "2022-10-25"].predicted_uj is None


@pytest.mark.parametrize(("run", "bias", "rate"), [("25 Hz", 417, 0.025), ("50 Hz", 470, 0.05), ("100 Hz", 640, 0.1)])
def test_rates_of_the_pair_follow_from_its_integers(run: str, bias: int, rate: float) -> None:
    """v <- v (4096 - 410) / 4096 + bias, spike and reset above 64 x 64: the stated rate at 1 ms per step."""
    v, spikes, steps = 0, 0, 4000
    for _ in range(steps):
        v = int(v * (4096 - 410) / 4096) + bias
        if v > 64 * 64:
            v, spikes = 0, spikes + 1
    (found,) = (r for r in load_measurement("lif_pair").runs if r.name == run)
    assert spikes / steps == pytest.approx(rate, rel=0.05) and found.rate == rate


def test_energies_of_operations_per_window() -> None:
    """The same conventions from plain operations as from counts."""
    found = {e.convention: e.snn_nj for e in energies_of({
        "effective_synops": 10.0, "effective_synops_conv": 4.0, "effective_synops_dense": 6.0, "neuron_updates": 3.0, "spikes": 2.0,
    })}  # fmt: skip
    assert found["loihi1_davies2018"] == pytest.approx((10 * 23.6 + 3 * 81 + 2 * 1.7) / 1000)
