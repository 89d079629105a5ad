"""lava-dl's own LIF ground-truth vectors (shipped in its wheel) pass in hw_sim: every spike and every current."""

import importlib.util
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest

from taaf.deploy.lava_runtime import require_lava
from taaf.export.targets.netx import _read_layer
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.reference import run_reference
from taaf.models.ir import Dense, Graph, Input, Lif, Node

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


def test_dense(vectors: Path) -> None:
    """256 x 200 dense layer over 2 000 steps, vth 6, du 4095, dv 415."""
    folder = vectors / "gts/dense"
    spikes_in, weight, current, out = (np.load(folder / f"{n}.npy") for n in ("in", "weight", "current", "out"))
    graph = _chain(Input("in", (200,)), Dense("dense", weight.astype(np.int32)), Lif("lif", 4096, 415, 6))
    spikes_in = spikes_in.astype(np.uint8)
    trace = run_reference(graph, spikes_in)
    # Lava's outputs come one step after their inputs: vector t + 1 is our step t; vector 0 is the empty pipeline
    assert out.sum() > 1000 and not out[:, 0].any()
    np.testing.assert_array_equal(trace.spikes["lif"][:, :-1], out[:, 1:])
    np.testing.assert_array_equal(trace.u["lif"][:, :-1], 64 * current[:, 1:])
    np.testing.assert_array_equal(Engine(graph).run(spikes_in[None]).spikes["lif"][0], trace.spikes["lif"])


def test_tinynet(vectors: Path) -> None:
    """Two biased 5x5 stride-2 convolutions read from tiny.net: spikes of both layers and the first one's current."""
    folder = vectors / "gts/tinynet"
    spikes_in, layer1, current, out = (np.load(folder / f"{n}.npy")[0] for n in ("input", "layer1", "current", "output"))
    with h5py.File(vectors / "tiny.net", "r") as file:
        nodes = [n for i in "12" for n in _read_layer(file["layer"][i], f"tiny.layer/{i}")]
    graph = _chain(Input("in", (3, 16, 16)), *nodes)
    spikes_in = spikes_in[..., 1:].astype(np.uint8)  # step 0 of the vectors is an empty pipeline, states start at step 1
    trace = run_reference(graph, spikes_in)
    first, second = (lif.name for lif in graph.lifs())
    assert layer1.sum() > 100 and out.sum() > 5
    np.testing.assert_array_equal(trace.spikes[first], layer1[..., 1:])
    np.testing.assert_array_equal(trace.u[first], 64 * current[..., 1:])
    np.testing.assert_array_equal(trace.spikes[second], out[..., 1:])
    fast = Engine(graph).run(spikes_in[None], keep_all=True).spikes
    for name in (first, second):
        np.testing.assert_array_equal(fast[name][0], trace.spikes[name])
