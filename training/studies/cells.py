"""Trainings of a study: every (cell, seed) that is not finished yet, by parallel workers, resumable."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from taaf.models.config import InputSpec
from taaf.models.errors import CheckpointError
from taaf.training.config import DataConfig, TrainConfig
from taaf.training.studies.workers import Workers, run_tasks


@dataclass(frozen=True)
class Request:
    """What a study is asked for.

    Attributes
    ----------
    which : str
        Its name on the command line.
    out, tables : Path
        Folders of checkpoints, and of what is written about them.
    seeds : range
        Seeds of every cell.
    workers : Workers
        Where its trainings run.
    quiet : bool
        No progress.
    """

    which: str
    out: Path
    tables: Path
    seeds: range
    workers: Workers
    quiet: bool

    def tell(self, line: str) -> None:
        """A line about a finished training."""
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)


class StudyCell(Protocol):
    """One training per seed: what it changes in a base configuration, and where its results lie."""

    @property
    def folder(self) -> str:
        """Name of its folder; cells of equal configuration may share one and are then trained once."""

    def config(self, base: TrainConfig, seed: int) -> dict[str, dict[str, Any]]:
        """The base configuration with this cell's changes, as a nested dictionary."""


AnyCell = TypeVar("AnyCell", bound=StudyCell)
Task = Callable[[dict[str, Any], str], dict[str, Any]]  # configuration, folder -> metrics


def splits_of(config: TrainConfig) -> Any:
    """The parts of a configuration's data set (`taaf.training.sources.Splits`), opened once per worker."""
    return _splits(config.data, tuple(config.network.inputs.items()))


@lru_cache(maxsize=2)
def _splits(data: DataConfig, specs: tuple[tuple[str, InputSpec], ...]) -> Any:
    from taaf.training.sources import open_splits

    return open_splits(data, dict(specs))


def train_cell(values: dict[str, Any], folder: str) -> dict[str, Any]:
    """Train one cell with one thread, from its last epoch if it was interrupted; returns the last metrics.

    With one thread a cell's numbers do not depend on the number of workers or cores.
    """
    import torch

    from taaf.training.config import from_dict
    from taaf.training.distributed import Ranks
    from taaf.training.trainer import Trainer

    torch.set_num_threads(1)
    config, out = from_dict(values), Path(folder)
    finished = _finished(out, values)
    if finished is not None:
        return finished
    resume = _stored(out / "last.pt").get("config") == values
    parts = splits_of(config)
    out.mkdir(parents=True, exist_ok=True)
    return Trainer(config, parts.train, parts.test, Ranks.single(), validation=parts.validation).run(out, resume=resume)


def _finished(out: Path, values: dict[str, Any]) -> dict[str, Any] | None:
    content = _stored(out / "model.pt")
    metrics: dict[str, Any] | None = content["metrics"] if content.get("config") == values else None
    return metrics


def _stored(path: Path) -> dict[str, Any]:
    """A checkpoint; nothing where there is none, or none that can be read."""
    from taaf.models.checkpoint import read_checkpoint

    try:
        return read_checkpoint(path)
    except CheckpointError:
        return {}


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
