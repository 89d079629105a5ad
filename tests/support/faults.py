"""Run a command that is struck at a stage (`stage_script`), and report what was left behind."""

import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

SUPPORT = Path(__file__).parent
_BIND = 'mkdir -p "$0" && mount --bind "$0" /dev/shm && exec "$@"'


@dataclass
class Ended:
    """How a command ended.

    Attributes
    ----------
    code : int
        Exit code.
    seconds : float
        From the strike (or, without one, from the start) to the end of the command.
    left : list of str
        Processes of its group, shared memory, temporary files and half-written files that are left.
    notes : list of str
        Lines of the marker, without times.
    """

    code: int
    seconds: float
    stdout: str
    stderr: str
    left: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        return self.stderr.strip().splitlines()


@lru_cache(maxsize=1)
def own_namespace() -> bool:
    """Whether a process can get a /dev/shm of its own (needs root); else new entries of everybody are counted."""
    command = ["unshare", "-m", "sh", "-c", "mount --bind /tmp /dev/shm"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def python_path() -> str:
    """PYTHONPATH of this process with the test support in it."""
    return os.pathsep.join(filter(None, (str(SUPPORT), os.environ.get("PYTHONPATH"))))


def with_own_shm(folder: Path) -> list[str]:
    """Start of a command line that gives the rest ``folder`` as its /dev/shm; empty where that is not possible."""
    return ["unshare", "-m", "sh", "-c", _BIND, str(folder)] if own_namespace() else []


def run_struck(
    folder: Path, command: str, stage: str, how: str, *arguments: object,
    stdout: int = subprocess.PIPE, file_bytes: int | None = None, timeout: float = 120,
) -> Ended:  # fmt: skip
    """Run ``taaf-COMMAND`` in ``folder`` (its own /tmp, /dev/shm and process group); ``file_bytes`` limits every file."""
    folder.mkdir(parents=True, exist_ok=True)
    marker, temporary, shm = folder / "marker", folder / "tmp", folder / "shm"
    for place in (temporary, shm):
        place.mkdir(exist_ok=True)
    marker.unlink(missing_ok=True)
    script = [sys.executable, str(SUPPORT / "stage_script.py"), command, stage, how, str(marker), *map(str, arguments)]
    prefix = with_own_shm(shm)
    watched = shm if prefix else Path("/dev/shm")
    before = set(os.listdir(watched))
    env = {**os.environ, "PYTHONPATH": python_path(), "TMPDIR": str(temporary), "MPLCONFIGDIR": str(folder.parent)}

    def limit() -> None:
        if file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    started = time.time()
    process = subprocess.Popen(
        [*prefix, *script], stdout=stdout, stderr=subprocess.PIPE, text=True, env=env, cwd=folder,
        start_new_session=True, preexec_fn=limit,  # noqa: PLW1509 - no threads here
    )  # fmt: skip
    try:
        out, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        subprocess.run(["pkill", "-KILL", "-g", str(process.pid)])
        out, errors = process.communicate()
        errors += "\nHUNG"
    ended_at = time.time()
    notes = marker.read_text().splitlines() if marker.exists() else []
    struck = float(notes[0].split()[0]) if notes else started
    found = Ended(process.returncode, ended_at - struck, out or "", errors)
    found.notes = [n.split(" ")[-1] for n in notes]
    found.left = orphans(process.pid) + [f"shm {n}" for n in sorted(set(os.listdir(watched)) - before)]
    found.left += [f"tmp {p.name}" for p in temporary.iterdir()]
    found.left += [
        f"file {p.relative_to(folder)}" for p in folder.rglob(".*") if p.name.endswith((".tmp", ".png", ".old", ".part"))
    ]
    found.left += [f"folder {p.name}" for p in folder.glob(".bundle.*")]
    return found


def orphans(group: int, patience_s: float = 5) -> list[str]:
    """Processes of the group that are still there after a while (Python's resource tracker leaves last, by itself)."""
    until = time.time() + patience_s
    while True:
        found = subprocess.run(["pgrep", "-a", "-g", str(group)], capture_output=True, text=True).stdout.splitlines()
        if not found or time.time() > until:
            return [f"process {line[:100]}" for line in found]
        time.sleep(0.1)
