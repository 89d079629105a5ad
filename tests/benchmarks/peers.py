"""hw_sim beside its peers on the same small network: SANA-FE, the nengo-loihi emulator, Lava, NeuroBench; one table.

    uv run python tests/benchmarks/peers.py [--steps 12] [--json]

Peers are not dependencies. Each lives in an environment of its own, and is left out with one line where there is none:

    python3.10 -m venv /tmp/peers/sanafe && /tmp/peers/sanafe/bin/pip install sanafe numpy
    python3.8 -m venv /tmp/peers/nengo && /tmp/peers/nengo/bin/pip install nengo-loihi
    python3.10 -m venv /tmp/peers/neurobench && /tmp/peers/neurobench/bin/pip install neurobench

    TAAF_PEERS=/tmp/peers uv run python tests/benchmarks/peers.py

The network is a strided convolution, a convolution and two dense layers without biases. What is compared: every spike;
SynOps; with the same constants and the same placement the energies per component and the time of every step (SANA-FE's
timing model "simple"). SANA-FE maps the input on a core of its own: its messages and hops are added to ours for the
comparison. It calls a neuron updated (active) if an input, a bias or a potential is there; ours is given the same rule.
Wall times are of the runs, without building the network (of Lava with compiling its processes); ours are medians of several
and hold all that the peer's timer holds: against SANA-FE the spikes of every step and their cost under one convention, against
NeuroBench the spikes and counts. The first line says what else the machine does.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from peer_runs import INPUT_TILE, REPEATS

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

Row = tuple[str, str, float, float]  # peer, quantity, ours, theirs


def ask_peer(name: str, data: dict) -> dict | str:
    """Run ourselves in the peer's interpreter; a string says why not."""
    python = Path(os.environ.get("TAAF_PEERS", "/tmp/peers")) / name / "bin" / "python"
    if not python.is_file():
        return f"not run: no {python}"
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "in.npz", **data)
        command = [str(python), str(Path(__file__).with_name("peer_runs.py")), name, str(Path(folder) / "in.npz")]
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
    return Graph("net", nodes, [(a.name, b.name) for a, b in pairwise(nodes)])


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
    for o, i, y, x in zip(*np.nonzero(node.weight), strict=True):
        rows = np.arange(where_out.shape[1]) * node.stride[0] - node.padding[0] + y
        columns = np.arange(where_out.shape[2]) * node.stride[1] - node.padding[1] + x
        r, c = (np.flatnonzero((at >= 0) & (at < n)) for at, n in ((rows, where_in.shape[1]), (columns, where_in.shape[2])))
        pre = where_in[i][np.ix_(rows[r], columns[c])].ravel()
        found.append((pre, where_out[o][np.ix_(r, c)].ravel(), np.full(len(pre), node.weight[o, i, y, x])))
    pre, post, weight = (np.concatenate(part) for part in zip(*found, strict=True))
    return pre, post, weight


def peer_data(graph, mapping, spikes: np.ndarray) -> dict:
    """Everything any peer takes; layer 0 is the input."""
    from taaf.models.ir import Conv2d

    lifs = graph.lifs()
    synapses = [graph.synapses_of(f.name)[0] for f in lifs]
    data = {
        "steps": spikes.shape[-1], "input": spikes.reshape(-1, spikes.shape[-1]), "windows": spikes[None], "leak": 0.5,
        "sizes": [int(np.prod(graph.shapes[n])) for n in ("input", *(f.name for f in lifs))],
        "conv": [False, *(isinstance(n, Conv2d) for n in synapses)],
        "threshold": [0, *(f.v_th_mant for f in lifs)],
    }  # fmt: skip
    height = mapping.limits.height
    for i, (lif, node) in enumerate(zip(lifs, synapses, strict=True), 1):
        at = np.zeros((*mapping.layer(f"net.{lif.name}").box, 2), np.int64)
        for core in mapping.cores():
            if core.layer == f"net.{lif.name}":
                c0, c1, h0, h1, w0, w1 = core.box
                at[c0:c1, h0:h1, w0:w1] = (core.x * height + core.y, core.slot)  # SANA-FE's routers count up along y first
        data |= dict(zip((f"pre{i}", f"post{i}", f"weight{i}"), connections(graph, lif.name), strict=True))
        data |= {f"core{i}": at.reshape(-1, 2), f"kernel{i}": node.weight}
        if isinstance(node, Conv2d):
            data[f"how{i}"] = [node.stride[0], node.padding[0]]
    return data


class Ours:
    """The network on hw_sim, and what every comparison needs."""

    def __init__(self, steps: int) -> None:
        from taaf.hw_sim.counters import count
        from taaf.hw_sim.engine import Engine
        from taaf.hw_sim.mapper.chip_limits import load_limits
        from taaf.hw_sim.mapper.mapping import map_graphs

        self.graph = network()
        drawn = np.random.default_rng(1).random((*self.graph.input.shape, steps)) < 0.2
        self.spikes = np.concatenate([drawn, np.zeros((*self.graph.input.shape, 28), bool)], -1).astype(np.uint8)
        small = dataclasses.replace(load_limits("loihi1"), neurons=96)  # small cores, so that there are several routers
        self.mapping = map_graphs({"net": self.graph}, small)
        self.engine = Engine(self.graph)
        self.run = self.engine.run(self.spikes[None], keep_all=True)
        self.run_s = self.timed(lambda: self.engine.run(self.spikes[None], keep_all=True))
        self.counts = count(self.graph, self.run.activity)
        self.counted_s = self.timed(lambda: count(self.graph, self.engine.run(self.spikes[None]).activity))
        self.data = peer_data(self.graph, self.mapping, self.spikes)

    @staticmethod
    def timed(work: Callable[[], object]) -> float:
        """Median seconds of several runs after one that does not count."""
        from measuring import medians

        return medians({"": work}, REPEATS)[""]

    def fired(self, lif: str) -> set[tuple[int, int]]:
        """(neuron, step) of every spike of a layer."""
        return set(
            zip(*(a.tolist() for a in np.nonzero(self.run.spikes[lif][0].reshape(-1, self.spikes.shape[-1]))), strict=True)
        )

    def differing(self, theirs: dict[str, set[tuple[int, int]]]) -> int:
        """Spikes that only one of the two has, over all layers."""
        return sum(len(self.fired(name) ^ found) for name, found in theirs.items())


def compare_sanafe(ours: Ours) -> list[Row] | str:
    """Same constants, same placement: spikes, energies per component, and the time of every step."""
    from taaf.hw_sim.mapper.mapped_cost import cost_of_windows, load_convention
    from taaf.hw_sim.mapper.traffic import active_updates, count_loads
    from taaf.hw_sim.reference import run_reference

    theirs = ask_peer("sanafe", ours.data)
    if isinstance(theirs, str):
        return theirs
    graph, mapping, steps = ours.graph, ours.mapping, ours.spikes.shape[-1]
    full = {**ours.run.spikes, "input": ours.spikes[None]}
    trace, active = run_reference(graph, ours.spikes), {}
    for lif in graph.lifs():  # its rule: an event, a bias or a potential
        before = np.concatenate([np.zeros_like(trace.v[lif.name][..., :1]), trace.v[lif.name][..., :-1]], -1)
        events = [active_updates(graph, lif, {n: s[0, ..., t] for n, s in full.items()}) for t in range(steps)]
        active[lif.name] = (np.stack(events, -1) | (before != 0))[None]
    (cost,) = cost_of_windows(mapping, {"net": full}, {"net": active}, ["loihi1_sanafe"])

    def costed() -> object:
        """With our own rule of what is active, which is computed here; theirs needs the potentials."""
        spikes = {**ours.engine.run(ours.spikes[None], keep_all=True).spikes, "input": ours.spikes[None]}
        return cost_of_windows(mapping, {"net": spikes}, conventions=["loihi1_sanafe"])

    costed_s = ours.timed(costed)
    convention = load_convention("loihi1_sanafe")
    pj, nj = convention["energy_pj"], {c.name: c.nj for c in cost.components}
    totals = {n: s[0].sum(-1, dtype=np.int64) for n, s in full.items()}
    first = mapping.layers[0]
    cores = slice(first.first_core, first.first_core + first.n_cores)
    arrived = count_loads(mapping, {"net": totals}, steps).messages_in[
        cores
    ]  # the input's messages, which it sends from a core
    x, y = divmod(INPUT_TILE, mapping.limits.height)
    dx, dy = np.abs(mapping.placement.x[cores] - x), np.abs(mapping.placement.y[cores] - y)
    host = float((arrived * (pj["message"] + dx * pj["hop_ew"] + dy * pj["hop_ns"])).sum()) / 1000
    energy = {k: 1e9 * sum(v) for k, v in theirs["energy"].items()}
    tiles, table = int(mapping.placement.n_tiles.sum()), convention["step"]
    barriers = [table["barrier_ns"][np.searchsorted(table["barrier_tiles"], n, side="right") - 1] for n in (tiles, tiles + 1)]
    step_ns = np.array(cost.step_ns[:steps]) + barriers[1] - barriers[0]  # its barrier waits for the input's router, too
    their_ns = 1e9 * np.array(theirs["time"])
    fired: dict[str, set[tuple[int, int]]] = {lif.name: set() for lif in graph.lifs()}
    for k, (step,) in enumerate(theirs["fired"]):
        for address in step:
            layer, neuron = address.removeprefix("layer").split(".")
            if int(layer):  # the i-th layer fires i steps after the input
                fired[graph.lifs()[int(layer) - 1].name].add((int(neuron), k - int(layer)))
    in_time = {n: {(i, t) for i, t in f if t < steps - 5} for n, f in fired.items()}
    lost = sum(len({(i, t) for i, t in ours.fired(n) if t < steps - 5} ^ f) for n, f in in_time.items())
    return [
        ("SANA-FE", "spikes that differ", 0, lost),
        ("SANA-FE", "synapse energy, nJ", nj["synapses, dense"] + nj["synapses, convolution"], energy["synapse"]),
        (
            "SANA-FE",
            "soma energy, nJ",
            nj["neuron updates, active"] + nj["neuron updates, inactive"] + nj["spikes"],
            energy["soma"],
        ),
        (
            "SANA-FE",
            "network energy, nJ",
            nj["messages"] + nj["hops east-west"] + nj["hops north-south"] + host,
            energy["network"],
        ),
        ("SANA-FE", "sum of the step times, ns", float(step_ns.sum()), float(their_ns.sum())),
        ("SANA-FE", "longest step, ns", float(step_ns.max()), float(their_ns.max())),
        ("SANA-FE", "largest difference of a step, ns", 0.0, float(np.abs(step_ns - their_ns).max())),
        ("SANA-FE", "wall time of the costed run, s", costed_s, theirs["run_s"]),
    ]


def compare_nengo(ours: Ours) -> list[Row] | str:
    """Every spike, and the memory of the dense layers on one core."""
    from taaf.hw_sim.connectivity import box_of, groups_of
    from taaf.hw_sim.mapper.chip_limits import load_limits

    theirs = ask_peer("nengo", ours.data)
    if isinstance(theirs, str):
        return theirs
    lifs = ours.graph.lifs()
    fired = {
        lif.name: {(n, t) for t, step in enumerate(theirs["fired"][str(i)]) for n in step} for i, lif in enumerate(lifs, 1)
    }
    rows: list[Row] = [("nengo-loihi emulator", "spikes that differ", 0, ours.differing(fired))]
    for i, lif in enumerate(lifs):
        if not ours.data["conv"][i + 1]:
            (group,) = groups_of(ours.graph, lif.name)
            bits = group.memory_bits(load_limits("loihi1"), box_of(ours.graph.shapes[lif.name]))
            rows.append(("nengo-loihi emulator", f"synapse memory of {group.name}, bits", int(bits.sum()), theirs["bits"][i]))
    return [*rows, ("nengo-loihi emulator", "wall time of the run, s", ours.run_s, theirs["run_s"])]


def compare_neurobench(ours: Ours) -> list[Row] | str:
    """Effective and dense operations of an equivalent torch network."""
    theirs = ask_peer("neurobench", ours.data)
    if isinstance(theirs, str):
        return theirs
    spikes = [int(ours.run.spikes[lif.name].sum()) for lif in ours.graph.lifs()]
    return [
        ("NeuroBench", "spikes of all layers", sum(spikes), sum(theirs["fired"])),
        ("NeuroBench", "SynOps = Effective_ACs", sum(c.effective_synops for c in ours.counts), theirs["Effective_ACs"]),
        ("NeuroBench", "Effective_MACs", 0, theirs["Effective_MACs"]),
        ("NeuroBench", "dense SynOps = Dense", sum(c.dense_synops for c in ours.counts), theirs["Dense"]),
        ("NeuroBench", "wall time of the counted run, s", ours.counted_s, theirs["run_s"]),
    ]


def compare_lava(ours: Ours) -> list[Row] | str:
    """Every spike of the Lava runtime (Loihi simulator, fixed_pt), in this interpreter."""
    try:
        from taaf.deploy.backends.sim import require_lava
        from taaf.deploy.backends.sim_net import run_net

        require_lava()
    except Exception as error:  # whatever is missing
        return f"not run: {error}"
    from taaf.export.targets.netx.read import read_netx_file
    from taaf.export.targets.netx.write import write_netx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.net"
        write_netx(ours.graph, path)
        file = read_netx_file(path, "net")
        lava, _, wall_s = run_net(path, file, ours.spikes[None], 300, lambda _: None)
    names = [lif.name for lif in file.graph.lifs()]
    differ = sum(int((lava[a] != ours.run.spikes[b.name]).sum()) for a, b in zip(names, ours.graph.lifs(), strict=True))
    return [("Lava runtime", "spikes that differ", 0, differ), ("Lava runtime", "wall time of the run, s", ours.run_s, wall_s)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="steps with input; 28 silent ones follow, in which all decays")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    from measuring import circumstances

    ours = Ours(args.steps)
    found = {f.__name__: f(ours) for f in (compare_sanafe, compare_nengo, compare_neurobench, compare_lava)}
    rows = [row for rows in found.values() if not isinstance(rows, str) for row in rows]
    wrong = [f"{peer}: {what}" for peer, what, a, b in rows if "wall time" not in what and abs(a - b) > 1e-3 * abs(a) + 1e-6]
    if args.json:
        print(json.dumps({**circumstances("numba", "torch", "numpy"), **found, "wrong": wrong}))
        sys.exit(bool(wrong))
    spikes, synops = sum(c.spikes_out for c in ours.counts), sum(c.effective_synops for c in ours.counts)
    print(", ".join(f"{k} {v}" for k, v in circumstances("numba", "torch", "numpy").items()))
    print(f"{ours.spikes.shape[-1]} steps, {ours.mapping.n_cores} cores, {spikes:,} spikes, {synops:,} SynOps")
    print(f"{'peer':22s} {'quantity':38s} {'hw_sim':>16s} {'peer':>16s} {'peer / hw_sim':>14s}")
    for name, rows in found.items():
        if isinstance(rows, str):
            print(f"{name.removeprefix('compare_'):22s} {rows}")
            continue
        for peer, quantity, a, b in rows:
            print(f"{peer:22s} {quantity:38s} {a:16,.6g} {b:16,.6g} {f'{b / a:14.6f}' if a else '-':>14s}")
    print("\n".join(["more than 0.1 % apart:", *wrong]) if wrong else "all quantities but the wall times within 0.1 %")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
