"""Graph checks and refusals: the message names both ends or the layer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_graphs import CASES, chain_of, residual

from taaf.export.limits import check_limits
from taaf.export.passes import CompileReport, compile_graph, fold_batch_norm, fold_pool, quantise
from taaf.export.targets.netx.write import write_netx
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.reference import run_reference
from taaf.models.errors import GraphError, LimitExceededError, UnsupportedLayerError
from taaf.models.ir import BatchNorm, Conv2d, Dense, Graph, Input, Lif, Pool2d, RecurrentDense, Sum


def _weight(*shape: int) -> np.ndarray:
    return np.full(shape, 2, np.int32)


def test_shape_error_names_both_ends() -> None:
    """A dense layer after a convolution without flattening."""
    with pytest.raises(GraphError, match=r"net\.lif -> net\.dense: \(4, 6, 6\) != \(10,\)"):
        chain_of(
            Input("in", (2, 6, 6)),
            Conv2d("conv", _weight(4, 2, 3, 3), padding=(1, 1)),
            Lif("lif"),
            Dense("dense", _weight(3, 10)),
        )


@pytest.mark.parametrize(
    ("nodes", "edges", "mention"),
    [
        ([Input("a", (2,)), Lif("b")], [("a", "c")], "unknown node 'c'"),
        ([Input("a", (2,)), Lif("a")], [], "two nodes"),
        ([Lif("b")], [], "exactly one Input"),
        ([Input("a", (2,)), Lif("b"), Lif("c")], [("a", "b"), ("a", "c"), ("b", "c")], r"net\.c: 2 inputs"),
        ([Input("a", (2,)), Sum("s"), Lif("b")], [("a", "s"), ("b", "s"), ("s", "b")], "goes backwards"),
    ],
)
def test_malformed_graphs(nodes: list, edges: list, mention: str) -> None:
    """Dangling edge, double name, no input, two inputs of a LIF, cycle."""
    with pytest.raises(GraphError, match=mention):
        Graph("net", nodes, edges)


def test_all_limit_violations_are_collected() -> None:
    """One error lists every violation with layer, value and allowed range."""
    bad = np.array([[300, 3], [0, 0]], np.int32)
    graph = chain_of(
        Input("in", (2,)),
        Dense("wild", bad),
        Lif("odd", v_th_mant=200_000, v_decay=5000, bias=np.array([9999, 0])),
        Dense("zero", np.zeros((1, 2), np.int32)),
        Lif("out"),
    )
    with pytest.raises(LimitExceededError) as caught:
        check_limits(graph)
    for mention in (
        "net.wild: weights 0..300 (allowed -256..254)", "net.wild: 1 odd weights", "net.odd: v_decay 5000 (allowed 0..4096)",
        "net.odd: v_th_mant 200000 (allowed 1..131071)", "net.odd: bias 0..9999", "net.zero: all weights are zero",
    ):  # fmt: skip
        assert mention in str(caught.value)


def test_possible_24_bit_overflow_is_refused() -> None:
    """SLAYER neither wraps nor clips, so a net that could is not exported."""
    graph = chain_of(Input("in", (500,)), Dense("d", np.full((1, 500), -254, np.int32)), Lif("l", v_decay=100, v_th_mant=9))
    with pytest.raises(LimitExceededError, match=r"net\.l: v could reach -\S+ in 1 of 1 neurons \(allowed \+-\(2\^23 - 1\)"):
        check_limits(graph)
    check_limits(replace_lif(graph, v_decay=4096))


def replace_lif(graph: Graph, **how: int) -> Graph:
    """The same chain with another last LIF."""
    return graph.rebuilt({graph.output: replace(graph.nodes[graph.output], **how)})  # type: ignore[type-var]


def test_pools_that_have_no_form() -> None:
    """The maximum of a current, spikes into neurons without a synapse, a pool between pools: named, with what to use instead."""
    weight = np.ones((1, 1, 1, 1), np.float32)
    graph = chain_of(Input("in", (1, 4, 4)), Conv2d("c", weight), Pool2d("pool", "max", (2, 2)), Lif("lif"))
    with pytest.raises(UnsupportedLayerError, match=r"net\.pool: max pooling of a current; the maximum is exact for spikes"):
        fold_pool(graph)
    graph = chain_of(Input("in", (1, 4, 4)), Pool2d("pool", "max", (2, 2)), Lif("lif"))
    with pytest.raises(GraphError, match=r"net\.pool_lif -> net\.lif: Lif feeds Lif; put a convolution"):
        compile_graph(graph, saturate=False, report=CompileReport())
    graph = chain_of(Input("in", (1, 4, 4)), Pool2d("p", "sum", (2, 2)), Pool2d("q", "sum", (2, 2)), Lif("lif"))
    with pytest.raises(UnsupportedLayerError, match=r"net\.p: sum pooling that feeds q \(Pool2d\)"):
        fold_pool(graph)


def test_fold_needs_a_synapse_before_the_norm() -> None:
    """Batch norm behind a LIF cannot be folded; the norm is named."""
    one = np.ones(2, np.float32)
    graph = chain_of(Input("in", (2,)), Dense("d", _weight(2, 2)), Lif("l"), BatchNorm("bn", one, one, one, one))
    with pytest.raises(UnsupportedLayerError, match=r"net\.bn: batch norm after Lif"):
        fold_batch_norm(graph)


def test_quantise_out_of_range(tmp_path: Path) -> None:
    """Without saturation a weight that does not fit is an error naming the layer; with it the clip is reported."""
    graph = chain_of(Input("in", (2,)), Dense("d", np.array([[9.0, 0.5]], np.float32)), Lif("l", v_th_mant=64))
    with pytest.raises(LimitExceededError, match=r"net\.d: 1 weights up to 9 thresholds"):
        quantise(graph, saturate=False, report=CompileReport())
    report = CompileReport()
    assert quantise(graph, saturate=True, report=report).nodes["d"].weight.tolist() == [[254, 32]]  # type: ignore[attr-defined]
    assert "net.d: 1 of 2 weights saturate" in report.lines[0]


def test_netx_takes_chains_only(tmp_path: Path) -> None:
    """An unlowered residual is refused at the node that branches."""
    with pytest.raises(GraphError, match=r"net\.x: feeds a, s; NetX holds chains only"):
        write_netx(residual(np.random.default_rng(0)), tmp_path / "x.net")


def test_executions_refuse_wrong_shapes_and_float_graphs() -> None:
    """Reference and engine name the input or the node that does not belong to the integer stage."""
    graph = CASES["conv"](np.random.default_rng(0))
    with pytest.raises(GraphError, match=r"net\.input: input \(2, 6, 5\)"):
        run_reference(graph, np.zeros((2, 6, 5, 4), np.uint8))
    with pytest.raises(GraphError, match=r"net\.input: input \(2, 6, 5\)"):
        Engine(graph).run(np.zeros((1, 2, 6, 5, 4), np.uint8))
    pool = chain_of(Input("in", (1, 4, 4)), Pool2d("pool", "sum", (2, 2)), Lif("lif"))
    with pytest.raises(GraphError, match=r"net\.pool: Pool2d"):
        Engine(pool)
    with pytest.raises(GraphError, match=r"net\.pool: Pool2d"):
        run_reference(pool, np.ones((1, 4, 4, 2), np.uint8))


def test_quantise_bias_out_of_range() -> None:
    """Without saturation a bias that does not fit is an error too; with it the clip is reported."""
    dense = Dense("d", np.ones((1, 2), np.float32), np.array([100.0], np.float32))
    graph = chain_of(Input("in", (2,)), dense, Lif("l", v_th_mant=64))
    with pytest.raises(LimitExceededError, match=r"net\.d: 1 biases up to 100 thresholds; allowed \[-4095, 4095\] / 64"):
        quantise(graph, saturate=False, report=CompileReport())
    report = CompileReport()
    assert quantise(graph, saturate=True, report=report).nodes["l"].bias.tolist() == [4095]  # type: ignore[attr-defined]
    assert "net.d: 1 of 1 biases saturate" in report.lines[0]


def test_quantise_keeps_the_bias_of_the_lif_and_recurrent_weights() -> None:
    """A bias the LIF has already is added to, not replaced; recurrent weights get the same scale as the others."""
    layer = RecurrentDense(
        "d", np.full((2, 2), 0.5, np.float32), np.array([0.5, -0.5], np.float32), -np.eye(2, dtype=np.float32)
    )
    graph = chain_of(Input("in", (2,)), layer, Lif("l", v_th_mant=64, bias=np.array([7, 8])))
    integer = quantise(graph, saturate=False, report=CompileReport())
    assert integer.nodes["l"].bias.tolist() == [39, -24]  # type: ignore[attr-defined]
    assert integer.nodes["d"].weight_rec.tolist() == [[-64, 0], [0, -64]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("saturate", [False, True])
def test_quantise_refuses_nan(saturate: bool) -> None:
    """A NaN weight would become 0 without a word."""
    graph = chain_of(Input("in", (2,)), Dense("d", np.array([[np.nan, 0.5]], np.float32)), Lif("l"))
    with pytest.raises(LimitExceededError, match=r"net\.d: 1 weights are NaN"):
        quantise(graph, saturate, report=CompileReport())


def test_fold_scales_recurrent_weights() -> None:
    """The norm sees the recurrent current too."""
    layer = RecurrentDense("d", np.ones((2, 2), np.float32), None, np.ones((2, 2), np.float32))
    zero, one = np.zeros(2, np.float32), np.ones(2, np.float32)
    norm = BatchNorm("bn", np.array([2, 3], np.float32), zero, zero, one, eps=0.0)
    folded = fold_batch_norm(chain_of(Input("in", (2,)), layer, norm, Lif("l"))).nodes["d"]
    assert folded.weight.tolist() == folded.weight_rec.tolist() == [[2, 2], [3, 3]]  # type: ignore[attr-defined]
