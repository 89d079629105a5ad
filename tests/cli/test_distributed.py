"""Training under torchrun: two ranks give the loss curve of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import assert_refused, run_command
from small_networks import small_branches

CONFIG = """
[data]
train_pairs = 90
test_pairs = 41
{branches}
[head]
attention = "taaf"
[optimiser]
epochs = 4
batch_size = 20
freeze_epoch = 2
[loss]
balance = "{balance}"
"""


def _torchrun(ranks: int, *args: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", "29617"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [*command, "-m", "taaf.training.cli", *map(str, args)]
    return subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=300)


def _curve(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow()
@pytest.mark.parametrize(
    "balance", ["taaf", pytest.param("agm", marks=pytest.mark.long), pytest.param("pmr", marks=pytest.mark.long)]
)
def test_two_ranks_equal_one(balance: str, tmp_path: Path) -> None:
    """Same global batch (the last one of 10 splits into 5 + 5): losses equal to 1e-5, accuracies equal, model written once."""
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(balance=balance, branches=small_branches(4, 8, 32, 32)))
    single = run_command("train", "--config", config, "--out", tmp_path / "one", "-q")
    assert single.returncode == 0, single.stderr
    double = _torchrun(2, "--config", config, "--out", tmp_path / "two", "-q")
    assert double.returncode == 0, double.stderr
    assert double.stdout.count("model.pt: test accuracy") == 1
    one, two = _curve(tmp_path / "one"), _curve(tmp_path / "two")
    assert len(one) == len(two) == 4
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-5)
        assert b["test_fused"] == a["test_fused"]
        for m in ("event", "audio"):
            assert b[f"rho_{m}"] == pytest.approx(a[f"rho_{m}"], abs=1e-5)


def test_devices_are_checked(tmp_path: Path) -> None:
    """A device that is not there, and a name that is none."""
    missing = run_command("train", "--device", "cuda:63", "--out", tmp_path / "x")
    assert_refused(missing, 3, "--device cuda:63", "--device cpu")
    assert_refused(run_command("train", "--device", "abacus", "--out", tmp_path / "x"), 2, "'abacus'")
    assert not (tmp_path / "x").exists()
