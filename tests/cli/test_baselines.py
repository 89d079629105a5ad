"""MISNET and CMCI from training to deployment, single modalities and probes by command, on a tiny data set."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import assert_refused, run_in_process

from taaf.deploy.cli import main as deploy
from taaf.export.bundle.reader import read_bundle
from taaf.export.cli import main as export
from taaf.models.checkpoint import load_model
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


def _trained(folder: Path, root: Path, *options: str, features: int = 7, **settings: Any) -> dict[str, Any]:
    """What taaf-train tells of a training into ``folder / run``; ``features`` of the audio branch."""
    text = CONFIG.replace("features = 7", f"features = {features}")
    (folder / "c.toml").write_text(text.format(**{"epochs": 1, "fusion": "concat", "balance": "none", **settings}))
    done = run_in_process(
        train, "--config", folder / "c.toml", "--root", root, "--out", folder / "run", "--json", "-q", *options
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["metrics"]
    return found


@pytest.mark.parametrize(("fusion", "features"), [("misnet", 7), ("cmci", 9)])
def test_from_training_to_deployment(fusion: str, features: int, root: Path, tmp_path: Path) -> None:
    """Branches on the chip, of unequal size for MISNET, and the fusion's neurons on the host: the engine decides as the trained network."""
    told = _trained(tmp_path, root, features=features, fusion=fusion, balance=fusion, epochs=12)
    assert told["test_fused"] > 60 and told["val_fused"] > 60
    done = run_in_process(export, tmp_path / "run/model.pt", "--to", "netx", "--out", tmp_path / "bundle", "--json", "-q")
    assert done.returncode == 0, done.stderr
    done = run_in_process(deploy, tmp_path / "bundle", "--backend", "fast", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["agreement"]["exact"] and report["samples"] == 24
    for u in ("fused", "touch", "audio"):
        assert report["accuracy_percent"][u] == pytest.approx(told[f"test_{u}"])
    assert read_bundle(tmp_path / "bundle").manifest["head"]["fusion"] == fusion


@pytest.mark.needs_slayer
def test_one_modality_alone_and_probed(root: Path, tmp_path: Path) -> None:
    """``--only`` trains a network of one branch; ``--probe`` reads its features, with C chosen on the validation part."""
    told = _trained(tmp_path, root, "--only", "audio", balance="la")
    model, content = load_model(tmp_path / "run/model.pt")
    assert model.config.modalities == ("audio",) and content["config"]["loss"]["balance"] == "none"
    assert told["test_fused"] == told["test_audio"] and told["loss"] == pytest.approx(told["loss_fused"], rel=1e-5)
    done = run_in_process(train, "--probe", tmp_path / "run/model.pt", "--json", "-q")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema_version"] == 1 and found["probe_on"] == "steps" and list(found["probes"]) == ["audio"]
    probe = found["probes"]["audio"]
    assert probe["features"] == 7 * 5 and probe["head"] == pytest.approx(told["test_audio"]) and probe["validation"] is not None
    done = run_in_process(train, "--probe", tmp_path / "run/model.pt", "--probe-on", "rates", "--limit", "30")
    assert (
        done.returncode == 0
        and "linear probes of time-averaged feature spikes (C chosen on the validation part)" in done.stdout
    )
    assert done.stdout.splitlines()[-1].split()[0] == "audio"


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        (("--probe", "no.pt"), ("no.pt: no such file",)), (("--probe-on", "rates"), ("--probe-on rates: needs --probe",)),
        (("--probe", "a.pt", "--epochs", "3", "--only", "x"), ("--probe a.pt", "no use for --epochs, --only")),
        (("--probe", "a.pt", "--device", "cuda"), ("no use for --device",)),
        (("--only", "audoi"), ("--only audoi: no such branch; did you mean 'audio'?",)),
        (("--only", "audio", "--ablation"), ("--only audio: trains one network",)),
    ],
)  # fmt: skip
def test_refused(options: tuple[str, ...], mentions: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, exit 2, nothing written."""
    monkeypatch.chdir(tmp_path)
    assert_refused(run_in_process(train, *options), 2, *mentions)
    assert not list(tmp_path.iterdir())
