"""taaf-train: train a spiking network of one or more modalities with SLAYER, quantisation-aware."""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taaf.models import SHIPPED
from taaf.models.errors import ConfigError
from taaf.models.shell.console import check_target, make_parser, not_negative, positive, run

CONFIGS = Path(__file__).parent / "configs"


def build_parser() -> argparse.ArgumentParser:
    """The command line of taaf-train."""
    parser = make_parser(
        "taaf-train",
        "Train TAAF-SNN (default: on the embedded EAD-mini data set), quantisation-aware, with SLAYER's neurons. Writes "
        "model.pt, last.pt (to resume), metrics.jsonl and curves.png.",
        [
            "taaf-train --out runs/ead_mini", "taaf-train --config my.toml --seed 7", "taaf-train --head both",
            "taaf-train --out runs/ead_mini --resume", "taaf-train --only audio --out runs/audio_alone",
            "taaf-train --probe runs/ead_mini/model.pt",
            "taaf-train --config training/configs/paper_scale.toml --calibrate-only --out runs/paper",
            "taaf-train --ablation --out runs/ablation", "taaf-train --compare runs/a runs/b --plot curves.png",
            "torchrun --nproc-per-node 2 -m taaf.training.cli --out runs/two",
        ],
    )  # fmt: skip
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="configuration (default: the reference model's)")
    parser.add_argument(
        "--head",
        choices=["taaf", "scmrl", "both"],
        help="which system's shipped configuration to take (default taaf); both: one after the other; without --config",
    )
    parser.add_argument("--out", type=Path, help="output folder (default runs/ead_mini, runs/ablation with --ablation)")
    parser.add_argument("--epochs", type=positive, help="override [optimiser] epochs")
    parser.add_argument("--seed", type=not_negative, help="override [optimiser] seed")
    parser.add_argument("--root", metavar="FOLDER", help="override [data] root: where the data set lies on disk")
    parser.add_argument("--cache", metavar="FOLDER", help="override [data] cache: where its preprocessed samples are kept")
    parser.add_argument("--limit", type=positive, metavar="N", help="use only the first N training pairs")
    parser.add_argument(
        "--device", default="cpu", metavar="D", help="cpu (default), cuda, cuda:N, or a list dealt out to torchrun's processes"
    )
    parser.add_argument("--tensorboard", action="store_true", help="also write TensorBoard logs into --out/tensorboard")
    parser.add_argument(
        "--calibrate-only", action="store_true",
        help="do not train: set thresholds and scales of random branches from data statistics so that every layer "
        "fires at 5-20 %%, and write model.pt",
    )  # fmt: skip
    parser.add_argument(
        "--only", metavar="BRANCH", help="train this modality alone: a network of its branch and a classifier, its loss alone"
    )
    parser.add_argument(
        "--init", type=Path, metavar="MODEL.pt", help="start from this checkpoint's weights, e.g. calibrated ones"
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from last.pt in --out")
    again.add_argument("--overwrite", action="store_true", help="start anew although --out holds a training")
    study = parser.add_argument_group("studies")
    study.add_argument(
        "--ablation", nargs="?", const="all", choices=["all", "table1", "table2", "scmrl", "scmrl_sweeps", "ead36", "ead36_readings"],
        help="train every cell of the paper's tables on the ablation configuration (scmrl: S-CMRL, its ablation, TAAF and "
        "concatenation, clean and under noise; scmrl_sweeps: its attentions, comparisons, alpha, temperature, noise in training; "
        "ead36: methods of balance and fusion on EAD-36, tuned on its validation part; ead36_readings: readings of TAAF, compared "
        "there); "
        "finished cells are kept",
    )  # fmt: skip
    study.add_argument("--seeds", type=positive, help="seeds per cell of --ablation (default 3; of the ead36 studies 5)")
    study.add_argument("--jobs", type=positive, help="cells of --ablation trained at a time (default 2)")
    study.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="train the cells of --ablation on the workers of this dask scheduler, tcp://HOST:PORT",
    )
    study.add_argument("--tables", type=Path, metavar="FOLDER", help="where --ablation writes its tables (default --out)")
    study.add_argument(
        "--probe", type=Path, metavar="MODEL.pt",
        help="do not train: fit a linear classifier to the feature spikes of every branch of a trained network and print its accuracy",
    )  # fmt: skip
    study.add_argument(
        "--probe-on", choices=["steps", "rates"], help="what --probe reads: every spike (default), or their mean over time"
    )
    study.add_argument("--compare", type=Path, nargs="+", metavar="RUN", help="plot finished runs side by side (with --plot)")
    study.add_argument("--plot", type=Path, metavar="FILE.png", help="picture for --compare (default curves.png)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(build_parser(), _work, argv)


def _work(args: argparse.Namespace) -> int:
    if args.plot is not None and not args.compare:
        raise ConfigError(f"--plot {args.plot}: needs --compare")
    if args.head and (args.config or args.ablation or args.compare):
        raise ConfigError(f"--head {args.head}: takes a shipped configuration; leave it out and set [head] type in --config")
    study = {"--tables": args.tables, "--seeds": args.seeds, "--jobs": args.jobs, "--scheduler": args.scheduler}
    if not args.ablation and (stray := [name for name, value in study.items() if value is not None]):
        raise ConfigError(f"{', '.join(stray)}: needs --ablation")
    if args.probe_on and args.probe is None:
        raise ConfigError(f"--probe-on {args.probe_on}: needs --probe")
    if args.probe is not None:
        from taaf.training.commands.probe import probe_command

        return probe_command(args)
    if args.only and (args.ablation or args.compare):
        raise ConfigError(f"--only {args.only}: trains one network; leave out --ablation and --compare")
    if args.jobs and args.scheduler:
        raise ConfigError(f"--jobs {args.jobs}: the cluster at --scheduler has its own workers; leave one of the two out")
    if args.compare:
        return _compare(args)
    if args.ablation:
        from taaf.training.commands.study import study_command

        return study_command(args)
    return _trainings(args)


def _trainings(args: argparse.Namespace) -> int:
    """One training, or with ``--head both`` one per system in folders of their own."""
    from taaf.training.config import load_config
    from taaf.training.distributed import join
    from taaf.training.single_modality import alone

    both = args.head == "both"
    if both and (args.init or args.calibrate_only):
        raise ConfigError("--head both: trains two networks from random weights; leave out --init and --calibrate-only")
    if args.init is not None and (args.resume or args.calibrate_only):
        raise ConfigError(f"--init {args.init}: starts a training; leave out --resume and --calibrate-only")
    overrides = {
        "optimiser": {"epochs": args.epochs, "seed": args.seed}, "data": {"root": args.root, "cache": args.cache, "train_pairs": args.limit}
    }  # fmt: skip
    out = args.out or Path("runs") / ("both" if both else SHIPPED[args.head or "taaf"])
    places = {head: out / head for head in SHIPPED} if both else {args.head: out}
    _require_places(args, list(places.values()))
    files = {head: CONFIGS / f"{SHIPPED[head]}.toml" if head else args.config for head in places}
    configs = {head: load_config(path, overrides) for head, path in files.items()}
    if args.only:
        configs = {head: alone(config, args.only) for head, config in configs.items()}
    if args.calibrate_only:
        return _calibrate(args, configs[args.head], out)
    with join(args.device) as ranks:
        found = {head: _train(args, configs[head], folder, ranks) for head, folder in places.items()}
        if not ranks.is_main:
            return 0
    if both:
        from taaf.training.studies.curves import plot_runs

        plot_runs(list(places.values()), out / "curves.png", list(places))
    if args.json:
        print(json.dumps({"schema_version": 1, **({"systems": found} if both else found[args.head])}))
        return 0
    for head, told in found.items():
        print(summary(told, configs[head].network.modalities))
    return 0


def _require_places(args: argparse.Namespace, folders: Sequence[Path]) -> None:
    """Raise `ConfigError` if there is nothing to resume, or a folder holds a training that nobody gave up."""
    begun = [folder for folder in folders if (folder / "last.pt").exists()]
    if args.resume and not begun:
        raise ConfigError(f"{folders[0] / 'last.pt'}: nothing to resume; leave --resume out to start a training there")
    if begun and not (args.resume or args.overwrite):
        raise ConfigError(f"{begun[0]}: holds a training already; use --resume, --overwrite or another --out")


def _train(args: argparse.Namespace, config: Any, out: Path, ranks: Any) -> dict[str, Any]:
    """Train one network; what ``--json`` tells of it."""
    from taaf.models.checkpoint import load_model
    from taaf.models.files.writing import make_folder
    from taaf.training.sources import RECORDED, open_split, open_splits
    from taaf.training.studies.curves import TensorBoardLog, plot_runs
    from taaf.training.trainer import Trainer, evaluate

    quiet = args.quiet or args.json
    parts = open_splits(config.data, config.network.inputs, quiet)
    trainer = Trainer(config, parts.train, parts.test, ranks, quiet, validation=parts.validation)
    if args.init is not None:
        trainer.start_from(args.init)
    make_folder(out)
    if args.overwrite and ranks.is_main:
        for name in ("last.pt", "model.pt", "metrics.jsonl", "curves.png"):
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / "tensorboard", ignore_errors=True)
    log = TensorBoardLog(out / "tensorboard" if args.tensorboard and ranks.is_main else None)

    def on_epoch(m: dict[str, Any]) -> None:
        log.write(m)
        if not args.quiet:
            print(describe(m, config.optimiser.epochs, config.network.modalities), file=sys.stderr, flush=True)

    try:
        metrics = trainer.run(out, resume=args.resume and (out / "last.pt").exists(), on_epoch=on_epoch)
    except KeyboardInterrupt:
        if (out / "last.pt").is_file():
            raise KeyboardInterrupt(f"finished epochs are in {out / 'last.pt'}; go on with --resume") from None
        raise
    finally:
        log.close()
    human = None
    if ranks.is_main:
        plot_runs([out], out / "curves.png")
        if config.data.set in RECORDED and "audio" in config.network.modalities:  # the recordings have no events
            model, _ = load_model(out / "model.pt", own_code=True)  # just written
            human = evaluate(model, open_split(config.data, config.network.inputs, "human"))
    return {"model": str(out / "model.pt"), "metrics": metrics, "human": human}


def summary(found: dict[str, Any], modalities: tuple[str, ...]) -> str:
    """One line about a finished training."""
    accuracy = ", ".join(f"{u} {found['metrics'][f'test_{u}']:.1f} %" for u in ("fused", *modalities))
    human = found["human"]
    heard = ", ".join(f"{u} {human[u]:.1f} %" for u in ("fused", *modalities) if u != "event") if human else ""
    speech = f"; recorded human speech: {heard}" if human else ""
    return f"{found['model']}: test accuracy {accuracy}{speech}"


def _calibrate(args: argparse.Namespace, config: Any, out: Path) -> int:
    from dataclasses import asdict

    from taaf.models.checkpoint import save_checkpoint
    from taaf.models.files.writing import make_folder
    from taaf.training.calibrate import N_SAMPLES, calibrated, require_alive
    from taaf.training.sources import open_split

    parts = [open_split(config.data, config.network.inputs, split, args.quiet or args.json) for split in ("train", "test")]
    model, rates = calibrated(config, *parts)
    if not (args.quiet or args.json):
        for rate in rates:
            print(rate, file=sys.stderr)
    require_alive(rates)
    make_folder(out)
    target = out / "model.pt"
    found = [asdict(r) for r in rates]
    save_checkpoint(target, model, config.to_dict() | model.config.to_dict(), metrics={"calibration": found})
    if args.json:
        print(json.dumps({"schema_version": 1, "model": str(target), "calibration": found}))
        return 0
    low, high = (100 * f(r.rate for r in rates) for f in (min, max))
    size = sum(p.numel() for p in model.parameters())
    print(f"{target}: {size:,} random parameters, calibrated on {N_SAMPLES} samples; {len(rates)} populations fire at "
          f"{low:.1f}-{high:.1f} % on others")  # fmt: skip
    return 0


def describe(m: dict[str, Any], epochs: int, modalities: tuple[str, ...]) -> str:
    """One line about an epoch."""
    accuracy = "".join(f"  {part}: {_accuracies(m, part, modalities)}" for part in ("val", "test") if f"{part}_fused" in m)
    k = " ".join(f"{u} {m[f'k_{u}']:.2f}" for u in modalities if f"k_{u}" in m)
    balance = f"  k {k}" if k else ""
    return f"epoch {m['epoch'] + 1:3d}/{epochs}  loss {m['loss']:.3f}{accuracy}{balance}  {m['seconds']:.1f} s"


def _accuracies(m: dict[str, Any], part: str, modalities: tuple[str, ...]) -> str:
    return "  ".join(f"{u} {m[f'{part}_{u}']:.1f} %" for u in ("fused", *modalities))


def _compare(args: argparse.Namespace) -> int:
    from taaf.training.studies.curves import plot_runs

    target = args.plot or Path("curves.png")
    check_target("--plot", target, ".png")
    plot_runs(args.compare, target)
    print(json.dumps({"schema_version": 1, "written": [str(target)]}) if args.json else f"{target}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
