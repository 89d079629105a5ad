"""taaf-train on real formats through the executable: the paper's configurations on small generated files."""

import json
from pathlib import Path

import pytest
from commands import assert_refused, run_command
from media_fixtures import tone, write_nmnist, write_ntidigits, write_video, write_wav

import taaf.training.cli as training_cli

CONFIGS = Path(training_cli.__file__).parent / "configs"


def _crema_d(root: Path) -> Path:
    ids = ("1001_DFA_ANG_XX", "1002_IEO_HAP_HI", "1003_TIE_SAD_LO", "1004_IWW_NEU_XX", "1005_ITH_FEA_XX")
    for k, name in enumerate(ids):
        write_wav(root / f"AudioWAV/{name}.wav", tone(16_000, 1.2, 300 * (k + 1)), 16_000)
        write_video(root / f"VideoFlash/{name}.flv", [(40 * k, 40 * j, 90) for j in range(4)])
    rows = [f"{i},{i.split('_')[2]}" for i in ids]
    (root / "train.csv").write_text("\n".join(rows[:3]) + "\n")
    (root / "test.csv").write_text("\n".join(rows[3:]) + "\n")
    return root


def _ead(root: Path) -> Path:
    for part, n in (("Train", 2), ("Test", 1)):
        for digit in range(10):
            for k in range(n):
                events = [((digit + i) % 34, i % 34, i % 2, 1000 * i) for i in range(200)]
                write_nmnist(root / f"{part}/{digit}/{k:05d}.bin", events)
    words = ("z", *map(str, range(1, 10)))
    parts = {
        part: {f"man-{who}-{take}-{w}": ([i % 64 for i in range(80)], [0.01 * i for i in range(80)]) for w in words}
        for part, who, take in (("train", "aa", "a"), ("test", "bb", "a"))
    }
    write_ntidigits(root / "n-tidigits.hdf5", parts)
    return root


def _reduced(name: str, tmp_path: Path, **changes: object) -> Path:
    """A shipped configuration with some values changed, as a user would edit it."""
    text = (CONFIGS / f"{name}.toml").read_text()
    for key, value in changes.items():
        lines = [f"{key} = {value}" if line.split("=")[0].strip() == key else line for line in text.splitlines()]
        assert lines != text.splitlines(), key
        text = "\n".join(lines)
    path = tmp_path / f"{name}.toml"
    path.write_text(text)
    return path


@pytest.mark.slow()
@pytest.mark.needs_slayer
def test_crema_d_trains_exports_and_deploys(tmp_path: Path) -> None:
    """Spiking ResNet18 branches (narrow here) on .flv and .wav: the loss falls, and every spike survives the export."""
    root = _crema_d(tmp_path / "crema")
    config = _reduced(
        "crema_d", tmp_path, epochs=8, batch_size=3, workers=0, learning_rate=5e-2, freeze_epoch=8, shift_pixels=0
    )
    config.write_text(config.read_text().replace("[model]", "[model]\nresnet_width = 4"))
    done = run_command("train", "--config", config, "--root", root, "--out", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    assert metrics["loss"] > 0 and set(metrics) >= {"test_fused", "test_visual", "test_audio", "k_visual", "alpha_audio"}
    assert len(metrics["alpha_fused"]) == 3
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert min(losses[4:]) < 0.9 * losses[0], losses
    bundle = tmp_path / "bundle"
    exported = run_command("export", tmp_path / "run/model.pt", "--to", "netx", "--out", bundle, "--json")
    assert exported.returncode == 0, exported.stderr
    layers = {x["layer"] for x in json.loads(exported.stdout)["layers"]}
    assert layers >= {"visual.encoder (host)", "audio.encoder (host)", "visual.block8_lif2", "audio.readout_lif"}
    deployed = run_command("deploy", bundle, "--backend", "fast", "--root", root, "--json")
    assert deployed.returncode == 0, deployed.stderr
    report = json.loads(deployed.stdout)
    assert report["samples"] == 2 and report["agreement"]["exact"]
    assert set(report["accuracy_percent"]) == {"fused", "visual", "audio"}
    assert report["encoder_macs_per_window"]["visual"] == 3 * 4 * 3 * 49 * 112 * 112
    (root / "VideoFlash/1002_IEO_HAP_HI.flv").write_bytes(b"not a video")
    stop = _reduced("crema_d", tmp_path, epochs=1, on_bad='"stop"')
    assert_refused(run_command("train", "--config", stop, "--root", root, "--out", tmp_path / "x"), 2, "1002_IEO_HAP_HI.flv")


@pytest.mark.slow()
@pytest.mark.needs_slayer
def test_ead_trains_exports_and_deploys(tmp_path: Path) -> None:
    """N-MNIST and N-TIDIGITS files, five steps, no alignment; the bundle is verified and run on the same files."""
    root = _ead(tmp_path / "ead")
    config = _reduced("ead", tmp_path, epochs=1, batch_size=10, workers=0)
    done = run_command("train", "--config", config, "--root", root, "--out", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["metrics"]["alpha_fused"]) == 5
    bundle = tmp_path / "bundle"
    exported = run_command("export", tmp_path / "run/model.pt", "--to", "netx", "--out", bundle)
    assert exported.returncode == 0, exported.stderr
    assert_refused(run_command("deploy", bundle, "--backend", "fast"), 2, "--root")
    deployed = run_command("deploy", bundle, "--backend", "fast", "--root", root, "--json")
    assert deployed.returncode == 0, deployed.stderr
    report = json.loads(deployed.stdout)
    assert report["samples"] == 10 and report["agreement"]["exact"]
    assert_refused(run_command("deploy", bundle, "--backend", "fast", "--root", root, "--split", "human"), 2, "--split human")


@pytest.mark.needs_slayer
def test_missing_data_is_named(tmp_path: Path) -> None:
    """No root, a root that does not exist, a set that does not exist."""
    assert_refused(run_command("train", "--config", CONFIGS / "ave.toml", "--out", tmp_path / "x"), 2, "data.root", "--root")
    gone = run_command("train", "--config", CONFIGS / "ave.toml", "--root", tmp_path / "gone", "--out", tmp_path / "x")
    assert_refused(gone, 2, str(tmp_path / "gone"))
    config = _reduced("ave", tmp_path, set='"av"')
    assert_refused(run_command("train", "--config", config, "--root", tmp_path, "--out", tmp_path / "x"), 2, "'av'", "ave")
    assert not (tmp_path / "x").exists()
