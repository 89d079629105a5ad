"""Interval analysis: the ends are reached by some input and never passed, and what is not proven is refused or counted."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engines import run_engines
from small_graphs import CASES, chain_of, random_spikes

from taaf.deploy.backends.base import BackendResult
from taaf.deploy.report import _saturation
from taaf.export.intervals import analyse
from taaf.export.limits import check_limits
from taaf.hw_sim import intervals
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.engines.event import kernels
from taaf.hw_sim.intervals import UV_LIMIT, lif_ranges
from taaf.hw_sim.reference import run_reference
from taaf.models.errors import LimitExceededError
from taaf.models.ir import Conv2d, Dense, Graph, Input, Lif, RecurrentDense

FIRST = [name for name in CASES if name.startswith(("conv", "depthwise", "current_memory")) or name == "dense"]


def _extreme_input(graph: Graph, neuron: int, sign: int, steps: int) -> np.ndarray:
    """The input under which a neuron of the first layer gets only excitation (+1) or only inhibition (-1)."""
    size = int(np.prod(graph.input.shape))
    single = np.eye(size, dtype=np.uint8).reshape(size, *graph.input.shape, 1)
    quiet = graph.rebuilt({"lif": replace(graph.nodes["lif"], bias=None)})  # type: ignore[type-var]
    effect = np.array([run_reference(quiet, one).u["lif"].reshape(-1)[neuron] for one in single])
    return np.repeat((sign * effect > 0).astype(np.uint8).reshape(*graph.input.shape, 1), steps, -1)


def _assert_ends_are_reached(graph: Graph, neuron: int, steps: int) -> None:
    """u reaches both ends exactly; so does v, where no reset comes between."""
    ranges = lif_ranges(graph, graph.lifs()[0], steps)
    for sign, end in ((1, "high"), (-1, "low")):
        trace = run_reference(graph, _extreme_input(graph, neuron, sign, steps))
        found = {name: getattr(trace, name)["lif"].reshape(-1, steps)[neuron] for name in "uv"}
        pick = max if sign > 0 else min
        assert pick(found["u"]) == getattr(ranges.u, end).reshape(-1)[neuron], f"u {end}"
        if not trace.spikes["lif"].reshape(-1, steps)[neuron].any():
            assert pick(found["v"]) == getattr(ranges.v, end).reshape(-1)[neuron], f"v {end}"


@pytest.mark.parametrize("case", FIRST)
def test_ends_are_reached(case: str) -> None:
    """Exact per neuron, at borders, with strides, groups and dilation, for inputs that exist."""
    rng = np.random.default_rng(1)
    graph = CASES[case](rng)
    high_threshold = replace(graph.nodes["lif"], v_th_mant=131_071, v_decay=377)  # type: ignore[type-var]
    for g in (graph, graph.rebuilt({"lif": high_threshold})):
        for neuron in rng.integers(0, int(np.prod(g.shapes["lif"])), 3):
            _assert_ends_are_reached(g, int(neuron), steps=7)


_end, _fixed_point, _decayed = intervals._end, intervals._least_fixed_point, intervals._decayed
FAULTS: dict[str, tuple[str, Callable]] = {
    "one weight step less": ("_end", lambda node, shape, which: _end(node, shape, which) - 2 * np.sign(_end(node, shape, which))),
    "padding counts": ("_end", lambda node, inside, which: _end(node, [np.ones_like(m) for m in inside], which)),
    "rounds down": ("_decayed", lambda x, decay: x * (4096 - decay) >> 12),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_bounds_are_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above fails for bounds that are too low as well as for bounds that are too high."""
    graph = CASES["conv"](np.random.default_rng(1))
    graph = graph.rebuilt({"lif": Lif("lif", 1023, 377, 131_071)})
    corner = 0
    _assert_ends_are_reached(graph, corner, steps=7)
    monkeypatch.setattr(intervals, *FAULTS[fault])
    with pytest.raises(AssertionError, match="low|high"):
        _assert_ends_are_reached(graph, corner, steps=7)


@pytest.mark.parametrize("decay", [1, 3, 100, 377, 2048, 4095, 4096])
def test_least_fixed_point_is_the_limit_of_the_recurrence(decay: int) -> None:
    """m <- floor(m k / 4096) + d from 0 stops exactly there, for small and large d; nothing else is as tight."""
    d = np.array([0, 1, 2, 63, 64, 1000, 12_345, 5_000_000])
    m = found = intervals._least_fixed_point(d, np.array(decay))
    np.testing.assert_array_equal((m * (4096 - decay) >> 12) + d, m)
    below = np.maximum(m - 1, 0)
    assert ((below * (4096 - decay) >> 12) + d >= m).all()  # so the recurrence comes from below and cannot stop earlier
    m = np.zeros_like(d)
    if decay >= 100:
        for _ in range(2000):
            m = (m * (4096 - decay) >> 12) + d
        np.testing.assert_array_equal(m, found)


def test_recurrent_weights_count() -> None:
    """The layer's own spikes add to the sum."""
    layer = RecurrentDense("d", np.array([[4, -2]]), None, np.array([[-10]]))
    (row,) = analyse(chain_of(Input("in", (2,)), layer, Lif("lif")))
    assert row.sum == (-12, 4)


def _inhibited(v_decay: int = 0, n: int = 8) -> Graph:
    weight = np.full((2, n), -254, np.int32)
    weight[0] = 2
    return chain_of(Input("in", (n,)), Dense("d", weight), Lif("lif", 4096, v_decay, 100_000))


def test_window_length_decides_for_layers_without_leak() -> None:
    """Accepted exactly up to the longest window in which nothing can clip: one step more and it does happen."""
    graph = _inhibited()
    longest = (UV_LIMIT - 1) // (8 * 254 * 64)
    check_limits(graph, window_steps=longest)
    with pytest.raises(LimitExceededError, match=rf"net\.lif: v could reach -\S+ within {longest + 1} steps in 1 of 2 neurons"):
        check_limits(graph, window_steps=longest + 1)
    with pytest.raises(
        LimitExceededError, match=r"net\.lif: v could reach -infinity and \S+ in 2 of 2 neurons|-infinity in 1 of"
    ):
        check_limits(graph)
    check_limits(graph, window_steps=longest + 1, allow_saturation=True)
    for steps, clips in ((longest, 0), (longest + 1, 1)):
        spikes = np.ones((1, 8, steps), np.uint8)
        assert run_reference(graph, spikes[0]).clips["lif"] == clips
        assert run_engines(graph, spikes, False).activity.clips.get("lif", 0) == clips


def test_sums_that_one_wrap_does_not_bring_back_are_never_allowed() -> None:
    """Lava wraps once; beyond 3 x 2^23 u would stay outside 24 bits, which no chip holds."""
    graph = chain_of(Input("in", (1600,)), Dense("d", np.full((1, 1600), 254, np.int32)), Lif("lif", v_th_mant=9))
    with pytest.raises(LimitExceededError, match=r"net\.lif: sums 0\.\.406400 can pass 24 bits more than once"):
        check_limits(graph, window_steps=2, allow_saturation=True)


def test_other_limits_stay_with_saturation_allowed() -> None:
    """--allow-saturation is about u and v only."""
    graph = chain_of(Input("in", (1,)), Dense("d", np.array([[301]], np.int32)), Lif("lif", bias=np.array([5000])))
    with pytest.raises(LimitExceededError, match=r"weights 301..301 .* 1 odd weights .* bias 5000..5000"):
        check_limits(graph, allow_saturation=True)


@pytest.mark.parametrize(("i_decay", "v_decay"), [(4096, 10), (100, 4096), (3, 3), (4096, 2048)])
def test_events_are_counted(i_decay: int, v_decay: int) -> None:
    """Engine = reference, in number of wraps and clips, over all windows and chunks; some do happen."""
    rng = np.random.default_rng(1)
    weight = (2 * rng.integers(100, 128, (4, 700))).astype(np.int32)
    weight[2:] *= -1
    graph = chain_of(Input("in", (700,)), Dense("d", weight), Lif("lif", i_decay, v_decay, 100_000))
    spikes = random_spikes(rng, graph, n_windows=5, steps=12, rate=0.9)
    traces = [run_reference(graph, window) for window in spikes]
    found = run_engines(graph, spikes, False, chunk=2).activity
    for kind in ("wraps", "clips"):
        total = sum(getattr(t, kind)["lif"] for t in traces)
        assert getattr(found, kind).get("lif", 0) == total
    assert found.wraps or found.clips


def test_nothing_is_counted_where_nothing_can_happen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engines do not even look: with counting made impossible a proven layer runs, an unproven one does not."""
    graph = _inhibited()

    def forbidden(*_: object) -> None:
        raise RuntimeError("counted")

    monkeypatch.setattr(torch, "count_nonzero", forbidden)
    monkeypatch.setattr(kernels, "lif32", forbidden)
    for kind in ("event", "torch"):
        Engine(graph, kind=kind).run(np.ones((1, 8, 5), np.uint8))  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="counted"):
            Engine(graph, kind=kind).run(np.ones((1, 8, 200), np.uint8))  # type: ignore[arg-type]


def test_deployment_reports_events_per_layer() -> None:
    """From the engine's own run, and from the engine on the same input where Lava ran."""
    from taaf.export.bundle.reader import Bundle

    graph = Graph("event", _inhibited().nodes.values(), _inhibited().edges)
    steps = 80
    spikes = {"event": np.ones((3, 8, steps - 2), np.uint8)}
    bundle = Bundle(None, {"window_steps": steps, "allow_saturation": True}, {"event": graph}, None, {})  # type: ignore[arg-type]
    run = Engine(graph).run(np.concatenate([spikes["event"], np.zeros((3, 8, 2), np.uint8)], -1), keep_all=True)
    expected = 3 * (steps - 2 - (UV_LIMIT - 1) // (8 * 254 * 64))
    for layers in ({}, {"event": run.spikes}):
        result = BackendResult({}, {}, {"event": run.activity}, layers, steps, 0.0)
        (row,) = _saturation(bundle, result, spikes)["layers"]
        assert (row["layer"], row["wraps"], row["clips"]) == ("event.lif", 0, expected)
    proven = SimpleNamespace(unproven_layers=list)
    assert _saturation(proven, result, spikes) == {"proven": True, "layers": []}  # type: ignore[arg-type]


def test_convolution_borders_by_hand() -> None:
    """A 3x3 kernel of twos over a padded 2x2 map: corners see four taps, a wider padding none."""
    conv = Conv2d("c", np.full((1, 1, 3, 3), 2, np.int32), padding=(1, 2))
    graph = chain_of(Input("in", (1, 2, 2)), conv, Lif("lif"))
    np.testing.assert_array_equal(lif_ranges(graph, graph.lifs()[0]).a.high[0], [[4, 8, 8, 4], [4, 8, 8, 4]])
