"""Run the real executables."""

import contextlib
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def run_command(name: str, *args: object, cwd: Path | None = None, timeout: float = 240) -> subprocess.CompletedProcess:
    """Run ``taaf-<name>`` next to this interpreter."""
    command = [str(Path(sys.executable).with_name(f"taaf-{name}")), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=timeout)


def run_in_process(main: Callable[[list[str]], int], *args: object) -> subprocess.CompletedProcess:
    """The same of a command's ``main``, without the seconds an interpreter takes to import torch and SLAYER."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(a) for a in args])
    return subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue())


def assert_refused(done: subprocess.CompletedProcess, code: int, *mentions: str) -> None:
    """Exit code, exactly one line on stderr that names the culprit, nothing on stdout, no traceback."""
    assert done.returncode == code, (done.returncode, done.stderr)
    compiled = ("compiling the ", "once per machine")  # said by whatever runs first on a new machine
    lines = [x for x in done.stderr.strip().splitlines() if not all(part in x for part in compiled)]
    assert len(lines) == 1, done.stderr
    assert ": error: " in lines[0] and done.stdout == ""
    for word in mentions:
        assert word in lines[0], (word, lines[0])
