"""Random graphs with joins, skips, concatenations and pools: the chain has every spike of the graph, relays those they repeat."""

from collections import Counter

import numpy as np
import pytest
from dag_strategy import Dag, dags
from engines import run_engines
from hypothesis import HealthCheck, assume, given, settings
from on_lava import run_on_lava

from taaf.export.limits import check_limits
from taaf.export.passes import CompileReport, or_pool, to_chain, with_guard
from taaf.hw_sim.reference import run_reference
from taaf.models.errors import LimitExceededError, UnsupportedLayerError
from taaf.models.ir import Dense, Graph, RecurrentDense

pytestmark = pytest.mark.usefixtures("one_thread")
N_GRAPHS, N_ON_LAVA = 150, 12
FEATURES = {
    "relays", "phases", "unrolled", "stride", "or pool", "concat", "output beside", "join of 2", "join of 3", "flat join", "recurrent",
    "delayed", "thresholds per channel",
}  # fmt: skip


def _settings(n: int) -> settings:
    return settings(max_examples=n, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def _expected(dag: Dag, graph: Graph, chain: Graph, report: CompileReport) -> dict[str, np.ndarray]:
    """Spikes of every layer of the chain, from the reference of the graph, pools as they were given."""
    before = [run_reference(graph, window).spikes for window in dag.spikes]
    for window, trace in zip(dag.spikes, before, strict=True):
        given_output = run_reference(dag.graph, window).spikes[dag.graph.output]
        np.testing.assert_array_equal(trace[graph.output], given_output)
    found = report.expected(chain, {n: np.stack([t[n] for t in before]) for n in before[0]})
    np.testing.assert_array_equal(found[chain.output], np.stack([t[graph.output] for t in before]))
    return found


def _check_guard(chain: Graph, spikes: np.ndarray, exact: dict[str, np.ndarray]) -> str:
    """With guard steps: the same windows, and behind one no spike that waits in a synapse."""
    try:
        guarded = with_guard(chain, steps := spikes.shape[-1])
    except LimitExceededError as error:
        return "no guard: " + str(error).partition(": ")[2][:20]
    stream = guarded.stream(spikes)
    late = np.concatenate([stream[..., guarded.guard_steps :], stream[..., : guarded.guard_steps]], axis=-1)
    found = run_engines(guarded.chain, late).spikes
    for lif in chain.lifs():
        own = found[lif.name][:, : chain.shapes[lif.name][0]]
        np.testing.assert_array_equal(own[..., :steps], exact[lif.name], lif.name)
        (synapse,), readers = chain.synapses_of(lif.name), [n for n in chain.nodes.values() if isinstance(n, Dense)]
        waits = isinstance(synapse, RecurrentDense) or any(
            r.delay is not None and lif.name in (s := chain.sources(r.name)[0], *chain.sources(s)) for r in readers
        )
        assert not (waits and own[..., steps:].any()), lif.name
    return "guarded"


def test_chain_equals_graph() -> None:
    """Engine with and without relays computed, and reference, on the chain; few graphs are refused, each by name."""
    seen: Counter[str] = Counter()

    @_settings(N_GRAPHS)
    @given(dags())
    def run(dag: Dag) -> None:
        report, graph = CompileReport(), or_pool(dag.graph)
        try:
            chain = to_chain(graph, report)
        except UnsupportedLayerError as error:
            assert str(error).startswith("net.")
            seen["refused"] += 1
            return
        parts = [p for parts in report.layers.values() for p in parts]
        seen.update(["graphs", *dag.features, *(["relays"] if report.relays else [])])
        seen["unrolled"] += any("unrolled" in line for line in report.lines)
        seen["phases"] += any(max(p.factor) > 1 for p in parts)
        fast = run_engines(chain, dag.spikes, relays=bool(seen["graphs"] % 2)).spikes
        after = run_reference(chain, dag.spikes[0]).spikes
        for lif, spikes in _expected(dag, graph, chain, report).items():
            np.testing.assert_array_equal(fast[lif], spikes, lif)
            np.testing.assert_array_equal(after[lif], spikes[0], lif)
            seen["active"] += bool(lif == chain.output and spikes.any())
        if dag.features & {"recurrent", "delayed"}:
            seen[_check_guard(chain, dag.spikes, fast)] += 1

    run()
    print(dict(seen))
    assert seen["refused"] < 0.25 * N_GRAPHS and seen["active"] > 0.3 * N_GRAPHS, seen
    assert seen["guarded"] > 0.2 * N_GRAPHS, seen
    assert all(seen[f] >= 2 for f in FEATURES), {f: seen[f] for f in FEATURES}


@pytest.mark.long
@pytest.mark.needs_lava
def test_lava_equals_graph() -> None:
    """Windows back to back through the file that stock NetX reads; only graphs with relays, that fire."""
    seen: Counter[str] = Counter()

    @_settings(N_ON_LAVA)
    @given(dags(memory=False))
    def run(dag: Dag) -> None:
        report, graph = CompileReport(), or_pool(dag.graph)
        try:
            chain = to_chain(graph, report)
            check_limits(chain, state=False)
        except (UnsupportedLayerError, LimitExceededError):
            assume(False)
        expected = _expected(dag, graph, chain, report)
        assume(report.relays and expected[chain.output].any())
        seen.update(["graphs", *dag.features])
        for lif, spikes in run_on_lava(chain, dag.spikes).items():
            np.testing.assert_array_equal(spikes, expected[lif], lif)

    run()
    print(dict(seen))
    assert seen["graphs"] == N_ON_LAVA
