"""taaf-export: checkpoint -> bundle or NIR; NIR -> NetX; does it fit on a chip."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from taaf.models.errors import ConfigError
from taaf.models.shell.console import check_target, make_parser, not_negative, positive, run

SCHEMA_VERSION = 1


def build_parser() -> argparse.ArgumentParser:
    """The command line of taaf-export."""
    parser = make_parser(
        "taaf-export",
        "Compile a trained checkpoint for Loihi-class hardware: fold, quantise, lower, check limits, write a NetX bundle. "
        "The result is verified on the whole test set before it is written; what has no exact form is refused. NIR backbones "
        "(.nir, of Norse, snnTorch, ...) are quantised with calibration, and the deviation is measured and reported.",
        [
            "taaf-export runs/ead_mini/model.pt --to netx --out bundle", "taaf-export model.pt --to netx --verify-lava 5",
            "taaf-export model.pt --to nir --out backbone.nir",
            "taaf-export event.nir --second audio.nir --to netx --out backbone --calibrate spikes.npz",
            "taaf-export --fit loihi2 model.pt", "taaf-export --fit loihi1 bundle --chips 4 --json",
        ],
    )  # fmt: skip
    parser.add_argument(
        "model", type=Path, nargs="?",
        help="checkpoint of taaf-train (model.pt), NIR file (.nir), or with --to nir a bundle; with --fit also a bundle or "
        "NetX file (.net; default: the shipped bundle)",
    )  # fmt: skip
    parser.add_argument("--to", choices=["netx", "nir"], help="target format; needed unless --fit is given")
    parser.add_argument(
        "--out", type=Path, default=None,
        help="bundle directory to write (default: ./bundle); from .nir: folder (default: ./backbone); to nir: file "
        "(default: ./backbone.nir)",
    )  # fmt: skip
    parser.add_argument(
        "--root", metavar="FOLDER", help="where the data set of the training lies, if it is not the shipped one"
    )
    parser.add_argument(
        "--verify-lava", type=not_negative, default=0, metavar="N", help="also run N windows on the Lava runtime (default 0)"
    )
    parser.add_argument(
        "--windows", type=positive, metavar="N",
        help="verify, and record expected results, on the first N test windows (default: all; of large networks as many as "
        "keep it within a minute)",
    )  # fmt: skip
    parser.add_argument(
        "--allow-saturation", action="store_true",
        help="also export layers whose u or v may leave 24 bits, where the chip wraps and clips and training does not; "
        "they are reported, deployments count what happens, and verification still decides (default: refuse)",
    )  # fmt: skip
    mapper = parser.add_argument_group("does it fit")
    mapper.add_argument(
        "--fit", choices=["loihi1", "loihi2"],
        help="map the network onto cores of this chip, without running it: cores, chips, what limits each layer, and what "
        "would make it fit; exit code 0 if it fits, 1 if not. --out writes the JSON report with every core to a file",
    )  # fmt: skip
    mapper.add_argument("--chips", type=positive, metavar="N", help="chips it may take (default 1)")
    source = parser.add_argument_group("from NIR")
    source.add_argument("--second", type=Path, metavar="NIR", help="NIR file of the second branch")
    source.add_argument(
        "--dt", type=float, metavar="S", help="time step in seconds, which NIR does not hold (snnTorch 1e-4, sinabs 1)"
    )
    source.add_argument(
        "--reset", choices=["hard", "subtract", "subtract-next", "subtract-many", "subtract-snntorch", "zero-next"],
        help="how the network's neurons reset, which NIR does not hold: hard (Norse, lava-dl, snnTorch's 'zero'), subtract-next "
        "(snnTorch's default), subtract-many (default of sinabs and Rockpool), or a rarer one; all but hard become the chip's "
        "hard reset, and the deviation from the network as it was is measured. Needed for files that do not say it",
    )  # fmt: skip
    source.add_argument(
        "--calibrate", type=Path, metavar="NPZ",
        help="windows of spikes: an array (N, *input shape, T) per branch, or 'inputs', and optionally 'labels' "
        "(default: generated spikes)",
    )  # fmt: skip
    return parser


def peak_memory_kib() -> int:
    """Largest resident size of this process so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(build_parser(), _work, argv)


def _work(args: argparse.Namespace) -> int:
    if args.fit:
        return _fit(args)
    if args.to is None or args.model is None:
        missing = "a model" if args.to else "--to netx, --to nir or --fit loihi1|loihi2"
        raise ConfigError(f"{missing} is needed; see taaf-export --help")
    if args.chips is not None:
        raise ConfigError("--chips: only with --fit")
    from_nir = args.model.suffix == ".nir"
    for option, value in (
        ("--second", args.second), ("--dt", args.dt), ("--reset", args.reset), ("--calibrate", args.calibrate),
    ):  # fmt: skip
        if value is not None and not from_nir:
            raise ConfigError(f"{option}: needs a .nir file, not {args.model}")
    if args.verify_lava and (from_nir or args.to == "nir"):
        raise ConfigError("--verify-lava: runs bundles only; leave it out with NIR")
    if from_nir and args.to == "nir":
        raise ConfigError(f"{args.model}: is NIR already; quantise it with --to netx")
    if from_nir or args.to == "nir":
        from taaf.export.commands.nir import from_nir_file, to_nir_file

        return from_nir_file(args) if from_nir else to_nir_file(args)
    return _bundle(args)


def _fit(args: argparse.Namespace) -> int:
    other = {
        "--to": args.to, "--root": args.root, "--second": args.second, "--dt": args.dt, "--reset": args.reset,
        "--calibrate": args.calibrate,
    }  # fmt: skip
    given = [option for option, value in other.items() if value is not None]
    if given or args.verify_lava or args.allow_saturation:
        named = ", ".join(given) or ("--verify-lava" if args.verify_lava else "--allow-saturation")
        raise ConfigError(f"{named}: not with --fit, which writes and runs nothing; leave it out")
    if args.out is not None:
        check_target("--out", args.out)
    from taaf.export.commands.fit import fit_model
    from taaf.models import zoo_path

    args.model = args.model or zoo_path("ead_mini")
    args.chips = args.chips or 1
    return fit_model(args)


def _bundle(args: argparse.Namespace) -> int:
    from taaf.export.netx_bundle import export_netx, windows_to_verify
    from taaf.models.checkpoint import read_checkpoint
    from taaf.training.config import from_dict, with_root
    from taaf.training.sources import open_windows

    def say(line: str) -> None:
        if not args.json:
            print(line, flush=True)

    # complain about the checkpoint before loading data
    config = from_dict(read_checkpoint(args.model)["config"], f"{args.model}: configuration")
    limit = args.windows or windows_to_verify(config.model)
    test = open_windows(with_root(config.data, args.root), config.model, "test", args.quiet, limit)
    inputs = {m: x[:limit] for m, x in test.inputs.items()}
    result = export_netx(
        args.model, args.out or Path("bundle"), inputs, test.labels[:limit], list(test.label_names),
        verify_lava=args.verify_lava, quiet=args.quiet or args.json, allow_saturation=args.allow_saturation, say=say,
    )  # fmt: skip
    if args.json:
        layers = [{"layer": c.layer, "spikes": c.spikes, "exact": c.ok} for c in result.checks]
        content = {"schema_version": SCHEMA_VERSION, "bundle": str(result.out), "layers": layers, "compiler": result.report}
        print(
            json.dumps({**content, "test_accuracy": result.accuracy, "lava": result.lava, "peak_memory_kib": peak_memory_kib()})
        )
        return 0
    for line in result.report:
        say(f"  {line}")
    if result.lava:
        say(f"✓ Lava runtime: {result.lava['windows']} windows, {result.lava['spike_mismatches']} spikes differ")
    alone = ", ".join(f"{u} {percent:.1f} %" for u, percent in result.accuracy.items() if u != "fused")
    say(f"{result.out}: written; test accuracy {result.accuracy['fused']:.1f} % ({alone})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
