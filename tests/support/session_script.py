"""Sessions on Lava that something happens to, one after the other; prints what was said and what is left as JSON.

Usage: session_script.py BUNDLE HOW...

HOW: "kill" and "kill running" (a Lava process, between windows and while one runs), SIGINT and SIGTERM (to this process, between
windows), "SIGINT running" (the same while a window runs), "none".
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from fault_script import children

from taaf.deploy import Session
from taaf.models.errors import TaafError
from taaf.training.datasets.ead_mini import load_split


def strike(how: str) -> None:
    """Do it."""
    if how == "kill":
        os.kill(children()[4], signal.SIGKILL)
    elif how != "none":
        os.kill(os.getpid(), getattr(signal, how))


def use(bundle: Path, how: str, said: list[str]) -> None:
    windows = load_split("test", slice(20)).inputs()
    what, *running = how.split()
    with Session(bundle, "sim") as session:
        said.append(session({m: x[0] for m, x in windows.items()}).name)
        if running:
            timer = threading.Timer(0.3, strike, (what,))
            timer.start()
        else:
            strike(what)
            time.sleep(0.5)  # the watchdog notices; this line is not interrupted by it
        for _ in range(2):
            try:
                said += [d.name for d in session.stream({m: x[k] for m, x in windows.items()} for k in range(20))]
            except TaafError as error:
                said.append(str(error))


def one(bundle: Path, how: str) -> dict[str, object]:
    """What was said, and what is left."""
    before, said = set(os.listdir("/dev/shm")), list[str]()
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    try:
        use(bundle, how, said)
    except KeyboardInterrupt:
        said.append("interrupted")
    return {
        "said": said, "children": children(), "shm": sorted(set(os.listdir("/dev/shm")) - before),
        "restored": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers,
        "descriptors": len(os.listdir("/proc/self/fd")), "threads": threading.active_count(),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps({how: one(Path(sys.argv[1]), how) for how in sys.argv[2:]}))
