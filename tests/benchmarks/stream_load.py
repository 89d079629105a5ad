"""The highest rate of windows that each backend sustains, and what happens above it.

    uv run python tests/benchmarks/stream_load.py [--seconds 60] [--backends fast sim] [--rates 0.5 0.8 0.9 1 1.5 3]

First the source waits for the session: that is the rate R at most. Then a live source offers windows for so many seconds at each of
the given multiples of R, and drops those that nobody takes in time. One row each: offered and decided windows per second, dropped,
latencies from the last step of a window to its decision, and memory. Exit 1 if a window is neither decided nor counted as dropped, if
a decision is not the trained model's, or if memory or threads grow with the load; times are printed, not judged.
"""

import argparse
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from measuring import circumstances

from taaf.deploy import Session
from taaf.deploy.streaming.command import decide
from taaf.deploy.streaming.sliding import Window
from taaf.deploy.streaming.sources import Source
from taaf.deploy.streaming.statistics import Statistics
from taaf.models import zoo_path
from taaf.training.datasets.ead_mini import load_split

MIB = 32  # memory may grow by so much between the first rate and the last


class Offered(Source):
    """Offers windows again and again, ``rate`` per second (0: as fast as they are taken), for ``seconds``."""

    def __init__(self, session: Session, windows: list[Window], rate: float, seconds: float) -> None:
        specs = session.bundle.specs()
        self.steps = max(s.steps for s in specs.values())
        super().__init__(specs, self.steps, wait=rate == 0)
        self.windows, self.rate, self.seconds, self.n = windows, rate, seconds, 0

    def read(self) -> None:
        begun = time.perf_counter()
        while time.perf_counter() - begun < self.seconds:
            if self.rate:
                self._stop.wait(max(0.0, begun + self.n / self.rate - time.perf_counter()))
            if not self.mailbox.put(self.n * self.steps, self.windows[self.n % len(self.windows)]):
                return
            self.n += 1


def mebibytes() -> float:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def one_backend(backend: str, seconds: float, multiples: list[float]) -> list[str]:
    """Print its rows; returns what was wrong."""
    given = load_split("test", slice(100)).inputs()
    windows = [{m: x[k] for m, x in given.items()} for k in range(100)]
    problems, first = [], 0.0
    with Session(zoo_path("ead_mini"), backend, count=False) as session:
        expected = session.bundle.golden["logits"][:100].argmax(1)
        session(windows[0])
        most = 0.0
        for multiple in (0.0, *multiples):
            decided: list[tuple[int, int]] = []

            def say(found: dict[str, Any], to: list[tuple[int, int]] = decided) -> bool:
                to.append((found["start_step"], found["label"]))
                return True

            statistics = Statistics(12)
            with Offered(session, windows, multiple * most, seconds) as source:
                steps = source.steps
                decide(session, source, statistics, say, print)
            wrong = sum(label != expected[start // steps % 100] for start, label in decided)
            r, latency = statistics.report(), statistics.report()["latency_s"]
            rate, memory = r["windows"] / r["seconds"], mebibytes()
            most, first = (rate, memory) if not multiple else (most, first)
            shown = "  ".join(f"{k} {1e3 * v:8.1f}" for k, v in latency.items())
            offered = f"{multiple * most:8.1f}" if multiple else "as taken"
            share = 100 * r["dropped"] / max(1, source.n)
            print(
                f"{backend:5s} offered {offered}/s  decided {rate:8.1f}/s  dropped {r['dropped']:6d} ({share:5.1f} %)  ms: {shown}  "
                f"{memory:.0f} MiB", flush=True,
            )  # fmt: skip
            problems += [f"{wrong} decisions are not the trained model's"] if wrong else []
            if r["windows"] + r["dropped"] != source.n:
                problems.append(f"{source.n} windows, but {r['windows']} decided and {r['dropped']} dropped")
        if memory - first > MIB:
            problems.append(f"memory: {first:.0f} -> {memory:.0f} MiB")
    if threading.active_count() > 1:
        problems.append(f"threads are left: {threading.enumerate()}")
    return [f"{backend}: {p}" for p in problems]


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of each rate")
    parser.add_argument("--backends", nargs="+", default=["fast", "sim"])
    parser.add_argument(
        "--rates", nargs="+", type=float, default=[0.5, 0.8, 0.9, 1, 1.5, 3], help="multiples of the highest rate"
    )
    args = parser.parse_args()
    print(circumstances("numba", "lava-nc"))
    problems = [p for backend in args.backends for p in one_backend(backend, args.seconds, args.rates)]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
