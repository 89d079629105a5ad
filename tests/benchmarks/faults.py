"""Strike every command at every stage and look at what is left; the suite runs a few of these.

    uv run python tests/benchmarks/faults.py [--only deploy] [--strikes SIGINT SIGTERM group children models]

Prints stage, strike, exit code, seconds from the strike to the end and leftovers; exit code 1 if anything is not as it
must be: 130 for an interrupt and 3 for a dead Lava process, one line on stderr, at most 10 s, nothing left.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from faults import Ended, run_struck
from stage_script import STAGES

from taaf.models import zoo_path

LIMIT_S = 10
ARGUMENTS = {
    "train": ("--out", "run", "--epochs", "2", "--limit", "200", "-q"),
    "export": (zoo_path("ead_mini.pt"), "--to", "netx", "--out", "bundle", "-q"),
    "deploy": ("--samples", "3", "--report", "r.json", "-q"),
}


def arguments(stage: str) -> tuple[object, ...]:
    """Of the command that reaches this stage."""
    return (*ARGUMENTS[stage.split()[0]], *(("--verify-lava", "2") if stage == "export lava" else ()))


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="stages that contain one of these words")
    parser.add_argument("--strikes", nargs="+", default=["SIGINT", "SIGTERM", "group", "children", "models"])
    args = parser.parse_args()
    root, n_bad = Path(tempfile.mkdtemp(prefix="taaf-faults-")), 0

    def judge(stage: str, how: str, code: int, *extra: object) -> Ended:
        nonlocal n_bad
        if stage == "export rename":  # it needs a bundle to replace
            run_struck(root / "one", "export", "none", "none", *arguments(stage))
        found = run_struck(
            root / "one", stage.split()[0], stage if how[:5] != "raise" else "none", how, *arguments(stage), *extra
        )
        pythons = "resource_tracker" in found.stderr  # Python's own warning, when its helper processes were the ones struck
        good = found.code == code and (found.seconds <= LIMIT_S or code == 0) and not found.left
        good = good and (pythons or len(found.lines) == (code != 0))
        n_bad += not good
        line = found.lines[-1][:140] if found.lines else ""
        print("ok " if good else "BAD", stage, how, found.code, f"{found.seconds:.1f} s", found.left, line, flush=True)
        shutil.rmtree(root / "one")
        return found

    for stage in (s for s in STAGES if any(word in s for word in args.only)):
        for how in (h for h in ("SIGINT", "SIGTERM", "group") if h in args.strikes):
            judge(stage, how, 130)
    if "children" in args.strikes and any(word in "deploy run" for word in args.only):
        n = int(judge("deploy run", "SIGTERM", 130).notes[1])
        for k in range(n):  # child 0 is Python's resource tracker: it is started again, and the run ends as always
            judge("deploy run", f"child:{k}", 3 if k else 0, "--samples", "60")
    if "models" in args.strikes and any(word in "deploy run" for word in args.only):
        names = sorted({*judge("deploy run", "raise:nothing", 0, "--early-exit").notes})
        for name in names:
            judge("deploy run", f"raise:{name}", 3, "--early-exit")
    shutil.rmtree(root)
    return 1 if n_bad else 0


if __name__ == "__main__":
    sys.exit(main())
