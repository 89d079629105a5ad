"""S-CMRL through the real executables: train, export, deploy on engine and Lava, HTML report, refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import assert_refused, run_command, run_in_process

from taaf.deploy.cli import main as deploy_main
from taaf.export.cli import main as export_main
from taaf.models.checkpoint import read_checkpoint
from taaf.training import cli, sources

CONFIG = """
[data]
train_pairs = 100
test_pairs = 12
[branches.event]
network = "patch_stem"
channels = 16
[branches.audio]
network = "patch_stem"
shape = [1, 40, 4]
channels = 16
[head]
type = "scmrl"
alignment = "fixed"
aligned_steps = 4
attention_heads = 2
mlp_ratio = 2
fusion = "sum"
[optimiser]
epochs = 2
batch_size = 20
schedule = "cosine"
warmup_epochs = 1
freeze_epoch = 2
[loss]
balance = "scmrl"
"""


@pytest.mark.slow
@pytest.mark.needs_lava
def test_from_training_to_report(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Every command takes the model as it takes TAAF's; host operations are told apart; resumed training goes on."""
    (tmp_path / "c.toml").write_text(CONFIG)
    run = tmp_path / "run"
    done = run_command("train", "--config", tmp_path / "c.toml", "--out", run, "--json", "-q")
    assert done.returncode == 0, done.stderr
    assert {"loss_sao", "loss_fused", "test_audio"} <= set(json.loads(done.stdout)["metrics"])
    assert (run / "curves.png").is_file()
    assert "Warning" not in done.stderr
    assert cli.main(["--config", str(tmp_path / "c.toml"), "--out", str(run), "--resume", "-q"]) == 0
    bundle = tmp_path / "bundle"
    done = run_command("export", run / "model.pt", "--to", "netx", "--out", bundle, "--json", "-q")
    assert done.returncode == 0, done.stderr
    layers = json.loads(done.stdout)["layers"]
    assert len(layers) == 12 and all(x["exact"] for x in layers)
    capsys.readouterr()
    assert deploy_main([str(bundle), "--backend", "fast", "--energy-study", "--report", str(tmp_path / "r.html")]) == 0
    told = capsys.readouterr().out
    for words in (
        "s-cmrl on",
        "agreement   100 %",
        "attention products",
        "attention projections",
        "not part of the chip's energy",
    ):
        assert words in told
    assert "cross-modal: x + 1.5 x_res" in (tmp_path / "r.html").read_text()
    done = run_command("deploy", bundle, "--backend", "sim", "--samples", 2, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["agreement"]["exact"] and len(report["agreement"]["layer_mismatches"]) == 10
    parts = report["host_mac_parts"]
    assert sum(parts.values()) == report["host_macs_per_window"] and parts["attention products"] > 0
    assert export_main(["--fit", "loihi1", str(bundle)]) == 0
    assert export_main([str(run / "model.pt"), "--to", "nir", "--out", str(tmp_path / "backbone.nir")]) == 0
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["head"]["type"] = "mystery"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    assert deploy_main([str(bundle), "--backend", "fast"]) == 2
    assert "type (='mystery'): unknown; allowed: none, onnx, rate, scmrl, taaf" in capsys.readouterr().err


def test_refusal(tmp_path: Path) -> None:
    """One line, exit 2."""
    (tmp_path / "c.toml").write_text(CONFIG.replace('balance = "scmrl"', 'balance = "taaf"'))
    done = run_in_process(cli.main, "--config", tmp_path / "c.toml", "--out", tmp_path / "run")
    assert_refused(done, 2, "loss.balance (='taaf')", "head 'scmrl' is trained with scmrl")


def test_head_takes_a_shipped_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--head scmrl is the shipped file, and not a second word beside --config."""
    (tmp_path / "c.toml").write_text(CONFIG)
    assert_refused(run_command("train", "--config", tmp_path / "c.toml", "--head", "scmrl"), 2, "--head scmrl", "[head] type")
    seen: list[Any] = []
    told = {"model": "m", "metrics": dict.fromkeys(("test_fused", "test_event", "test_audio"), 1.0), "human": None}
    monkeypatch.setattr(cli, "_train", lambda args, config, out, ranks: seen.append((config, out)) or told)
    assert cli.main(["--head", "scmrl", "--epochs", "3", "--device", "cpu"]) == 0
    config, out = seen[0]
    found = (config.network.head.type, config.loss.balance, config.optimiser.epochs, out)
    assert found == ("scmrl", "scmrl", 3, Path("runs/scmrl_ead_mini"))
    assert config.network.check() is config.network


def test_both_heads(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each system in its folder, both curves in one picture; a stop between the two is resumed; not with one checkpoint."""
    whole = sources.open_split
    monkeypatch.setattr(sources, "open_split", lambda *a, **k: sources.FirstSamples(whole(*a, **k), 50))
    out = tmp_path / "run"
    command = ["--head", "both", "--epochs", "1", "--limit", "50", "--out", str(out), "-q"]
    assert cli.main([*command, "--json"]) == 0
    systems = json.loads(capsys.readouterr().out)["systems"]
    assert set(systems) == {"taaf", "scmrl"} and systems["taaf"]["metrics"]["test_fused"] >= 0
    kinds = [read_checkpoint(out / head / "model.pt")["config"]["head"]["type"] for head in systems]
    assert kinds == ["taaf", "scmrl"] and (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(command) == 2 and "holds a training already" in capsys.readouterr().err
    before = read_checkpoint(out / "scmrl/model.pt")["state"]
    shutil.rmtree(out / "scmrl")  # as if stopped after the first system
    assert cli.main([*command, "--resume"]) == 0
    after = read_checkpoint(out / "scmrl/model.pt")["state"]
    assert all(torch.equal(after[k], before[k]) for k in before) and capsys.readouterr().out.count("test accuracy") == 2
    assert cli.main([*command, "--init", str(out / "taaf/model.pt")]) == 2 and "--head both" in capsys.readouterr().err
