"""The EAD-36 study: methods x conditions x optimisers x seeds, each tuned on the validation part with the same small budget.

Two rounds. *Tuning*: every (method, condition, optimiser) is trained once per learning rate of `LEARNING_RATES`, with a seed that
the second round does not use; the rate of the best fused accuracy on the validation part is kept. *Final*: trainings with that
rate, one per seed. The test part is measured in both rounds and decides nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taaf.models.errors import TrainingFailedError
from taaf.training.config import TrainConfig
from taaf.training.studies.cells import train_cell
from taaf.training.studies.methods import Method
from taaf.training.studies.records import Records, key_of
from taaf.training.studies.workers import Workers, run_tasks

LEARNING_RATES = {"sgd": (0.03, 0.1, 0.3), "adamw": (1e-3, 3e-3, 1e-2)}
WEIGHT_DECAY = {"sgd": 1e-4, "adamw": 1e-2}
TUNING_SEED = 1000
MODALITIES = ("event", "audio")
PLAN = ("round", "condition", "method", "optimiser", "learning_rate", "seed")
MEASURED = (
    *(f"{part}_{u}" for part in ("val", "test") for u in ("fused", *MODALITIES)), *(f"probe_{m}" for m in MODALITIES), "alpha_entropy",
    "synops_per_window", "seconds", "failed",
)  # fmt: skip
Measure = Callable[[Path], dict[str, float]]  # a checkpoint -> further columns


@dataclass(frozen=True)
class Training:
    """One training of the study."""

    round: str  # "tuning" or "final"
    condition: str
    method: Method
    optimiser: str
    learning_rate: float
    seed: int

    def values(self, base: TrainConfig, conditions: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Its configuration."""
        found = self.method.apply(base.to_dict())
        found["data"] |= conditions[self.condition]
        found["optimiser"] |= {
            "method": self.optimiser,
            "learning_rate": self.learning_rate,
            "weight_decay": WEIGHT_DECAY[self.optimiser],
            "seed": self.seed,
        }
        return found

    def row(self) -> dict[str, Any]:
        """Its columns of `PLAN`."""
        return {name: getattr(self, name) for name in PLAN} | {"method": self.method.name}


def train_and_measure(values: dict[str, Any], folder: str, measures: Sequence[Measure]) -> dict[str, Any]:
    """A worker's task: train, then everything a row holds; a training that fails says so in ``failed``."""
    try:
        metrics = train_cell(values, folder)
    except TrainingFailedError as error:
        return {"failed": str(error)}
    found = {name: metrics[name] for name in MEASURED if name in metrics}
    for measure in measures:
        found |= measure(Path(folder) / "model.pt")
    return found


@dataclass(frozen=True)
class Study:
    """What is compared, and where it lies.

    Attributes
    ----------
    base : TrainConfig
        The configuration that methods and conditions change.
    conditions : dict
        Name -> changed settings of ``[data]``.
    out : Path
        Folder of checkpoints.
    records : Records
        Finished trainings.
    measures : sequence of callable
        What is measured of a checkpoint beside accuracies.
    judged : str
        The part whose accuracies are compared: "test", or "val" where a reading is being chosen; then no accuracy on the test part
        is kept.
    """

    base: TrainConfig
    conditions: dict[str, dict[str, Any]]
    methods: Sequence[Method]
    optimisers: Sequence[str]
    seeds: range
    out: Path
    records: Records
    measures: Sequence[Measure] = ()
    judged: str = "test"

    def run(self, workers: Workers, quiet: bool) -> Iterator[dict[str, str]]:
        """Train what is missing; yields the rows as they come."""
        yield from self._trained(self.tuning(), workers, quiet)
        yield from self._trained(self.final(), workers, quiet)

    def tuning(self) -> list[Training]:
        """All trainings of the first round."""
        return [
            Training("tuning", condition, method, optimiser, rate, TUNING_SEED)
            for condition in self.conditions
            for optimiser in self.optimisers
            for method in self.methods
            for rate in LEARNING_RATES[optimiser]
        ]

    def final(self) -> list[Training]:
        """All trainings of the second round whose learning rate is known; the seeds outermost, so that part of it is a study too."""
        best = self.best_rates()
        return [
            Training("final", condition, method, optimiser, best[condition, method.name, optimiser], seed)
            for seed in self.seeds
            for condition in self.conditions
            for optimiser in self.optimisers
            for method in self.methods
            if (condition, method.name, optimiser) in best
        ]

    def best_rates(self) -> dict[tuple[str, str, str], float]:
        """Learning rate of the highest fused accuracy on the validation part, of equal ones the smallest; failed trainings lose."""
        found: dict[tuple[str, str, str], tuple[float, float]] = {}
        for training, row in self.finished(self.tuning()):
            if row["failed"]:
                continue
            cell = (training.condition, training.method.name, training.optimiser)
            score = (float(row["val_fused"]), -training.learning_rate)
            found[cell] = max(score, found.get(cell, score))
        return {cell: -rate for cell, (_, rate) in found.items()}

    def finished(self, trainings: Sequence[Training]) -> list[tuple[Training, dict[str, str]]]:
        """Those of the trainings that are recorded, and their rows."""
        keys = [key_of(t.values(self.base, self.conditions)) for t in trainings]
        return [(t, self.records.rows[k]) for t, k in zip(trainings, keys, strict=True) if k in self.records]

    def _trained(self, trainings: Sequence[Training], workers: Workers, quiet: bool) -> Iterator[dict[str, str]]:
        missing: dict[str, tuple[Training, dict[str, Any]]] = {}
        for training in trainings:
            values = training.values(self.base, self.conditions)
            if (key := key_of(values)) not in self.records:
                missing[key] = (training, values)
        folder = (self.out / "trainings").absolute()
        work = {key: (values, str(folder / key), self.measures) for key, (_, values) in missing.items()}
        if not work:
            return
        for key, measured in run_tasks(train_and_measure, work, workers, quiet):
            kept = {c: v for c, v in measured.items() if self.judged == "test" or not c.startswith("test_")}
            self.records.add(key, missing[key][0].row() | kept)
            yield self.records.rows[key]
