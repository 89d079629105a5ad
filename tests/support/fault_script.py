"""Run one faulty network, then a healthy one, in a process of its own; prints what happened as JSON.

Usage: fault_script.py HOW TIME_LIMIT
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from taaf.deploy.lava.runtime import LavaRuntime, require_lava
from taaf.models.errors import TaafError


def children() -> list[int]:
    """Live descendants of this process (zombies excluded), without the resource tracker."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent, state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1::-1]
            command = (entry / "cmdline").read_text()
        except OSError:
            continue
        if int(parent) == os.getpid() and state != "Z" and "resource_tracker" not in command:
            found.append(int(entry.name))
    return found


def run(how: str, limit_s: float) -> None:
    from failing_processes.faulty import Faulty
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.source import RingBuffer

    source = RingBuffer(data=np.ones((3, 8), np.int32))
    faulty = Faulty(how=how, step=4)
    source.s_out.connect(faulty.a_in)
    with LavaRuntime(source, Loihi2SimCfg(select_tag="fixed_pt"), limit_s) as runtime:
        runtime.run(3)
        runtime.run(5)


def main() -> None:
    how, limit_s = sys.argv[1], float(sys.argv[2])
    require_lava()
    before, handler = set(os.listdir("/dev/shm")), signal.getsignal(signal.SIGINT)
    started, error = time.monotonic(), None
    try:
        run(how, limit_s)
    except TaafError as caught:
        error = f"{type(caught).__name__}: {caught}"
    found = {"error": error, "seconds": time.monotonic() - started, "children": children()}
    found["shm"] = sorted(set(os.listdir("/dev/shm")) - before)
    found["handler_restored"] = signal.getsignal(signal.SIGINT) is handler
    run("none", 30)  # a second network in the same process still works
    found["second_run"] = True
    print(json.dumps(found))


if __name__ == "__main__":
    main()
