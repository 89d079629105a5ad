"""Speed of hw_sim's engine against the Lava runtime: same bundle, same spikes, one run on this machine.

    uv run python tests/benchmarks/engine_vs_lava.py [--lava-windows 50] [--bundle DIR]

Prints ratios, asserts nothing about time. Lava is measured without recorders and without compiling.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from taaf.deploy.backends.base import pad_window
from taaf.deploy.backends.sim import LavaNetwork, require_lava
from taaf.export.bundle.reader import read_bundle
from taaf.hw_sim.counters import count
from taaf.hw_sim.engine import Engine
from taaf.models import zoo_path
from taaf.training.datasets.ead_mini import load_split


def best_of(repeats: int, work) -> float:
    """Shortest of several runs, in seconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=zoo_path("ead_mini"))
    parser.add_argument("--lava-windows", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    bundle, split = read_bundle(args.bundle), load_split("test")
    inputs = {b: pad_window(split.inputs()[b], bundle.window_steps) for b in bundle.graphs}
    n = len(split)
    engines = {b: Engine(g) for b, g in bundle.graphs.items()}

    def whole_engine() -> dict:
        return {b: engines[b].run(inputs[b]) for b in engines}

    results = whole_engine()
    synops = sum(c.effective_synops for b, g in bundle.graphs.items() for c in count(g, results[b].activity))
    found = {"cores": os.cpu_count(), "torch_threads": torch.get_num_threads(), "windows_engine": n}
    found["engine_us_per_window"] = best_of(5, whole_engine) / n * 1e6
    for b in engines:
        found[f"engine_us_per_window_{b}"] = best_of(3, lambda b=b: engines[b].run(inputs[b])) / n * 1e6

    require_lava()
    from lava.magma.core.run_configs import Loihi2SimCfg

    few = {b: split.inputs()[b][: args.lava_windows] for b in bundle.graphs}
    network = LavaNetwork(bundle, few, folder=None)
    lava = network.run(Loihi2SimCfg(select_tag="fixed_pt"), 600, lambda _: None)
    features = {
        b: r.spikes[bundle.graphs[b].output][: args.lava_windows, :, : bundle.input_steps(b)] for b, r in results.items()
    }
    expected = bundle.head(features).logits["fused"]
    assert np.array_equal(lava.logits["fused"].argmax(1), expected.argmax(1)), "Lava and the engine decide differently"
    found["lava_us_per_window"] = lava.wall_s / (args.lava_windows - 1) * 1e6
    found["ratio_lava_over_engine"] = found["lava_us_per_window"] / found["engine_us_per_window"]
    found["effective_synops_per_window"] = synops / n
    found["effective_gsynops_per_s"] = synops / n / found["engine_us_per_window"] / 1e3
    if args.json:
        print(json.dumps(found))
        return
    for key, value in found.items():
        print(f"{key:32s} {value:,.2f}" if isinstance(value, float) else f"{key:32s} {value}")
    print("goals: ratio >= 1000, effective GSynOps/s >= 1")


if __name__ == "__main__":
    main()
