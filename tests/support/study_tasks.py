"""Tasks of a study's worker processes, in a module that workers can import."""

import os
import signal
import threading
import time
from pathlib import Path

from taaf.models.errors import TrainingFailedError


def noted(folder: str, name: str) -> int:
    """Leave a line in ``folder/name``; the number of lines there."""
    path = Path(folder) / name
    with path.open("a") as file:
        file.write("begun\n")
    return len(path.read_text().splitlines())


def dies_once(folder: str, name: str) -> tuple[str, int, int]:
    """The task "victim" kills its process the first time."""
    begun = noted(folder, name)
    if name == "victim" and begun == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return name, begun, threading.active_count()


def fails(folder: str, name: str) -> None:
    """A training that fails."""
    raise TrainingFailedError(f"{name}: the loss is nan")


def waits(folder: str, name: str) -> None:
    """Say that it begins, then do nothing for long."""
    noted(folder, f"{os.getpid()}")
    time.sleep(600)


def study(folder: str) -> None:
    """A study of two tasks that wait, for a test that interrupts it; a shell's background jobs ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from taaf.training.studies.workers import Workers, run_tasks

    for _ in run_tasks(waits, {"a": (folder, "a"), "b": (folder, "b")}, Workers(2)):
        pass
