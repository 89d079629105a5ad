"""Bundles with a host encoder and branches of other names: read, run, and refused where their parts do not fit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from resnet_nets import TWIN, calibrated_twin, levels_of

from taaf.deploy.session import Request, deploy
from taaf.export.bundle.reader import read_bundle
from taaf.export.netx_bundle import export_netx, windows_to_verify
from taaf.models.checkpoint import save_checkpoint
from taaf.models.config import ModelConfig
from taaf.models.errors import BundleError, CheckpointError, DataError
from taaf.models.files.writing import sha256
from taaf.training.config import from_dict

pytestmark = pytest.mark.needs_slayer


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The narrow twin, verified on three windows."""
    folder = tmp_path_factory.mktemp("twin")
    model = calibrated_twin()
    config = from_dict({"data": {"set": "generated"}, "model": TWIN.to_dict()}).to_dict()
    save_checkpoint(folder / "model.pt", model, config)
    labels = np.arange(3)
    export_netx(
        folder / "model.pt", folder / "bundle", levels_of(model, 3), labels, list("abcdef"), verify_lava=0, quiet=True
    )  # fmt: skip
    return folder / "bundle"


def test_bundle_names_its_branches(bundle: Path) -> None:
    """visual and audio, an encoder each; the deployment agrees with training and shows the encoders' work."""
    found = read_bundle(bundle)
    assert found.modalities == ("visual", "audio") and set(found.encoders) == {"visual", "audio"}
    assert found.encoders["visual"].input_shape == (3, 33, 33)
    report = deploy(Request(bundle, "fast", None, "test", None), lambda _: None, lambda _: None)
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
    report = deploy(Request(changed, "fast", None, "test", None), lambda _: None, lambda _: None)
    assert not report["agreement"]["exact"] and report["agreement"]["spike_mismatches"] > 0


CHANGES: dict[str, tuple[Callable[[Path, dict[str, Any]], Any], str]] = {
    "other input": (lambda _, m: m["branches"]["visual"]["encoder_spec"].update(input_shape=[3, 35, 35]), "its encoder gives"),
    "no stride": (lambda _, m: m["branches"]["visual"]["encoder_spec"].pop("stride"), "stride None"),
    "no spec": (lambda _, m: m["branches"]["visual"].pop("encoder_spec"), "encoder_spec: missing"),
    "another's file": (lambda _, m: m["branches"]["visual"].update(encoder_file="head.npz"), "weight, bias"),
    "outside": (lambda _, m: m["branches"]["visual"].update(encoder_file="../x.npz"), "not allowed"),
    "names": (lambda _, m: m["head"].update(modalities=["visual", "../audio"]), "modalities"),
    "same names": (lambda _, m: m["head"].update(modalities=["visual", "visual"]), "modalities"),
    "one name": (lambda _, m: m["head"].update(modalities=["visual"]), "modalities"),
    "numbers": (lambda _, m: m["head"].update(modalities=[1, 2]), "modalities"),
    "fused": (lambda _, m: m["head"].update(modalities=["fused", "audio"]), "modalities"),
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


def test_configurations_of_older_checkpoints() -> None:
    """They do not know shapes and scales of real inputs; anything else must be there. Scales are powers of two."""
    values = ModelConfig().to_dict()
    old = {
        k: v for k, v in values.items() if k not in ("frame_size", "audio_bins", "audio_frames", "frame_scale", "audio_scale")
    }
    assert ModelConfig.from_dict(old) == ModelConfig()
    with pytest.raises(CheckpointError, match="features"):
        ModelConfig.from_dict({k: v for k, v in old.items() if k != "features"})
    with pytest.raises(CheckpointError, match="powers of two"):
        ModelConfig.from_dict({**values, "frame_scale": 24})
    assert windows_to_verify(ModelConfig()) > 1000
    assert windows_to_verify(ModelConfig(first_name="visual", first_branch="resnet18", audio_branch="resnet18")) == 1
