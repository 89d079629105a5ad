"""The paper's network at full size: the exact engine against the same torch float convolutions, in the same run.

    uv run taaf-train --config training/configs/paper_scale.toml --calibrate-only --out runs/paper
    uv run taaf-export runs/paper/model.pt --to netx --out paper_bundle
    uv run python tests/benchmarks/paper_scale.py paper_bundle --json ratios.json

Per branch and batch size, the best of several repetitions of (a) the engine with spikes, exact counts of spikes, SynOps and
neuron updates of every layer, (b) the engine with the relay neurons computed like others, (c) the float convolutions and the
dense layer of the same network without relays, on real-valued inputs of the same shapes, and nothing else. Then the cost of
relays, the host encoder, and an event-driven convolution against the dense one at several rates. Every ratio is printed.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from taaf.export.bundle.reader import Bundle, read_bundle
from taaf.hw_sim.counters import count, dense_macs, fan_out
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.events import convolve_events
from taaf.hw_sim.relays import without_relays
from taaf.models.ir import Conv2d, Dense, Graph
from taaf.training.config import from_dict
from taaf.training.sources import open_windows

BATCHES = (1, 8)
REPEATS = 5
Run = Callable[[], Any]
RATES = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0001)


def best_of(runs: list[Run], repeats: int) -> list[float]:
    """Smallest time of each in seconds, taken in turns (other programs slow all of them); the first round does not count."""
    best = [float("inf")] * len(runs)
    for turn in range(repeats + 1):
        for i, run in enumerate(runs):
            begun = time.perf_counter()
            run()
            if turn:
                best[i] = min(best[i], time.perf_counter() - begun)
    return best


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
        fast, with_relays = Engine(chain), Engine(chain, relays=True)
        for batch in BATCHES:
            windows = np.concatenate([spikes[name]] * -(-batch // len(spikes[name])))[:batch]
            steps = windows.shape[-1]
            result = fast.run(windows)
            runs: list[Run] = [
                lambda e=fast, w=windows: e.run(w), lambda e=with_relays, w=windows: e.run(w),  # type: ignore[misc]
                float_layers(raised, batch * steps), lambda g=chain, a=result.activity: count(g, a),  # type: ignore[misc]
            ]  # fmt: skip
            keys = ("engine_s", "engine_with_relays_s", "float_s", "counting_s")
            times = dict(zip(keys, best_of(runs, repeats), strict=True))
            synops = sum(c.effective_synops for c in count(chain, result.activity))
            rows.append(
                {"branch": name, "batch": batch, **times,
                 "ratio": (times["engine_s"] + times["counting_s"]) / times["float_s"],
                 "ratio_with_relays": times["engine_with_relays_s"] / times["float_s"], "synops": synops}
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


def sparse_against_dense(repeats: int) -> list[dict[str, float]]:
    """Time of the event-driven convolution over that of the dense one, on shapes of the network (3 steps)."""
    rows = []
    for channels, side in ((64, 56), (128, 28), (256, 14), (512, 7)):
        weight = 2.0 * torch.randint(-20, 21, (channels, channels, 3, 3))
        conv, by_source = Conv2d("conv", weight.numpy(), padding=(1, 1)), weight.permute(1, 2, 3, 0).contiguous()
        for rate in RATES:
            spikes = (torch.rand(3, channels, side, side) < rate).float()
            dense_run: Run = lambda s=spikes, w=weight: functional.conv2d(s, w, padding=1)  # type: ignore[misc]  # noqa: E731
            sparse_run: Run = lambda s=spikes, c=conv, w=by_source: convolve_events(c, w, None, s)  # type: ignore[misc]  # noqa: E731
            assert torch.equal(sparse_run(), dense_run())
            dense, sparse = best_of([dense_run, sparse_run], repeats)
            rows.append({"channels": channels, "side": side, "rate": rate, "dense_s": dense, "ratio": sparse / dense})
    return rows


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
    print(f"{args.bundle}: read and checked in {loaded:.1f} s; torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"host encoder: {1000 * encoding:.0f} ms per window (both branches)")
    ratios = engine_ratios(bundle, spikes, args.repeats)
    for r in ratios:
        print(
            f"{r['branch']:7s} batch {r['batch']}: engine {1000 * r['engine_s']:7.1f} ms, float convolutions "
            f"{1000 * r['float_s']:7.1f} ms, exact counts {1000 * r['counting_s']:.0f} ms: ratio {r['ratio']:.2f} (with relays computed "
            f"{r['ratio_with_relays']:.2f} without counts); {r['synops'] / r['engine_s'] / 1e9:.2f} G effective SynOps/s"
        )
    overhead = {name: relay_overhead(graph) for name, graph in bundle.graphs.items()}
    for name, o in overhead.items():
        more = ", ".join(
            f"{k.replace('_', ' ')} {o[k]:,} -> {o[k + '_with_relays']:,} (+{100 * (o[k + '_with_relays'] / o[k] - 1):.1f} %)"
            for k in ("neurons", "synapses", "stored_weights", "dense_macs")
        )
        print(f"relays of {name}: {o['relay_channels']} channels; {more}")
    sparse = sparse_against_dense(args.repeats)
    for s in sparse:
        print(
            f"event-driven 3x3 convolution, {s['channels']} channels of {s['side']}x{s['side']}, rate {s['rate']:g}: "
            f"{s['ratio']:.2f} of the dense time ({1000 * s['dense_s']:.2f} ms)"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1048576
    print(f"peak memory {peak:.2f} GiB")
    if args.json:
        found = {"engine": ratios, "relays": overhead, "sparse": sparse, "encoder_s": encoding, "peak_gib": peak}
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
