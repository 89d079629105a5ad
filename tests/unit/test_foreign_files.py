"""NetX files and bundles that a stock Lava would run otherwise than the exact engine are refused when they are read."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import nir
import numpy as np
import pytest
from small_graphs import CASES, chain_of

from taaf.deploy.backends.fast import run_fast
from taaf.deploy.backends.sim import run_sim
from taaf.export.bundle.reader import read_bundle
from taaf.export.targets.netx.read import read_netx
from taaf.export.targets.netx.write import write_netx
from taaf.export.targets.nir.read import from_nir
from taaf.hw_sim.engine import Engine
from taaf.models import zoo_path
from taaf.models.errors import BundleError, GraphError, LimitExceededError, TaafError, UnsupportedLayerError
from taaf.models.ir import Conv2d, Dense, Flatten, Graph, Input, Lif
from taaf.training.datasets.ead_mini import load_split


def _neurons_of_the_input(file: h5py.File) -> None:
    file["layer/1"].copy("neuron", file["layer/0"])


def _graded(file: h5py.File) -> None:
    file["layer/1/neuron/messageBits"] = 8


def _put(key: str, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[f"layer/{key}"]
        file[f"layer/{key}"] = value

    return change


@pytest.mark.parametrize(
    ("case", "change", "kind", "mention"),
    [
        ("dense", _neurons_of_the_input, UnsupportedLayerError, r"net\.layer/0: an input layer with neurons"),
        ("dense", _graded, UnsupportedLayerError, r"net\.layer/1: spikes of 8 bits"),
        ("dense", _put("1/weight", np.ones(241)), GraphError, r"weight \(241,\) is not \(F', F\)"),
        ("dense", _put("0/shape", np.array([0])), GraphError, r"input shape \(0,\) has no elements"),
        ("conv", _put("1/stride", np.array([0, 1])), GraphError, r"stride \(0, 1\).*allowed from 1"),
        ("conv", _put("1/dilation", np.array([1, -1])), GraphError, r"dilation \(1, -1\)"),
        ("conv", _put("1/padding", np.array([-1, 0])), GraphError, r"padding \(-1, 0\)"),
        ("conv", _put("1/groups", 0), GraphError, "groups 0"),
        ("conv", _put("1/weight", np.ones((4, 2, 3))), GraphError, r"weight \(4, 2, 3\) is not"),
        ("conv", _put("1/weight", np.ones((4, 2, 0, 3))), GraphError, r"weight \(4, 2, 0, 3\) is not"),
    ],
)
def test_foreign_netx_files(
    case: str, change: Callable[[h5py.File], None], kind: type[TaafError], mention: str, tmp_path: Path
) -> None:
    """Neurons in the input layer and graded spikes used to be ignored; impossible numbers ended in a traceback."""
    write_netx(CASES[case](np.random.default_rng(0)), tmp_path / "x.net")
    with h5py.File(tmp_path / "x.net", "r+") as file:
        change(file)
    with pytest.raises(kind, match=mention):
        read_netx(tmp_path / "x.net", "net")


def _bundle_with(audio: Graph, folder: Path) -> Path:
    """The reference bundle with another audio network and sums that fit."""
    bundle = folder / "bundle"
    shutil.copytree(zoo_path("ead_mini"), bundle)
    write_netx(audio, bundle / "audio.net")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["audio.net"] = hashlib.sha256((bundle / "audio.net").read_bytes()).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


def test_bundle_that_lava_would_change(tmp_path: Path) -> None:
    """Backends would disagree about a layer of -256 only, so the bundle is not read."""
    audio = read_bundle(zoo_path("ead_mini")).graphs["audio"]
    (synapse,) = audio.synapses_of(audio.output)
    all_low = audio.rebuilt({synapse.name: Dense(synapse.name, np.full_like(synapse.weight, -256))})
    with pytest.raises(LimitExceededError, match=rf"audio\.{synapse.name}: smallest weight -256"):
        read_bundle(_bundle_with(all_low, tmp_path))


def _ending_in_a_map(channels: int, folder: Path) -> Path:
    """The reference bundle whose audio network takes and gives 2 x 2 maps; ``channels`` of them at the end."""
    weight = 2 * np.random.default_rng(0).integers(-60, 90, (channels, 40, 1, 1)).astype(np.int32)
    bundle = _bundle_with(chain_of(Input("in", (40, 2, 2)), Conv2d("c", weight), Lif("l")), folder)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["branches"]["audio"]["input_shape"] = [40, 2, 2]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


@pytest.mark.needs_lava
def test_bundle_that_ends_in_a_map(tmp_path: Path) -> None:
    """The head takes maps flattened in (C, H, W) order, from engine and Lava alike; inputs of as many values are reshaped.

    Seen failing with the map flattened in Lava's axis order.
    """
    bundle = read_bundle(_ending_in_a_map(32, tmp_path))
    given = load_split("test", slice(3)).inputs()
    assert given["audio"].shape == (3, 160, 12)
    inputs = bundle.encode(given)
    assert inputs["audio"].shape == (3, 40, 2, 2, 12)
    fast, sim = run_fast(bundle, inputs), run_sim(bundle, inputs, 120)
    maps = Engine(bundle.graphs["audio"]).run(inputs["audio"]).spikes["l"]
    assert 0 < maps.mean() < 1 and maps.shape == (3, 32, 2, 2, 12)
    for found in (fast, sim):
        np.testing.assert_array_equal(found.features["audio"], maps.reshape(3, 128, 12))
        np.testing.assert_allclose(found.logits["audio"], fast.logits["audio"], atol=1e-12)


def test_map_of_another_size(tmp_path: Path) -> None:
    """The head says how many features it takes."""
    with pytest.raises(BundleError, match=r"head: classifier_weight has shape \(10, 256\), expected \(10, 192\)"):
        read_bundle(_ending_in_a_map(16, tmp_path))


def test_files_without_neurons(tmp_path: Path) -> None:
    """An input and nothing else. Seen accepted under ``python -O``, where an assertion was to refuse it."""
    write_netx(CASES["dense"](np.random.default_rng(0)), tmp_path / "x.net")
    with h5py.File(tmp_path / "x.net", "r+") as file:
        del file["layer/1"]
    with pytest.raises(GraphError, match="must end in exactly one LIF, found"):
        read_netx(tmp_path / "x.net", "net")
    ends = {"input": nir.Input(np.array([4])), "output": nir.Output(np.array([4]))}
    with pytest.raises(TaafError, match="fed by input; allowed one layer of spiking neurons"):
        from_nir(nir.NIRGraph(ends, [("input", "output")], type_check=False), "net", 1e-3)


def test_nothing_is_validated_by_assertions() -> None:
    """This file's refusals again, in a Python that leaves assertions out."""
    command = [sys.executable, "-O", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not needs_lava", __file__]
    done = subprocess.run(
        [*command, "-k", "not assertions and not bundle"], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout


def test_chain_must_end_in_neurons(tmp_path: Path) -> None:
    """A trailing flatten is not a layer of NetX."""
    conv = Conv2d("c", np.full((1, 1, 1, 1), 2, np.int32))
    with pytest.raises(GraphError, match="must end in exactly one LIF, found f"):
        write_netx(chain_of(Input("in", (1, 2, 2)), conv, Lif("l"), Flatten("f")), tmp_path / "x.net")
