"""MISNET and CMCI from training to deployment, single modalities and probes by command, on a tiny data set."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import run_in_process

from taaf.deploy.cli import main as deploy
from taaf.export.bundle.reader import read_bundle
from taaf.export.cli import main as export
from taaf.training.cli import main as train

CONFIG = """
[data]
set = "arrays"
[branches.touch]
network = "dense"
hidden = 12
features = 9
[branches.audio]
network = "dense"
hidden = 12
features = 7
[head]
type = "taaf"
classes = 3
aligned_steps = 4
attention = "uniform"
fusion = "{fusion}"
[optimiser]
epochs = {epochs}
batch_size = 10
freeze_epoch = 1
learning_rate = 2e-2
audio_drop = 0.0
[loss]
balance = "{balance}"
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Spikes of two modalities in three parts; the class sets which neurons are busy."""
    folder, rng = tmp_path_factory.mktemp("root"), np.random.default_rng(0)
    for split, n in (("train", 60), ("validation", 18), ("test", 24)):
        labels = np.arange(n) % 3
        busy = np.where(np.arange(12)[None] // 4 == labels[:, None], 0.6, 0.1)[..., None]
        touch, audio = (rng.random((n, 12, t)) < busy for t in (6, 5))
        np.savez(folder / f"{split}.npz", touch=touch, audio=audio, labels=labels, names=np.array(["a", "b", "c"]))
    return folder


def _trained(folder: Path, root: Path, *options: str, **settings: Any) -> dict[str, Any]:
    (folder / "c.toml").write_text(CONFIG.format(**{"epochs": 2, "fusion": "concat", "balance": "none", **settings}))
    done = run_in_process(
        train, "--config", folder / "c.toml", "--root", root, "--out", folder / "run", "--json", "-q", *options
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.needs_slayer
@pytest.mark.parametrize("fusion", ["misnet", "cmci"])
def test_from_training_to_deployment(fusion: str, root: Path, tmp_path: Path) -> None:
    """Branches of unequal size (MISNET) on the chip, the fusion's neurons on the host: the engine decides as the trained network."""
    settings = {"fusion": fusion, "balance": fusion, "epochs": 12}
    if fusion == "cmci":
        told = _trained(tmp_path, root, **settings | {"fusion": 'cmci"\n#'}) if False else None
    text = CONFIG.replace("features = 7", "features = 9") if fusion == "cmci" else CONFIG
    (tmp_path / "c.toml").write_text(text.format(**settings))
    done = run_in_process(train, "--config", tmp_path / "c.toml", "--root", root, "--out", tmp_path / "run", "--json", "-q")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["metrics"]
    assert told["test_fused"] > 60
    done = run_in_process(export, tmp_path / "run/model.pt", "--to", "netx", "--out", tmp_path / "bundle", "--json", "-q")
    assert done.returncode == 0, done.stderr
    done = run_in_process(deploy, tmp_path / "bundle", "--backend", "fast", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["agreement"]["exact"] and report["samples"] == 24
    for u in ("fused", "touch", "audio"):
        assert report["accuracy_percent"][u] == pytest.approx(told[f"test_{u}"])
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.manifest["head"]["fusion"] == fusion
