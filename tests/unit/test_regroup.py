"""Layers that read too much of a map: pooled before, or split over rows; the sums they stand for, and what is proposed."""

from dataclasses import replace

import numpy as np
import pytest

from taaf.hw_sim.mapper.chip_limits import load_limits
from taaf.hw_sim.mapper.fit import fit
from taaf.hw_sim.mapper.mapping import map_graphs
from taaf.hw_sim.mapper.regroup import by_rows, pooled_before
from taaf.models.ir import Conv2d, Dense, Flatten, Graph, Input, Lif

MAP = (4, 5, 3)


def _graph(weight: np.ndarray) -> Graph:
    nodes = [Input("input", MAP), Conv2d("c", np.full((4, 4, 1, 1), 2, np.int32)), Lif("a"), Flatten("f"),
             Dense("w", weight), Lif("out")]  # fmt: skip
    return Graph("net", nodes, [("input", "c"), ("c", "a"), ("a", "f"), ("f", "w"), ("w", "out")])


@pytest.fixture()
def mean() -> Graph:
    """The same weights at every position, as a mean over the map has."""
    per_channel = 2 * np.arange(1, 13, dtype=np.int32).reshape(3, 4)
    return _graph(np.repeat(per_channel, 15, axis=1))


def test_rows_add_up_to_the_layer(mean: Graph) -> None:
    """Row by row and joined: twice the matrix over the whole map, as the joining weights are 2."""
    found = by_rows(mean, "out")
    assert found is not None
    rows, join = found.nodes["out_rows"], found.nodes["w"]
    assert isinstance(rows, Conv2d) and isinstance(join, Dense) and found.shapes["out_rows_lif"] == (3, 5, 1)
    x = np.random.default_rng(0).integers(0, 2, MAP)
    parts = np.einsum("fcw,chw->fh", rows.weight[:, :, 0], x)
    whole = mean.nodes["w"]
    assert isinstance(whole, Dense)
    np.testing.assert_array_equal(join.weight @ parts.ravel(), 2 * (whole.weight @ x.ravel()))


def test_pooling_adds_up_to_the_layer(mean: Graph) -> None:
    """Channel sums, times 2 by the pooling weights, through one column per channel; nothing reads the old flattening."""
    found = pooled_before(mean, "out")
    assert found is not None and "f" not in found.nodes and found.shapes["out_pool_lif"] == (4, 1, 1)
    pool, dense, whole = found.nodes["out_pool"], found.nodes["w"], mean.nodes["w"]
    assert isinstance(pool, Conv2d) and isinstance(dense, Dense) and isinstance(whole, Dense)
    x = np.random.default_rng(1).integers(0, 2, MAP)
    sums = (pool.weight[:, 0] * x).sum((1, 2))
    np.testing.assert_array_equal(dense.weight @ sums, 2 * (whole.weight @ x.ravel()))


def test_what_cannot_be_regrouped(mean: Graph) -> None:
    """Rows with weights of their own are not split (they are pooled); a layer that reads no map is neither."""
    own = _graph(2 * np.arange(180, dtype=np.int32).reshape(3, 60))
    assert by_rows(own, "out") is None and pooled_before(own, "out") is not None
    assert by_rows(mean, "a") is None and pooled_before(mean, "a") is None
    flat = Graph("net", [Input("input", (60,)), Dense("w", np.full((3, 60), 2, np.int32)), Lif("out")],
                 [("input", "w"), ("w", "out")])  # fmt: skip
    assert by_rows(flat, "out") is None and pooled_before(flat, "out") is None


def test_both_are_proposed_and_fit(mean: Graph) -> None:
    """60 inputs where 20 axons are allowed: 15 pixels (all channels share an axon) or one row of 3 keep the limit."""
    chip = replace(load_limits("loihi1"), in_axons=20)
    answer = fit({"net": mean}, chip)
    assert [(f.limit, f.layer, f.found) for f in answer.findings] == [("input axons", "net.out", 60)]
    told = [str(p) for p in answer.proposals[:2]]
    assert told[0].startswith("one pooled spiking population before net.out (another network: to be trained): fits, ")
    assert told[1].startswith(
        "the fan-in of net.out split over its rows, joined by a further population (another network: to be"
    )
    for p, regroup in zip(answer.proposals, (pooled_before, by_rows), strict=False):
        graph = regroup(mean, "out")
        assert graph is not None and p.fits and map_graphs({"net": graph}, chip).n_cores == p.n_cores
