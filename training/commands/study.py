"""``taaf-train --ablation``: the studies by name, each a base configuration and what is trained and written of it."""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from taaf.models.errors import ConfigError
from taaf.models.files.writing import make_folder
from taaf.training.config import TrainConfig, load_config
from taaf.training.studies.cells import Request
from taaf.training.studies.workers import Workers

CONFIGS = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True)
class StudyKind:
    """One study: its base configuration, its data set, its default number of seeds, and ``run``, which returns what was written."""

    config: str
    data_set: str
    seeds: int
    run: Callable[[Request, TrainConfig], list[Path]]


def _taaf(request: Request, base: TrainConfig) -> list[Path]:
    from taaf.training.studies.ablation import ablation

    return ablation(request, base)


def _scmrl(request: Request, base: TrainConfig) -> list[Path]:
    from taaf.training.studies.scmrl_study import scmrl_study

    return scmrl_study(request, base)


def _benchmark(request: Request, base: TrainConfig) -> list[Path]:
    """Methods of balance and fusion on both conditions of EAD-36, or the readings of TAAF on its imbalanced one."""
    from taaf.deploy.studies.counted import synops_per_window
    from taaf.training.studies.benchmark import MEASURED, PLAN, Study
    from taaf.training.studies.benchmark_tables import write_benchmark
    from taaf.training.studies.measures import alpha_entropy, branch_probes
    from taaf.training.studies.methods import METHODS, READINGS
    from taaf.training.studies.records import Records

    readings = request.which == "ead36_readings"
    conditions = {c: {"set": f"ead36-{c}"} for c in (("imbalanced",) if readings else ("imbalanced", "balanced"))}
    study = Study(
        base,
        conditions,
        READINGS if readings else METHODS,
        ("sgd", "adamw"),
        request.seeds,
        request.out,
        Records(request.tables / f"{request.which}.csv", (*PLAN, *MEASURED)),
        () if readings else (alpha_entropy, branch_probes, synops_per_window),
        "val" if readings else "test",
    )
    for row in study.run(request.workers, request.quiet):
        told = row["failed"] or f"validation {float(row['val_fused']):.1f} %"
        request.tell(f"{row['round']} {row['condition']} {row['method']} {row['optimiser']} seed {row['seed']}: {told}")
    return write_benchmark(study, request.which, request.tables)


STUDIES = {
    "ead36": StudyKind("ead36.toml", "ead36-imbalanced", 5, _benchmark),
    "ead36_readings": StudyKind("ead36.toml", "ead36-imbalanced", 5, _benchmark),
    "all": StudyKind("ablation.toml", "ead-mini", 3, _taaf),
    "table1": StudyKind("ablation.toml", "ead-mini", 3, _taaf),
    "table2": StudyKind("ablation.toml", "ead-mini", 3, _taaf),
    "scmrl": StudyKind("scmrl_study.toml", "ead-mini", 3, _scmrl),
    "scmrl_sweeps": StudyKind("scmrl_study.toml", "ead-mini", 3, _scmrl),
}


def study_command(args: argparse.Namespace) -> int:
    """Train what is missing of a study, then write its tables; returns the exit code."""
    given = {"--resume": args.resume, "--overwrite": args.overwrite, "--tensorboard": args.tensorboard, "--root": args.root,
             "--seed": args.seed is not None, "--device": args.device != "cpu", "--init": args.init is not None,
             "--calibrate-only": args.calibrate_only, "--cache": args.cache is not None}  # fmt: skip
    if ignored := [name for name, value in given.items() if value]:
        raise ConfigError(f"--ablation has no use for {', '.join(ignored)}: it keeps finished cells by itself, has --seeds, and "
                          "runs on shipped data on the CPU; leave them out")  # fmt: skip
    kind = STUDIES[args.ablation]
    overrides = {"optimiser": {"epochs": args.epochs}, "data": {"train_pairs": args.limit}}
    base = load_config(args.config or CONFIGS / kind.config, overrides)
    if base.data.set != kind.data_set:
        raise ConfigError(
            f"--ablation {args.ablation}: data.set (={base.data.set!r}): the study is laid out for {kind.data_set}"
        )
    out = args.out or Path("runs/ablation")
    request = Request(
        args.ablation,
        out,
        args.tables or out,
        range(1, (args.seeds or kind.seeds) + 1),
        Workers(args.jobs or 2, args.scheduler),
        args.quiet or args.json,
    )
    for folder in (request.out, request.tables):
        make_folder(folder)
    paths = kind.run(request, base)
    if args.json:
        print(json.dumps({"schema_version": 1, "written": [str(p) for p in paths]}))
        return 0
    for path in paths:
        print(f"{path}: written")
    return 0
