"""What every benchmark prints and does alike: medians of runs taken in turns, and the circumstances."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version

from taaf.models.kernels.threads import n_cpus


def circumstances(*packages: str) -> dict[str, object]:
    """Date, machine, load and versions."""
    found: dict[str, object] = {"date": time.strftime("%Y-%m-%d"), "python": platform.python_version(), "cpus": n_cpus()}
    if hasattr(os, "getloadavg"):
        found["load"] = round(os.getloadavg()[0], 1)
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def medians(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, taken in turns, so that what else the machine does slows all of them; a first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(found) for name, found in times.items()}
