"""What is written is read back the same, and how the reader understands the several forms of a delay."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from small_graphs import CASES, chain_of

from taaf.export.passes import CompileReport, quantise
from taaf.export.targets.netx.read import read_netx, read_netx_file
from taaf.export.targets.netx.write import write_netx
from taaf.models.errors import GraphError, UnsupportedLayerError
from taaf.models.ir import Dense, Graph, Input, Lif, RecurrentDense
from taaf.models.ir.stage import require_integer_stage


def test_biased_delays_of_others(tmp_path: Path) -> None:
    """What taaf writes it reads back (tests/property has every layer type); without its mark the meaning is not known."""
    graph = CASES["delay_targets"](np.random.default_rng(1))
    write_netx(graph, tmp_path / "x.net")
    assert read_netx(tmp_path / "x.net", "net").shapes == graph.shapes
    with h5py.File(tmp_path / "x.net", "r+") as file:
        del file["layer/1/delay"].attrs["of"]
    with pytest.raises(UnsupportedLayerError, match=r"net\.layer/1: delays together with a bias"):
        read_netx(tmp_path / "x.net", "net")


def _read_delay(delay: np.ndarray | float, shape: tuple[int, int], folder: Path) -> np.ndarray:
    write_netx(chain_of(Input("in", shape[1:]), Dense("d", np.full(shape, 2, np.int32)), Lif("l")), folder / "x.net")
    with h5py.File(folder / "x.net", "r+") as file:
        file["layer/1/delay"] = delay
    node = read_netx(folder / "x.net", "net").nodes["d"]
    assert isinstance(node, Dense)
    return np.zeros(0) if node.delay is None else node.delay


@pytest.mark.parametrize(
    ("delay", "shape", "expected"),
    [
        (3.0, (2, 4), [[3]]),
        (np.array([1, 2]), (2, 4), [[1], [2]]),
        (np.array([1, 2, 3, 4]), (2, 4), [[1, 2, 3, 4]]),
        (np.array([1, 2]), (2, 2), [[1], [2]]),  # square: NetX takes the targets
        (np.array([[1, 2], [3, 4]]), (2, 2), [[1, 2], [3, 4]]),
        (np.zeros(2), (2, 4), []),
    ],
)
def test_forms_of_a_delay(delay: np.ndarray | float, shape: tuple[int, int], expected: list, tmp_path: Path) -> None:
    """One for all, per target, per source, per synapse; none at all is no delay."""
    assert _read_delay(delay, shape, tmp_path).tolist() == expected


def test_without_input_layer(tmp_path: Path) -> None:
    """A dense layer says itself how many inputs it takes, as in NetX; one flat row of weights is a matrix."""
    write_netx(chain_of(Input("in", (4,)), Dense("d", np.full((2, 4), 2, np.int32)), Lif("l")), tmp_path / "x.net")
    with h5py.File(tmp_path / "x.net", "r+") as file:
        del file["layer/0"], file["layer/1/weight"]
        file.move("layer/1", "layer/0")
        file["layer/0/weight"] = 2 * np.arange(8)
    file_read = read_netx_file(tmp_path / "x.net", "net")
    assert file_read.graph.input.shape == (4,) and file_read.graph.nodes["d"].weight.shape == (2, 4)  # type: ignore[attr-defined]


def _line(dense: Dense, lif: Lif) -> Graph:
    return chain_of(Input("in", (3,)), dense, lif)


@pytest.mark.parametrize(
    ("dense", "lif", "mention"),
    [
        (Dense("d", np.ones((2, 3)), delay=np.array([[63]])), Lif("l"), "delays of 63..63 steps; allowed 0..62"),
        (Dense("d", np.ones((2, 3)), delay=np.array([[-1]])), Lif("l"), "of -1..-1 steps"),
        (Dense("d", np.ones((2, 3)), delay=np.zeros((2, 2), int)), Lif("l"), r"delay \(2, 2\) does not broadcast to \(2, 3\)"),
        (Dense("d", np.ones((2, 3)), delay=np.zeros(3, int)), Lif("l"), r"delay \(3,\) does not"),
        (RecurrentDense("d", np.ones((2, 3)), None, np.ones((2, 2)), delay=np.zeros((1, 1), int)), Lif("l"), "recurrent layer with"),
        (Dense("d", np.ones((2, 3))), Lif("l", i_decay=np.ones(3, int)), r"i_decay \(3,\) is neither one value nor \(2,\)"),
        (Dense("d", np.ones((2, 3))), Lif("l", bias=np.ones((1, 2))), r"bias \(1, 2\) != \(2,\)"),
    ],
)  # fmt: skip
def test_impossible_nodes(dense: Dense, lif: Lif, mention: str) -> None:
    """Shapes and ranges of delays and of values per channel, when the graph is built."""
    with pytest.raises(GraphError, match=mention):
        _line(dense, lif)


def test_stage_and_quantisation() -> None:
    """Delays and decays are integers; the compiler takes one threshold for all neurons of a layer."""
    weight = np.ones((2, 3), np.int32)
    graph = _line(Dense("d", weight, delay=np.array([[0.0]])), Lif("l", v_decay=np.array([0.5, 1])))
    with pytest.raises(GraphError, match=r"net\.d: delay is float64.*net\.l: v_decay is float64"):
        require_integer_stage(graph)
    with pytest.raises(UnsupportedLayerError, match=r"net\.l: a threshold per channel"):
        quantise(_line(Dense("d", weight / 9), Lif("l", v_th_mant=np.array([9, 9]))), saturate=False, report=CompileReport())
