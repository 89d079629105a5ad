"""What the three commands share: options, one-line errors, exit codes."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from taaf.models.errors import ConfigError, TaafError
from taaf.models.shell.outlets import Outlet, outlets
from taaf.models.shell.pictures import without_display

_EPILOG = "exit codes: 0 ok, 1 verification failed, 2 usage or bad input, 3 backend unavailable, 130 interrupted"


def make_parser(prog: str, description: str, examples: Sequence[str]) -> argparse.ArgumentParser:
    """Parser with the common options and runnable examples in its help."""
    shown = "examples:\n" + "".join(f"  {e}\n" for e in examples)
    parser = argparse.ArgumentParser(
        prog=prog, description=description, epilog=f"{shown}\n{_EPILOG}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"{prog} {version('taaf')}")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout instead of text")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def run(parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], int], argv: Sequence[str] | None) -> int:
    """Parse, work, and turn what goes wrong into one line on stderr and an exit code.

    Text that cannot be written does not stop the work (`taaf.models.shell.outlets`); it only changes the exit code.
    """
    interrupted: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        interrupted.append(number)
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    debug = False
    with outlets() as (out, err), without_display():
        try:
            args = parser.parse_args(argv)
            debug = args.debug
            return _unless_lost(work(args), out, parser.prog)
        except BaseException as error:
            for number in previous:
                signal.signal(number, signal.SIG_IGN)  # it is over already
            if isinstance(error, SystemExit) and error.code in (None, 0):  # --help and --version
                return _unless_lost(0, out, parser.prog)
            if isinstance(error, SystemExit) or debug:
                raise
            code, message = _explain(error, bool(interrupted))
            if code == 0:
                raise
            err.write(f"{parser.prog}: {message}\n")
            err.flush()
            return code
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _unless_lost(code: int, out: Outlet, prog: str) -> int:
    """The exit code, or if the text of a success was lost: 141 where its reader had left, 2 with a line where a disk is full."""
    out.flush()
    if code or out.error is None:
        return code
    if isinstance(out.error, BrokenPipeError):
        return 141
    print(f"{prog}: error: standard output: {out.error.strerror or out.error}", file=sys.stderr)
    return 2


def _explain(error: BaseException, interrupted: bool) -> tuple[int, str]:
    """Exit code and the one line to say; code 0: a bug of ours, whose traceback is wanted."""
    text = " ".join(str(error).split())
    if interrupted or isinstance(error, KeyboardInterrupt):  # a library may turn the interrupt into its own error
        return 130, f"interrupted; {text}" if text and isinstance(error, KeyboardInterrupt) else "interrupted"
    if isinstance(error, TaafError):
        return error.exit_code, f"error: {text}"
    if isinstance(error, MemoryError):
        return 2, f"error: out of memory ({text or 'no more is available'}); use a smaller network or fewer samples"
    if isinstance(error, OSError):
        return 2, f"error: {error.filename or 'a file'}: {error.strerror or text}"
    return 0, text


def positive(text: str) -> int:
    """argparse type: an integer >= 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number >= 1")
    return value


def not_negative(text: str) -> int:
    """argparse type: an integer >= 0."""
    return 0 if text == "0" else positive(text)


def probability(text: str) -> float:
    """argparse type: a number in 0..1."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number in 0..1")
    return value


def check_target(option: str, path: Path, *suffixes: str) -> None:
    """Raise `ConfigError` if a file cannot be written at ``path``, before any work is done for it."""
    if path.is_dir() or not path.name:
        raise ConfigError(f"{option} {path}: is a folder; give the name of a file")
    if suffixes and path.suffix.lower() not in suffixes:
        raise ConfigError(f"{option} {path}: found {path.suffix or 'no suffix'}, expected {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise ConfigError(f"{option} {path}: folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{option} {path}: folder {path.parent} cannot be written to")
