"""taaf-train on real formats through the executable: the paper's configurations on small generated files."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import assert_refused, run_command, run_in_process
from media_fixtures import dvs128, tone, write_aedat, write_image, write_nmnist, write_ntidigits, write_video, write_wav

import taaf.training.cli as training_cli
from taaf.deploy.cli import main as deploy_main
from taaf.export.bundle.reader import read_bundle
from taaf.export.cli import main as export_main
from taaf.models.checkpoint import read_checkpoint
from taaf.training.config import DataConfig, from_dict, with_root
from taaf.training.datasets.urbansound8k_av import CLASSES, SOUND, VISION

CONFIGS = Path(training_cli.__file__).parent / "configs"


def read_checkpoint_data(path: Path) -> DataConfig:
    """The [data] table stored with a model."""
    return from_dict(read_checkpoint(path)["config"], str(path)).data


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


def _mnist_dvs(root: Path) -> Path:
    """Ten recordings per digit (the tenth is the test part): a band of pixels that moves, lower for larger digits."""
    rng = np.random.default_rng(0)
    for digit in range(10):
        for k in range(10):
            x, y, on = rng.integers(34, size=1500), (3 * digit + rng.integers(5, size=1500)) % 34, rng.integers(2, size=1500)
            times = np.sort(rng.integers(2_000_000, size=1500))
            records = [(dvs128(47 + int(a), 47 + int(b), int(c)), int(t)) for a, b, c, t in zip(x, y, on, times, strict=True)]
            write_aedat(root / f"grabbed_data{digit}/scale4/mnist_{digit}_scale04_{k + 1:04d}.aedat", records)
    words = ("z", *map(str, range(1, 10)), "o")
    parts = {
        part: {
            f"man-{who}-{take}-{word}": ((6 * w + rng.integers(8, size=160)) % 64, np.sort(rng.random(160)))
            for take in "ab"
            for w, word in enumerate(words)
        }
        for part, who in (("train", "aa"), ("test", "bb"))
    }
    write_ntidigits(root / "n-tidigits.hdf5", parts)
    return root


def _urbansound(root: Path) -> Path:
    """Two clips per class, so that one is for training and one for the test."""
    for label, name in enumerate(CLASSES):
        for k in range(2):
            clip = f"{100 + k}-{label}-0-{k}"
            write_image(root / VISION / name / f"{clip}.jpg", (20 * label, 250 - 20 * label, 90))
            write_wav(root / SOUND / name / f"{clip}.wav", tone(44_100, 0.7 + k, 300 * (label + 1)), 44_100)
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
def test_crema_d_trains_exports_and_deploys(tmp_path: Path) -> None:
    """Spiking ResNet18 branches (narrow here) on .flv and .wav: the loss falls, and every spike survives the export."""
    root = _crema_d(tmp_path / "crema")
    config = _reduced(
        "crema_d",
        tmp_path,
        width=4,
        epochs=8,
        batch_size=3,
        workers=0,
        learning_rate=5e-2,
        freeze_epoch=8,
        flip="false",
        crop_area=1.0,
    )
    done = run_in_process(training_cli.main, "--config", config, "--root", root, "--out", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    assert metrics["loss"] > 0 and set(metrics) >= {"test_fused", "test_visual", "test_audio", "k_visual", "alpha_audio"}
    assert len(metrics["alpha_fused"]) == 3
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert min(losses[4:]) < 0.9 * losses[0], losses
    bundle = tmp_path / "bundle"
    exported = run_in_process(export_main, tmp_path / "run/model.pt", "--to", "netx", "--out", bundle, "--json")
    assert exported.returncode == 0, exported.stderr
    layers = {x["layer"] for x in json.loads(exported.stdout)["layers"]}
    assert layers >= {"visual.encoder (host)", "audio.encoder (host)", "visual.block8_lif2", "audio.readout_lif"}
    deployed = run_in_process(deploy_main, bundle, "--backend", "fast", "--root", root, "--json")
    assert deployed.returncode == 0, deployed.stderr
    report = json.loads(deployed.stdout)
    assert report["samples"] == 2 and report["agreement"]["exact"]
    assert set(report["accuracy_percent"]) == {"fused", "visual", "audio"}
    assert report["encoder_macs_per_window"]["visual"] == 3 * 4 * 3 * 49 * 112 * 112
    (root / "VideoFlash/1002_IEO_HAP_HI.flv").write_bytes(b"not a video")
    stop = _reduced("crema_d", tmp_path, epochs=1, on_bad='"stop"')
    assert_refused(
        run_in_process(training_cli.main, "--config", stop, "--root", root, "--out", tmp_path / "x"), 2, "1002_IEO_HAP_HI.flv"
    )


@pytest.mark.slow()
def test_ead_trains_exports_and_deploys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """N-MNIST and N-TIDIGITS files, five steps, no alignment; the bundle is verified and run on the same files.

    The data's folder takes no cache, relative paths are given, the working folder changes, and then the data move: settings of
    the training are not lost on the way. Seen failing: "give another cache folder", for which there was no option.
    """
    root, cache, moved = _ead(tmp_path / "ead"), tmp_path / "cache", tmp_path / "moved"
    (root / ".taaf-cache").write_text("in place of a folder: as if the disk were read-only")
    config = _reduced("ead", tmp_path, epochs=1, batch_size=10, workers=0)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    given = ("--config", config, "--root", "ead", "--out", "run", "--json")
    assert_refused(run_in_process(training_cli.main, *given), 2, "give another folder with --cache (or [data] cache)")
    done = run_in_process(training_cli.main, *given, "--cache", "cache")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["metrics"]["alpha_fused"]) == 5
    monkeypatch.chdir(tmp_path / "elsewhere")
    n_cached, bundle = len(list(cache.rglob("*.npz"))), tmp_path / "bundle"
    exported = run_in_process(export_main, tmp_path / "run/model.pt", "--to", "netx", "--out", bundle)
    assert exported.returncode == 0, exported.stderr
    assert len(list(cache.rglob("*.npz"))) == n_cached == 30
    root.rename(moved)
    gone = run_in_process(export_main, tmp_path / "run/model.pt", "--to", "netx", "--out", bundle)
    assert_refused(gone, 2, str(root), "does not exist")
    assert with_root(read_checkpoint_data(tmp_path / "run/model.pt"), str(moved)).cache == str(cache)
    assert_refused(run_in_process(deploy_main, bundle, "--backend", "fast"), 2, "--root")
    assert_refused(run_in_process(deploy_main, bundle, "--backend", "fast", "--root", moved), 2, "--cache")
    deployed = run_in_process(deploy_main, bundle, "--backend", "fast", "--root", moved, "--cache", cache, "--json")
    root = moved
    assert deployed.returncode == 0, deployed.stderr
    report = json.loads(deployed.stdout)
    assert report["samples"] == 10 and report["agreement"]["exact"]
    assert_refused(
        run_in_process(deploy_main, bundle, "--backend", "fast", "--root", root, "--split", "human"), 2, "--split human"
    )


@pytest.mark.needs_slayer
def test_unequal_steps(tmp_path: Path) -> None:
    """Five steps of events and three of sound, aligned to four: trained, exported, and deployed on the same files, exact."""
    root = _ead(tmp_path / "ead")
    config = _reduced("ead", tmp_path, epochs=1, batch_size=10, freeze_epoch=0, workers=0, channels=2, wide=2, hidden=8, features=8,
                      aligned_steps=4, alignment='"learned"')  # fmt: skip
    before, after = config.read_text().split("[branches.audio]")
    config.write_text(f"{before}[branches.audio]{after.replace('steps = 5', 'steps = 3', 1)}")
    done = run_in_process(training_cli.main, "--config", config, "--root", root, "--out", tmp_path / "run", "--json", "-q")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["metrics"]["alpha_fused"]) == 4
    done = run_in_process(export_main, tmp_path / "run/model.pt", "--to", "netx", "--out", tmp_path / "bundle", "-q")
    assert done.returncode == 0, done.stderr
    bundle = read_bundle(tmp_path / "bundle")
    assert [bundle.input_steps(m) for m in ("event", "audio")] == [5, 3]
    done = run_in_process(deploy_main, tmp_path / "bundle", "--backend", "fast", "--root", root, "--json", "-q")
    assert done.returncode == 0 and json.loads(done.stdout)["agreement"]["exact"], done.stderr


@pytest.mark.slow()
def test_urbansound8k_av_trains_exports_and_deploys(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The shipped configuration, narrow, on .jpg and .wav: one epoch, every spike survives, and the set is asked for again.

    Seen failing with the one cached frame of an image taken for the time steps.
    """
    root = _urbansound(tmp_path / "urban")
    config = _reduced(
        "urbansound8k_av", tmp_path, width=4, epochs=1, batch_size=5, workers=0, freeze_epoch=1, learning_rate=5e-2
    )
    text = config.read_text().replace("[data]", "[data]\ntest_pairs = 2")
    config.write_text(text)
    run, bundle, given = tmp_path / "run", tmp_path / "bundle", ["--config", str(config), "--root", str(root)]
    assert training_cli.main([*given, "--out", str(run), "--json", "-q"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert len(metrics["alpha_fused"]) == 4 and metrics["loss"] > 0
    assert export_main([str(run / "model.pt"), "--to", "netx", "--out", str(bundle), "-q"]) == 0
    capsys.readouterr()
    assert deploy_main([str(bundle), "--backend", "fast", "--root", str(root), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["samples"] == 2 and report["agreement"]["exact"]
    assert report["encoder_macs_per_window"]["audio"] == 4 * 4 * 49 * 129 * 125
    config.write_text(text.replace('"official"', '"speaker-disjoint"'))
    refused = run_command("train", *given, "--out", tmp_path / "x")
    assert_refused(refused, 2, "UrbanSound8K-AV split_kind", "official, recording-disjoint")


@pytest.mark.slow()
def test_scmrl_on_urbansound8k_av(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The shipped configuration, narrow: encoders on the host, apart in report, study and page; spikes-only stems are refused.

    Seen failing with encoders asked of ResNet18 only.
    """
    root = _urbansound(tmp_path / "urban")
    config = _reduced(
        "scmrl_urbansound8k_av", tmp_path, epochs=1, batch_size=5, workers=0, freeze_epoch=1, warmup_epochs=1, channels=16,
        attention_heads=2, learning_rate=5e-2,
    )  # fmt: skip
    text = config.read_text().replace("[data]", "[data]\ntest_pairs = 2")
    config.write_text(text)
    run, bundle, given = tmp_path / "run", tmp_path / "bundle", ["--config", str(config), "--root", str(root), "-q"]
    assert training_cli.main([*given, "--out", str(run), "--json"]) == 0
    assert {"loss_sao", "test_fused", "test_visual", "test_audio"} <= set(json.loads(capsys.readouterr().out)["metrics"])
    assert export_main([str(run / "model.pt"), "--to", "netx", "--out", str(bundle), "--json", "-q"]) == 0
    checks = json.loads(capsys.readouterr().out)["layers"]
    layers = [x["layer"] for x in checks if x["spikes"]]
    chip = ["conv2_lif", "conv3_lif", "conv4_lif", "position_lif", "tokens_lif"]
    assert layers == [f"{m}.{x}" for m in ("visual", "audio") for x in ("encoder (host)", *chip)]
    page = tmp_path / "r.html"
    study = ["--energy-study", "--report", str(page)]
    assert deploy_main([str(bundle), "--backend", "fast", "--root", str(root), "--json", *study]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["samples"] == 2 and report["agreement"]["exact"]
    macs = {"visual": 4 * 2 * 3 * 9 * 112 * 112, "audio": 4 * 2 * 9 * 129 * 125}
    assert report["encoder_macs_per_window"] == macs
    assert (
        report["energy_study"]["split"]["macs"]["first"] == sum(macs.values()) and report["energy_study"]["split"]["real_input"]
    )
    assert "encoder on the host: conv 3x3 /2" in page.read_text() and "196 visual and 272 audio tokens" in page.read_text()
    config.write_text(text.replace("scale = 32\n", ""))
    assert training_cli.main([*given, "--out", str(tmp_path / "x")]) == 2
    assert "branches.visual: its inputs are real numbers; give scale" in capsys.readouterr().err


@pytest.mark.slow()
@pytest.mark.needs_lava
@pytest.mark.parametrize(("shape", "neurons"), [((1, 64, 1), 16 * 16), ((1, 8, 8), 16 * 4)])
def test_scmrl_on_mnistdvs_ntidigits(
    shape: tuple[int, ...], neurons: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """S-CMRL on its own set, through .aedat and .hdf5 files: all layers fire after an epoch; engine and Lava agree exactly.

    The 64 channels of the cochlea are a column, or 8x8. The files are read again: one that changed is noticed.
    """
    root = _mnist_dvs(tmp_path / "ead")
    config = _reduced(
        "scmrl_ead", tmp_path, epochs=1, batch_size=5, workers=0, freeze_epoch=1, warmup_epochs=1, learning_rate=5e-2,
        channels=16, attention_heads=2,
    )  # fmt: skip
    text = config.read_text()
    assert "shape = [1, 64, 1]" in text
    config.write_text(text.replace("shape = [1, 64, 1]", f"shape = {list(shape)}"))
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    assert training_cli.main(["--config", str(config), "--root", str(root), "--out", str(run), "--json", "-q"]) == 0
    assert {"loss_sao", "test_fused", "test_event", "test_audio"} <= set(json.loads(capsys.readouterr().out)["metrics"])
    assert export_main([str(run / "model.pt"), "--to", "netx", "--out", str(bundle), "--json", "-q"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert len(layers) == 8 and all(x["exact"] and x["spikes"] for x in layers), layers
    assert read_bundle(bundle).graphs["audio"].input.shape == shape
    assert deploy_main([str(bundle), "--backend", "fast"]) == 2
    assert "--root" in capsys.readouterr().err
    assert deploy_main([str(bundle), "--backend", "fast", "--root", str(root), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["samples"] == 50 and report["agreement"]["exact"]  # half of each digit's recordings
    assert report["agreement"]["neuron_steps_compared"] == 50 * 4 * 2 * (49 * 16 + neurons)
    assert report["layers"][-1]["layer"].startswith("audio.tokens") and report["layers"][-1]["n_neurons"] == 2 * neurons
    if shape == (1, 64, 1):
        done = run_command("deploy", bundle, "--backend", "sim", "--samples", 2, "--root", root, "--json")
        assert done.returncode == 0, done.stderr
        agreement = json.loads(done.stdout)["agreement"]
        assert agreement["exact"] and len(agreement["layer_mismatches"]) == 6
    write_aedat(root / "grabbed_data3/scale4/mnist_3_scale04_0009.aedat", [(dvs128(60, 60, 1), 5), (dvs128(61, 60, 1), 9)])
    assert deploy_main([str(bundle), "--backend", "fast", "--root", str(root)]) == 1


def test_missing_data_is_named(tmp_path: Path) -> None:
    """No root, a root that does not exist, a set that does not exist."""
    assert_refused(
        run_in_process(training_cli.main, "--config", CONFIGS / "ave.toml", "--out", tmp_path / "x"), 2, "data.root", "--root"
    )
    gone = run_in_process(
        training_cli.main, "--config", CONFIGS / "ave.toml", "--root", tmp_path / "gone", "--out", tmp_path / "x"
    )
    assert_refused(gone, 2, str(tmp_path / "gone"))
    config = _reduced("ave", tmp_path, set='"av"')
    assert_refused(
        run_in_process(training_cli.main, "--config", config, "--root", tmp_path, "--out", tmp_path / "x"), 2, "'av'", "ave"
    )
    config = _reduced("ave", tmp_path, set='"ead_mini"')
    assert_refused(run_in_process(training_cli.main, "--config", config, "--out", tmp_path / "x"), 2, "did you mean 'ead-mini'")
    assert not (tmp_path / "x").exists()
