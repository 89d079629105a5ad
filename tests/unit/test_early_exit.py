"""Early exit: the rule, the counts of a cut window against brute force, and the limit of never stopping."""

import numpy as np
import pytest
from small_graphs import CASES

from taaf.hw_sim.counters import count, fan_out, spiking_source
from taaf.hw_sim.early_exit import StepCounts, anytime_logits, exit_steps
from taaf.hw_sim.engine import Activity, Engine
from taaf.models.ir import Graph


def test_rule_is_the_first_sure_step() -> None:
    """Softmax of the leading class >= P; a window that is never sure uses all steps and decides as usual."""
    logits = np.zeros((3, 2, 2))
    logits[0, 0] = (0.0, np.log(3))  # sure of class 1 at 0.75
    logits[1, 0] = (5.0, 0.0)
    logits[2, 1] = (1.0, 0.0)
    steps, decisions = exit_steps(logits, 0.7499)
    assert steps.tolist() == [1, 3] and decisions.tolist() == [1, 0]
    assert exit_steps(logits, 0.76)[0].tolist() == [2, 3]
    assert exit_steps(logits, 2.0)[0].tolist() == [3, 3] and exit_steps(logits, 0.5)[0].tolist() == [1, 1]


def test_unseen_steps_are_silent_and_the_last_is_ordinary() -> None:
    """Row s equals the readout of features cut after s steps; features themselves are not touched."""
    rng = np.random.default_rng(0)
    features = {
        "event": (rng.random((4, 5, 3)) < 0.5).astype(np.uint8),
        "audio": (rng.random((4, 5, 6)) < 0.5).astype(np.uint8),
    }
    kept = {b: f.copy() for b, f in features.items()}

    def readout(f: dict[str, np.ndarray]) -> np.ndarray:
        return np.stack([f["event"].sum((1, 2)), f["audio"].sum((1, 2))], axis=1).astype(float)

    found = anytime_logits(readout, features, 6)
    for s in range(6):
        np.testing.assert_array_equal(found[s, :, 0], features["event"][..., : s + 1].sum((1, 2)))
        np.testing.assert_array_equal(found[s, :, 1], features["audio"][..., : s + 1].sum((1, 2)))
    assert all((features[b] == kept[b]).all() for b in features)


def _spikes(graph: Graph, n: int, steps: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    window = (rng.random((n, *graph.input.shape, steps)) < 0.3).astype(np.uint8)
    return {**Engine(graph).run(window, keep_all=True).spikes, graph.input.name: window}


@pytest.fixture(scope="module")
def chains() -> dict[str, Graph]:
    """A deeper and a shallower chain."""
    graphs = {name: build(np.random.default_rng(0)) for name, build in CASES.items()}
    by_depth = sorted((g for n, g in graphs.items() if "recurrent" not in n), key=lambda g: len(g.lifs()))
    return {"deep": by_depth[-1], "flat": by_depth[0]}


def test_counts_of_cut_windows_equal_brute_force(chains: dict[str, Graph]) -> None:
    """Layer l of a window stopped at s executed min(W, s + depth - l) steps and received one more; spikes counted one by one."""
    n, w = 5, 9
    spikes = {b: _spikes(g, n, w) for b, g in chains.items()}
    depth = max(len(g.lifs()) for g in chains.values())
    assert depth > min(len(g.lifs()) for g in chains.values())
    steps = np.array([1, 2, 4, 8, 9])
    found = iter(StepCounts(chains, spikes).until(steps))
    for b, graph in chains.items():
        for position, lif in enumerate(graph.lifs(), start=1):
            (node,) = graph.synapses_of(lif.name)
            (source,) = graph.sources(node.name)
            fan = fan_out(node, graph.shapes[source], nonzero_only=True)
            given = spikes[b][spiking_source(graph, source)]
            counts = next(found)
            synops = sent = updates = 0
            for i in range(n):
                ran = min(w, steps[i] + depth - position)
                synops += int((given[i, ..., : min(w, ran + 1)].sum(-1).reshape(fan.shape) * fan).sum())
                sent += int(spikes[b][lif.name][i, ..., :ran].sum())
                updates += ran * int(np.prod(graph.shapes[lif.name]))
            assert (counts.effective_synops, counts.spikes_out, counts.neuron_updates) == (synops, sent, updates)


def test_never_stopping_is_the_full_count(chains: dict[str, Graph]) -> None:
    """All steps used: exactly what `count` gives."""
    spikes = {b: _spikes(g, 4, 7) for b, g in chains.items()}
    expected = []
    for b, graph in chains.items():
        activity = Activity(4, 7)
        for name, values in spikes[b].items():
            activity.add(name, values.sum(axis=(0, -1), dtype=np.int64))
        expected += count(graph, activity)
    assert StepCounts(chains, spikes).until(np.full(4, 7)) == expected
