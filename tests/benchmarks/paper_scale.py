"""The paper's network at full size: the exact engine against the same torch float convolutions, in the same run.

    uv run taaf-train --config training/configs/paper_scale.toml --calibrate-only --out runs/paper
    uv run taaf-export runs/paper/model.pt --to netx --out paper_bundle
    uv run python tests/benchmarks/paper_scale.py paper_bundle --json ratios.json

Per branch and batch size, the medians, taken in turns, of (a) the event engine with spikes and exact counts of spikes, SynOps
and neuron updates of every layer, (b) the same with the relay neurons computed like others, (c) the torch engine, (d) the float
convolutions and the dense layer of the same network without relays, on real-valued inputs of the same shapes, and nothing
else. Then the cost of relays and the host encoder. Every ratio is printed, with versions and load.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from measuring import circumstances, medians

from taaf.export.bundle.reader import Bundle, read_bundle
from taaf.hw_sim.counters import count, dense_macs, fan_out
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.relays import without_relays
from taaf.models.ir import Conv2d, Dense, Graph
from taaf.training.config import from_dict
from taaf.training.sources import open_windows

BATCHES = (1, 8)
REPEATS = 5


def float_layers(graph: Graph, n: int) -> Callable[[], None]:
    """The convolutions and dense layers of a graph (identity shortcuts left out) in float32 on ``n`` inputs each."""
    work: list[Callable[[], torch.Tensor]] = []
    for node in graph.nodes.values():
        if not isinstance(node, Conv2d | Dense):
            continue
        weight = torch.from_numpy(node.weight.astype(np.float32))
        x = torch.rand((n, *graph.shapes[graph.sources(node.name)[0]]))
        if isinstance(node, Dense):
            work.append(lambda x=x, w=weight: functional.linear(x, w))  # type: ignore[misc]
        elif "shortcut" not in node.name or len(node.weight) != node.weight.shape[1]:
            work.append(lambda x=x, w=weight, c=node: functional.conv2d(x, w, None, c.stride, c.padding, c.dilation, c.groups))  # type: ignore[misc]

    def run() -> None:
        with torch.no_grad():
            for layer in work:
                layer()

    return run


def engine_ratios(bundle: Bundle, spikes: dict[str, np.ndarray], repeats: int) -> list[dict[str, Any]]:
    """Times in seconds and ratios to the float convolutions, per branch and batch size."""
    rows = []
    for name, chain in bundle.graphs.items():
        raised, _ = without_relays(chain)
        begun = time.perf_counter()
        fast = Engine(chain)
        built = time.perf_counter() - begun
        with_relays, dense = Engine(chain, relays=True), Engine(chain, kind="torch")
        for batch in BATCHES:
            windows = np.concatenate([spikes[name]] * -(-batch // len(spikes[name])))[:batch]
            windows = np.moveaxis(np.ascontiguousarray(np.moveaxis(windows, -1, 0)), 0, -1)  # time first, as encoders give them
            result = fast.run(windows)
            runs: dict[str, Callable[[], object]] = {
                "engine_s": lambda w=windows: count(chain, fast.run(w).activity),  # type: ignore[misc]  # noqa: B023
                "engine_with_relays_s": lambda w=windows: with_relays.run(w),  # type: ignore[misc]  # noqa: B023
                "torch_engine_s": lambda w=windows: dense.run(w),  # type: ignore[misc]  # noqa: B023
                "float_s": float_layers(raised, batch * windows.shape[-1]),
            }
            times = medians(runs, repeats)
            synops = sum(c.effective_synops for c in count(chain, result.activity))
            rows.append(
                {"branch": name, "batch": batch, "build_s": built, **times, "ratio": times["engine_s"] / times["float_s"],
                 "ratio_torch_engine": times["torch_engine_s"] / times["float_s"], "synops": synops}
            )  # fmt: skip
    return rows


def relay_overhead(graph: Graph) -> dict[str, int]:
    """What the relays add to a chain: neurons, axons (one each), non-zero synapses, and stored weights."""
    raised, relays = without_relays(graph)

    def sizes(g: Graph) -> np.ndarray:
        synapses = sum(
            int(fan_out(n, g.shapes[g.sources(n.name)[0]], nonzero_only=True).sum())
            for n in g.nodes.values()
            if isinstance(n, Conv2d | Dense)
        )
        stored = sum(n.weight.size for n in g.nodes.values() if isinstance(n, Conv2d | Dense))
        return np.array([sum(int(np.prod(g.shapes[x.name])) for x in g.lifs()), synapses, stored, dense_macs(g)])

    before, after = sizes(raised), sizes(graph)
    keys = ("neurons", "synapses", "stored_weights", "dense_macs")
    found = {k: int(v) for k, v in zip(keys, before, strict=True)}
    found |= {f"{k}_with_relays": int(v) for k, v in zip(keys, after, strict=True)}
    return found | {"relay_channels": sum(len(r.read) for r in relays.values())}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    begun = time.perf_counter()
    bundle = read_bundle(args.bundle)
    loaded = time.perf_counter() - begun
    training = from_dict(bundle.manifest["training"]["config"])
    inputs = open_windows(training.data, training.network.inputs, "test", limit=2).inputs
    begun = time.perf_counter()
    spikes = bundle.encode(inputs)
    encoding = (time.perf_counter() - begun) / 2
    print(", ".join(f"{k} {v}" for k, v in circumstances("numba", "torch", "numpy").items()))
    print(f"{args.bundle}: read and checked in {loaded:.1f} s; torch on {torch.get_num_threads()} threads")
    print(f"host encoder: {1000 * encoding:.0f} ms per window (both branches)")
    ratios = engine_ratios(bundle, spikes, args.repeats)
    for r in ratios:
        print(
            f"{r['branch']:7s} batch {r['batch']}: engine with exact counts {1000 * r['engine_s']:7.1f} ms, float convolutions "
            f"{1000 * r['float_s']:7.1f} ms: ratio {r['ratio']:.2f} (torch engine {r['ratio_torch_engine']:.2f}; with relays computed "
            f"{1000 * r['engine_with_relays_s']:.1f} ms); {r['synops'] / r['engine_s'] / 1e9:.2f} G effective SynOps/s; built in "
            f"{r['build_s']:.1f} s"
        )
    print("goals: ratio <= 0.35, 25 G effective SynOps/s with 2 threads")
    overhead = {name: relay_overhead(graph) for name, graph in bundle.graphs.items()}
    for name, o in overhead.items():
        more = ", ".join(
            f"{k.replace('_', ' ')} {o[k]:,} -> {o[k + '_with_relays']:,} (+{100 * (o[k + '_with_relays'] / o[k] - 1):.1f} %)"
            for k in ("neurons", "synapses", "stored_weights", "dense_macs")
        )
        print(f"relays of {name}: {o['relay_channels']} channels; {more}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1048576
    print(f"peak memory {peak:.2f} GiB")
    if args.json:
        found = {"engine": ratios, "relays": overhead, "encoder_s": encoding, "peak_gib": peak}
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
