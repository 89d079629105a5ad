"""EAD-36 through every command: trained, exported and deployed, the data set found by the manifest."""

import json
from pathlib import Path

from commands import assert_refused, run_in_process

from taaf.deploy.cli import main as deploy
from taaf.export.cli import main as export
from taaf.training import config
from taaf.training.cli import main as train

CONFIG = Path(config.__file__).parent / "configs" / "ead36.toml"


def test_from_nothing_to_a_bundle(tmp_path: Path, one_thread: None) -> None:
    """Recurrent audio branch included: exact on the engine, on the test and on recorded voices; klettres-data is asked for."""
    text = CONFIG.read_text().replace("[data]\n", "[data]\ntest_pairs = 24\n")
    (tmp_path / "small.toml").write_text(
        text.replace("channels = 8\nwide = 16", "channels = 4\nwide = 4").replace("= 128", "= 32")
    )
    model, bundle = tmp_path / "run" / "model.pt", tmp_path / "bundle"
    done = run_in_process(
        train, "--config", tmp_path / "small.toml", "--epochs", 1, "--limit", 60, "--out", model.parent, "--quiet"
    )
    assert done.returncode == 0, done.stderr
    assert "recorded human speech" in done.stdout
    assert json.loads((model.parent / "metrics.jsonl").read_text())["val_fused"] >= 0
    done = run_in_process(export, model, "--to", "netx", "--out", bundle)
    assert done.returncode == 0, done.stderr
    done = run_in_process(deploy, bundle, "--backend", "fast", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["split"] == "test" and report["samples"] == 24
    assert report["agreement"]["exact"]
    done = run_in_process(deploy, bundle, "--backend", "fast", "--split", "human", "--samples", 10, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["split"] == "human"
    asked = run_in_process(deploy, bundle, "--backend", "fast", "--split", "human-klettres", "--root", tmp_path)
    assert_refused(asked, 2, "install Debian's klettres-data")
