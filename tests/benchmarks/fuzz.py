"""Fuzz everything that is read from disk: damaged bytes and files that lie about themselves.

    uv run python tests/benchmarks/fuzz.py --format all --n 10000

Every input is read in a worker process with 5 s of CPU time and 2 GiB; it must be accepted or refused with one of taaf's errors.
Anything else (another exception, a crash, a hang, a file written) is a failure: the input is kept under /tmp/taaf-fuzz
and the exit code is 1.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from fuzz_formats import FORMATS, MEDIA
from fuzz_loop import TIME_LIMIT_S, campaign


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", nargs="+", choices=[*FORMATS, "media", "all"], default=["all"])
    parser.add_argument("--n", type=int, default=10_000, help="inputs per format (default 10000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0, help="first input, to repeat a failure")
    parser.add_argument("--limit", type=float, default=TIME_LIMIT_S, help="seconds per input")
    args = parser.parse_args()
    wanted = [f for f in FORMATS if f in args.format or "all" in args.format or ("media" in args.format and f in MEDIA)]
    failed = 0
    for name in wanted:
        begun = time.monotonic()
        (result,) = campaign([name], args.n, args.seed, args.limit, args.start)
        print(
            f"{name:14s} {dict(result['counts'])}  slowest {result['slowest_s']} s, {time.monotonic() - begun:.0f} s",
            flush=True,
        )
        for failure in result["failures"]:
            print("  ", json.dumps(failure), flush=True)
        failed += len(result["failures"])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
