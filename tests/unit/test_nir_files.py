"""NIR files: what is written reads back identical; damaged, foreign and hostile files end in one line."""

from collections.abc import Callable
from pathlib import Path

import h5py
import nir
import nir_nets
import numpy as np
import pytest
from small_graphs import CASES, chain_of, residual

from taaf.export.targets.nir import file as nir_file
from taaf.export.targets.nir.file import save_nir
from taaf.export.targets.nir.output import integer_graphs, require_same
from taaf.export.targets.nir.read import read_nir
from taaf.export.targets.nir.write import to_nir
from taaf.models.errors import BundleError, OutputError, ParityError, TaafError, UnsupportedLayerError
from taaf.models.ir import Dense, Graph, Input, Lif, RecurrentDense

ALL = {**CASES, "residual_join": residual}
WITHOUT_NIR = [c for c in ALL if c.startswith(("delay_", "decays_per", "leaks_per", "bias_per_neuron"))]


@pytest.mark.parametrize("case", WITHOUT_NIR)
def test_what_nir_has_no_node_for(case: str) -> None:
    """Delays, decays or thresholds per channel and biases per neuron of a map are refused by name."""
    with pytest.raises(UnsupportedLayerError, match="NIR; allowed"):
        to_nir({"net": ALL[case](np.random.default_rng(0))})


@pytest.mark.parametrize("case", [c for c in ALL if c not in WITHOUT_NIR])
def test_round_trip_is_exact(case: str, tmp_path: Path) -> None:
    """Integer IR -> file -> integer IR: same names, order, values, types and connections, for every layer type."""
    for seed in range(2):
        graph = ALL[case](np.random.default_rng(seed))
        save_nir(tmp_path / "x.nir", to_nir({"net": graph}))
        require_same({"net": graph}, integer_graphs(read_nir(tmp_path / "x.nir")))


def test_two_branches_in_one_file(tmp_path: Path) -> None:
    """Branches keep their names, nodes theirs, although both have the same ones."""
    rng = np.random.default_rng(0)
    graphs = {"event": CASES["deep_biased"](rng), "audio": CASES["dense"](rng)}
    graphs = {b: Graph(b, g.nodes.values(), g.edges) for b, g in graphs.items()}
    save_nir(tmp_path / "x.nir", to_nir(graphs))
    require_same(graphs, integer_graphs(read_nir(tmp_path / "x.nir")))


def test_values_mean_something_to_other_readers(tmp_path: Path) -> None:
    """nir.read type-checks the file; a LIF of v_decay 1000, threshold 90 has tau = 4.096 ms, R = 4.096, v_threshold = 90."""
    save_nir(tmp_path / "x.nir", to_nir({"net": CASES["deep_biased"](np.random.default_rng(0))}))
    graph = nir.read(tmp_path / "x.nir")
    assert isinstance(graph.nodes["conv2"], nir.Conv2d) and (graph.nodes["conv2"].weight % 2 == 0).all()
    np.testing.assert_allclose(graph.nodes["lif2"].tau, 4.096e-3, rtol=1e-15)
    np.testing.assert_allclose(graph.nodes["lif2"].r, 4.096, rtol=1e-15)
    assert (graph.nodes["lif3"].v_threshold == 90).all() and graph.nodes["lif3"].v_threshold.shape == (3, 4, 3)


def test_differences_are_seen() -> None:
    """require_same tells one weight, one decay, a missing branch."""
    one, two = (CASES["dense"](np.random.default_rng(0)) for _ in range(2))
    require_same({"net": one}, {"net": two})
    dense = two.nodes["dense"]
    assert isinstance(dense, Dense)
    dense.weight[0, 0] += 2
    with pytest.raises(ParityError, match="net: dense differ"):
        require_same({"net": one}, {"net": two})
    with pytest.raises(ParityError, match="branches other were read, net were written"):
        require_same({"net": one}, {"other": one})


def test_what_nir_cannot_express() -> None:
    """Current memory without leak, and names that NIR needs."""
    weight = np.full((2, 2), 4, np.int32)
    layers = [Input("input", (2,)), Dense("dense", weight)]
    with pytest.raises(UnsupportedLayerError, match=r"net\.lif: current memory \(i_decay 100\) without voltage leak"):
        to_nir({"net": chain_of(*layers, Lif("lif", 100, 0))})
    with pytest.raises(UnsupportedLayerError, match=r"net\.output: this name is needed"):
        to_nir({"net": chain_of(*layers, Lif("output"))})
    with pytest.raises(UnsupportedLayerError, match=r"net\.a/b: a node of a NIR file cannot be called so"):
        to_nir({"net": chain_of(*layers, Lif("a/b"))})
    rec = RecurrentDense("dense", weight, None, weight)
    with pytest.raises(UnsupportedLayerError, match=r"net\.dense_rec: this name is needed"):
        to_nir({"net": chain_of(layers[0], rec, Lif("dense_rec"))})
    assert to_nir({"net": chain_of(*layers, Lif("lif", 4096, 0))}).nodes["lif"].r[0] == 1000


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed write leaves the old file and no temporary one."""
    graph = to_nir({"net": CASES["dense"](np.random.default_rng(0))})
    save_nir(tmp_path / "x.nir", graph)
    before = (tmp_path / "x.nir").read_bytes()

    def fail(path: Path, content: bytes) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OutputError, match=r"x\.nir: cannot be written \(No space left"):
        save_nir(tmp_path / "x.nir", graph)
    assert (tmp_path / "x.nir").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x.nir"]


def _external(file: h5py.File) -> None:
    del file["node/nodes/a/weight"]
    file["node/nodes/a/weight"] = h5py.ExternalLink("/etc/hostname", "/x")


def _soft(file: h5py.File) -> None:
    file["node/nodes/loop"] = h5py.SoftLink("/node")


def _cycle(file: h5py.File) -> None:
    file["node/nodes/loop"] = file["node"]


def _huge(file: h5py.File) -> None:
    del file["node/nodes/a/weight"]
    file["node/nodes/a"].create_dataset("weight", (1 << 20, 1 << 20), np.float64, chunks=(16, 16))


def _outside(file: h5py.File) -> None:
    del file["node/nodes/a/weight"]
    file["node/nodes/a"].create_dataset("weight", (4,), np.float64, external=[("/etc/hostname", 0, 32)])


def _put(key: str, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if key in file["node"]:
            del file[f"node/{key}"]
        file[f"node/{key}"] = value

    return change


@pytest.mark.parametrize(
    ("change", "mention"),
    [
        (_external, r"is a link \(ExternalLink\)"), (_soft, r"is a link \(SoftLink\)"), (_cycle, "more than 100000 parts or 16 levels"),
        (_huge, "declares .* bytes, at most"), (_outside, "is stored in other files"),
        (_put("type", "LIF"), "not a readable NIR file"),
        (_put("nodes/a/type", "Transformer"), "nodes/a: unknown NIR type 'Transformer'"),
        (_put("nodes/a/weight", "text"), "not of NIR's form|not a readable"), (_put("nodes/b/tau", "text"), "not of NIR's form|not a read"),
        (_put("edges", np.zeros((2, 2))), "not a readable NIR file"), (_put("nodes/b/metadata/v_th_mant", 0), "v_th_mant 0"),
        (_put("nodes/b/metadata/v_th_mant", "x"), "not of NIR's form"), (_put("nodes/b/metadata/position", "x"), "not of NIR's form"),
        (_put("metadata/dt", "x"), "not of NIR's form"), (_put("metadata/branches", "../evil"), "'../evil' is used twice or not allowed"),
        (_put("nodes/input/shape", np.array([10**9, 10**9, 10**9])), r"net\.|x\.|\(1000000000"),
        (_put("nodes/input/shape", np.array([0])), "input shape"),
    ],
)  # fmt: skip
def test_hostile_files(change: Callable[[h5py.File], None], mention: str, tmp_path: Path) -> None:
    """Links, sizes and types are checked before anything large is read; the message is one line that says the file or node."""
    path = nir_nets.write(tmp_path / "x.nir", nir_nets.small())
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(TaafError, match=mention) as caught:
        read_nir(path)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "foreign", "folder", "single node"])
def test_damaged_files(kind: str, tmp_path: Path) -> None:
    """Every kind is a BundleError that names the file."""
    path = tmp_path / "x.nir"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("hello")
    elif kind == "truncated":
        content = nir_nets.write(path, nir_nets.small()).read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif kind == "foreign":
        with h5py.File(path, "w") as file:
            file["layer/0/type"] = "conv"
    elif kind == "folder":
        path.mkdir()
    elif kind == "single node":
        nir.write(path, nir_nets.lif(3))
    with pytest.raises(BundleError, match="x.nir"):
        read_nir(path)


def test_bounds_are_the_documented_ones() -> None:
    """The limits that the messages name."""
    assert (nir_file.MAX_OBJECTS, nir_file.MAX_DEPTH, nir_file.MAX_BYTES) == (100_000, 16, 1 << 31)
