"""The engine beside batched torch libraries for spiking networks on the CPU: the same layers, the same windows, in one run.

    uv run python tests/benchmarks/torch_peers.py [--batch 64] [--threads 2]

snnTorch and Norse come with our own environments; SpikingJelly and sinabs are left out with one line where they are missing
(``uv pip install spikingjelly sinabs``). Each runs the synapses of the shipped event branch over all windows of the batch,
inference mode, multi-step where the library has it, and gives the output's spikes and the number of spikes of every layer,
as the engine does. Neurons differ in detail (float, soft or hard reset); firing rates are printed because time depends on
them for us, not for them. Medians, taken in turns.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from measuring import circumstances, medians

from taaf.export.bundle.reader import read_bundle
from taaf.hw_sim.engine import Engine
from taaf.models import zoo_path
from taaf.models.ir import Conv2d, Dense, Graph, chain
from taaf.training.datasets.ead_mini import load_split

Step = Callable[[int, torch.Tensor], torch.Tensor]  # layer, currents (T, N, ...) -> spikes


def snntorch_neurons(thresholds: list[float]) -> Step:
    import snntorch

    neurons = [snntorch.Leaky(beta=0.5, threshold=th, reset_mechanism="zero") for th in thresholds]

    def run(layer: int, currents: torch.Tensor) -> torch.Tensor:
        mem, out = neurons[layer].init_leaky(), []
        for current in currents:
            spikes, mem = neurons[layer](current, mem)
            out.append(spikes)
        return torch.stack(out)

    return run


def norse_neurons(thresholds: list[float]) -> Step:
    from norse.torch import LIFBoxCell
    from norse.torch.functional.lif_box import LIFBoxParameters

    cells = [LIFBoxCell(LIFBoxParameters(tau_mem_inv=torch.tensor(500.0), v_th=torch.tensor(th))) for th in thresholds]

    def run(layer: int, currents: torch.Tensor) -> torch.Tensor:
        state, out = None, []
        for current in currents:
            spikes, state = cells[layer](current, state)
            out.append(spikes)
        return torch.stack(out)

    return run


def spikingjelly_neurons(thresholds: list[float]) -> Step:
    from spikingjelly.activation_based import functional, neuron

    nodes = [neuron.LIFNode(2.0, decay_input=False, v_threshold=th, v_reset=0.0, step_mode="m") for th in thresholds]

    def run(layer: int, currents: torch.Tensor) -> torch.Tensor:
        functional.reset_net(nodes[layer])
        return nodes[layer](currents)

    return run


def sinabs_neurons(thresholds: list[float]) -> Step:
    import sinabs.layers as sl

    nodes = [sl.LIF(tau_mem=1.4427, spike_threshold=th, norm_input=False, reset_fn=sinabs_reset()) for th in thresholds]

    def run(layer: int, currents: torch.Tensor) -> torch.Tensor:
        nodes[layer].reset_states()
        return nodes[layer](currents.transpose(0, 1)).transpose(0, 1)

    return run


def sinabs_reset() -> object:
    from sinabs.activation import MembraneReset

    return MembraneReset()


PEERS = {"snntorch": snntorch_neurons, "norse": norse_neurons, "spikingjelly": spikingjelly_neurons, "sinabs": sinabs_neurons}


def peer_run(graph: Graph, neurons: Step, x: torch.Tensor) -> Callable[[], list[float]]:
    """A run over x (T, N, ...), which returns the rate of every layer."""
    synapses = [n for n in chain(graph) if isinstance(n, Conv2d | Dense)]
    weights = [torch.from_numpy(n.weight.astype(np.float32)) for n in synapses]

    @torch.inference_mode()
    def run() -> list[float]:
        value, rates = x, []
        for layer, (node, weight) in enumerate(zip(synapses, weights, strict=True)):
            if isinstance(node, Conv2d):
                flat = torch.nn.functional.conv2d(
                    value.flatten(0, 1), weight, None, node.stride, node.padding, node.dilation, node.groups
                )
            else:
                flat = torch.nn.functional.linear(value.flatten(2).flatten(0, 1), weight)
            value = neurons(layer, flat.unflatten(0, value.shape[:2]))
            value.sum((0, 1))  # spikes per neuron, as the engine counts them
            rates.append(float(value.mean()))
        return rates

    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, help="of torch and of the engine")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    graph = read_bundle(zoo_path("ead_mini")).graphs["event"]
    windows = load_split("test").inputs()["event"][: args.batch]
    engine, found = Engine(graph, threads=args.threads), {}
    thresholds = [float(lif.v_th_mant) for lif in graph.lifs()]
    print(", ".join(f"{k} {v}" for k, v in circumstances("numba", "torch", "numpy", *PEERS).items()))
    for batch in (1, args.batch):
        x = torch.from_numpy(np.ascontiguousarray(np.moveaxis(windows[:batch], -1, 0))).float()
        runs: dict[str, Callable[[], object]] = {"taaf": lambda n=batch: engine.run(windows[:n])}  # type: ignore[misc]
        for name, make in PEERS.items():
            try:
                runs[name] = peer_run(graph, make(thresholds), x)
                rates = runs[name]()
            except ImportError as error:
                print(f"{name}: not run: {error}")
                continue
            found[name] = rates
        for name, seconds in (times := medians(runs, args.repeats)).items():
            rate = "" if name == "taaf" else "rates " + ", ".join(f"{r:.3f}" for r in found[name])  # type: ignore[union-attr]
            print(
                f"batch {batch:3d} {name:14s} {1e6 * seconds / batch:10.1f} us per window {seconds / times['taaf']:7.1f} x  {rate}"
            )
    print("goals: every peer >= 4 x in batches, >= 10 x at batch 1")


if __name__ == "__main__":
    main()
