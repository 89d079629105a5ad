"""taaf-train: train TAAF-SNN on EAD-mini with SLAYER, quantisation-aware."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taaf.models.console import make_parser, not_negative, positive, run
from taaf.models.errors import ConfigError


def build_parser() -> argparse.ArgumentParser:
    """The command line of taaf-train."""
    parser = make_parser(
        "taaf-train",
        "Train TAAF-SNN on the embedded EAD-mini data set (quantisation-aware, lava-dl SLAYER). Writes model.pt, "
        "last.pt (to resume) and metrics.jsonl.",
        ["taaf-train --out runs/ead_mini", "taaf-train --config my.toml --seed 7", "taaf-train --out runs/ead_mini --resume"],
    )
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="configuration (default: the reference model's)")
    parser.add_argument("--out", type=Path, default=Path("runs/ead_mini"), help="output folder (default runs/ead_mini)")
    parser.add_argument("--epochs", type=positive, help="override [optimiser] epochs")
    parser.add_argument("--seed", type=not_negative, help="override [optimiser] seed")
    parser.add_argument("--limit", type=positive, metavar="N", help="use only the first N training pairs")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from last.pt in --out")
    again.add_argument("--overwrite", action="store_true", help="start anew although --out holds a training")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(build_parser(), _work, argv)


def _work(args: argparse.Namespace) -> int:
    from taaf.models.slayer_lif import require_lava_dl
    from taaf.training.config import load_config

    config = load_config(args.config, {"epochs": args.epochs, "seed": args.seed})
    last = args.out / "last.pt"
    if args.resume and not last.is_file():
        raise ConfigError(f"{last}: nothing to resume; leave --resume out to start a training there")
    if last.exists() and not (args.resume or args.overwrite):
        raise ConfigError(f"{args.out}: holds a training already; use --resume, --overwrite or another --out")
    require_lava_dl()
    from taaf.models.checkpoint import load_model
    from taaf.training.ead_mini import load_split
    from taaf.training.trainer import evaluate, train

    train_set = load_split("train", slice(args.limit))
    test_set = load_split("test")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {args.out}: cannot be created ({error.strerror})") from error

    def show(m: dict[str, Any]) -> None:
        if not args.quiet:
            print(
                f"epoch {m['epoch'] + 1:3d}/{config.optimiser.epochs}  loss {m['loss']:.3f}  test: fused {m['test_fused']:.1f} %  "
                f"event {m['test_event']:.1f} %  audio {m['test_audio']:.1f} %  "
                f"k event {m['k_event']:.2f} audio {m['k_audio']:.2f}  {m['seconds']:.1f} s",
                file=sys.stderr, flush=True,
            )  # fmt: skip

    try:
        metrics = train(config, train_set, test_set, args.out, resume=args.resume, quiet=args.quiet or args.json, on_epoch=show)
    except KeyboardInterrupt:
        if last.is_file():
            print(f"taaf-train: finished epochs are in {last}; go on with --resume", file=sys.stderr)
        raise
    model, _ = load_model(args.out / "model.pt")
    human = evaluate(model, load_split("human"))
    if args.json:
        print(json.dumps({"schema_version": 1, "model": str(args.out / "model.pt"), "metrics": metrics, "human": human}))
        return 0
    print(
        f"{args.out / 'model.pt'}: test accuracy fused {metrics['test_fused']:.1f} %, event {metrics['test_event']:.1f} %, "
        f"audio {metrics['test_audio']:.1f} %; recorded human speech: fused {human['fused']:.1f} %, audio {human['audio']:.1f} %"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
