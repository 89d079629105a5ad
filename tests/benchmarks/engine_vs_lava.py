"""Speed of hw_sim's engines against the Lava runtime: same bundle, same spikes, one run on this machine.

    uv run python tests/benchmarks/engine_vs_lava.py [--lava-windows 20] [--rounds 3] [--bundle DIR]

Rounds of engine, torch engine and Lava take turns; medians and ratios are printed, nothing is asserted about time. Lava is
measured without recorders and without compiling.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from measuring import circumstances, medians

from taaf.deploy.backends.base import pad_window
from taaf.deploy.lava.runtime import require_lava
from taaf.deploy.session import Session
from taaf.export.bundle.reader import Bundle, read_bundle
from taaf.hw_sim.counters import count
from taaf.hw_sim.engine import Engine, EngineResult
from taaf.models import zoo_path
from taaf.training.datasets.ead_mini import load_split

Inputs = dict[str, np.ndarray]


def lava_us(bundle: Bundle, few: Inputs, expected: np.ndarray) -> float:
    """Microseconds of Lava per window; it must decide as the engine does."""
    with Session(bundle, "sim", count=False, time_limit_s=600) as session:
        lava = session.run(few, time_limit_s=600)
    assert np.array_equal(lava.logits["fused"].argmax(1), expected), "Lava and the engine decide differently"
    return lava.wall_s / len(expected) * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=zoo_path("ead_mini"))
    parser.add_argument("--lava-windows", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    bundle, split = read_bundle(args.bundle), load_split("test")
    given = split.inputs()
    inputs = {b: pad_window(given[b], bundle.window_steps) for b in bundle.graphs}
    n, branches = len(split), list(bundle.graphs)
    engines = {kind: {b: Engine(g, kind=kind) for b, g in bundle.graphs.items()} for kind in ("event", "torch")}  # type: ignore[arg-type]

    def run(kind: str, m: int = n) -> dict[str, EngineResult]:
        return {b: engines[kind][b].run(inputs[b][:m]) for b in branches}

    results = run("event")
    synops = sum(c.effective_synops for b, g in bundle.graphs.items() for c in count(g, results[b].activity))
    few = args.lava_windows
    features = {b: r.spikes[bundle.graphs[b].output][:few, :, : bundle.input_steps(b)] for b, r in results.items()}
    expected = bundle.head(features).logits["fused"].argmax(1)
    require_lava()
    rows: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        runs = {"event": lambda: run("event"), "torch": lambda: run("torch", 100), "event, one window": lambda: run("event", 1)}
        for name, seconds in medians(runs, 5).items():
            rows.setdefault(name, []).append(1e6 * seconds / {"event": n, "torch": 100}.get(name, 1))
        for b in branches:
            found = medians({b: lambda b=b: engines["event"][b].run(inputs[b])}, 3)[b]  # type: ignore[misc]
            rows.setdefault(f"event, {b} alone", []).append(1e6 * found / n)
        rows.setdefault("lava", []).append(lava_us(bundle, {b: given[b][:few] for b in branches}, expected))
    us = {name: statistics.median(values) for name, values in rows.items()}
    found = {
        **circumstances("numba", "torch", "numpy", "lava-nc"), "windows": n, "us_per_window": us,
        "ratio_lava_over_engine": us["lava"] / us["event"], "ratio_torch_over_event": us["torch"] / us["event"],
        "effective_synops_per_window": synops / n, "effective_gsynops_per_s": synops / n / us["event"] / 1e3,
    }  # fmt: skip
    if args.json:
        print(json.dumps(found))
        return
    for key, value in found.items():
        if isinstance(value, dict):
            for name, one in value.items():
                print(f"{name + ', us per window':32s} {one:,.1f}")
        else:
            print(f"{key:32s} {value:,.2f}" if isinstance(value, float) else f"{key:32s} {value}")
    print("goals: Lava over engine >= 2000, effective GSynOps/s >= 8 with 2 threads")


if __name__ == "__main__":
    main()
