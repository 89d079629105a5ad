"""The mapper on two ResNet18 of the paper's input sizes: time, memory, cores, chips, traffic of counted random spikes, placement.

    uv run python tests/benchmarks/mapper_scale.py [--width 64] [--rate 0.1] [--json]

Weights and spikes are random: sizes mean something, accuracies and rates do not. Times are CPU seconds of this process.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from taaf.hw_sim.mapper.chip_limits import CHIPS
from taaf.hw_sim.mapper.mapped_cost import cost_of_totals
from taaf.hw_sim.mapper.mapping import map_graphs
from taaf.hw_sim.mapper.placing import hop_weights, placed, traffic_between, travel

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from resnet_graphs import resnet18_graph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0.1, help="spikes per neuron and step of every layer")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    graphs = {
        "video": resnet18_graph("video", (3, 224, 224), 0, args.width),
        "audio": resnet18_graph("audio", (1, 257, 188), 1, args.width),
    }
    weights = sum(n.weight.size for g in graphs.values() for n in g.nodes.values() if hasattr(n, "weight"))
    found: dict[str, dict] = {}
    rng, steps = np.random.default_rng(0), 3
    spikes = {
        name: {n: rng.binomial(steps, args.rate, g.shapes[n]) for n in (g.input.name, *(f.name for f in g.lifs()))}
        for name, g in graphs.items()
    }
    for chip in CHIPS:
        begun = time.process_time()
        mapping = map_graphs(graphs, chip)
        row = {
            "weights": weights, "neurons": sum(r.n_neurons for r in mapping.layers), "cores": mapping.n_cores,
            "chips": mapping.n_chips, "map_cpu_s": time.process_time() - begun,
            **{f"share of {k}": v for k, v in mapping.utilisation.items()},
        }  # fmt: skip
        if chip == "loihi1":
            begun = time.process_time()
            costs = cost_of_totals(mapping, spikes, 1, steps)
            row["cost_cpu_s"] = time.process_time() - begun
            for cost in costs:
                row |= {f"{cost.convention}_mj": cost.energy_nj / 1e6, f"{cost.convention}_step_us": cost.mean_step_ns / 1e3}
            row |= {"messages": costs[0].messages, "chip_crossings": costs[0].chip_crossings}
        begun = time.process_time()
        better = placed(mapping, spikes)
        row["place_cpu_s"] = time.process_time() - begun
        traffic, weights = traffic_between(mapping, spikes), hop_weights(mapping.limits)
        for name, placement in (("snake", mapping.placement), ("placed", better.placement)):
            found_there = travel(placement, traffic, weights)
            row |= {f"{name}_hop_cost": found_there.cost, f"{name}_longest_hops": found_there.longest}
        row["peak_mb_so_far"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found[chip] = row
    if args.json:
        print(json.dumps(found))
        return
    for chip, row in found.items():
        print(chip)
        for key, value in row.items():
            print(f"  {key:32s} {value:,.4g}" if isinstance(value, float) else f"  {key:32s} {value:,}")


if __name__ == "__main__":
    main()
