"""Bundles with a host encoder and branches of other names: read, run, and refused where their parts do not fit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from resnet_nets import calibrated_twin, levels_of
from small_networks import taaf_config, trained

from taaf.deploy.report import Request, deploy
from taaf.export.bundle.reader import read_bundle
from taaf.export.frontend import float_graphs, host_encoders
from taaf.export.netx_bundle import export_netx, windows_to_verify
from taaf.models.config import NetworkConfig
from taaf.models.errors import BundleError, ConfigError, DataError
from taaf.models.files.writing import sha256
from taaf.models.network import MultimodalSnn
from taaf.models.version2 import network_tables


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The narrow twin, verified on three windows."""
    folder = tmp_path_factory.mktemp("twin")
    model = calibrated_twin()
    found, inputs = trained(folder, model, data={"set": "generated"}), levels_of(model, 3)
    export_netx(found, folder / "bundle", inputs, np.arange(3), list("abcdef"), data={"set": "generated"})
    return folder / "bundle"


def test_bundle_names_its_branches(bundle: Path) -> None:
    """visual and audio, an encoder each; the deployment agrees with training and shows the encoders' work."""
    found = read_bundle(bundle)
    assert found.modalities == ("visual", "audio") and set(found.encoders) == {"visual", "audio"}
    assert found.encoders["visual"].input_shape == (3, 33, 33)
    report = deploy(Request(bundle, "fast"), lambda _: None, lambda _: None)
    assert report["agreement"]["exact"] and report["samples"] == 3
    assert report["encoder_macs_per_window"] == {b: 3 * e.n_macs for b, e in found.encoders.items()}
    assert report["accuracy_percent"].keys() == {"fused", "visual", "audio"}


def _other_weight(folder: Path, manifest: dict[str, Any]) -> None:
    arrays = dict(np.load(folder / "encoder_visual.npz"))
    arrays["weight"][0] = -arrays["weight"][0]
    np.savez(folder / "encoder_visual.npz", **arrays)
    manifest["files"]["encoder_visual.npz"] = sha256(folder / "encoder_visual.npz")


def test_another_encoder_is_noticed(bundle: Path, tmp_path: Path) -> None:
    """With fitting hashes: the spikes are not those of the trained model."""
    changed = _changed(bundle, tmp_path / "b", _other_weight)
    report = deploy(Request(changed, "fast"), lambda _: None, lambda _: None)
    assert not report["agreement"]["exact"] and report["agreement"]["spike_mismatches"] > 0


def _renamed(manifest: dict[str, Any], old: str, new: str) -> None:
    manifest["branches"] = {new if m == old else m: b for m, b in manifest["branches"].items()}


CHANGES: dict[str, tuple[Callable[[Path, dict[str, Any]], Any], str]] = {
    "other input": (lambda _, m: m["branches"]["visual"]["encoder_spec"].update(input_shape=[3, 35, 35]), "its encoder gives"),
    "no stride": (lambda _, m: m["branches"]["visual"]["encoder_spec"].pop("stride"), "stride None"),
    "no spec": (lambda _, m: m["branches"]["visual"].pop("encoder_spec"), "encoder_spec: missing"),
    "another's file": (lambda _, m: m["branches"]["visual"].update(encoder_file="head.npz"), "weight, bias"),
    "outside": (lambda _, m: m["branches"]["visual"].update(encoder_file="../x.npz"), "not allowed"),
    "names": (lambda _, m: _renamed(m, "audio", "../audio"), "branches: expected 1 to 64 different names"),
    "long names": (lambda _, m: _renamed(m, "audio", "a" * 33), "branches: expected 1 to 64 different names"),
    "fused": (lambda _, m: _renamed(m, "visual", "fused"), "branches: expected 1 to 64 different names"),
    "no branches": (lambda _, m: m.update(branches={}), "branches: expected 1 to 64 different names"),
    "another order": (
        lambda _, m: m["branches"].update(visual=m["branches"].pop("visual")),
        "the head reads visual, audio, the",
    ),
    "one input less": (lambda _, m: m["head"]["inputs"].pop("visual"), "classifier_weight has shape"),
    "one input more": (
        lambda _, m: m["head"]["inputs"].update(x={"shape": [6], "steps": 3}),
        "align_x_weight, align_x_bias, query_x, key_x missing",
    ),
    "wrong steps": (
        lambda _, m: m["branches"]["audio"].update(input_steps=2),
        "head reads another number of audio steps than 2",
    ),
    "other names": (lambda _, m: _renamed(m, "visual", "sight"), "features_sight"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_parts_that_do_not_fit_are_refused(bundle: Path, tmp_path: Path, change: str) -> None:
    """One line; seen failing without the comparison of the encoder's output with the network's input ("other input")."""
    alter, message = CHANGES[change]
    with pytest.raises(BundleError, match=message):
        read_bundle(_changed(bundle, tmp_path / "b", alter))


def _changed(bundle: Path, target: Path, alter: Callable[[Path, dict[str, Any]], Any]) -> Path:
    shutil.copytree(bundle, target)
    manifest = json.loads((target / "manifest.json").read_text())
    alter(target, manifest)
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def test_real_numbers_need_an_encoder() -> None:
    """Frames for a branch that takes spikes are refused, by name."""
    from taaf.training.sources import _deployed

    x = np.array([0.5, 1.0], np.float32)
    assert _deployed("set", "visual", x, 8).tolist() == [4, 8]
    for values, scale, message in ((x, None, "real numbers"), (x * np.nan, 8, "NaN"), (x * np.inf, 8, "infinite")):
        with pytest.raises(DataError, match=message):
            _deployed("set", "visual", values, scale)


def test_large_networks_are_verified_on_fewer_windows() -> None:
    """Networks of spikes on all; of ResNet18 on frames one. Scales of real inputs are powers of two."""

    def checked(config: NetworkConfig) -> int:
        model, steps = MultimodalSnn(config), {m: spec.steps for m, spec in config.inputs.items()}
        found = SimpleNamespace(graphs=float_graphs(model), encoders=host_encoders(model), steps=steps)
        return windows_to_verify(found)  # type: ignore[arg-type]

    kinds = {"first_name": "visual", "first_branch": "resnet18", "audio_branch": "resnet18"}
    assert checked(taaf_config()) > 1000
    assert checked(NetworkConfig.from_dict(network_tables(kinds))) == 1
    with pytest.raises(ConfigError, match=r"branches\.visual\.scale \(=24\): allowed powers of two from 0 to 64"):
        NetworkConfig.from_dict(network_tables({**kinds, "frame_scale": 24}))
