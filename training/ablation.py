"""The ablation runner: the cells of the paper's Tables 1 and 2 as configurations, trained in parallel, resumable."""

import argparse
import json
import multiprocessing
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from taaf.models.errors import CheckpointError, ConfigError, RuntimeFailedError
from taaf.models.output import make_folder
from taaf.training.config import DataConfig, TrainConfig, load_config
from taaf.training.datasets.processes import stay_with_parent

BASE_CONFIG = Path(__file__).parent / "configs" / "ablation.toml"
FUSED_ROWS = ("concat", "sum", "film", "gated")
VARIANTS = ("LA", "LA+TA", "TAAF w/o TA", "TAAF")
BASELINE = "fused loss only"
TAAF = "TAAF"
READINGS: dict[str, dict[str, Any]] = {
    "floor": {"entropy_floor": 0.9, "entropy_weight": 1.0}, "detached": {"alpha_detach": True}
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One cell of a table: what it changes in the base configuration."""

    table: str
    row: str
    column: str
    fusion: str
    balance: str
    attention: str
    alignment: str
    beta: float = 1.0
    suppression: float = 0.5
    reading: str = ""

    @property
    def folder(self) -> str:
        """Cells of equal configuration share a folder, so they are trained once."""
        name = f"{self.fusion}-{self.balance}-{self.attention}-{self.alignment}-b{self.beta:g}-s{self.suppression:g}"
        return f"{name}-{self.reading}" if self.reading else name

    def config(self, base: TrainConfig, seed: int) -> dict[str, dict[str, Any]]:
        """The base configuration with this cell's changes, as a nested dictionary."""
        values = base.to_dict()
        values["model"] |= {"fusion": self.fusion, "attention": self.attention, "alignment": self.alignment}
        values["loss"] |= {"balance": self.balance, "beta": self.beta, "suppression": self.suppression}
        values["loss"] |= READINGS.get(self.reading, {})
        values["optimiser"] |= {"seed": seed}
        return values


def table2() -> list[Cell]:
    """4 fusions x {LA, LA + TA, TAAF without TA, TAAF}; TA is read as (learned) time alignment."""
    kinds = {
        "LA": ("la", "uniform", "fixed"), "LA+TA": ("la", "uniform", "learned"),
        "TAAF w/o TA": ("taaf", "taaf", "fixed"), "TAAF": ("taaf", "taaf", "learned"),
    }  # fmt: skip
    return [Cell("table2", fusion, column, fusion, *kinds[column]) for fusion in FUSED_ROWS for column in VARIANTS]


def table1() -> list[Cell]:
    """Balance strategies on concatenation, and spiking fusion baselines, each with its authors' strength."""

    def cell(row: str, fusion: str, balance: str, beta: float, suppression: float = 0.5) -> Cell:
        return Cell("table1", row, "accuracy", fusion, balance, "uniform", "learned", beta, suppression)

    return [
        cell(BASELINE, "concat", "none", 0.0),
        cell("all losses, k = 1", "concat", "none", 1.0),
        cell("OGM-GE", "concat", "ogm_ge", 0.0, 0.8),
        cell("PMR", "concat", "pmr", 0.0, 1.0),
        cell("AGM", "concat", "agm", 0.0, 1.0),
        cell("WeightAttention", "weight_attention", "none", 0.0),
        cell("SCA", "sca", "none", 0.0),
        cell("CMCI", "cmci", "none", 0.0),
        Cell("table1", TAAF, "accuracy", "concat", "taaf", "taaf", "learned"),
        Cell("table1", "TAAF, entropy floor 0.9", "accuracy", "concat", "taaf", "taaf", "learned", reading="floor"),
        Cell("table1", "TAAF, alpha detached", "accuracy", "concat", "taaf", "taaf", "learned", reading="detached"),
    ]


def cells_of(which: str) -> list[Cell]:
    """Cells of "table1", "table2" or "all"."""
    return [*(table1() if which in ("table1", "all") else []), *(table2() if which in ("table2", "all") else [])]


@lru_cache(maxsize=2)
def _sets(data: DataConfig) -> Any:
    """EAD-mini's training and test part; simulated once per worker."""
    from taaf.models.config import ModelConfig
    from taaf.training.sources import open_split

    return tuple(open_split(data, ModelConfig(), split) for split in ("train", "test"))


def _begin_worker() -> None:
    """A worker may be terminated at any time: it holds nothing that outlives it (tqdm's own lock would)."""
    stay_with_parent()
    tqdm.set_lock(threading.RLock())


def _train_cell(values: dict[str, Any], folder: str, threads: int) -> dict[str, Any]:
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
    train_set, test_set = _sets(config.data)
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
    cells: list[Cell], base: TrainConfig, seeds: range, out: Path, jobs: int, quiet: bool
) -> Iterator[tuple[Cell, int, dict[str, Any]]]:
    """Train every (cell, seed) that is not finished yet; yields results as they come.

    Every worker computes with one thread, so a cell's numbers do not depend on ``jobs`` or the number of cores.
    """
    work: dict[str, list[tuple[Cell, int]]] = {}
    for seed in seeds:
        for cell in cells:
            work.setdefault(f"{cell.folder}/seed{seed}", []).append((cell, seed))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(work)), mp_context=context, initializer=_begin_worker) as pool:
        futures: dict[Future[dict[str, Any]], list[tuple[Cell, int]]] = {}
        for name, members in work.items():
            values = members[0][0].config(base, members[0][1])
            futures[pool.submit(_train_cell, values, str(out / "cells" / name), 1)] = members
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


def ablation_command(args: argparse.Namespace) -> int:
    """``taaf-train --ablation``: train what is missing, then write the tables."""
    from taaf.training.curves import plot_runs
    from taaf.training.tables import write_tables

    given = {"--resume": args.resume, "--overwrite": args.overwrite, "--tensorboard": args.tensorboard, "--root": args.root,
             "--seed": args.seed is not None, "--device": args.device != "cpu"}  # fmt: skip
    if ignored := [name for name, value in given.items() if value]:
        raise ConfigError(f"--ablation has no use for {', '.join(ignored)}: it keeps finished cells by itself, has --seeds, and "
                          "runs EAD-mini on the CPU; leave them out")  # fmt: skip
    overrides = {"optimiser": {"epochs": args.epochs}, "data": {"train_pairs": args.limit}}
    base = load_config(args.config or BASE_CONFIG, overrides)
    if base.data.set != "ead-mini":
        raise ConfigError(f"--ablation: data.set (={base.data.set!r}): the study is laid out for ead-mini")
    out = args.out or Path("runs/ablation")
    tables = args.tables or out
    for folder in (out, tables):
        make_folder(folder)
    cells = cells_of(args.ablation)
    seeds = range(1, (args.seeds or 3) + 1)
    results = []
    for cell, seed, metrics in run_cells(cells, base, seeds, out, args.jobs or 2, args.quiet or args.json):
        results.append((cell, seed, metrics))
        if not (args.quiet or args.json):
            print(
                f"{cell.table} {cell.row} {cell.column} seed {seed}: {metrics['test_fused']:.1f} %", file=sys.stderr, flush=True
            )
    paths = write_tables(results, base, tables)
    with_and_without = [c for c in cells if c.row in (BASELINE, TAAF)]
    if with_and_without:
        plot_runs([out / "cells" / c.folder / "seed1" for c in with_and_without], tables / "ablation_curves.png",
                  ["without TAAF: fused loss only (seed 1)", "with TAAF (seed 1)"])  # fmt: skip
        paths.append(tables / "ablation_curves.png")
    if args.json:
        print(json.dumps({"schema_version": 1, "written": [str(p) for p in paths]}))
        return 0
    for path in paths:
        print(f"{path}: written")
    return 0
