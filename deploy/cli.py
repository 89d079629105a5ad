"""taaf-deploy: run a bundle or a NetX file on a backend and report accuracy, agreement, SynOps and energy."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from taaf.deploy.backends import BACKENDS
from taaf.models import SHIPPED, zoo_path
from taaf.models.errors import ConfigError
from taaf.models.shell.console import check_target, make_parser, not_negative, positive, probability, run

DEFAULT_CONFIDENCE = 0.99


def build_parser() -> argparse.ArgumentParser:
    """The command line of taaf-deploy."""
    parser = make_parser(
        "taaf-deploy",
        "Run a deployment bundle and report accuracy, agreement with the trained model, spikes, SynOps and energy. Or run a "
        "bare NetX file (.net, written by lava-dl) on given or generated spikes; then there is no accuracy to report.",
        [
            "taaf-deploy --backend sim",
            "taaf-deploy bundle --backend fast --json",
            "taaf-deploy --backend sim --samples 20",
            "taaf-deploy --backend fast --head scmrl",
            "taaf-deploy --backend fast --early-exit --plot exit.png",
            "taaf-deploy --backend fast --report report.html",
            "taaf-deploy --backend fast --energy-study --plot study.svg",
            "taaf-deploy --check-estimates",
            "taaf-deploy --backend fast --stream recording.npz --hop 4 --step-ms 60",
            "taaf-deploy --backend sim --stream tcp://127.0.0.1:7000",
            "taaf-deploy network.net --backend sim --input spikes.npy --output out.npy",
            "taaf-deploy network.net --backend fast --steps 100 --samples 8",
        ],
    )
    parser.add_argument(
        "bundle", nargs="?", type=Path, help="bundle directory (default: the shipped reference model) or a .net file"
    )
    parser.add_argument(
        "--head", choices=list(SHIPPED), help="which shipped model to run: TAAF-SNN's (default) or S-CMRL's; without a bundle"
    )
    parser.add_argument(
        "--backend", choices=list(BACKENDS), default="sim",
        help="sim: Lava runtime with the Loihi simulator; fast: exact engine; loihi2: chip (default sim)",
    )  # fmt: skip
    parser.add_argument(
        "--samples",
        type=positive,
        help="windows to run (default: sim 100, fast all; .net: all of --input, else sim 4, fast 16)",
    )
    parser.add_argument(
        "--split", choices=["test", "human", "human-klettres"],
        help="test: synthetic speech of unseen voices (default); human: the same images with recorded human speech; "
        "human-klettres: EAD-36 with that of Debian's klettres-data",
    )  # fmt: skip
    parser.add_argument(
        "--root", metavar="FOLDER", help="where the data set of the training lies, if it is not the shipped one"
    )
    parser.add_argument(
        "--cache", metavar="FOLDER", help="where its preprocessed samples are kept, if not where the training kept them"
    )
    parser.add_argument(
        "--time-limit", type=positive, metavar="S", help="give up after S seconds (default 60 + 2 per window; .net: 120 + 2)"
    )
    parser.add_argument(
        "--early-exit", type=probability, nargs="?", const=DEFAULT_CONFIDENCE, metavar="P",
        help=f"stop a window as soon as the head is sure: softmax of the fused readout >= P (default {DEFAULT_CONFIDENCE})",
    )  # fmt: skip
    parser.add_argument(
        "--energy-study", action="store_true",
        help="compare with the paper's 18.5 and 49.91: who charges what, at which firing rate, over T and resolution",
    )  # fmt: skip
    parser.add_argument(
        "--check-estimates", action="store_true",
        help="run nothing; print our energies and step times beside published measurements of Loihi chips, and how far they are off",
    )  # fmt: skip
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="picture of --early-exit (.png) or of --energy-study (.png, .svg)"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="also write the report: FILE.html as a page with figures, else as JSON"
    )
    own = parser.add_argument_group("own windows")
    own.add_argument(
        "--input", type=Path, metavar="FILE",
        help="a bundle takes an .npz, .h5 or folder of .npy with one array (windows, *shape, steps) per modality and optionally "
        "labels; a .net file an .npy of spikes 0/1, (windows, *shape, steps) or (*shape, steps)",
    )  # fmt: skip
    own.add_argument(
        "--output", type=Path, metavar="FILE",
        help="write decisions, probabilities and exit steps of a bundle (.csv or .npz), or the last layer's spikes of a .net file (.npy)",
    )  # fmt: skip
    live = parser.add_argument_group("streams (a bundle decides windows as they come; one line of JSON each)")
    live.add_argument(
        "--stream", metavar="SOURCE",
        help="an .npz of long recordings, one array (*shape, steps) per modality on one clock; - (standard input) or "
        "tcp://127.0.0.1:PORT: one JSON header line, then frames, see deploy/streaming/frames.py; ends with statistics on stderr",
    )  # fmt: skip
    live.add_argument(
        "--hop", type=positive, metavar="N", help="steps between the starts of two windows (default: a window's length)"
    )
    live.add_argument(
        "--step-ms", type=milliseconds, metavar="MS", help="duration of a time step, for time stamps and the real-time factor"
    )
    live.add_argument("--pace", action="store_true", help="play a recording at the speed of its clock, as a sensor would")
    live.add_argument(
        "--late", choices=["drop", "wait"],
        help="windows that come too fast: drop and count them (default of live and paced sources), or let the source wait",
    )  # fmt: skip
    net = parser.add_argument_group("only with a .net file")
    net.add_argument(
        "--input-shape", type=_shape, metavar="C,H,W", help="input of a file that starts with a convolution and does not say it"
    )
    net.add_argument("--layers", type=positive, metavar="N", help="run only the first N layers of the file")
    net.add_argument("--steps", type=positive, metavar="T", help="steps per window (default: all of --input, else 32)")
    net.add_argument(
        "--rate", type=probability, metavar="P", help="without --input: rate of the generated spikes (default 0.2)"
    )
    net.add_argument("--seed", type=not_negative, metavar="K", help="without --input: seed of the generated spikes (default 0)")
    return parser


def milliseconds(text: str) -> float:
    """argparse type: a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of milliseconds above 0")
    return value


def _shape(text: str) -> tuple[int, ...]:
    found = tuple(int(n) for n in text.split(","))
    if len(found) != 3 or min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected three whole numbers C,H,W from 1 on")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(build_parser(), _work, argv)


def _work(args: argparse.Namespace) -> int:
    if args.check_estimates:
        return _check_estimates(args)
    from tqdm import tqdm

    from taaf.models.files.writing import write_at_once

    bare = args.bundle is not None and args.bundle.suffix == ".net" and not args.bundle.is_dir()
    _require_options_for(args, bare)
    for option, path in (("--report", args.report), ("--output", args.output)):
        if path is not None:
            check_target(option, path, *((".csv", ".npz") if option == "--output" and not bare else ()))
    if args.input is not None and not bare and (args.split or args.root):
        raise ConfigError("--input: brings its own windows; leave out --split and --root")
    if args.stream is not None:
        return _stream(args)
    if args.plot is not None:
        _require_plot(args)
    execute, render = _net(args) if bare else _bundle(args)
    quiet = True if args.quiet or args.json or args.backend == "fast" else None  # None: only on a terminal
    bar: Any = tqdm(disable=quiet, unit="window", desc=args.backend, leave=False)

    def started(total: int) -> None:
        bar.total = total
        bar.refresh()

    try:
        report = execute(bar.update, started)
    finally:
        bar.close()
    details = report.pop("details", None)
    text = json.dumps(report, indent=None if args.json else 1)
    if args.report is not None:
        write_at_once(args.report, text + "\n" if details is None else _page(report, details))
    if args.plot is not None and args.energy_study:
        from taaf.deploy.studies.energy_study import plot_study

        plot_study(report["energy_study"], args.plot)
    elif args.plot is not None:
        from taaf.deploy.studies.early_exit import plot_early_exit

        plot_early_exit(report["early_exit"], args.plot)
    print(text if args.json else render(report))
    if not report["agreement"]["exact"]:
        other = "the executions disagree" if bare else "the backend disagrees with the trained model"
        print(f"taaf-deploy: error: {other} (see agreement)", file=sys.stderr)
        return 1
    return 0


def _check_estimates(args: argparse.Namespace) -> int:
    """Print the measurements; nothing else can be asked for with them."""
    from taaf.deploy.views.silicon import render_silicon, silicon_report

    parser = build_parser()
    for name, value in vars(args).items():
        if name not in ("check_estimates", "json", "quiet", "verbose", "debug") and value != parser.get_default(name):
            option = "a bundle" if name == "bundle" else f"--{name.replace('_', '-')}"
            raise ConfigError(f"--check-estimates: runs nothing, found {option} {value}; leave one of the two out")
    print(json.dumps(silicon_report()) if args.json else render_silicon())
    return 0


def _stream(args: argparse.Namespace) -> int:
    """Decide a stream; its statistics go to stderr, and with --report into a file."""
    from taaf.deploy.streaming.command import StreamRequest, json_lines, stream, to_stderr
    from taaf.deploy.streaming.statistics import render
    from taaf.models.files.writing import write_at_once

    if _wants_page(args):
        raise ConfigError(f"--report {args.report}: a stream's statistics are JSON; allowed FILE.json")
    request = StreamRequest(
        args.bundle or zoo_path(SHIPPED[args.head or "taaf"]), args.backend, args.stream, args.hop, args.step_ms, args.pace, args.late,
        args.samples, args.early_exit, args.time_limit,
    )  # fmt: skip
    report = stream(request, json_lines(sys.stdout), to_stderr("taaf-deploy", args.quiet))
    text = json.dumps(report)
    if args.report is not None:
        write_at_once(args.report, text + "\n")
    print(text if args.json else render(report), file=sys.stderr)
    return 0


def _require_plot(args: argparse.Namespace) -> None:
    """One study, and a suffix its picture can have."""
    if (args.early_exit is None) != args.energy_study:
        found = "both" if args.energy_study else "none"
        raise ConfigError(f"--plot {args.plot}: needs one of --early-exit and --energy-study, found {found}")
    check_target("--plot", args.plot, *((".png", ".svg") if args.energy_study else (".png",)))


def _wants_page(args: argparse.Namespace) -> bool:
    return args.report is not None and args.report.suffix.lower() in (".html", ".htm")


def _page(report: dict[str, Any], details: dict[str, Any]) -> str:
    from taaf.deploy.views.html.page import render_page

    return render_page(report, details)


def _bundle(args: argparse.Namespace) -> tuple[Callable[..., dict[str, Any]], Callable[[dict[str, Any]], str]]:
    """What runs a bundle, and what renders its report."""
    from taaf.deploy.report import Request, deploy
    from taaf.deploy.views.text import render
    from taaf.deploy.windows import Source

    request = Request(
        args.bundle or zoo_path(SHIPPED[args.head or "taaf"]),
        args.backend,
        samples=args.samples,
        source=Source(args.split or "test", args.root, args.cache, args.input),
        time_limit_s=args.time_limit,
        early_exit=args.early_exit,
        output=args.output,
        details=_wants_page(args),
        study=args.energy_study,
    )
    return partial(deploy, request), render


def _net(args: argparse.Namespace) -> tuple[Callable[..., dict[str, Any]], Callable[[dict[str, Any]], str]]:
    """What runs a NetX file, and what renders its report."""
    from taaf.deploy.netx_file import NetRequest, deploy_net
    from taaf.deploy.views.net_text import render_net

    request = NetRequest(
        args.bundle, args.backend, args.input, args.samples, args.steps, args.rate, args.seed, args.layers, args.input_shape,
        args.time_limit, args.output, _wants_page(args), args.energy_study,
    )  # fmt: skip
    return partial(deploy_net, request), render_net


def _require_options_for(args: argparse.Namespace, bare: bool) -> None:
    """Options of a bundle and of a NetX file do not mix, and a given one is not chosen by its head."""
    if args.head and args.bundle is not None:
        raise ConfigError(f"--head {args.head}: chooses a shipped bundle, found {args.bundle}; leave one of the two out")
    of_bundles = ("split", "early_exit", "plot", "root", "cache", "stream")
    of_files = ("layers", "input_shape", "steps", "rate", "seed")
    names = of_bundles if bare else of_files
    for name in names:
        if getattr(args, name) is not None:
            allowed = "only with a bundle, which has a head and labels" if bare else "only with a .net file"
            raise ConfigError(f"--{name.replace('_', '-')}: {allowed}; found {args.bundle or 'the shipped bundle'}")
    of_streams = ("hop", "step_ms", "pace", "late")
    of_windows = ("split", "root", "cache", "input", "output", "plot", "energy_study")
    without = of_streams if args.stream is None else of_windows
    for name in without:
        if getattr(args, name):
            wanted = "only with --stream" if args.stream is None else "not with --stream; leave one of the two out"
            raise ConfigError(f"--{name.replace('_', '-')}: {wanted}")


if __name__ == "__main__":
    sys.exit(main())
