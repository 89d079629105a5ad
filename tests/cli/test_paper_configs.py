"""The paper's variants on EAD-mini, in small, through every command: train, export, deploy; agreement exact."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import run_in_process

import taaf.training.cli as training_cli
from taaf.deploy.cli import main as deploy
from taaf.export.bundle.reader import read_bundle
from taaf.export.cli import main as export
from taaf.models.ir import RecurrentDense

CONFIGS = Path(training_cli.__file__).parent / "configs"
SMALL = {
    "channels": 2, "wide": 4, "hidden": 24, "features": 16, "epochs": 2, "freeze_epoch": 1, "batch_size": 20, "learning_rate": 2e-2,
    "validation": 0.01, "modulation_end": 1,
}  # fmt: skip


def _small(name: str, folder: Path, tables: dict[str, dict[str, Any]]) -> Path:
    """A shipped configuration, narrow and short, with settings added to its tables."""
    text = (CONFIGS / f"{name}.toml").read_text()
    for key, value in SMALL.items():
        lines = [f"{key} = {value}" if line.split("=")[0].strip() == key else line for line in text.splitlines()]
        assert lines != text.splitlines(), key
        text = "\n".join(lines)
    for table, entries in ({"data": {"train_pairs": 40, "test_pairs": 16}} | tables).items():
        added = "".join(f"{k} = {json.dumps(v)}\n" for k, v in entries.items())
        text = text.replace(f"[{table}]\n", f"[{table}]\n{added}")
    (folder / "c.toml").write_text(text)
    return folder / "c.toml"


READINGS: dict[str, dict[str, Any]] = {
    "head": {"classifier": "spiking"},
    "loss": {"k_per": "step", "k_from": "validation", "alpha_detach": True, "readout_weight": 1.0},
    "optimiser": {"method": "sgd"},
}


@pytest.mark.parametrize(("name", "tables"), [("ead_mini_recurrent", {}), ("ead_mini_sum", {}), ("ead_mini_sum", READINGS)])
@pytest.mark.needs_lava
def test_train_export_deploy(name: str, tables: dict[str, Any], tmp_path: Path) -> None:
    """Every spike and decision of the trained network on the engine; of the recurrent one on Lava too, two windows."""
    config = _small(name, tmp_path, tables)
    done = run_in_process(training_cli.main, "--config", config, "--out", tmp_path / "run", "--json", "-q")
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    assert set(metrics) >= {"val_fused", "val_score_audio", "test_fused", "k_event", "alpha_fused"}
    done = run_in_process(export, tmp_path / "run/model.pt", "--to", "netx", "--out", tmp_path / "bundle", "--json", "-q")
    assert done.returncode == 0, done.stderr
    assert all(x["exact"] for x in json.loads(done.stdout)["layers"])
    bundle = read_bundle(tmp_path / "bundle")
    recurrent = any(isinstance(node, RecurrentDense) for node in bundle.graphs["audio"].nodes.values())
    assert recurrent == ("recurrent" in name)
    assert bundle.manifest["head"]["classifier"] == tables.get("head", {}).get("classifier", "linear")
    for backend, n in (("fast", 16), *([("sim", 2)] if recurrent else [])):
        done = run_in_process(deploy, tmp_path / "bundle", "--backend", backend, "--samples", n, "--json", "-q")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["agreement"]["exact"] and report["samples"] == n
        if backend == "fast":
            assert report["accuracy_percent"]["fused"] == pytest.approx(metrics["test_fused"])
