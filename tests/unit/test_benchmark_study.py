"""The EAD-36 study's plan: what is tuned, what is trained, what an interrupted study goes on from, and its tables.

Trainings are replaced by a formula of their configuration; `tests/cli/test_studies.py` trains.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taaf.models.errors import DataError
from taaf.training.config import TrainConfig, from_dict
from taaf.training.studies import benchmark
from taaf.training.studies.benchmark import LEARNING_RATES, MEASURED, PLAN, Study
from taaf.training.studies.benchmark_tables import write_benchmark
from taaf.training.studies.methods import BASELINE, Method
from taaf.training.studies.records import Records, key_of
from taaf.training.studies.workers import Workers

METHODS = (
    Method(BASELINE, {"loss": {"balance": "none", "beta": 1.0}}),
    Method("fused loss only", {"loss": {"balance": "none", "beta": 0.0}}),
    Method("audio alone", {"loss": {"balance": "none", "beta": 0.0}}, only="audio"),
)
BEST = {"sgd": 0.1, "adamw": 1e-3}


def _formula(values: dict[str, Any]) -> dict[str, Any]:
    """Accuracies of a configuration: best at the learning rate of `BEST`; the largest rate of SGD fails for the baseline."""
    o, beta = values["optimiser"], values["loss"]["beta"]
    if o["learning_rate"] == 0.3 and beta == 1.0:
        return {"failed": "epoch 1: the loss is nan"}
    off = abs(o["learning_rate"] - BEST[o["method"]])
    fused = 70 + beta - 10 * off + 0.1 * o["seed"] * (1 + beta) % 1
    return {
        "val_fused": fused,
        "test_fused": fused - 1,
        "seconds": 2.0,
        **({"test_audio": 50.0} if "audio" in values["branches"] else {}),
    }


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what was trained, in order."""
    names: list[str] = []

    def run_tasks(task: Any, work: dict[str, tuple[Any, ...]], workers: Workers, quiet: bool) -> Iterator[tuple[str, Any]]:
        for key, (values, folder, _) in work.items():
            assert key == key_of(values) == Path(folder).name
            names.append(key)
            yield key, _formula(values)

    monkeypatch.setattr(benchmark, "run_tasks", run_tasks)
    return names


def _study(folder: Path, seeds: int = 3, base: TrainConfig | None = None) -> Study:
    conditions = {"balanced": {"audio_snr_db": 30.0}, "imbalanced": {"audio_snr_db": 20.0}}
    records = Records(folder / "study.csv", (*PLAN, *MEASURED))
    return Study(base or from_dict({}), conditions, METHODS, ("sgd", "adamw"), range(1, seeds + 1), folder, records)


def test_rounds_and_their_choice(tmp_path: Path, trained: list[str]) -> None:
    study = _study(tmp_path)
    rows = list(study.run(Workers(), True))
    n_tuning = 2 * 3 * sum(map(len, LEARNING_RATES.values()))
    assert len(rows) == len(trained) == n_tuning + 2 * 2 * 3 * 3
    assert {o: {rate for (_, _, p), rate in study.best_rates().items() if p == o} for o in BEST} == {
        o: {r} for o, r in BEST.items()
    }
    assert {float(r["learning_rate"]) for r in rows if r["round"] == "final"} == set(BEST.values())
    assert {r["seed"] for r in rows if r["round"] == "tuning"} == {"1000"}, "the final round has seeds of its own"
    assert sum(bool(r["failed"]) for r in rows) == 2


def test_an_interrupted_study_goes_on(tmp_path: Path, trained: list[str]) -> None:
    """Stopped in each round, it trains exactly what is missing, from the file alone; another configuration is another study."""
    for n in (5, 40):
        running = _study(tmp_path).run(Workers(), True)
        for _ in range(n):
            next(running)
        running.close()
    rest = list(_study(tmp_path).run(Workers(), True))
    assert len(trained) == len(set(trained)) == 45 + len(rest) == len(Records(tmp_path / "study.csv", (*PLAN, *MEASURED)).rows)
    assert list(_study(tmp_path).run(Workers(), True)) == []
    other = _study(tmp_path, base=from_dict({"optimiser": {"epochs": 7}}))
    assert other.best_rates() == {} and other.final() == []


def test_tables(tmp_path: Path, trained: list[str]) -> None:
    study = _study(tmp_path, seeds=5)
    list(study.run(Workers(), True))
    csv, markdown, picture = write_benchmark(study, "study", tmp_path)
    text = markdown.read_text()
    assert csv.is_file() and picture.read_bytes().startswith(b"\x89PNG")
    assert "60 of 60 final and 36 tuning trainings are in" in text and text.count("| fused loss only |") == 4
    rows = [r for r in text.splitlines() if r.startswith("| audio alone |")]
    assert len(rows) == 4 and all("| 50.00 ± 0.00 |" in r and "| 5 |" in r for r in rows)
    assert "| – |" in next(r for r in text.splitlines() if r.startswith(f"| {BASELINE} |")), "no difference to itself"


def test_records_refuse_another_study(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"x\.csv: has columns a, b; expected key, one, commit; it is of another study"):
        Records(tmp_path / "x.csv", ("one",))
    records = Records(tmp_path / "y.csv", ("one",))
    with pytest.raises(ValueError, match="unknown columns: two"):
        records.add("k", {"two": 1})
    records.add("k", {"one": 1 / 3})
    assert Records(tmp_path / "y.csv", ("one",)).rows["k"]["one"] == "0.333333"


def test_key_is_of_what_is_not_a_default() -> None:
    """A setting that is added later with a default changes no key; every other difference does."""
    values = from_dict({"loss": {"balance": "la"}, "head": {"attention": "uniform"}}).to_dict()
    older = {**values, "loss": {k: v for k, v in values["loss"].items() if k != "readout_weight"}}
    older["head"] = {k: v for k, v in values["head"].items() if k != "attention_weights"}
    assert key_of(older) == key_of(values)
    for table, name, value in (
        ("loss", "beta", 2.0),
        ("optimiser", "seed", 3),
        ("head", "fusion", "sum"),
        ("data", "set", "ead36-balanced"),
    ):
        assert key_of({**values, table: {**values[table], name: value}}) != key_of(values)
    wider = {**values["branches"], "audio": {**values["branches"]["audio"], "hidden": 64}}
    assert key_of({**values, "branches": wider}) != key_of(values)
