"""Trainings of a study: every (cell, seed) that is not finished yet, in parallel worker processes, resumable."""

import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from taaf.models.errors import CheckpointError, RuntimeFailedError
from taaf.training.config import DataConfig, TrainConfig
from taaf.training.datasets.processes import stay_with_parent


class StudyCell(Protocol):
    """One training per seed: what it changes in a base configuration, and where its results lie."""

    @property
    def folder(self) -> str:
        """Name of its folder; cells of equal configuration may share one and are then trained once."""

    def config(self, base: TrainConfig, seed: int) -> dict[str, dict[str, Any]]:
        """The base configuration with this cell's changes, as a nested dictionary."""


AnyCell = TypeVar("AnyCell", bound=StudyCell)
Task = Callable[[dict[str, Any], str, int], dict[str, Any]]  # configuration, folder, threads -> metrics


@lru_cache(maxsize=2)
def splits(data: DataConfig) -> Any:
    """EAD-mini's training and test part; simulated once per worker."""
    from taaf.models.config import NetworkConfig
    from taaf.training.sources import open_split

    return tuple(open_split(data, NetworkConfig.from_dict({}).inputs, split) for split in ("train", "test"))


def _begin_worker() -> None:
    """A worker may be terminated at any time: it holds nothing that outlives it (tqdm's own lock would)."""
    stay_with_parent()
    tqdm.set_lock(threading.RLock())


def train_cell(values: dict[str, Any], folder: str, threads: int) -> dict[str, Any]:
    """Train one cell in a worker process, from its last epoch if it was interrupted; returns the last metrics."""
    import torch

    from taaf.models.checkpoint import read_checkpoint
    from taaf.training.config import from_dict
    from taaf.training.distributed import Ranks
    from taaf.training.trainer import Trainer

    torch.set_num_threads(threads)
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
    cells: Sequence[AnyCell], base: TrainConfig, seeds: range, out: Path, jobs: int, quiet: bool, task: Task = train_cell
) -> Iterator[tuple[AnyCell, int, dict[str, Any]]]:
    """Train every (cell, seed) that is not finished yet; yields results as they come.

    Every worker computes with one thread, so a cell's numbers do not depend on ``jobs`` or the number of cores.
    """
    work: dict[str, list[tuple[AnyCell, int]]] = {}
    for seed in seeds:
        for cell in cells:
            work.setdefault(f"{cell.folder}/seed{seed}", []).append((cell, seed))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(work)), mp_context=context, initializer=_begin_worker) as pool:
        futures: dict[Future[dict[str, Any]], list[tuple[AnyCell, int]]] = {}
        for name, members in work.items():
            values = members[0][0].config(base, members[0][1])
            futures[pool.submit(task, values, str(out / "cells" / name), 1)] = members
        try:
            for future in tqdm(as_completed(futures), "cells", len(futures), disable=quiet or None):
                for cell, seed in futures[future]:
                    yield cell, seed, future.result()
        except BaseException as error:
            for worker in multiprocessing.active_children():  # do not wait for the cells at work; they resume
                worker.terminate()
                worker.join(5)
                worker.kill()
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise RuntimeFailedError(
                    "--ablation: a training process died (out of memory?); run the same command again, finished cells are kept"
                ) from error
            raise
