"""Run the real executables."""

import subprocess
import sys
from pathlib import Path


def run_command(name: str, *args: object, cwd: Path | None = None, timeout: float = 240) -> subprocess.CompletedProcess:
    """Run ``taaf-<name>`` next to this interpreter."""
    command = [str(Path(sys.executable).with_name(f"taaf-{name}")), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=timeout)


def assert_refused(done: subprocess.CompletedProcess, code: int, *mentions: str) -> None:
    """Exit code, exactly one line on stderr that names the culprit, nothing on stdout, no traceback."""
    assert done.returncode == code, (done.returncode, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert ": error: " in lines[0] and done.stdout == ""
    for word in mentions:
        assert word in lines[0], (word, lines[0])
