"""taaf-train's studies through the executable: ablation, comparison pictures, TensorBoard logs."""

import csv
import statistics
from pathlib import Path

import pytest
from commands import assert_refused, run_command, run_in_process
from small_networks import small_branches

from taaf.training.cli import build_parser, main
from taaf.training.commands.study import CONFIGS, STUDIES
from taaf.training.studies import benchmark
from taaf.training.studies import methods as study_methods

SMALL = """
[data]
train_pairs = 40
test_pairs = 40
audio_snr_db = 10.0
[optimiser]
epochs = 2
batch_size = 20
freeze_epoch = 1
""" + small_branches()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A very small ablation configuration."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.mark.slow()
def test_ablation_writes_tables_and_resumes(config: Path, tmp_path: Path) -> None:
    """Table 1's eleven methods x 2 seeds; means and deviations are those of the CSV; a second start trains nothing."""
    out = tmp_path / "study"
    command = ("train", "--ablation", "table1", "--config", config, "--seeds", 2, "--jobs", 2, "--out", out, "-q")
    done = run_command(*command)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((out / "ablation.csv").read_text().splitlines()))
    assert len(rows) == 22 and {r["balance"] for r in rows} == {"none", "taaf", "ogm_ge", "pmr", "agm", "cmci"}
    markdown = (out / "ablation.md").read_text()
    for method in {r["row"] for r in rows}:
        values = [float(r["test_fused_percent"]) for r in rows if r["row"] == method]
        assert f"| {method} | {statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} |" in markdown
    assert (out / "ablation_curves.png").read_bytes().startswith(b"\x89PNG")
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("cells/*/*/model.pt")}
    assert len(stamps) == 22
    first = (out / "ablation.csv").read_bytes()
    interrupted = next(iter(stamps))
    interrupted.unlink()  # as if the study had been stopped after this cell's last epoch
    assert run_command(*command).returncode == 0
    again = {p: p.stat().st_mtime_ns for p in stamps}
    assert [p for p in stamps if again[p] != stamps[p]] == [interrupted]
    assert (out / "ablation.csv").read_bytes() == first


SMALL_SCMRL = """
[data]
train_pairs = 20
test_pairs = 20
[branches.event]
network = "patch_stem"
shape = [2, 34, 34]
steps = 8
channels = 8
[branches.audio]
network = "patch_stem"
shape = [1, 40, 4]
steps = 12
channels = 8
[head]
type = "scmrl"
classes = 10
alignment = "fixed"
aligned_steps = 2
attention_heads = 2
mlp_ratio = 1
fusion = "sum"
[optimiser]
epochs = 1
batch_size = 10
[loss]
balance = "scmrl"
"""


@pytest.mark.slow()
def test_the_study_of_scmrl(tmp_path: Path) -> None:
    """Ten networks under thirteen conditions; tables hold the CSV's means; a second start measures and trains nothing."""
    out, config = tmp_path / "study", tmp_path / "c.toml"
    config.write_text(SMALL_SCMRL)
    command = ("train", "--ablation", "scmrl", "--config", config, "--seeds", 2, "--jobs", 2, "--out", out, "-q")
    done = run_command(*command)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((out / "scmrl.csv").read_text().splitlines()))
    conditions = {r["condition"] for r in rows}
    assert len(conditions) == 13 and {"clean", "audio 30 dB", "event 0 dB", "both 10 dB"} <= conditions
    systems = {r["row"] for r in rows}
    assert len(systems) == 12 and len(rows) == 12 * 13 * 2
    markdown = (out / "scmrl.md").read_text()
    for condition in conditions:
        cells = []
        for system in ("S-CMRL", "TAAF", "concatenation"):
            values = [float(r["test_fused_percent"]) for r in rows if (r["row"], r["condition"]) == (system, condition)]
            cells.append(f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}")
        assert f"| {condition} | {' | '.join(cells)} |" in markdown
    assert (out / "scmrl_noise.png").read_bytes().startswith(b"\x89PNG")
    kept = {p: p.stat().st_mtime_ns for p in (*out.glob("cells/*/*/model.pt"), *out.glob("cells/*/*/noise.json"))}
    assert len(kept) == 2 * 20  # 10 networks: S-CMRL itself stands in three tables
    stale = next(p for p in kept if p.name == "noise.json")
    stale.write_text(stale.read_text().replace("checkpoint_sha256", "other"))  # measured on another checkpoint
    first = (out / "scmrl.csv").read_bytes()
    assert run_command(*command).returncode == 0
    assert [p for p in kept if p.stat().st_mtime_ns != kept[p]] == [stale] and (out / "scmrl.csv").read_bytes() == first
    config.write_text(SMALL)
    assert_refused(run_in_process(main, *command[1:]), 2, "--ablation scmrl", "head.type (='taaf')")


def test_ablation_refuses_what_it_ignores(tmp_path: Path) -> None:
    """--resume has no meaning there."""
    assert_refused(run_in_process(main, "--ablation", "--resume", "--out", tmp_path / "x"), 2, "--ablation", "--resume")


@pytest.mark.slow()
def test_curves_and_tensorboard(config: Path, tmp_path: Path) -> None:
    """A training leaves a picture and, if asked, event files holding k, rho, losses and alpha per step; runs compare."""
    done = run_command("train", "--config", config, "--out", tmp_path / "a", "--tensorboard", "-q")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a/curves.png").read_bytes().startswith(b"\x89PNG")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(tmp_path / "a/tensorboard"))
    log.Reload()
    tags = set(log.Tags()["scalars"])
    assert {"k/event", "rho/audio", "test/fused", "test/loss_audio", "train/event", "alpha/fused/t5", "loss/loss"} <= tags
    assert [e.step for e in log.Scalars("k/event")] == [0, 1]
    picture = tmp_path / "both.png"
    assert run_command("train", "--compare", tmp_path / "a", tmp_path / "a", "--plot", picture).returncode == 0
    assert picture.is_file()
    assert_refused(run_command("train", "--compare", tmp_path / "none", "--plot", picture), 2, "none/metrics.jsonl")
    (tmp_path / "a/metrics.jsonl").write_text("{}\n")
    assert_refused(run_command("train", "--compare", tmp_path / "a", "--plot", picture), 2, "metrics.jsonl", "no epochs")


CONV = '[branches.event]\nnetwork = "conv"\n'


@pytest.mark.parametrize(
    ("text", "mention"),
    [
        ('[loss]\nbalance = "la"\n', "head.attention"), ('[loss]\nbalance = "ogm"\n', "did you mean 'ogm_ge'?"),
        ('[head]\nfusion = "sums"\n', "did you mean 'sum'?"),
        (CONV.replace("event", "visual"), "branches.visual: the data set has no such modality; allowed: event, audio"),
        ("[head]\nclasses = 3\n", "head.classes (=3): the data set has 10 classes"),
        (CONV + "steps = 25\n", "branches.event.steps (=25): EAD-mini is cut into 1 to 24 steps"),
        (CONV + "shape = [2, 20, 20]\n", "branches.event.shape (=[2, 20, 20]): the data set gives [2, 34, 34]"),
        (CONV + "[loss]\nbalance = 'pmr'\n", "is defined for two branches, found 1"),
        (CONV + "[head]\nfusion = 'film'\n", "is defined for two branches, found 1; allowed for any number: concat"),
        (CONV + "[head]\ntype = 'rate'\n", "event has 128 feature neurons; allowed multiples of classes (=10)"),
        ('[data]\non_bad = "ask"\n', "stop, skip"),
    ],
)  # fmt: skip
def test_configurations_that_do_not_fit(text: str, mention: str, tmp_path: Path) -> None:
    """Before any training: one line, exit 2, nothing written."""
    (tmp_path / "c.toml").write_text(text)
    assert_refused(run_in_process(main, "--config", tmp_path / "c.toml", "--out", tmp_path / "x", "--limit", 20), 2, mention)
    assert not (tmp_path / "x").exists()


def test_every_study_can_be_asked_for() -> None:
    """The choices of --ablation, written out because --help imports nothing, are the studies there are."""
    (option,) = (a for a in build_parser()._actions if a.dest == "ablation")
    assert set(option.choices or ()) == set(STUDIES)


@pytest.mark.slow()
def test_the_study_of_ead36(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two methods, one learning rate: tuned, trained and measured on both conditions; a second start trains nothing."""
    methods = tuple(m for m in study_methods.METHODS if m.name in (study_methods.BASELINE, "audio alone"))
    monkeypatch.setattr(study_methods, "METHODS", methods)
    monkeypatch.setattr(benchmark, "LEARNING_RATES", {"sgd": (0.1,), "adamw": (0.003,)})
    text = (CONFIGS / "ead36.toml").read_text()
    for setting, small in (("channels = 8", "channels = 1"), ("wide = 16", "wide = 1"), ("epochs = 20", "epochs = 1")):
        assert setting in text
        text = text.replace(setting, small)
    config, out = tmp_path / "small.toml", tmp_path / "study"
    config.write_text(text.replace("[data]", "[data]\ntest_pairs = 40"))
    command = ("--ablation", "ead36", "--config", config, "--limit", 60, "--seeds", 2, "--out", out, "--json", "-q")
    done = run_in_process(main, *command)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((out / "ead36.csv").read_text().splitlines()))
    assert len(rows) == 2 * 2 * 2 * (1 + 2) and not any(r["failed"] for r in rows)
    both = [r for r in rows if r["method"] == study_methods.BASELINE]
    assert all(r[c] for r in both for c in ("val_fused", "test_fused", "probe_event", "alpha_entropy", "synops_per_window"))
    assert all(not r["probe_event"] and r["probe_audio"] for r in rows if r["method"] == "audio alone")
    assert "16 of 16 final and 8 tuning trainings are in" in (out / "ead36.md").read_text()
    first = (out / "ead36.csv").read_bytes()
    assert run_in_process(main, *command).returncode == 0 and (out / "ead36.csv").read_bytes() == first
