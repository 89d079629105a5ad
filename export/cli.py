"""taaf-export: checkpoint -> bundle or NIR; NIR -> NetX; does it fit on a chip."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from taaf.export.targets import find_target, target_names
from taaf.hw_sim.chips import chip_names
from taaf.models.errors import ConfigError
from taaf.models.shell.console import check_target, make_parser, not_negative, positive, run


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
            "taaf-export my_nets.py:build --weights my.pt --inputs windows.npz --head rate --to netx --out bundle",
            "taaf-export --branch event=event.net --branch audio=audio.net --inputs windows.npz --head rate --to netx",
            "taaf-export --fit loihi2 model.pt", "taaf-export --fit loihi1 bundle --chips 4 --json",
        ],
    )  # fmt: skip
    parser.add_argument(
        "model", type=Path, nargs="?",
        help="checkpoint of taaf-train (model.pt); FILE.py:FUNCTION, which builds a torch module of lava-dl SLAYER parts or "
        "{modality: module} (your own code, which is run); NIR file (.nir), or with --to nir a bundle; with --fit also a bundle or "
        "NetX file (.net; default: the shipped bundle)",
    )  # fmt: skip
    parser.add_argument("--to", choices=target_names(), help="target format; needed unless --fit is given")
    parser.add_argument(
        "--out", type=Path, default=None,
        help="bundle directory to write (default: ./bundle); from .nir: folder (default: ./backbone); to nir: file "
        "(default: ./backbone.nir)",
    )  # fmt: skip
    parser.add_argument(
        "--root", metavar="FOLDER", help="where the data set of the training lies, if it is not the shipped one"
    )
    parser.add_argument(
        "--cache", metavar="FOLDER", help="where its preprocessed samples are kept, if not where the training kept them"
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
    own = parser.add_argument_group("own network")
    own.add_argument("--weights", type=Path, metavar="FILE.pt", help="state dict of the module that FILE.py:FUNCTION builds")
    own.add_argument(
        "--inputs", type=Path, metavar="FILE",
        help="windows to prove it on: .npz, .h5 or folder of .npy with one array of zeros and ones (windows, *shape, steps) per "
        "modality, and optionally labels and names (of classes); they are kept in the bundle",
    )  # fmt: skip
    own.add_argument(
        "--head", choices=["rate", "none", "own"],
        help="rate: the class whose output neurons fire most; none: feature spikes; own: what the module does behind the chip, as "
        "ONNX on the host (default: own if there is any, else rate with labels, none without)",
    )  # fmt: skip
    own.add_argument(
        "--record", type=Path, metavar="FILE.pt",
        help="also keep graphs, head and SLAYER's spikes in this file, which is exported or fitted later without your code",
    )  # fmt: skip
    own.add_argument(
        "--branch",
        action="append",
        metavar="NAME=FILE",
        help="make the bundle of .net or .nir files, one per modality (repeatable); .nir is quantised on --inputs",
    )
    parser.add_argument(
        "--own-code", action="store_true",
        help="import networks and data sets that the checkpoint names as module:function, which runs them (default: refuse)",
    )  # fmt: skip
    mapper = parser.add_argument_group("does it fit")
    mapper.add_argument(
        "--fit", choices=chip_names(),
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


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(build_parser(), _work, argv)


def _work(args: argparse.Namespace) -> int:
    if args.fit:
        return _fit(args)
    if args.branch or (args.model is not None and _is_code(args.model)):
        return _own(args)
    for option in ("weights", "inputs", "head", "record"):
        if getattr(args, option) is not None:
            raise ConfigError(f"--{option}: goes with FILE.py:FUNCTION or --branch, found {args.model or 'no model'}")
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
    if args.verify_lava and (from_nir or args.to != "netx"):
        raise ConfigError("--verify-lava: runs bundles only; leave it out with NIR")
    if from_nir and args.to == "nir":
        raise ConfigError(f"{args.model}: is NIR already; quantise it with --to netx")
    if from_nir:
        from taaf.export.commands.nir import from_nir_file

        return from_nir_file(args)
    return find_target(args.to)(args)


def _is_code(model: Path) -> bool:
    """FILE.py:FUNCTION or MODULE:FUNCTION, and no file of that name."""
    return ":" in model.name and not model.exists()


def _own(args: argparse.Namespace) -> int:
    if args.to not in (None, "netx"):
        raise ConfigError(f"--to {args.to}: record the network with --record FILE.pt, or write a bundle first, and export that")
    if args.to is None and args.record is None:
        raise ConfigError("--to netx (or --record FILE.pt) is needed; see taaf-export --help")
    if args.branch and args.model is not None:
        raise ConfigError(f"--branch: makes the network of files, found {args.model} too; leave one of the two out")
    from taaf.export.commands.own import own_command

    return own_command(args)


def _fit(args: argparse.Namespace) -> int:
    other = {
        "--to": args.to, "--root": args.root, "--cache": args.cache, "--second": args.second, "--dt": args.dt,
        "--reset": args.reset, "--calibrate": args.calibrate, "--weights": args.weights, "--inputs": args.inputs,
        "--head": args.head, "--record": args.record,
    }  # fmt: skip
    given = [option for option, value in other.items() if value is not None]
    if given or args.verify_lava or args.allow_saturation:
        named = ", ".join(given) or ("--verify-lava" if args.verify_lava else "--allow-saturation")
        raise ConfigError(f"{named}: not with --fit, which writes and runs nothing; leave it out")
    if args.branch or (args.model is not None and _is_code(args.model)):
        raise ConfigError(
            "--fit: takes files; record FILE.py:FUNCTION with --record FILE.pt first, or give the bundle of --branch"
        )
    if args.out is not None:
        check_target("--out", args.out)
    from taaf.export.commands.fit import fit_model
    from taaf.models import zoo_path

    args.model = args.model or zoo_path("ead_mini")
    args.chips = args.chips or 1
    return fit_model(args)


if __name__ == "__main__":
    sys.exit(main())
