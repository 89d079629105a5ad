"""The ablation of TAAF: the cells of the paper's Tables 1 and 2 as configurations."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taaf.models.config import NetworkConfig
from taaf.training.config import TrainConfig
from taaf.training.studies.cells import Request, run_cells

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
        cell("CMCI", "cmci", "cmci", 1.0),
        Cell("table1", TAAF, "accuracy", "concat", "taaf", "taaf", "learned"),
        Cell("table1", "TAAF, entropy floor 0.9", "accuracy", "concat", "taaf", "taaf", "learned", reading="floor"),
        Cell("table1", "TAAF, alpha detached", "accuracy", "concat", "taaf", "taaf", "learned", reading="detached"),
    ]


def cells_of(which: str) -> list[Cell]:
    """Cells of "table1", "table2" or "all"."""
    return [*(table1() if which in ("table1", "all") else []), *(table2() if which in ("table2", "all") else [])]


def ablation(request: Request, base: TrainConfig) -> list[Path]:
    """Train the cells of ``request.which`` that are missing and write ``ablation.md``, ``.csv`` and curves; returns their paths."""
    from taaf.training.studies.curves import plot_runs
    from taaf.training.studies.tables import write_tables

    base = replace(base, network=base.network.completed(NetworkConfig.from_dict({}).inputs))  # as stored with every cell
    cells, results = cells_of(request.which), []
    for cell, seed, metrics in run_cells(cells, base, request.seeds, request.out, request.workers, request.quiet):
        results.append((cell, seed, metrics))
        request.tell(f"{cell.table} {cell.row} {cell.column} seed {seed}: {metrics['test_fused']:.1f} %")
    paths = write_tables(results, base, request.tables)
    if with_and_without := [c for c in cells if c.row in (BASELINE, TAAF)]:
        target = request.tables / "ablation_curves.png"
        runs = [request.out / "cells" / c.folder / "seed1" for c in with_and_without]
        plot_runs(runs, target, ["without TAAF: fused loss only (seed 1)", "with TAAF (seed 1)"])
        paths.append(target)
    return paths
