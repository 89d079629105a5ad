"""What peers.py runs in the interpreters of its peers (one of them is a Python 3.8): arrays in, JSON out."""

import json
import sys
import time

import numpy as np

REPEATS = 5
INPUT_TILE = 31  # router that sends the input in SANA-FE: as far away as it gets


def sanafe_run(data: dict) -> dict:
    """Inside SANA-FE's interpreter: build the connections one by one, run step by step."""
    import sanafe

    started = time.perf_counter()
    arch = sanafe.load_loihi()
    net = sanafe.Network()
    layers = [int(n) for n in data["sizes"]]
    steps = int(data["steps"])
    groups = []
    for i, size in enumerate(layers):
        how = {} if i == 0 else {"reset": 0.0, "leak_decay": float(data["leak"]), "input_decay": 0.0}
        groups.append(net.create_neuron_group(f"layer{i}", size, model_attributes=how))
    for i, size in enumerate(layers):
        for n in range(size):
            neuron = groups[i][n]
            if i == 0:
                spikes = [bool(b) for b in data["input"][n]]
                neuron.set_attributes(soma_hw_name=f"loihi_inputs[{n}]", model_attributes={"spikes": spikes})
                neuron.map_to_core(arch.tiles[INPUT_TILE].cores[0])
                continue
            own = {"threshold": float(data["threshold"][i]), "bias": 0.0}
            unit = "loihi_conv_synapse" if data["conv"][i] else "loihi_dense_synapse"
            neuron.set_attributes(soma_hw_name="loihi_lif", log_spikes=True, default_synapse_hw_name=unit, model_attributes=own)
            tile, core = (int(v) for v in data[f"core{i}"][n])
            neuron.map_to_core(arch.tiles[tile].cores[core])
    for i in range(1, len(layers)):
        for pre, post, weight in np.stack([data[f"{what}{i}"] for what in ("pre", "post", "weight")], 1).tolist():
            groups[i - 1][int(pre)].connect_to_neuron(groups[i][int(post)], {"weight": float(weight), "synapse_hw_name": unit})
    chip = sanafe.SpikingChip(arch)
    chip.load(net)
    built = time.perf_counter()
    rows = [chip.sim(1, timing_model="simple", spike_trace=True) for _ in range(steps)]
    fired = [[[str(a) for a in step] for step in row["spike_trace"]] for row in rows]
    energy = {k: [row["energy"][k] for row in rows] for k in rows[0]["energy"]}
    return {
        "energy": energy, "time": [row["sim_time"] for row in rows], "fired": fired, "build_s": built - started,
        "run_s": time.perf_counter() - built,
    }  # fmt: skip


def nengo_run(data: dict) -> dict:
    """Inside nengo-loihi's interpreter: one block per layer, integers set directly, its emulator step by step."""
    import warnings

    warnings.simplefilter("ignore")
    from nengo_loihi.block import Axon, LoihiBlock, Synapse
    from nengo_loihi.builder import Model
    from nengo_loihi.emulator import EmulatorInterface
    from nengo_loihi.inputs import SpikeInput

    started = time.perf_counter()
    sizes, steps = [int(n) for n in data["sizes"]], int(data["steps"])
    model = Model()
    source = SpikeInput(sizes[0])
    for t in range(steps):
        source.add_spikes(t + 1, np.flatnonzero(data["input"][:, t]), permanent=True)
    model.add_input(source)
    blocks, bits = [], []
    for i in range(1, len(sizes)):
        block = LoihiBlock(sizes[i])
        cells = block.compartment
        cells.scale_u = cells.scale_v = False
        cells.decay_u = np.full(sizes[i], 4095, np.int32)  # the chip adds 1: nothing of the current is kept
        cells.decay_v = np.full(sizes[i], 2048, np.int32)
        cells.vth = np.full(sizes[i], 64 * int(data["threshold"][i]), np.int32)
        cells.bias = np.zeros(sizes[i], np.int32)
        cells.vmin, cells.vmax = -(2**23) + 1, 2**23 - 1
        weight = np.zeros((sizes[i - 1], sizes[i]), np.float32)
        weight[data[f"pre{i}"], data[f"post{i}"]] = data[f"weight{i}"]
        synapse = Synapse(sizes[i - 1])
        synapse.set_weights(weight)
        bits.append(int(synapse.bits()))
        synapse.weights = [(64 * w).astype(np.int32) for w in synapse.weights]
        block.add_synapse(synapse)
        axon = Axon(sizes[i - 1])
        axon.target = synapse
        (source if i == 1 else blocks[-1]).add_axon(axon)
        model.add_block(block)
        blocks.append(block)
    with EmulatorInterface(model, seed=0) as emulator:
        built = time.perf_counter()
        fired: dict = {str(i): [] for i in range(1, len(sizes))}
        for step in range(steps + len(sizes)):
            emulator.step()
            for i, block in enumerate(blocks, 1):
                t = step - i  # an input takes a step to arrive, and every layer one
                if 0 <= t < steps:
                    spiked = emulator.compartment.spiked[emulator.block_info.slices[block]]
                    fired[str(i)].append(np.flatnonzero(spiked).tolist())
        return {"fired": fired, "bits": bits, "build_s": built - started, "run_s": time.perf_counter() - built}


def neurobench_run(data: dict) -> dict:
    """Inside NeuroBench's interpreter: an equivalent torch network through its Benchmark, hooks and counting."""
    import torch
    from neurobench.benchmarks import Benchmark
    from neurobench.metrics.workload import SynapticOperations
    from neurobench.models import TorchModel

    n_layers = len(data["sizes"]) - 1

    class Network(torch.nn.Module):
        """The same integer dynamics in float32: every value stays far below 2^24."""

        def __init__(self) -> None:
            super().__init__()
            self.synapses = torch.nn.ModuleList()
            for i in range(1, n_layers + 1):
                weight = torch.from_numpy(data[f"kernel{i}"].astype(np.float32))
                if weight.dim() == 4:
                    stride, padding = (int(v) for v in data[f"how{i}"])
                    shape = (weight.shape[1], weight.shape[0], weight.shape[2])
                    layer = torch.nn.Conv2d(*shape, stride=stride, padding=padding, bias=False)
                else:
                    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
                layer.weight.data = weight
                self.synapses.append(layer)

        def forward(self, batch: torch.Tensor) -> torch.Tensor:  # (B, T, C, H, W)
            v = [0.0] * n_layers
            self.fired = np.zeros(n_layers, np.int64)
            out = []
            for t in range(batch.shape[1]):
                x = batch[:, t]
                for i, layer in enumerate(self.synapses):
                    x = x.flatten(1) if isinstance(layer, torch.nn.Linear) else x
                    v[i] = torch.trunc(torch.as_tensor(v[i]) / 2) + 64 * layer(x)
                    x = (v[i] > 64 * float(data["threshold"][i + 1])).float()
                    v[i] = v[i] * (1 - x)
                    self.fired[i] += int(x.sum())
                out.append(x)
            return torch.stack(out, 1)

    network = Network()
    windows = torch.from_numpy(np.moveaxis(data["windows"], -1, 1).astype(np.float32))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(windows, torch.zeros(len(windows))))
    times = []
    for _ in range(REPEATS + 1):  # the first one warms up
        benchmark = Benchmark(TorchModel(network), loader, [], [], [[], [SynapticOperations]])
        started = time.perf_counter()
        with torch.no_grad():
            found = benchmark.run(quiet=True)["SynapticOperations"]
        times.append(time.perf_counter() - started)
    return {**found, "fired": network.fired.tolist(), "run_s": float(np.median(times[1:]))}


PEERS = {"sanafe": sanafe_run, "nengo": nengo_run, "neurobench": neurobench_run}


def as_peer(name: str, source: str) -> None:
    """What runs in a peer's interpreter: arrays in, JSON out."""
    with np.load(source) as arrays:
        print(json.dumps(PEERS[name]({k: arrays[k] for k in arrays.files})))


if __name__ == "__main__":
    as_peer(*sys.argv[1:3])
