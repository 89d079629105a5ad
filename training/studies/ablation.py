"""The ablation of TAAF: the cells of the paper's Tables 1 and 2 as configurations."""

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taaf.models.config import NetworkConfig
from taaf.models.errors import ConfigError
from taaf.models.files.writing import make_folder
from taaf.training.config import TrainConfig, load_config
from taaf.training.studies.cells import run_cells
from taaf.training.studies.workers import Workers

BASE_CONFIG = Path(__file__).parents[1] / "configs" / "ablation.toml"
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
        values["head"] |= {"fusion": self.fusion, "attention": self.attention, "alignment": self.alignment}
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


def ablation_command(args: argparse.Namespace) -> int:
    """``taaf-train --ablation``: train what is missing, then write the tables."""
    from taaf.training.studies.scmrl_study import BASE_CONFIG as SCMRL_CONFIG
    from taaf.training.studies.scmrl_study import scmrl_study

    given = {"--resume": args.resume, "--overwrite": args.overwrite, "--tensorboard": args.tensorboard, "--root": args.root,
             "--seed": args.seed is not None, "--device": args.device != "cpu"}  # fmt: skip
    if ignored := [name for name, value in given.items() if value]:
        raise ConfigError(f"--ablation has no use for {', '.join(ignored)}: it keeps finished cells by itself, has --seeds, and "
                          "runs EAD-mini on the CPU; leave them out")  # fmt: skip
    which = SCMRL_CONFIG if args.ablation == "scmrl" else BASE_CONFIG
    overrides = {"optimiser": {"epochs": args.epochs}, "data": {"train_pairs": args.limit}}
    base = load_config(args.config or which, overrides)
    base = replace(base, network=base.network.completed(NetworkConfig.from_dict({}).inputs))  # as stored with every cell
    if base.data.set != "ead-mini":
        raise ConfigError(f"--ablation: data.set (={base.data.set!r}): the study is laid out for ead-mini")
    out = args.out or Path("runs/ablation")
    tables = args.tables or out
    for folder in (out, tables):
        make_folder(folder)
    study = scmrl_study if args.ablation == "scmrl" else _taaf_study
    paths = study(args, base, out, tables, range(1, (args.seeds or 3) + 1))
    if args.json:
        print(json.dumps({"schema_version": 1, "written": [str(p) for p in paths]}))
        return 0
    for path in paths:
        print(f"{path}: written")
    return 0


def _taaf_study(args: argparse.Namespace, base: TrainConfig, out: Path, tables: Path, seeds: range) -> list[Path]:
    from taaf.training.studies.curves import plot_runs
    from taaf.training.studies.tables import write_tables

    cells, quiet = cells_of(args.ablation), args.quiet or args.json
    results = []
    for cell, seed, metrics in run_cells(cells, base, seeds, out, Workers(args.jobs or 2, args.scheduler), quiet):
        results.append((cell, seed, metrics))
        if not quiet:
            print(
                f"{cell.table} {cell.row} {cell.column} seed {seed}: {metrics['test_fused']:.1f} %", file=sys.stderr, flush=True
            )
    paths = write_tables(results, base, tables)
    with_and_without = [c for c in cells if c.row in (BASELINE, TAAF)]
    if with_and_without:
        plot_runs([out / "cells" / c.folder / "seed1" for c in with_and_without], tables / "ablation_curves.png",
                  ["without TAAF: fused loss only (seed 1)", "with TAAF (seed 1)"])  # fmt: skip
        paths.append(tables / "ablation_curves.png")
    return paths
