"""Many windows through one session: descriptors, threads, children and memory must stay flat.

    uv run python tests/benchmarks/sessions.py [--fast 10000] [--sim 500] [--early-exit P]

The windows of EAD-mini's test set go through a session of each backend, half of them in a stream, half one by one, every fiftieth
of them broken. Prints the state ten times; exits 1 if after the first tenth there are more descriptors, threads, children or
Lava objects, or more memory than 4 MiB and 2 KiB per window, if a decision is not the trained model's, or if anything is left when the
session is closed.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from endurance import grown, state

from taaf.deploy import Decision, Session
from taaf.deploy.lava.runtime import require_lava
from taaf.models import zoo_path
from taaf.models.errors import TaafError
from taaf.training.datasets.ead_mini import load_split

EVERY = 50  # one of so many windows is broken
MIB, MIB_PER_WINDOW = 4, 2 / 1024


def through(backend: str, n: int, early_exit: float | None) -> list[str]:
    """Run ``n`` windows; returns what was wrong."""
    given = load_split("test").inputs()
    count = early_exit is None  # so that both ways of answering are seen
    with Session(zoo_path("ead_mini"), backend, early_exit=early_exit, count=count) as session:
        expected = session.bundle.golden["logits"].argmax(1)
        refused: list[int] = []

        def window(k: int) -> dict[str, Any]:
            found = {m: x[k % len(x)] for m, x in given.items()}
            return found | ({"audio": found["audio"][:3]} if k % EVERY == 0 else {})

        def part(ks: range) -> Iterator[tuple[int, Decision]]:
            half = len(ks) // 2
            good = (k for k in ks[:half] if k % EVERY)
            for decision in session.stream(map(window, ks[:half]), lambda k, _: refused.append(k)):
                yield next(good), decision
            for k in ks[half:]:
                try:
                    yield k, session(window(k))
                except TaafError:
                    refused.append(k)

        wrong, longest, first, begun = 0, 0.0, {}, time.monotonic()
        for tenth in range(10):
            for k, decision in part(range(tenth * n // 10, (tenth + 1) * n // 10)):
                wrong += early_exit is None and decision.label != expected[k % len(expected)]
                longest = max(longest, decision.latency_s)
            now = state()
            first = first or now
            seconds = time.monotonic() - begun
            print(f"{backend} {(tenth + 1) * n // 10:6d}  {seconds:6.0f} s  longest answer {longest:.3f} s  {now}", flush=True)
    problems = [f"grew: {p}" for p in grown(first, now, n, max(MIB_PER_WINDOW, MIB / n))]
    problems += [f"{wrong} decisions are not the trained model's"] if wrong else []
    return problems + ([f"refused windows {refused}"] if refused != list(range(0, n, EVERY)) else [])


def one_backend(backend: str, n: int, early_exit: float | None) -> list[str]:
    """What was wrong, and what is left."""
    shared, before = set(os.listdir("/dev/shm")), state()
    problems = through(backend, n, early_exit)
    after = {k: v for k, v in state().items() if k != "MiB"}
    problems += [f"left: {k}: {before[k]} -> {v}" for k, v in after.items() if v > before[k]]
    problems += [f"left in /dev/shm: {name}" for name in sorted(set(os.listdir("/dev/shm")) - shared)]
    return [f"{backend}: {p}" for p in problems]


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", type=int, default=10_000, metavar="N", help="windows on fast")
    parser.add_argument("--sim", type=int, default=500, metavar="N", help="windows on sim")
    parser.add_argument("--early-exit", type=float, metavar="P")
    args = parser.parse_args()
    require_lava()
    through("sim", 10, None)  # Python's resource tracker and the kernels are there from now on
    problems = [
        p for backend, n in (("fast", args.fast), ("sim", args.sim)) if n for p in one_backend(backend, n, args.early_exit)
    ]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
