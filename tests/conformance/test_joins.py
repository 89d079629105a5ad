"""Networks that are not chains: graph by the reference = chain by the engine = chain on Lava, every neuron, relays included."""

import numpy as np
import pytest
from joined_graphs import JOINED, joined
from on_lava import run_on_lava
from small_graphs import random_spikes

from taaf.export.limits import check_limits
from taaf.export.passes import CompileReport, or_pool, to_chain
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.reference import run_reference
from taaf.models.ir import Graph


def _expected(graph: Graph, report: CompileReport, chain: Graph, spikes: np.ndarray) -> dict[str, np.ndarray]:
    """Spikes of every layer of the chain, from those of the graph; none is silent."""
    traces = [run_reference(graph, window).spikes for window in spikes]
    before = {name: np.stack([t[name] for t in traces]) for name in traces[0]}
    for lif in graph.lifs():
        assert (
            0.01 < before[lif.name].mean() < 0.97
        ), f"{lif.name} fires at {before[lif.name].mean():.3f}: the case tests nothing"
    found = report.expected(chain, before)
    np.testing.assert_array_equal(found[chain.output], before[graph.output])
    return found


@pytest.mark.parametrize("case", JOINED)
@pytest.mark.parametrize("seed", range(3))
def test_engine(case: str, seed: int) -> None:
    report, given = CompileReport(), joined(case, seed)
    graph = or_pool(given)
    chain = to_chain(graph, report)
    check_limits(chain, state=False)
    spikes = random_spikes(np.random.default_rng(seed), graph, 3, 7)
    expected = _expected(graph, report, chain, spikes)
    np.testing.assert_array_equal(run_reference(given, spikes[0]).spikes[given.output], expected[chain.output][0])
    for relays in (True, False):
        found = Engine(chain, relays=relays).run(spikes, keep_all=True).spikes
        for lif, exact in expected.items():
            np.testing.assert_array_equal(found[lif], exact, lif)
    assert sum(report.relays.values()) == sum(len(p.members) for parts in report.layers.values() for p in parts if p.relays) > 0


@pytest.mark.needs_lava
@pytest.mark.parametrize("case", JOINED)
def test_lava(case: str) -> None:
    """Two windows back to back."""
    report, graph = CompileReport(), or_pool(joined(case, 0))
    chain = to_chain(graph, report)
    spikes = random_spikes(np.random.default_rng(0), graph, 2, 6)
    expected, found = _expected(graph, report, chain, spikes), run_on_lava(chain, spikes)
    for lif, exact in expected.items():
        np.testing.assert_array_equal(found[lif], exact, lif)
