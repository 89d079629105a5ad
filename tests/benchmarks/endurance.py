"""A hundred Lava runs in one process: file descriptors, threads, children and memory must stay flat.

    uv run python tests/benchmarks/endurance.py [--runs 100]

Every run compiles and runs the shipped bundle for one window. Prints the state every 10 runs, and exits 1 if at the end
there are more descriptors, threads, children or Lava objects than after the first 5 runs, or more than 0.5 MiB per run
more memory.
"""

import argparse
import gc
import os
import sys
import threading
import time
from pathlib import Path

from taaf.deploy.backends.sim import run_sim
from taaf.deploy.lava.runtime import require_lava
from taaf.export.bundle.reader import Bundle, read_bundle
from taaf.models import zoo_path
from taaf.training.datasets.ead_mini import load_split

WARM_UP = 5
MIB_PER_RUN = 0.5


def state() -> dict[str, float]:
    """What this process holds now."""
    from lava.magma.core.process.process import AbstractProcess
    from lava.magma.core.process.variable import Var

    gc.collect()  # Lava's objects hold each other
    tasks = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "descriptors": len(os.listdir("/proc/self/fd")), "threads": threading.active_count(), "children": len(tasks),
        "Lava objects": sum(issubclass(type(o), AbstractProcess | Var) for o in gc.get_objects()),
        "MiB": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1),
    }  # fmt: skip


def grown(first: dict[str, float], last: dict[str, float], runs: int, mib_per_run: float) -> list[str]:
    """What is more than allowed after ``runs`` further runs."""
    found = [f"{k}: {first[k]} -> {last[k]}" for k in first if k != "MiB" and last[k] > first[k]]
    if last["MiB"] - first["MiB"] > mib_per_run * runs:
        found.append(f"memory: {first['MiB']} -> {last['MiB']} MiB in {runs} runs")
    return found


def one_run(bundle: Bundle, inputs: dict) -> None:
    """Compile, run one window, stop."""
    run_sim(bundle, inputs, 120)


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--warm-up", type=int, default=WARM_UP)
    parser.add_argument("--mib-per-run", type=float, default=MIB_PER_RUN)
    args = parser.parse_args()
    require_lava()
    bundle = read_bundle(zoo_path("ead_mini"))
    inputs = load_split("test", slice(1)).inputs()
    first, started = state(), time.monotonic()
    for index in range(1, args.runs + 1):
        one_run(bundle, inputs)
        if index == args.warm_up:
            first = state()
        if index % 10 == 0 or index in (args.warm_up, args.runs):
            print(f"run {index:4d}  {time.monotonic() - started:6.0f} s  {state()}", flush=True)
    problems = grown(first, state(), args.runs - args.warm_up, args.mib_per_run)
    for problem in problems:
        print(f"grew: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
