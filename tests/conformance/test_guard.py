"""Guard steps isolate the windows of recurrent and delayed chains, on Lava too, where without them they leak."""

from collections.abc import Callable

import numpy as np
import pytest
from on_lava import run_on_lava
from small_graphs import chain_of, random_spikes, weights

from taaf.export.passes import with_guard
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.reference import run_reference
from taaf.models.errors import LimitExceededError
from taaf.models.ir import Conv2d, Dense, Flatten, Graph, Input, Lif, Node, RecurrentDense


def _bias(rng: np.random.Generator, n: int, high: int = 20) -> np.ndarray:
    return rng.integers(-10, high, n).astype(np.int32)


def _recurrent(rng: np.random.Generator, name: str, n_in: int, n: int, limit: int = 120) -> list[Node]:
    return [RecurrentDense(name, weights(rng, n, n_in, limit=limit), None, weights(rng, n, n, limit=limit))]


def recurrent(rng: np.random.Generator) -> Graph:
    """The paper's audio SNN in small: dense, recurrent, readout; biases make neurons fire without input."""
    nodes = [Input("input", (15,)), Dense("a", weights(rng, 12, 15)), Lif("a_lif", bias=_bias(rng, 12))]
    nodes += [*_recurrent(rng, "rec", 12, 10), Lif("rec_lif", v_decay=300, bias=_bias(rng, 10))]
    return chain_of(*nodes, Dense("out", weights(rng, 5, 10)), Lif("out_lif", bias=_bias(rng, 5)))


def behind_maps(rng: np.random.Generator) -> Graph:
    """Two recurrent layers behind convolutions with strides; current memory in one, in the other biases that fire by themselves."""
    nodes = [Input("input", (2, 6, 7)), Conv2d("c", weights(rng, 3, 2, 3, 3), (2, 2), (1, 1)), Lif("c_lif", v_th_mant=30)]
    nodes += [Conv2d("d", weights(rng, 4, 3, 2, 2)), Lif("d_lif", v_th_mant=30, bias=_bias(rng, 4)), Flatten("flat")]
    nodes += [*_recurrent(rng, "rec1", 24, 8), Lif("rec1_lif", 3000, 2048, 60)]
    return chain_of(*nodes, *_recurrent(rng, "rec2", 8, 6), Lif("rec2_lif", bias=_bias(rng, 6, 90)))


def delayed(rng: np.random.Generator) -> Graph:
    """A recurrent layer whose spikes are delayed by up to 4 steps, and a delayed one from the input."""
    first = Dense("late", weights(rng, 8, 12), delay=rng.integers(0, 3, (8, 12)).astype(np.int32))
    second = Dense("later", weights(rng, 5, 8), delay=rng.integers(0, 5, (5, 8)).astype(np.int32))
    nodes = [Input("input", (12,)), first, Lif("late_lif"), *_recurrent(rng, "rec", 8, 8), Lif("rec_lif", v_decay=500)]
    return chain_of(*nodes, second, Lif("out_lif", v_decay=1000))


def self_firing(rng: np.random.Generator) -> Graph:
    """Biases above the threshold: neurons of the recurrence fire in every step, while the pipeline fills, too."""
    nodes = [Input("input", (15,)), *_recurrent(rng, "rec", 15, 10)]
    nodes += [Lif("rec_lif", v_decay=4096, bias=_bias(rng, 10) + np.arange(10, dtype=np.int32) % 2 * 90)]
    return chain_of(*nodes, Dense("out", weights(rng, 5, 10)), Lif("out_lif", bias=_bias(rng, 5)))


CASES: dict[str, tuple[Callable[[np.random.Generator], Graph], int]] = {
    "recurrent": (recurrent, 1), "self_firing": (self_firing, 1), "behind_maps": (behind_maps, 1), "delayed": (delayed, 4),
}  # fmt: skip


def _exact(graph: Graph, spikes: np.ndarray) -> dict[str, np.ndarray]:
    traces = [run_reference(graph, window).spikes for window in spikes]
    found = {lif.name: np.stack([t[lif.name] for t in traces]) for lif in graph.lifs()}
    assert all(0.02 < x.mean() < 0.95 for x in found.values()), {n: x.mean() for n, x in found.items()}
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(4))
def test_guarded_windows_are_those_before(case: str, seed: int) -> None:
    """Same spikes in the window, and none of what is silenced in the guard steps, whatever the input."""
    rng = np.random.default_rng(seed)
    build, steps = CASES[case]
    graph = build(rng)
    spikes = random_spikes(rng, graph, 6, 7, rate=0.6)
    spikes[0] = 1
    guarded = with_guard(graph, 7)
    assert guarded.guard_steps == steps and guarded.n_sync > 0 and guarded.lines
    found = Engine(guarded.chain).run(guarded.inputs(spikes), keep_all=True).spikes
    sync = np.concatenate([guarded.inputs(spikes), guarded.stream(spikes)[..., :steps]], axis=-1)
    after = Engine(guarded.chain).run(sync, keep_all=True).spikes
    for name, value in ((lif.name, found[lif.name]) for lif in graph.lifs()):
        exact = np.stack([run_reference(graph, window).spikes[name] for window in spikes])
        np.testing.assert_array_equal(value[:, : exact.shape[1]], exact, name)
        np.testing.assert_array_equal(after[name][:, : exact.shape[1], ..., :7], exact, name)
        if name.startswith("rec"):
            assert not after[name][:, : exact.shape[1], ..., 7:].any()


@pytest.mark.needs_lava
@pytest.mark.parametrize("case", CASES)
def test_lava(case: str) -> None:
    """Four windows back to back: exact with guard steps, and not without."""
    rng = np.random.default_rng(1)
    graph = CASES[case][0](rng)
    spikes = random_spikes(rng, graph, 4, 6, rate=0.5)
    exact, guarded = _exact(graph, spikes), with_guard(graph, 6)
    found = run_on_lava(guarded.chain, guarded.stream(spikes), guarded.reset_offset)
    for name, value in exact.items():
        np.testing.assert_array_equal(found[name][:, : value.shape[1], ..., guarded.guard_steps :], value, name)
    leaking = run_on_lava(graph, spikes)
    assert any((leaking[name][1:] != value[1:]).any() for name, value in exact.items())


@pytest.mark.parametrize(("lif", "n_sync"), [(Lif("l", 4096, 0, 5000, np.array([3000])), 13), (Lif("l", 100, 0, 900), 4)])
def test_neurons_at_the_edge(lif: Lif, n_sync: int) -> None:
    """A bias about to lift a neuron over its threshold, a current that stays: silenced all the same.

    Seen failing: with v_max, or u_max, left out.
    """
    layer = RecurrentDense("rec", np.array([[100]], np.int32), None, np.array([[50]], np.int32))
    guarded = with_guard(chain_of(Input("input", (1,)), layer, lif), 7)
    assert guarded.n_sync == n_sync
    window = guarded.stream(np.ones((1, 1, 7), np.uint8))
    found = Engine(guarded.chain).run(np.concatenate([window[..., 1:], window[..., :1]], axis=-1)).spikes["l"]
    assert found[..., :7].any() and not found[..., 7:].any()


def test_nothing_to_guard() -> None:
    graph = chain_of(Input("input", (3,)), Dense("a", np.full((2, 3), 40, np.int32)), Lif("l"))
    guarded = with_guard(graph, 5)
    assert guarded.chain is graph and (guarded.guard_steps, guarded.n_sync) == (0, 0)
    late = Dense("a", np.full((2, 3), 40, np.int32), delay=np.array([[3]], np.int32))
    guarded = with_guard(chain_of(Input("input", (3,)), late, Lif("l")), 5)
    assert (guarded.guard_steps, guarded.n_sync) == (3, 0)
    assert guarded.stream(np.ones((1, 3, 5), np.uint8)).sum() == 15 and guarded.reset_offset == 4


def test_refusals() -> None:
    n = 400
    strong = RecurrentDense("rec", np.full((n, 2), 100, np.int32), None, np.full((n, n), 200, np.int32))
    with pytest.raises(
        LimitExceededError, match=r"net\.l: 315 synchronisation neurons .*\(allowed 127\); run one window per run"
    ):
        with_guard(chain_of(Input("input", (2,)), strong, Lif("l")), 5)
    late = Dense("late", np.full((2, 8), 40, np.int32), delay=np.array([[3]], np.int32))
    nodes = [
        Conv2d("c", np.full((2, 1, 1, 1), 90, np.int32)),
        Lif("m", bias=np.ones(2, np.int32)),
        Flatten("f"),
        late,
        Lif("l"),
    ]
    with pytest.raises(LimitExceededError, match=r"net\.m: a map whose spikes are delayed"):
        with_guard(chain_of(Input("input", (1, 2, 2)), *nodes), 5)
