"""taaf-deploy on windows of one's own: decisions, probabilities and exit steps into a file, with and without labels."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import assert_refused, run_in_process

from taaf.deploy.cli import main
from taaf.models import zoo_path
from taaf.models.host_head import softmax
from taaf.training.datasets.ead_mini import load_split

BUNDLE = zoo_path("ead_mini")
N = 8


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first test windows, as a user would save them: other number types, the audio as a map, no labels."""
    part = load_split("test", slice(N))
    path = tmp_path_factory.mktemp("own") / "windows.npz"
    np.savez(path, audio=part.audio.reshape(N, 40, 4, 12).astype(np.float32), event=part.event.astype(bool))
    return path


def _labelled(folder: Path, **changed: np.ndarray) -> Path:
    part = load_split("test", slice(N))
    np.savez(folder / "labelled.npz", **{**part.inputs(), "labels": part.labels, **changed})
    return folder / "labelled.npz"


def test_early_exit_without_labels_claims_no_accuracy(windows: Path, tmp_path: Path) -> None:
    given = (BUNDLE, "--backend", "fast", "--input", windows, "--early-exit", "0.9")
    done = run_in_process(main, *given, "--json", "--plot", tmp_path / "exit.png")
    early = json.loads(done.stdout)["early_exit"]
    assert all(x["accuracy_percent"] is None for x in (early["chosen"], early["full"], *early["curve"]))
    assert early["full"]["same_as_full_percent"] == 100 and (tmp_path / "exit.png").stat().st_size > 1000
    text = run_in_process(main, *given, "--report", tmp_path / "r.html")
    assert text.returncode == 0 and " 0.0 %  " not in text.stdout.split("Early exit")[1].split("updates")[1]


def _golden() -> dict[str, np.ndarray]:
    return dict(np.load(BUNDLE / "golden.npz"))


def test_decisions_as_a_table(windows: Path, tmp_path: Path) -> None:
    """Without labels: every decision and probability is the trained network's, nothing is claimed of the accuracy."""
    done = run_in_process(main, BUNDLE, "--backend", "fast", "--input", windows, "--output", tmp_path / "p.csv", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["accuracy_percent"] == {} and report["split"] == str(windows) and report["samples"] == N
    assert report["agreement"]["exact"] and report["agreement"]["with"] == "integer reference, step by step"
    rows = list(csv.DictReader(io.StringIO((tmp_path / "p.csv").read_text())))
    logits = _golden()["logits"][:N]
    assert [int(r["window"]) for r in rows] == list(range(N))
    assert [r["decision"] for r in rows] == [str(k) for k in logits.argmax(1)]
    found = [[float(r[f"p_{k}"]) for k in range(10)] for r in rows]
    np.testing.assert_allclose(found, softmax(logits), atol=1e-5)
    assert "exit_step" not in rows[0]
    text = run_in_process(main, BUNDLE, "--backend", "fast", "--input", windows, "--samples", 3)
    assert text.returncode == 0 and "agreement   100 %" in text.stdout


def test_decisions_as_arrays(tmp_path: Path) -> None:
    """With labels: the accuracy too. Early exit: the step at which each window was decided."""
    labels = load_split("test", slice(N)).labels.copy()
    labels[0] = (labels[0] + 1) % 10
    command = ("--backend", "fast", "--input", _labelled(tmp_path, labels=labels), "--json", "--output", tmp_path / "p.npz")
    report = json.loads(run_in_process(main, BUNDLE, *command).stdout)
    logits = _golden()["logits"][:N]
    right = float(100 * (logits.argmax(1) == labels).mean())
    assert report["accuracy_percent"]["fused"] == right and right <= 100 * (N - 1) / N
    found = dict(np.load(tmp_path / "p.npz"))
    np.testing.assert_allclose(found["logits"], logits, atol=1e-9)
    np.testing.assert_allclose(found["probability"], softmax(logits), atol=1e-9)
    np.testing.assert_array_equal(found["decision"], logits.argmax(1))
    assert "exit_steps" not in found
    done = run_in_process(main, BUNDLE, *command, "--early-exit", "0.9")
    assert done.returncode == 0, done.stderr
    early, steps = json.loads(done.stdout)["early_exit"], np.load(tmp_path / "p.npz")["exit_steps"]
    assert steps.shape == (N,) and early["ran_mean_steps"] == steps.mean() and 1 <= steps.min() < steps.max() <= 12
    assert run_in_process(main, BUNDLE, *command[:-1], tmp_path / "p.csv", "--early-exit", "0.9").returncode == 0
    assert [int(r["exit_step"]) for r in csv.DictReader((tmp_path / "p.csv").open())] == steps.tolist()


EVENT = (N, 2, 34, 34, 8)
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "label beyond": ({"labels": np.full(N, 10)}, "labels go up to 10, the bundle has 10 classes"),
    "counts": ({"event": np.full(EVENT, 2, np.uint8)}, "event holds values other than 0 and 1; this branch takes spikes"),
    "real": ({"event": np.full(EVENT, 0.5, np.float32)}, "event holds values other than 0 and 1"),
    "NaN": ({"event": np.full(EVENT, np.nan, np.float32)}, "event holds values that are NaN or infinite"),
    "steps": (
        {"event": np.zeros((N, 2, 34, 34, 9), np.uint8)},
        "branch event takes (2, 34, 34, 8), the windows give (2, 34, 34, 9)",
    ),
    "shape": ({"event": np.zeros((N, 2, 30, 34, 8), np.uint8)}, "branch event takes (2, 34, 34, 8)"),
    "fewer": ({"event": np.zeros((5, 2, 34, 34, 8), np.uint8)}, "event has 5 windows"),
}


@pytest.mark.parametrize("case", WRONG)
def test_windows_that_do_not_fit(case: str, tmp_path: Path) -> None:
    """Exit 2, one line that names the array; no output."""
    changed, mention = WRONG[case]
    path = _labelled(tmp_path, **changed)
    done = run_in_process(main, BUNDLE, "--backend", "fast", "--input", path, "--output", tmp_path / "p.csv")
    assert_refused(done, 2, mention)
    assert not (tmp_path / "p.csv").exists()


def test_requests_that_contradict_themselves(windows: Path, tmp_path: Path) -> None:
    """Options that mean nothing beside --input, files of the wrong kind, places that do not exist."""
    given = (BUNDLE, "--backend", "fast", "--input", windows)
    for extra, mention in (
        (("--split", "human"), "--input: brings its own windows"), (("--root", tmp_path), "--input: brings its own windows"),
        (("--output", tmp_path / "p.txt"), ".csv"), (("--output", tmp_path / "no/p.csv"), "no/p.csv"),
        (("--samples", 9), f"--samples 9: {windows} has 8; allowed 1..8"),
    ):  # fmt: skip
        assert_refused(run_in_process(main, *given, *extra), 2, mention)
    for path, mention in ((tmp_path / "x.npz", "no such file"), (tmp_path, "a folder without .npy files")):
        assert_refused(run_in_process(main, BUNDLE, "--backend", "fast", "--input", path), 2, mention)
    np.savez(tmp_path / "one.npz", event=np.zeros((1, 2, 34, 34, 8), np.uint8))
    assert_refused(run_in_process(main, BUNDLE, "--backend", "fast", "--input", tmp_path / "one.npz"), 2, "no array 'audio'")
