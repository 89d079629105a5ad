"""lava-dl's own LIF ground-truth vectors (shipped in its wheel) pass in hw_sim: every spike, current and voltage."""

import importlib.util
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from engines import run_engines
from timeline import on_lava_time

from taaf.deploy.lava.runtime import require_lava
from taaf.export.targets.netx.read import read_netx_file
from taaf.hw_sim.counters import count
from taaf.hw_sim.measurements.records import load_measurement
from taaf.hw_sim.reference import Trace, run_reference
from taaf.models.errors import UnsupportedLayerError
from taaf.models.ir import Conv2d, Dense, Graph, Input, Lif, Node

pytestmark = pytest.mark.needs_lava  # the vectors come with the wheel of lava-dl


@pytest.fixture(scope="module")
def vectors() -> Path:
    """site-packages/tests/lava/lib/dl/netx, found beside the installed lava package."""
    require_lava()
    spec = importlib.util.find_spec("lava.lib.dl.netx")
    assert spec is not None and spec.submodule_search_locations is not None
    site = Path(next(iter(spec.submodule_search_locations))).parents[3]
    return site / "tests/lava/lib/dl/netx"


def _chain(*nodes: Node) -> Graph:
    return Graph("gts", nodes, [(a.name, b.name) for a, b in pairwise(nodes)])


def _chw(whc: np.ndarray) -> np.ndarray:
    """(W, H, C, ...) -> (C, H, W, ...); flat layers stay."""
    return whc.transpose(2, 1, 0, *range(3, whc.ndim)) if whc.ndim > 2 else whc


def _input_neurons(bias: np.ndarray, steps: int) -> np.ndarray:
    """Spikes of an input layer (v_th_mant 25, v_decay 1024) that the host drives through its bias (C, H, W)."""
    silent = Conv2d("none", np.zeros((len(bias), 1, 1, 1), np.int32), groups=len(bias))
    graph = _chain(Input("in", bias.shape), silent, Lif("lif", 4096, 1024, 25, bias.astype(np.int32)))
    nothing = np.zeros((*bias.shape, steps), np.uint8)
    spikes = run_reference(graph, nothing).spikes["lif"]
    np.testing.assert_array_equal(run_engines(graph, nothing[None]).spikes["lif"][0], spikes)
    return spikes


def test_dense(vectors: Path) -> None:
    """256 x 200 dense layer over 2 000 steps, vth 6, du 4095, dv 415: all spikes and currents."""
    folder = vectors / "gts/dense"
    spikes_in, weight, current, out = (np.load(folder / f"{n}.npy") for n in ("in", "weight", "current", "out"))
    graph = _chain(Input("in", (200,)), Dense("dense", weight.astype(np.int32)), Lif("lif", 4096, 415, 6))
    trace = on_lava_time(graph, spikes_in.astype(np.uint8), lambda _: [])
    assert out.sum() > 1000 and not out[:, 0].any()
    np.testing.assert_array_equal(trace.spikes["lif"], out)
    np.testing.assert_array_equal(trace.u["lif"], 64 * current)


def test_tinynet(vectors: Path) -> None:
    """tiny.net: the input neurons' spikes from their bias, both biased 5x5 convolutions, the first one's current."""
    folder = vectors / "gts/tinynet"
    spikes_in, layer1, current, out = (np.load(folder / f"{n}.npy")[0] for n in ("input", "layer1", "current", "output"))
    file = read_netx_file(vectors / "tiny.net", "tiny")
    assert (file.n_layers, file.skip_layers) == (3, 1) and "weight 36, bias 34" in file.notes[0]
    graph = file.graph
    spikes_in = spikes_in[..., 1:].astype(np.uint8)  # step 0 of the vectors is an empty pipeline, states start at step 1
    bias = _chw(np.load(folder / "input_bias.npy"))
    np.testing.assert_array_equal(_input_neurons(bias, 15), spikes_in)
    trace = run_reference(graph, spikes_in)
    first, second = (lif.name for lif in graph.lifs())
    assert layer1.sum() > 100 and out.sum() > 5
    np.testing.assert_array_equal(trace.spikes[first], layer1[..., 1:])
    np.testing.assert_array_equal(trace.u[first], 64 * current[..., 1:])
    np.testing.assert_array_equal(trace.spikes[second], out[..., 1:])
    fast = run_engines(graph, spikes_in[None]).spikes
    for name in (first, second):
        np.testing.assert_array_equal(fast[name][0], trace.spikes[name])


LAYERS = ("conv-0", "conv-1", "conv-2", "conv-3", "conv-4", "fc-0", "fc-1", "fc-2")


@pytest.fixture(scope="module")
def pilotnet(vectors: Path) -> tuple[Graph, dict[str, np.ndarray]]:
    """The chain behind PilotNet's input neurons, and its vectors with axes (C, H, W, T)."""
    folder = vectors / "gts/pilotnet_lif"
    arrays = {f.stem: _chw(np.load(f)) for f in folder.glob("*.npy")}
    return read_netx_file(folder / "network.net", "pilotnet").graph, arrays


def test_pilotnet_input(pilotnet: tuple[Graph, dict[str, np.ndarray]]) -> None:
    """The input neurons' spikes from the image as their bias; recorded once with windows of 17 steps, once with 16."""
    _, found = pilotnet
    for name, window in (("input", 17), ("input-s", 16)):
        spikes = _input_neurons(found["image"], window)
        expected = np.concatenate([spikes, spikes], axis=-1)[..., :24]
        np.testing.assert_array_equal(expected, found[name])


def _check_state(trace: Trace, lif: Lif, name: str, found: dict[str, np.ndarray]) -> None:
    """All columns of u and v. The recording shows v = 128 in the step of a spike (Loihi's mark
    of refractoriness, in every one), where Lava's v is 0 again; both start the next step from 0."""
    spikes = trace.spikes[lif.name]
    np.testing.assert_array_equal(spikes, found[name], err_msg=name)
    np.testing.assert_array_equal(trace.u[lif.name], found[f"{name}-u"], err_msg=name)
    np.testing.assert_array_equal(np.where(spikes, 128, trace.v[lif.name]), found[f"{name}-v"], err_msg=name)


def test_pilotnet_layers(pilotnet: tuple[Graph, dict[str, np.ndarray]]) -> None:
    """Five convolutions and three dense layers: s, u and v in all 24 columns, the filling of the pipeline included.

    Windows of 17 steps; layer i (from 1) is reset at columns i and i + 17.
    """
    graph, found = pilotnet
    trace = on_lava_time(graph, found["input"].astype(np.uint8), lambda i: [i, i + 17])
    lifs = graph.lifs()
    for lif, name in zip(lifs, LAYERS, strict=False):
        assert trace.spikes[lif.name].sum() >= 20 or name == "fc-2"
        _check_state(trace, lif, name, found)
    whole = run_engines(graph, found["input"][None, ..., :17].astype(np.uint8)).spikes
    for delay, (lif, name) in enumerate(zip(lifs, LAYERS, strict=False), start=1):
        n = min(17, 24 - delay)
        np.testing.assert_array_equal(whole[lif.name][0][..., :n], found[name][..., delay : delay + n], err_msg=name)


def test_pilotnet_readout(pilotnet: tuple[Graph, dict[str, np.ndarray]]) -> None:
    """The last layer never spikes; its u and v in all 25 columns.

    This one was recorded with windows of 16 steps and NetX's default reset_offset 0, that is, every layer reset one step
    before its first input arrives: columns i - 1 and i + 15.
    """
    graph, found = pilotnet
    spikes = found["input-s"].astype(np.uint8)
    spikes = np.concatenate([spikes, spikes[..., :1]], axis=-1)  # column 24 of the input reaches no recorded column
    trace = on_lava_time(graph, spikes, lambda i: [i - 1, i + 15])
    out = graph.output
    for kind, values in (("s", trace.spikes), ("u", trace.u), ("v", trace.v)):
        np.testing.assert_array_equal(values[out], found[f"fc-3-{kind}"], err_msg=kind)
    assert np.unique(trace.v[out]).size == 5


def test_ntidigits(vectors: Path) -> None:
    """Axonal delays up to 62 steps, all 3 000 columns; lava-dl's own test compares its last column with our second.

    The recording is one column later than Lava: four columns for three layers.
    """
    folder = vectors / "gts/ntidigits"
    graph = read_netx_file(folder / "ntidigits.net", "ntidigits", n_layers=5).graph
    delayed = [n.delay for n in graph.nodes.values() if isinstance(n, Dense) and n.delay is not None]
    assert [d.shape for d in delayed] == [(256, 1)] * 2 and [d.max() for d in delayed] == [62, 62]
    spikes = np.load(folder / "input.npy").astype(np.uint8).reshape(1, 1, 64, 3000)
    out, expected = graph.output, np.load(folder / "output.npy")
    fast = run_engines(graph, spikes[None]).spikes
    assert expected.sum() == 22_572 and not expected[:, :4].any()
    np.testing.assert_array_equal(fast[out][0][:, :-4], expected[:, 4:])
    exact = run_reference(graph, spikes[..., :600]).spikes
    for lif in graph.lifs():
        np.testing.assert_array_equal(fast[lif.name][0][:, :600], exact[lif.name])


def _counted(name: str, graph: Graph, spikes: np.ndarray, front: int) -> None:
    """Counts of one run equal those kept with a published measurement, behind its first ``front`` layers."""
    rows = count(graph, run_engines(graph, spikes).activity)
    kept = load_measurement(name).layers
    assert sum(x.spikes_out[0] for x in kept[:front]) == spikes.sum() == kept[front].spikes_in[0]
    assert [x.name for x in kept[front:]] == [row.layer.split(".")[1].removesuffix("_lif") for row in rows]
    for x, row in zip(kept[front:], rows, strict=True):
        known = (x.kind, x.neurons, x.spikes_in, x.spikes_out, x.synops)
        assert known == (
            row.kind,
            row.n_neurons,
            *((n, n) for n in (row.spikes_in, row.spikes_out, row.effective_synops)),
        ), x.name


def test_operations_of_measured_pilotnet(pilotnet: tuple[Graph, dict[str, np.ndarray]]) -> None:
    """Spikes and SynOps beside the chip's 1.094 mJ: recounted, the input neurons' spikes with them."""
    graph, found = pilotnet
    _counted("pilotnet_lif", graph, found["input-s"][None, ..., :16].astype(np.uint8), 1)


def test_operations_of_measured_ntidigits(vectors: Path) -> None:
    """Spikes and SynOps beside the chip's 576 uJ: recounted."""
    folder = vectors / "gts/ntidigits"
    graph = read_netx_file(folder / "ntidigits.net", "ntidigits", n_layers=5).graph
    _counted("ntidigits", graph, np.load(folder / "input.npy").astype(np.uint8).reshape(1, *graph.input.shape, 3000), 1)


def test_mnist_structure(vectors: Path) -> None:
    """mnist.net: the spiking layers are read; the last one has no neurons, in Lava it never spikes."""
    with pytest.raises(UnsupportedLayerError, match=r"mnist\.layer/3: no neuron group.*--layers 3"):
        read_netx_file(vectors / "mnist.net", "mnist")
    graph = read_netx_file(vectors / "mnist.net", "mnist", n_layers=3).graph
    assert [graph.shapes[lif.name] for lif in graph.lifs()] == [(512,), (512,)] and graph.input.shape == (784,)
    spikes = (np.random.default_rng(0).random((2, 784, 10)) < 0.2).astype(np.uint8)
    fast = run_engines(graph, spikes).spikes
    for lif in graph.lifs():
        exact = np.stack([run_reference(graph, x).spikes[lif.name] for x in spikes])
        assert exact.any()
        np.testing.assert_array_equal(fast[lif.name], exact)


@pytest.mark.parametrize(
    ("file", "mention"),
    [
        ("gts/pilotnet_sdnn/network.net", r"layer/0: neuron type 'SDNN'"),
        ("gts/pilotnet_sdnn/square_network.net", r"layer/0: neuron type 'SDNN'"),
        ("gts/ntidigits/ntidigits.net", r"layer/5: type 'average' is not implemented in NetX; .*--layers 5"),
    ],
)
def test_other_files_of_the_wheel_are_refused(file: str, mention: str, vectors: Path) -> None:
    """Sigma-delta networks and layers that NetX has not, by name."""
    with pytest.raises(UnsupportedLayerError, match=mention):
        read_netx_file(vectors / file, "x")
