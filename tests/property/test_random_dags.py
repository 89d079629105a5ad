"""Random graphs with joins, skips, concatenations and pools: the chain has every spike of the graph, relays those they repeat."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from dag_strategy import Dag, dags
from hypothesis import HealthCheck, given, settings

from taaf.export.passes import CompileReport, or_pool, to_chain
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.reference import run_reference
from taaf.models.errors import UnsupportedLayerError

N_GRAPHS = 250


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_chain_equals_graph() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=N_GRAPHS, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(dags())
    def run(dag: Dag) -> None:
        report = CompileReport()
        graph = or_pool(dag.graph)
        try:
            chain = to_chain(graph, report)
        except UnsupportedLayerError as error:
            seen[f"refused: {str(error).split(', ')[-1][:60]}"] += 1
            return
        seen.update(["graphs", *dag.features, *(["relays"] if report.relays else [])])
        seen["unrolled"] += any("unrolled" in line for line in report.lines)
        seen.update("U " + line.split("because ")[1].split(" ", 1)[1][:40] for line in report.lines if "unrolled" in line)
        seen["phases"] += any(max(p.factor) > 1 for parts in report.layers.values() for p in parts)
        before = [run_reference(graph, window).spikes for window in dag.spikes]
        assert np.array_equal(before[0][graph.output], run_reference(dag.graph, dag.spikes[0]).spikes[dag.graph.output])
        expected = report.expected(chain, {n: np.stack([t[n] for t in before]) for n in before[0]})
        fast = Engine(chain, relays=bool(seen["graphs"] % 2)).run(dag.spikes, keep_all=True).spikes
        for lif, spikes in expected.items():
            np.testing.assert_array_equal(fast[lif], spikes, lif)
        out = np.stack([t[graph.output] for t in before])
        np.testing.assert_array_equal(fast[chain.output], out)
        after = run_reference(chain, dag.spikes[0]).spikes
        assert all(np.array_equal(after[lif.name], fast[lif.name][0]) for lif in chain.lifs())
        seen["active"] += bool(out.any())

    run()
    print(dict(seen))
