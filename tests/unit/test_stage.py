"""Graphs and inputs that the executions would read differently are refused by every one of them, in the same words."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from engines import run_engines
from small_graphs import CASES, chain_of

from taaf.export.targets.netx.read import read_netx
from taaf.export.targets.netx.write import write_netx
from taaf.hw_sim.counters import count
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.reference import run_reference
from taaf.models.errors import GraphError
from taaf.models.ir import Conv2d, Dense, Flatten, Graph, Input, Lif, Node, RecurrentDense, Sum


def _even(*shape: int) -> np.ndarray:
    return np.full(shape, 20, np.int32)


def _join(one: Node, other: Node) -> Graph:
    nodes = [Input("in", (2,)), Dense("d", _even(2, 2)), Lif("x"), one, other, Sum("sum"), Lif("y")]
    edges = [("in", "d"), ("d", "x"), ("x", one.name), ("x", other.name), (one.name, "sum"), (other.name, "sum"), ("sum", "y")]
    return Graph("net", nodes, edges)


def _two_lifs_of_one_dense() -> Graph:
    nodes = [Input("in", (2,)), Dense("d", _even(2, 2)), Lif("a"), Lif("b")]
    return Graph("net", nodes, [("in", "d"), ("d", "a"), ("d", "b")])


def _added_spikes() -> Graph:
    nodes = [Input("in", (2,)), Dense("d", _even(2, 2)), Lif("x"), Dense("e", _even(2, 2)), Sum("sum"), Lif("y")]
    return Graph("net", nodes, [("in", "d"), ("d", "x"), ("x", "e"), ("e", "sum"), ("x", "sum"), ("sum", "y")])


BROKEN: dict[str, tuple[Graph, str]] = {
    "lif_on_input": (
        chain_of(Input("in", (2,)), Lif("l"), Dense("d", _even(2, 2)), Lif("m")),
        r"net\.in -> net\.l: Input feeds Lif; put a convolution or dense layer between them",
    ),
    "lif_on_lif": (
        chain_of(Input("in", (2,)), Dense("d", _even(2, 2)), Lif("l"), Lif("m")),
        r"net\.l -> net\.m: Lif feeds Lif",
    ),
    "lif_on_flatten": (
        chain_of(Input("in", (1, 2, 2)), Conv2d("c", _even(1, 1, 1, 1)), Flatten("f"), Lif("l")),
        r"net\.c -> net\.f: Conv2d feeds Flatten; put a LIF between them; net\.f -> net\.l: Flatten feeds Lif",
    ),
    "two_synapses": (
        chain_of(Input("in", (2,)), Dense("d", _even(2, 2)), Dense("e", _even(2, 2)), Lif("l")),
        r"net\.d -> net\.e: Dense feeds Dense; put a LIF between them",
    ),
    "added_spikes": (_added_spikes(), r"net\.x -> net\.sum: Lif feeds Sum; put a convolution"),
    "shared_current": (_two_lifs_of_one_dense(), r"net\.d: feeds a, b; must feed exactly one LIF"),
    "recurrent_in_sum": (
        _join(RecurrentDense("r", _even(2, 2), None, _even(2, 2)), Dense("e", _even(2, 2))),
        r"net\.r: a recurrent layer must feed its LIF alone",
    ),
    "float_weights": (
        chain_of(Input("in", (2,)), Dense("d", _even(2, 2) / np.float32(3)), Lif("l")),
        r"net\.d: weight is float64, not integers; run the compiler",
    ),
    "synapse_bias": (
        chain_of(Input("in", (2,)), Dense("d", _even(2, 2), np.array([3, 4])), Lif("l")),
        r"net\.d: a bias belongs to the LIF",
    ),
    "float_bias": (
        chain_of(Input("in", (2,)), Dense("d", _even(2, 2)), Lif("l", bias=np.array([0.5, 1]))),
        r"net\.l: bias is float64, not integers",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("execution", ["reference", "engine", "netx"])
def test_graphs_that_are_no_integer_stage(case: str, execution: str, tmp_path: Path) -> None:
    """NetX used to drop a LIF without synapse, the engine to give added spikes another weight than the reference."""
    graph, mention = BROKEN[case]
    run: dict[str, Callable[[], object]] = {
        "reference": lambda: run_reference(graph, np.ones((*graph.input.shape, 3), np.uint8)),
        "engine": lambda: Engine(graph),
        "netx": lambda: write_netx(graph, tmp_path / "x.net"),
    }
    if execution == "netx" and case in ("shared_current", "added_spikes", "recurrent_in_sum"):
        mention = "NetX holds chains only"
    with pytest.raises(GraphError, match=mention):
        run[execution]()


@pytest.mark.parametrize(
    ("value", "mention"),
    [
        (np.full((20, 4), 2, np.uint8), r"net\.input: input holds values other than 0 and 1 \(up to 2\)"),
        (np.full((20, 4), -1, np.int8), "other than 0 and 1"),
        (np.full((20, 4), 0.5), "other than 0 and 1"),
        (np.zeros((20, 0), np.uint8), r"net\.input: input has no time steps"),
    ],
)
def test_inputs_that_are_no_spikes(value: np.ndarray, mention: str) -> None:
    """Lava runs a 2 as one spike; reference and engine used to run it as two."""
    graph = CASES["dense"](np.random.default_rng(0))
    with pytest.raises(GraphError, match=mention):
        run_reference(graph, value)
    with pytest.raises(GraphError, match=mention):
        Engine(graph).run(value[None])


@pytest.mark.parametrize("kind", [bool, np.int64, np.float32, np.uint16])
def test_any_type_of_zeros_and_ones(kind: type) -> None:
    """The type of the array does not matter, only its values."""
    rng = np.random.default_rng(0)
    graph = CASES["dense"](rng)
    spikes = rng.random((3, 20, 6)) < 0.4
    expected = run_engines(graph, spikes.astype(np.uint8)).spikes["lif"]
    assert expected.any()
    np.testing.assert_array_equal(run_engines(graph, spikes.astype(kind)).spikes["lif"], expected)
    np.testing.assert_array_equal(run_reference(graph, spikes[0].astype(kind)).spikes["lif"], expected[0])


@pytest.mark.parametrize("case", ["flatten", "residual_stride", "dense_recurrent"])
def test_engine_without_windows(case: str) -> None:
    """No windows give empty results of the right shapes and zero counts."""
    graph = CASES[case](np.random.default_rng(0))
    result = run_engines(graph, np.zeros((0, *graph.input.shape, 4), np.uint8))
    assert {n: s.shape for n, s in result.spikes.items()} == {lif.name: (0, *graph.shapes[lif.name], 4) for lif in graph.lifs()}
    assert all(c.effective_synops == 0 and c.dense_synops == 0 for c in count(graph, result.activity))


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 50])
def test_chunks_change_nothing(chunk: int) -> None:
    """Any number of windows per pass, also more than there are."""
    rng = np.random.default_rng(0)
    graph = CASES["deep_biased"](rng)
    spikes = (rng.random((7, *graph.input.shape, 5)) < 0.3).astype(np.uint8)
    whole, parts = run_engines(graph, spikes, chunk=7), run_engines(graph, spikes, chunk=chunk)
    for name, expected in whole.spikes.items():
        np.testing.assert_array_equal(parts.spikes[name], expected)
        np.testing.assert_array_equal(parts.activity.spikes[name], whole.activity.spikes[name])


def test_engine_takes_edges_in_any_order() -> None:
    """A value is kept until its last reader in node order, not until the target of its last edge."""
    names = ("c", "a", "b", "s")
    c, a, b, s = (Conv2d(n, _even(1, 1, 1, 1)) for n in names)
    x, h, y = (Lif(n, v_th_mant=10) for n in ("x", "h", "y"))
    edges = [("in", "c"), ("c", "x"), ("x", "s"), ("x", "a"), ("a", "h"), ("h", "b"), ("b", "j"), ("s", "j"), ("j", "y")]
    graph = Graph("net", [Input("in", (1, 3, 3)), c, x, a, h, b, s, Sum("j"), y], edges)
    spikes = (np.random.default_rng(0).random((1, 3, 3, 4)) < 0.5).astype(np.uint8)
    expected = run_reference(graph, spikes).spikes["y"]
    assert expected.any()
    np.testing.assert_array_equal(run_engines(graph, spikes[None]).spikes["y"][0], expected)


def test_flattening_of_flat_spikes_is_left_out(tmp_path: Path) -> None:
    """NetX fails on it while loading; it does nothing."""
    rng = np.random.default_rng(0)
    nodes = [
        Input("in", (3,)),
        Flatten("f"),
        Dense("d", _even(3, 3)),
        Lif("l"),
        Flatten("g"),
        Dense("e", _even(3, 3)),
        Lif("m"),
    ]
    graph = chain_of(*nodes)
    write_netx(graph, tmp_path / "x.net")
    again = read_netx(tmp_path / "x.net", "net")
    assert list(again.nodes) == ["in", "d", "l", "e", "m"]
    spikes = (rng.random((2, 3, 6)) < 0.5).astype(np.uint8)
    old, new = run_engines(graph, spikes).spikes["m"], run_engines(again, spikes).spikes["m"]
    np.testing.assert_array_equal(new, old)


def test_engine_without_exact_float32_convolutions() -> None:
    """With oneDNN off, PyTorch convolves batches by NNPACK's Winograd kernels, which round; the engine then avoids float32."""
    rng = np.random.default_rng(0)
    weight = (2 * rng.integers(-128, 128, (32, 32, 3, 3))).astype(np.int32)
    graph = chain_of(Input("in", (32, 20, 20)), Conv2d("c", weight, padding=(1, 1)), Lif("l", 4096, 4096, 2000))
    spikes = (rng.random((2, 32, 20, 20, 8)) < 0.5).astype(np.uint8)
    with torch.backends.mkldnn.flags(enabled=False):
        found = Engine(graph, kind="torch").run(spikes).spikes["l"]
    for window, fast in zip(spikes, found, strict=True):
        np.testing.assert_array_equal(fast, run_reference(graph, window).spikes["l"])
