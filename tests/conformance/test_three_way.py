"""Every layer type: integer reference = fast engine = Lava runtime, every spike of every layer, windows back to back."""

from collections.abc import Callable

import numpy as np
import pytest
from engines import run_engines
from on_lava import run_on_lava
from small_graphs import CASES, ONE_WINDOW, random_spikes, residual

from taaf.export.limits import check_limits
from taaf.export.passes import CompileReport, to_chain
from taaf.hw_sim.reference import run_reference
from taaf.models.errors import LimitExceededError
from taaf.models.ir import Dense, Graph, Input, Lif

Run = Callable[[Graph, np.ndarray], dict[str, np.ndarray]]


def run_on_engine(graph: Graph, spikes: np.ndarray) -> dict[str, np.ndarray]:
    """Spikes of every LIF from the engine, of both kinds."""
    return run_engines(graph, spikes).spikes


RUNS = [run_on_engine, pytest.param(run_on_lava, marks=pytest.mark.needs_lava)]


def reference(graph: Graph, spikes: np.ndarray) -> dict[str, np.ndarray]:
    """Spikes of every LIF from the step-by-step reference."""
    traces = [run_reference(graph, window).spikes for window in spikes]
    return {lif.name: np.stack([t[lif.name] for t in traces]) for lif in graph.lifs()}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(4))
def test_engine_equals_reference(case: str, seed: int) -> None:
    """Both engines and the integer reference agree; the layers are neither silent nor saturated."""
    rng = np.random.default_rng(seed)
    graph = CASES[case](rng)
    check_limits(graph, pipelined=case not in ONE_WINDOW, state=not case.startswith("decays"))
    spikes = random_spikes(rng, graph, n_windows=5, steps=9)
    exact, fast = reference(graph, spikes), run_engines(graph, spikes, chunk=2).spikes
    for name, expected in exact.items():
        assert 0.005 < expected.mean() < 0.95, f"{name} fires at {expected.mean():.3f}: the case tests nothing"
        np.testing.assert_array_equal(fast[name], expected, err_msg=name)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.needs_lava
def test_lava_equals_reference(case: str) -> None:
    """Stock NetX on the Lava runtime gives the same spikes, five windows without a gap."""
    rng = np.random.default_rng(99)
    graph = CASES[case](rng)
    spikes = random_spikes(rng, graph, n_windows=1 if case in ONE_WINDOW else 5, steps=9)
    exact, lava = reference(graph, spikes), run_on_lava(graph, spikes)
    for name, expected in exact.items():
        np.testing.assert_array_equal(lava[name], expected, err_msg=name)


@pytest.mark.needs_lava
@pytest.mark.parametrize(("case", "found"), [("dense_recurrent", "dense: recurrent"), ("delay_targets", "late: delayed")])
def test_windows_that_cannot_be_pipelined(case: str, found: str) -> None:
    """Lava carries these spikes over the reset into the next window, so a pipelined export is refused by name."""
    rng = np.random.default_rng(99)
    graph = CASES[case](rng)
    with pytest.raises(LimitExceededError, match=rf"net\.{found} spikes leak"):
        check_limits(graph)
    spikes = random_spikes(rng, graph, n_windows=5, steps=9)
    exact, lava = reference(graph, spikes)["lif"], run_on_lava(graph, spikes)["lif"]
    np.testing.assert_array_equal(lava[0], exact[0])
    assert (lava[1:] != exact[1:]).any(), "Lava no longer leaks: the refusal can go"


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_residual_lowering_keeps_every_spike(stride: int, seed: int) -> None:
    """Before and after relay lowering: same spikes; relays repeat exactly what the shortcut reads."""
    rng = np.random.default_rng(seed)
    before = residual(rng, stride)
    report = CompileReport()
    after = to_chain(before, report)
    spikes = random_spikes(rng, before, n_windows=3, steps=8)
    old, new = reference(before, spikes), reference(after, spikes)
    assert report.relays_of(after) == {"h": 2}  # channel 1 of x is not read, so it gets no relay
    for name in ("x", "y"):
        np.testing.assert_array_equal(new[name], old[name])
    np.testing.assert_array_equal(new["h"][:, :5], old["h"])
    np.testing.assert_array_equal(new["h"][:, 5:], old["x"][:, [0, 2], ::stride, ::stride])


@pytest.mark.parametrize("run", RUNS)
def test_sums_beyond_16_bits(run: Run) -> None:
    """A synaptic sum above 32 767 is not cut: engine, reference and Lava agree."""
    n = 400
    weight = np.full((2, n), 254, np.int32)
    weight[1] = -254
    weight[1, :20] = 254
    graph = Graph("net", [Input("input", (n,)), Dense("dense", weight), Lif("lif", v_th_mant=40_000)],
                  [("input", "dense"), ("dense", "lif")])  # fmt: skip
    spikes = random_spikes(np.random.default_rng(0), graph, n_windows=3, steps=6, rate=0.6)
    exact = reference(graph, spikes)
    assert exact["lif"][:, 0].any()
    np.testing.assert_array_equal(run(graph, spikes)["lif"], exact["lif"])


@pytest.mark.parametrize(("i_decay", "v_decay"), [(4096, 10), (100, 4096), (3, 3), (4096, 2048)])
@pytest.mark.parametrize("run", RUNS)
def test_wrap_and_clip_of_24_bits(run: Run, i_decay: int, v_decay: int) -> None:
    """Where u wraps and v clips, the engine does what the reference (Lava's arithmetic) does, and Lava too."""
    n = 700
    rng = np.random.default_rng(1)
    weight = (2 * rng.integers(100, 128, (4, n))).astype(np.int32)
    weight[2:] *= -1
    graph = Graph("net", [Input("input", (n,)), Dense("dense", weight), Lif("lif", i_decay, v_decay, 100_000)],
                  [("input", "dense"), ("dense", "lif")])  # fmt: skip
    spikes = random_spikes(rng, graph, n_windows=2, steps=12, rate=0.9)
    np.testing.assert_array_equal(run(graph, spikes)["lif"], reference(graph, spikes)["lif"])
