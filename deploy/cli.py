"""taaf-deploy: run a bundle on a backend and report accuracy, agreement, SynOps and energy."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taaf.models import zoo_path
from taaf.models.console import check_target, make_parser, positive, probability, run
from taaf.models.errors import ConfigError

DEFAULT_CONFIDENCE = 0.99


def build_parser() -> argparse.ArgumentParser:
    """The command line of taaf-deploy."""
    parser = make_parser(
        "taaf-deploy",
        "Run a deployment bundle and report accuracy, agreement with the trained model, spikes, SynOps and energy.",
        [
            "taaf-deploy --backend sim",
            "taaf-deploy bundle --backend fast --json",
            "taaf-deploy --backend sim --samples 20",
            "taaf-deploy --backend fast --early-exit --plot exit.png",
        ],
    )
    parser.add_argument("bundle", nargs="?", type=Path, help="bundle directory (default: the shipped reference model)")
    parser.add_argument(
        "--backend", choices=["sim", "fast", "loihi2"], default="sim",
        help="sim: Lava runtime with the Loihi simulator; fast: exact engine; loihi2: chip (default sim)",
    )  # fmt: skip
    parser.add_argument("--samples", type=positive, help="windows to run (default: sim 100, fast all)")
    parser.add_argument(
        "--split", choices=["test", "human"], default="test",
        help="test: synthetic speech of unseen voices; human: the same digits with recorded human speech",
    )  # fmt: skip
    parser.add_argument(
        "--root", metavar="FOLDER", help="where the data set of the training lies, if it is not the shipped one"
    )
    parser.add_argument("--time-limit", type=positive, metavar="S", help="give up after S seconds (default 60 + 2 per window)")
    parser.add_argument(
        "--early-exit", type=probability, nargs="?", const=DEFAULT_CONFIDENCE, metavar="P",
        help=f"stop a window as soon as the head is sure: softmax of the fused readout >= P (default {DEFAULT_CONFIDENCE})",
    )  # fmt: skip
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="with --early-exit: picture of accuracy against cost")
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="also write the report as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(build_parser(), _work, argv)


def _work(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from taaf.deploy.report import render
    from taaf.deploy.session import Request, deploy
    from taaf.models.output import write_at_once

    for option, path, suffix in (("--report", args.report, ""), ("--plot", args.plot, ".png")):
        if path is not None:
            check_target(option, path, suffix)
    if args.plot is not None and args.early_exit is None:
        raise ConfigError(f"--plot {args.plot}: needs --early-exit")
    request = Request(
        args.bundle or zoo_path("ead_mini"), args.backend, args.samples, args.split, args.time_limit, args.early_exit, args.root
    )
    quiet = True if args.quiet or args.json or args.backend == "fast" else None  # None: only on a terminal
    bar: Any = tqdm(disable=quiet, unit="window", desc=args.backend, leave=False)

    def started(total: int) -> None:
        bar.total = total
        bar.refresh()

    try:
        report = deploy(request, bar.update, started)
    finally:
        bar.close()
    text = json.dumps(report, indent=None if args.json else 1)
    if args.report is not None:
        write_at_once(args.report, text + "\n")
    if args.plot is not None:
        from taaf.deploy.early_exit import plot_early_exit

        plot_early_exit(report["early_exit"], args.plot)
    print(text if args.json else render(report))
    if not report["agreement"]["exact"]:
        print("taaf-deploy: error: the backend disagrees with the trained model (see agreement)", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
