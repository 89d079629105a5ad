"""taaf-export: checkpoint -> bundle."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from taaf.models.console import make_parser, not_negative, run

SCHEMA_VERSION = 1


def build_parser() -> argparse.ArgumentParser:
    """The command line of taaf-export."""
    parser = make_parser(
        "taaf-export",
        "Compile a trained checkpoint for Loihi-class hardware: fold, quantise, lower, check limits, write a NetX bundle. "
        "The result is verified on the whole test set before it is written; what has no exact form is refused.",
        ["taaf-export runs/ead_mini/model.pt --to netx --out bundle", "taaf-export model.pt --to netx --verify-lava 5"],
    )
    parser.add_argument("model", type=Path, help="checkpoint written by taaf-train (model.pt)")
    parser.add_argument("--to", choices=["netx"], required=True, help="target format")
    parser.add_argument("--out", type=Path, default=Path("bundle"), help="bundle directory to write (default: ./bundle)")
    parser.add_argument(
        "--verify-lava", type=not_negative, default=0, metavar="N", help="also run N windows on the Lava runtime (default 0)"
    )
    parser.add_argument(
        "--allow-saturation", action="store_true",
        help="also export layers whose u or v may leave 24 bits, where the chip wraps and clips and training does not; "
        "they are reported, deployments count what happens, and verification still decides (default: refuse)",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(build_parser(), _work, argv)


def _work(args: argparse.Namespace) -> int:
    from taaf.export.netx_bundle import export_netx
    from taaf.models.checkpoint import read_checkpoint
    from taaf.training.ead_mini import LABELS, load_split

    def say(line: str) -> None:
        if not args.json:
            print(line, flush=True)

    read_checkpoint(args.model)  # complain about a wrong path before loading data
    test = load_split("test")
    result = export_netx(
        args.model, args.out, test.inputs(), test.labels, list(LABELS),
        verify_lava=args.verify_lava, quiet=args.quiet or args.json, allow_saturation=args.allow_saturation, say=say,
    )  # fmt: skip
    if args.json:
        layers = [{"layer": c.layer, "spikes": c.spikes, "exact": c.ok} for c in result.checks]
        content = {"schema_version": SCHEMA_VERSION, "bundle": str(result.out), "layers": layers, "compiler": result.report}
        print(json.dumps({**content, "test_accuracy": result.accuracy, "lava": result.lava}))
        return 0
    for line in result.report:
        say(f"  {line}")
    if result.lava:
        say(f"✓ Lava runtime: {result.lava['windows']} windows, {result.lava['spike_mismatches']} spikes differ")
    say(f"{result.out}: written; test accuracy {result.accuracy['fused']:.1f} % (event {result.accuracy['event']:.1f} %, "
        f"audio {result.accuracy['audio']:.1f} %)")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
