"""Spikes pooled and beside each other in an integer graph: reference and engine against a definition in plain NumPy."""

import numpy as np
import pytest
from engines import run_engines

from taaf.hw_sim.reference import run_reference
from taaf.models.errors import GraphError
from taaf.models.ir import Concat, Conv2d, Flatten, Graph, Input, Lif, Pool2d, Sum
from taaf.models.ir.stage import require_integer_stage


def _graph(pool: Pool2d) -> Graph:
    rng = np.random.default_rng(0)
    one, two = (2 * rng.integers(-60, 60, (3, 2, 3, 3)).astype(np.int32) for _ in range(2))
    nodes = [
        Input("input", (2, 7, 9)), Conv2d("a", one, padding=(1, 1)), Lif("a_lif"), Conv2d("b", two, padding=(1, 1)), Lif("b_lif"),
        Concat("beside"), pool,
    ]  # fmt: skip
    edges = [("input", "a"), ("a", "a_lif"), ("input", "b"), ("b", "b_lif")]
    return Graph("net", nodes, [*edges, ("b_lif", "beside"), ("a_lif", "beside"), ("beside", pool.name)])


@pytest.mark.parametrize(
    "pool",
    [Pool2d("pool", "max", (2, 2)), Pool2d("pool", "max", (3, 3), (2, 2), (1, 1)), Pool2d("pool", "max", (1, 3), (1, 2))],
)
def test_or_pool_of_spikes_beside_each_other(pool: Pool2d) -> None:
    graph = _graph(pool)
    spikes = (np.random.default_rng(1).random((4, 2, 7, 9, 6)) < 0.3).astype(np.uint8)
    found = run_engines(graph, spikes).spikes
    (k_h, k_w), (s_h, s_w), (p_h, p_w) = pool.kernel, pool.step, pool.padding
    for window, a, b, out in zip(spikes, found["a_lif"], found["b_lif"], found["pool"], strict=True):
        trace = run_reference(graph, window)
        assert np.array_equal(trace.spikes["a_lif"], a) and np.array_equal(trace.spikes["b_lif"], b) and a.any() and b.any()
        assert np.array_equal(trace.spikes["pool"], out)
        wide = np.pad(np.concatenate([b, a]), ((0, 0), (p_h, p_h), (p_w, p_w), (0, 0)))
        for y, x in np.ndindex(out.shape[1:3]):
            assert np.array_equal(out[:, y, x], wide[:, y * s_h : y * s_h + k_h, x * s_w : x * s_w + k_w].max((1, 2)))


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(GraphError, match="do not lie beside each other"):
        Graph(
            "net",
            [Input("input", (2, 4, 4)), Pool2d("p", "max", (2, 2)), Concat("c")],
            [("input", "p"), ("input", "c"), ("p", "c")],
        )
    with pytest.raises(GraphError, match="larger than the padded input"):
        Graph("net", [Input("input", (2, 1, 4)), Pool2d("p", "max", (2, 2))], [("input", "p")])
    added = Graph(
        "net",
        [Input("input", (4,)), Flatten("f"), Sum("s"), Lif("l")],
        [("input", "f"), ("input", "s"), ("f", "s"), ("s", "l")],
    )
    with pytest.raises(GraphError, match="put a convolution or dense layer between"):
        require_integer_stage(added)
    average = Graph("net", [Input("input", (2, 4, 4)), Pool2d("p", "average", (2, 2)), Lif("l")], [("input", "p"), ("p", "l")])
    with pytest.raises(GraphError, match="not an integer-stage node"):
        require_integer_stage(average)
