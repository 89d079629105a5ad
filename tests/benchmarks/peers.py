"""hw_sim beside its peers on the same small network: SANA-FE, the nengo-loihi emulator, Lava, NeuroBench; one table.

    uv run python tests/benchmarks/peers.py [--steps 12] [--json]

Peers are not dependencies. Each lives in an environment of its own, and is left out with one line where there is none:

    python3.10 -m venv /tmp/peers/sanafe && /tmp/peers/sanafe/bin/pip install sanafe numpy
    python3.8 -m venv /tmp/peers/nengo && /tmp/peers/nengo/bin/pip install nengo-loihi
    python3.10 -m venv /tmp/peers/neurobench && /tmp/peers/neurobench/bin/pip install neurobench

    TAAF_PEERS=/tmp/peers uv run python tests/benchmarks/peers.py

The network is a strided convolution, a convolution and two dense layers, biases included. What is compared: every spike;
SynOps; with the same constants and the same placement the energies per component and the time of every step (SANA-FE's
timing model "simple"). SANA-FE maps the input on a core of its own: its messages and hops are added to ours for the
comparison. It calls a neuron updated (active) if an input, a bias or a potential is there; ours is given the same rule.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

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
            own = {"threshold": float(data["threshold"][i]), "bias": float(data[f"bias{i}"][n])}
            unit = "loihi_conv_synapse" if data["conv"][i] else "loihi_dense_synapse"
            neuron.set_attributes(
                soma_hw_name="loihi_lif", log_spikes=True, default_synapse_hw_name=unit, model_attributes=own
            )
            tile, core = (int(v) for v in data[f"core{i}"][n])
            neuron.map_to_core(arch.tiles[tile].cores[core])
    for i in range(1, len(layers)):
        for pre, post, weight in zip(data[f"pre{i}"], data[f"post{i}"], data[f"weight{i}"]):
            groups[i - 1][int(pre)].connect_to_neuron(
                groups[i][int(post)], {"weight": float(weight), "synapse_hw_name": unit}
            )
    chip = sanafe.SpikingChip(arch)
    chip.load(net)
    built = time.perf_counter()
    rows = [chip.sim(1, timing_model="simple", spike_trace=True) for _ in range(steps)]
    fired = [[[str(a) for a in step] for step in row["spike_trace"]] for row in rows]
    energy = {k: [row["energy"][k] for row in rows] for k in rows[0]["energy"]}
    return {
        "energy": energy, "time": [row["sim_time"] for row in rows], "fired": fired, "build_s": built - started,
        "run_s": time.perf_counter() - built, "keys": sorted(rows[0]),
        "packets": [row.get("packets_sent", row.get("messages_sent")) for row in rows],
    }  # fmt: skip


PEERS = {"sanafe": sanafe_run}


def ask_peer(name: str, data: dict) -> dict | str:
    """Run ourselves in the peer's interpreter; a string says why not."""
    python = Path(os.environ.get("TAAF_PEERS", "/tmp/peers")) / name / "bin" / "python"
    if not python.is_file():
        return f"not run: no {python}"
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "in.npz", **data)
        command = [str(python), __file__, "--as", name, str(Path(folder) / "in.npz")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        return f"not run: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    return json.loads(done.stdout.strip().splitlines()[-1])


def network(seed: int = 0):
    """Four layers, without biases: SANA-FE and nengo-loihi have no reset at a layer's own phase."""
    from taaf.models.ir import Conv2d, Dense, Flatten, Graph, Input, Lif

    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return (2 * rng.integers(-30, 41, shape) * (rng.random(shape) < 0.7)).astype(np.int32)

    nodes = [
        Input("input", (2, 12, 12)), Conv2d("conv1", weights(8, 2, 3, 3), (2, 2), (1, 1)), Lif("lif1", v_th_mant=60),
        Conv2d("conv2", weights(12, 8, 3, 3), padding=(1, 1)), Lif("lif2", v_th_mant=150), Flatten("flatten"),
        Dense("dense1", weights(64, 432)), Lif("lif3", v_th_mant=200), Dense("dense2", weights(10, 64)), Lif("lif4", v_th_mant=120),
    ]  # fmt: skip
    return Graph("net", nodes, [(a.name, b.name) for a, b in zip(nodes, nodes[1:])])


def connections(graph, lif: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every non-zero synapse of a layer: (source neuron, target neuron, weight)."""
    from taaf.models.ir import Conv2d

    (node,) = graph.synapses_of(lif)
    (source,) = graph.sources(node.name)
    if not isinstance(node, Conv2d):
        post, pre = np.nonzero(node.weight)
        return pre, post, node.weight[post, pre]
    where_in = np.arange(np.prod(graph.shapes[source])).reshape(graph.shapes[source])
    where_out = np.arange(np.prod(graph.shapes[lif])).reshape(graph.shapes[lif])
    found = []
    for o, i, y, x in zip(*np.nonzero(node.weight)):
        rows = np.arange(where_out.shape[1]) * node.stride[0] - node.padding[0] + y
        columns = np.arange(where_out.shape[2]) * node.stride[1] - node.padding[1] + x
        r, c = (np.flatnonzero((at >= 0) & (at < n)) for at, n in ((rows, where_in.shape[1]), (columns, where_in.shape[2])))
        pre = where_in[i][np.ix_(rows[r], columns[c])].ravel()
        found.append((pre, where_out[o][np.ix_(r, c)].ravel(), np.full(len(pre), node.weight[o, i, y, x])))
    pre, post, weight = (np.concatenate(part) for part in zip(*found))
    return pre, post, weight


def sanafe_data(graph, mapping, spikes: np.ndarray) -> dict:
    """What `sanafe_run` takes; layer 0 is the input."""
    from taaf.models.ir import Conv2d

    lifs = graph.lifs()
    data = {
        "steps": spikes.shape[-1], "input": spikes.reshape(-1, spikes.shape[-1]), "leak": 0.5,
        "sizes": [int(np.prod(graph.shapes[n])) for n in ("input", *(f.name for f in lifs))],
        "conv": [False, *(isinstance(graph.synapses_of(f.name)[0], Conv2d) for f in lifs)],
        "threshold": [0, *(f.v_th_mant for f in lifs)],
    }  # fmt: skip
    height = mapping.limits.height
    by_layer: dict[str, list] = {}
    for core in mapping.cores():
        by_layer.setdefault(core.layer, []).append(core)
    for i, lif in enumerate(lifs, 1):
        box = mapping.layer(f"net.{lif.name}").box
        at = np.zeros((*box, 2), np.int64)
        for core in by_layer[f"net.{lif.name}"]:
            c0, c1, h0, h1, w0, w1 = core.box
            at[c0:c1, h0:h1, w0:w1] = (core.x * height + core.y, core.slot)  # its routers count up along y first
        data |= dict(zip((f"pre{i}", f"post{i}", f"weight{i}"), connections(graph, lif.name)))
        data |= {f"core{i}": at.reshape(-1, 2), f"bias{i}": np.zeros(np.prod(box))}
    return data


def compare_sanafe(graph, spikes: np.ndarray, rows: list) -> None:
    """Same constants, same placement: energies per component, spikes, time of every step."""
    from dataclasses import replace

    from taaf.hw_sim.chip_limits import load_limits
    from taaf.hw_sim.engine import Engine
    from taaf.hw_sim.mapped_cost import cost_of_windows, load_convention
    from taaf.hw_sim.mapping import map_graphs
    from taaf.hw_sim.reference import run_reference
    from taaf.hw_sim.traffic import active_updates

    mapping = map_graphs({"net": graph}, replace(load_limits("loihi1"), neurons=96))  # small cores, so that there are several
    trace = run_reference(graph, spikes)
    started = time.perf_counter()
    run = Engine(graph).run(spikes[None], keep_all=True)
    full = {"net": {**run.spikes, "input": spikes[None]}}
    steps = spikes.shape[-1]
    active = {}
    for lif in graph.lifs():
        before = np.concatenate([np.zeros_like(trace.v[lif.name][..., :1]), trace.v[lif.name][..., :-1]], -1)
        events = [active_updates(graph, lif, {n: s[0, ..., t] for n, s in full["net"].items()}) for t in range(steps)]
        active[lif.name] = (np.stack(events, -1) | (before != 0))[None]
    costs = {c.convention: c for c in cost_of_windows(mapping, full, {"net": active})}
    ours_s = time.perf_counter() - started
    ours = costs["loihi1_sanafe"]
    nj = {c.name: c.nj for c in ours.components}
    theirs = ask_peer("sanafe", sanafe_data(graph, mapping, spikes))
    if isinstance(theirs, str):
        rows.append(("SANA-FE", theirs, "", ""))
        return
    constants = load_convention("loihi1_sanafe")["energy_pj"]
    # the input's messages, which SANA-FE sends from a core
    from taaf.hw_sim.traffic import count_loads

    loads = count_loads(mapping, {"net": {n: s[0].sum(-1, dtype=np.int64) for n, s in full["net"].items()}}, steps)
    first = mapping.layer(f"net.{graph.lifs()[0].name}")
    cores = slice(first.first_core, first.first_core + first.n_cores)
    x, y = divmod(INPUT_TILE, mapping.limits.height)
    arrived = loads.messages_in[cores]
    host = arrived.sum() * constants["message"]
    host += (arrived * np.abs(mapping.placement.x[cores] - x)).sum() * constants["hop_ew"]
    host += (arrived * np.abs(mapping.placement.y[cores] - y)).sum() * constants["hop_ns"]
    energy = {k: 1e9 * sum(v) for k, v in theirs["energy"].items()}
    pairs = {
        "synapse energy, nJ": (nj["synapses, dense"] + nj["synapses, convolution"], energy["synapse"]),
        "soma energy, nJ": (nj["neuron updates, active"] + nj["neuron updates, inactive"] + nj["spikes"], energy["soma"]),
        "network energy, nJ": (nj["messages"] + nj["hops east-west"] + nj["hops north-south"] + host / 1000, energy["network"]),
    }
    print(ours.critical.arithmetic)
    for what, (a, b) in pairs.items():
        rows.append(("SANA-FE", what, a, b))
    print("times", [round(1e9*t,1) for t in theirs["time"]])
    print("ours ", [round(t,1) for t in ours.step_ns])
    print(theirs["fired"][5][:5], len(theirs["fired"]))
    print(sum(map(len, [f for st in theirs["fired"] for f in st])), sum(int(s.sum()) for n,s in run.spikes.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="steps with input; 28 silent ones follow, in which all decays")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    graph = network()
    spikes = (np.random.default_rng(1).random((2, 12, 12, args.steps)) < 0.2).astype(np.uint8)
    spikes = np.concatenate([spikes, np.zeros((2, 12, 12, 28), np.uint8)], -1)
    rows: list = []
    compare_sanafe(graph, spikes, rows)
    for r in rows: print(r)


def as_peer(name: str, source: str) -> None:
    """What runs in a peer's interpreter: arrays in, JSON out."""
    with np.load(source) as arrays:
        print(json.dumps(PEERS[name]({k: arrays[k] for k in arrays.files})))


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "--as":
        as_peer(*sys.argv[2:4])
    else:
        main()
