"""Trainings of a study: every (cell, seed) that is not finished yet, by parallel workers, resumable."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from taaf.models.errors import CheckpointError
from taaf.training.config import DataConfig, TrainConfig
from taaf.training.studies.workers import Workers, run_tasks


class StudyCell(Protocol):
    """One training per seed: what it changes in a base configuration, and where its results lie."""

    @property
    def folder(self) -> str:
        """Name of its folder; cells of equal configuration may share one and are then trained once."""

    def config(self, base: TrainConfig, seed: int) -> dict[str, dict[str, Any]]:
        """The base configuration with this cell's changes, as a nested dictionary."""


AnyCell = TypeVar("AnyCell", bound=StudyCell)
Task = Callable[[dict[str, Any], str], dict[str, Any]]  # configuration, folder -> metrics


@lru_cache(maxsize=2)
def splits(data: DataConfig) -> Any:
    """EAD-mini's training and test part; simulated once per worker."""
    from taaf.models.config import NetworkConfig
    from taaf.training.sources import open_split

    return tuple(open_split(data, NetworkConfig.from_dict({}).inputs, split) for split in ("train", "test"))


def train_cell(values: dict[str, Any], folder: str) -> dict[str, Any]:
    """Train one cell with one thread, from its last epoch if it was interrupted; returns the last metrics.

    With one thread a cell's numbers do not depend on the number of workers or cores.
    """
    import torch

    from taaf.models.checkpoint import read_checkpoint
    from taaf.training.config import from_dict
    from taaf.training.distributed import Ranks
    from taaf.training.trainer import Trainer

    torch.set_num_threads(1)
    config, out = from_dict(values), Path(folder)
    finished = _finished(out, values)
    if finished is not None:
        return finished
    resume = (out / "last.pt").is_file() and read_checkpoint(out / "last.pt")["config"] == values
    train_set, test_set = splits(config.data)
    out.mkdir(parents=True, exist_ok=True)
    return Trainer(config, train_set, test_set, Ranks.single()).run(out, resume=resume)


def _finished(out: Path, values: dict[str, Any]) -> dict[str, Any] | None:
    from taaf.models.checkpoint import read_checkpoint

    try:
        content = read_checkpoint(out / "model.pt")
    except CheckpointError:
        return None
    metrics: dict[str, Any] | None = content["metrics"] if content["config"] == values else None
    return metrics


def run_cells(
    cells: Sequence[AnyCell],
    base: TrainConfig,
    seeds: range,
    out: Path,
    workers: Workers,
    quiet: bool,
    task: Task = train_cell,
) -> Iterator[tuple[AnyCell, int, dict[str, Any]]]:
    """Train every (cell, seed) that is not finished yet; yields results as they come (`taaf.training.studies.workers`)."""
    members: dict[str, list[tuple[AnyCell, int]]] = {}
    for seed in seeds:
        for cell in cells:
            members.setdefault(f"{cell.folder}/seed{seed}", []).append((cell, seed))
    folder = (out / "cells").absolute()
    work = {name: (found[0][0].config(base, found[0][1]), str(folder / name)) for name, found in members.items()}
    for name, metrics in run_tasks(task, work, workers, quiet):
        for cell, seed in members[name]:
            yield cell, seed, metrics
