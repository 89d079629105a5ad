"""taaf-deploy through its real executable, on the shipped bundle and on broken ones."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import assert_refused, run_command

from taaf.deploy import report as report_of
from taaf.deploy.cli import main
from taaf.hw_sim.reference import run_reference
from taaf.models import zoo_path


def test_fast_reproduces_the_trained_model() -> None:
    """All 1 000 test samples: exact agreement, fused >= 93 % and above each single modality."""
    done = run_command("deploy", "--backend", "fast", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    accuracy, agreement = report["accuracy_percent"], report["agreement"]
    assert report["schema_version"] == 1 and report["samples"] == 1000
    assert accuracy["fused"] >= 93 and accuracy["fused"] > max(accuracy["event"], accuracy["audio"])
    assert agreement["exact"] and agreement["spike_mismatches"] == agreement["decision_mismatches"] == 0
    assert agreement["neuron_steps_compared"] == 1000 * 128 * (8 + 12)
    assert agreement["max_logit_difference"] < 1e-9
    assert {e["convention"] for e in report["energy"]} == {"loihi1_davies2018", "loihi1_sanafe", "cmos45_fp32", "cmos45_int8"}


def test_unrecorded_windows_are_held_against_the_reference(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The human split has no recorded results, and the engine against itself would prove nothing: one wrong spike is seen."""
    command = ["--backend", "fast", "--split", "human", "--samples", "30", "--json"]
    assert main(command) == 0
    agreement = json.loads(capsys.readouterr().out)["agreement"]
    assert agreement["with"] == "integer reference, step by step" and agreement["windows"] == 20
    assert agreement["neuron_steps_compared"] == 30 * 128 * (8 + 12) * 20 // 30
    assert main([*command, "--early-exit", "0.9"]) == 0
    assert json.loads(capsys.readouterr().out)["agreement"]["exit_step_mismatches"] == 0

    def wrong(*args: Any) -> Any:
        trace = run_reference(*args)
        list(trace.spikes.values())[-1][0, 3] ^= 1
        return trace

    monkeypatch.setattr(report_of, "run_reference", wrong)
    assert main(command) == 1
    assert json.loads(capsys.readouterr().out)["agreement"]["spike_mismatches"] == 40


@pytest.mark.parametrize("backend", ["fast", pytest.param("sim", marks=pytest.mark.needs_lava)])
def test_the_shipped_scmrl(backend: str) -> None:
    """The second system's shipped model: exact on every window that runs, and every layer of Lava; not beside a bundle."""
    wanted = ["--samples", 2] if backend == "sim" else []
    done = run_command("deploy", "--head", "scmrl", "--backend", backend, *wanted, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["model"] == "s-cmrl" and report["agreement"]["exact"] and report["host_mac_parts"]["attention products"] > 0
    if backend == "sim":
        assert len(report["agreement"]["layer_mismatches"]) == 10
        return
    assert report["samples"] == 1000 and report["accuracy_percent"]["fused"] > 90
    assert_refused(
        run_command("deploy", zoo_path("ead_mini"), "--head", "scmrl"), 2, "--head scmrl", "leave one of the two out"
    )


@pytest.mark.needs_lava
def test_sim_prints_one_json_object_and_agrees(tmp_path: Path) -> None:
    """The Lava runtime: stdout is one JSON object, every layer exact, counts equal the engine's; --report is the same."""
    done = run_command("deploy", "--backend", "sim", "--samples", 3, "--json", "--report", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["agreement"]["exact"] and len(report["agreement"]["layer_mismatches"]) == 6
    assert report["time_steps"] == 3 * 12 + 4
    assert json.loads((tmp_path / "r.json").read_text()) == report
    fast = json.loads(run_command("deploy", "--backend", "fast", "--samples", 3, "--json").stdout)
    for key in ("layers", "totals", "energy", "accuracy_percent"):
        assert report[key] == fast[key]


def test_text_report_keeps_measured_estimated_and_cited_apart() -> None:
    """The three kinds of numbers have their own headings; Loihi 2 is a range that says where it comes from and how far it is off."""
    text = run_command("deploy", "--backend", "fast", "--samples", 20).stdout
    positions = [text.index(word) for word in ("Measured, per window", "Estimated, per window", "Cited, another")]
    assert positions == sorted(positions)
    assert "no official energy per operation exists" in text and "18.5 mJ" in text and 'printed "MJ"' in text
    assert re.search(r"Loihi 2 \(range\), dynamic +[0-9.]+ to [0-9.]+ uJ\n", text)
    assert "derived from 6 published measurements of 2 other networks" in text and "leave-one-out" in text


def test_check_estimates(capsys: pytest.CaptureFixture) -> None:
    """Every run, both chips, ratios, step times with their arithmetic, the range and the sources; the same numbers as JSON."""
    assert main(["--check-estimates"]) == 0
    text = capsys.readouterr().out
    for words in (
        "measured on Loihi 1", "measured on Loihi 2", "N-TIDIGITS               test set                     576 uJ dynamic    counted",
        "0.78          0.98", "secondary source, the paper itself was not read", "not comparable: limited by sending frames",
        "2,019 synops dense x 3.5 ns", "Loihi 2 as a range", "leave-one-out", "arXiv:1812.01739",
    ):  # fmt: skip
        assert words in text, words
    assert main(["--check-estimates", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["schema_version"], report["kind"]) == (1, "silicon")
    (check,) = (c for c in report["checks"] if c["key"] == "ntidigits")
    assert check["ratio"]["loihi1_sanafe"][0] == pytest.approx(0.979, abs=1e-3) and check["operations"]["method"] == "counted"
    assert len(report["loihi2_range"]["dynamic"]["pj_per_synop"]) == 2


def test_check_estimates_runs_nothing(capsys: pytest.CaptureFixture) -> None:
    """What would be run is refused."""
    assert main(["--check-estimates", "bundle"]) == 2
    told = capsys.readouterr().err
    assert told == "taaf-deploy: error: --check-estimates: runs nothing, found a bundle bundle; leave one of the two out\n"
    assert main(["--check-estimates", "--samples", "3"]) == 2
    assert "found --samples 3" in capsys.readouterr().err


@pytest.mark.slow()
@pytest.mark.parametrize("backend", ["fast", pytest.param("sim", marks=pytest.mark.needs_lava)])
def test_early_exit_saves_and_agrees(backend: str, tmp_path: Path) -> None:
    """Decisions as the trained model would take them at that step; fewer operations; the curve rises to the full accuracy."""
    done = run_command(
        "deploy", "--backend", backend, "--early-exit", "0.9", "--samples", 12, "--plot", tmp_path / "exit.png", "--json"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    full = json.loads(run_command("deploy", "--backend", "fast", "--samples", 12, "--json").stdout)
    assert report["agreement"]["exact"] and report["agreement"]["exit_step_mismatches"] == 0
    assert report["totals"]["effective_synops"] < full["totals"]["effective_synops"]
    e = report["early_exit"]
    assert e["confidence"] == 0.9 and 1 <= e["chosen"]["mean_steps"] == e["ran_mean_steps"] < 12
    assert e["full"]["mean_steps"] == 12 and e["full"]["accuracy_percent"] == full["accuracy_percent"]["fused"]
    assert e["full"]["effective_synops"] == full["totals"]["effective_synops"] / 12
    costs = [x["effective_synops"] for x in e["curve"]]
    assert costs == sorted(costs) and costs[0] < 0.5 * e["full"]["effective_synops"]
    assert (tmp_path / "exit.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.needs_lava
def test_loihi2_is_refused_without_a_chip() -> None:
    """Exit 3, one line that says what is missing and what to use instead."""
    assert_refused(run_command("deploy", "--backend", "loihi2"), 3, "lava-loihi", "--backend sim")


@pytest.mark.parametrize("extra", [["--samples", "5000"], ["--report", "no/such/folder/r.json"], ["no_such_bundle"]])
def test_bad_requests(extra: list[str]) -> None:
    """Too many samples, an impossible report path, a missing bundle."""
    assert_refused(run_command("deploy", "--backend", "fast", *extra), 2, extra[-1].split("/r.json")[0])


def _rehash(bundle: Path) -> None:
    """Make the manifest's sums fit again, so that the content itself is what is wrong."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"] = {n: hashlib.sha256((bundle / n).read_bytes()).hexdigest() for n in manifest["files"]}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def _edit_manifest(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        manifest = json.loads((bundle / "manifest.json").read_text())
        change(manifest)
        (bundle / "manifest.json").write_text(json.dumps(manifest))

    return damage


def _flip(name: str) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        content = bytearray((bundle / name).read_bytes())
        content[len(content) // 2] ^= 1
        (bundle / name).write_bytes(content)

    return damage


def _truncated_net(bundle: Path) -> None:
    (bundle / "event.net").write_bytes((bundle / "event.net").read_bytes()[:3000])
    _rehash(bundle)


def _swapped(bundle: Path) -> None:
    (bundle / "event.net").rename(bundle / "x")
    (bundle / "audio.net").rename(bundle / "event.net")
    (bundle / "x").rename(bundle / "audio.net")
    _rehash(bundle)


def _nan_head(bundle: Path) -> None:
    arrays = dict(np.load(bundle / "head.npz"))
    arrays["query"][0, 0] = np.nan
    np.savez(bundle / "head.npz", **arrays)
    _rehash(bundle)


def _symlink(bundle: Path) -> None:
    (bundle / "event.net").rename(bundle.parent / "outside.net")
    (bundle / "event.net").symlink_to(bundle.parent / "outside.net")


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "tampered event.net": (_flip("event.net"), "event.net: SHA-256"),
    "tampered audio.net": (_flip("audio.net"), "audio.net: SHA-256"),
    "tampered head": (_flip("head.npz"), "head.npz: SHA-256"),
    "tampered golden": (_flip("golden.npz"), "golden.npz: SHA-256"),
    "missing .net": (lambda b: (b / "event.net").unlink(), "event.net: missing"),
    "missing manifest": (lambda b: (b / "manifest.json").unlink(), "manifest.json"),
    "truncated manifest": (lambda b: (b / "manifest.json").write_text('{"format": "taaf-'), "not valid JSON"),
    "foreign manifest": (lambda b: (b / "manifest.json").write_text('{"a": 1}'), "not a taaf bundle"),
    "other version": (_edit_manifest(lambda m: m.update(version=99)), "version 99"),
    "path escape": (_edit_manifest(lambda m: m["branches"]["event"].update(file="../event.net")), "../event.net"),
    "symbolic link": (_symlink, "event.net"),
    "truncated .net": (_truncated_net, "event.net: not a readable NetX file"),
    "swapped modalities": (_swapped, "event.net takes (160,)"),
    "NaN in the head": (_nan_head, "query holds values that are NaN"),
    "wrong input shape": (_edit_manifest(lambda m: m["branches"]["audio"].update(input_shape=[80])), "audio.net takes (160,)"),
    "wrong steps": (
        _edit_manifest(lambda m: m["branches"]["audio"].update(input_steps=7)),
        "align_audio_weight has shape (6, 12, 3)",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_broken_bundles_are_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Each kind of damage: exit 2 and one line that names the file or value. (In process, to be quick.)"""

    bundle = tmp_path / "bundle"
    shutil.copytree(zoo_path("ead_mini"), bundle)
    damage, mention = DAMAGE[name]
    damage(bundle)
    assert main([str(bundle), "--backend", "fast", "--report", str(tmp_path / "r.json")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.strip().splitlines()) == 1 and mention in err
    assert not (tmp_path / "r.json").exists()


def test_help_needs_neither_torch_nor_lava() -> None:
    """--help answers at once: the command modules import nothing heavy."""
    import subprocess
    import sys

    script = "import sys, taaf.deploy.cli as d, taaf.export.cli as e, taaf.training.cli as t\n"
    script += "[m.build_parser().format_help() for m in (d, e, t)]\n"
    script += "assert not {'torch', 'lava', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
    for name in ("train", "export", "deploy"):
        done = run_command(name, "--help")
        assert done.returncode == 0 and "examples:" in done.stdout
