"""A bare NetX file on a backend: given or generated spikes in, spikes, operations, energy and agreement out."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taaf.export.limits import check_limits
from taaf.export.targets.netx.read import read_netx_file
from taaf.hw_sim.counters import count, dense_macs
from taaf.hw_sim.energy import energies, quantities
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.measurements.loihi2_range import loihi2_range
from taaf.hw_sim.reference import run_reference
from taaf.models.errors import BundleError, ConfigError, DataError
from taaf.models.files.npz import read_npy, read_npz
from taaf.models.files.writing import sha256, written_at_once
from taaf.models.ir import Flatten, Graph
from taaf.models.ir.stage import require_spikes

SCHEMA_VERSION = 1
DEFAULT_STEPS, DEFAULT_RATE = 32, 0.2
DEFAULT_SAMPLES = {"fast": 16, "sim": 4}
MAX_INPUT_BYTES = 1 << 30
_REFERENCE_MACS = 1e9  # the slow reference runs as many windows as fit in this, at least one


@dataclass(frozen=True)
class NetRequest:
    """What the user asked for; see ``taaf-deploy --help``."""

    path: Path
    backend: str
    source: Path | None = None
    samples: int | None = None
    steps: int | None = None
    rate: float | None = None
    seed: int | None = None
    layers: int | None = None
    input_shape: tuple[int, ...] | None = None
    time_limit_s: float | None = None
    output: Path | None = None
    details: bool = False  # also what the HTML report draws
    study: bool = False  # also the comparison with the paper's energies


def deploy_net(request: NetRequest, tick: Callable[[int], Any], started: Callable[[int], Any]) -> dict[str, Any]:
    """Run the file and return the report as plain data (``schema_version`` 1, ``kind`` "netx").

    Raises
    ------
    TaafError
        If the file, the input or the request is not something that runs exactly.
    """
    if request.backend == "loihi2":
        from taaf.deploy.backends.loihi2 import require_chip

        require_chip()
        raise ConfigError(f"{request.path}: backend loihi2 runs bundles; allowed for a NetX file: sim and fast")
    if not request.path.is_file():
        raise BundleError(f"{request.path}: no such file")
    file = read_netx_file(request.path, request.path.stem, request.layers, request.input_shape)
    graph = file.graph
    check_limits(graph, pipelined=False, state=False, fill=request.backend == "sim")
    spikes, origin = _spikes(request, graph)
    n, steps = len(spikes), spikes.shape[-1]
    started(n)
    begun = time.perf_counter()
    engine = Engine(graph).run(spikes, keep_all=True)
    wall_s, executed = time.perf_counter() - begun, n * steps
    agreement = {"reference": _with_reference(graph, spikes, engine.spikes)}
    if request.backend == "sim":
        from taaf.deploy.backends.sim_net import run_net

        lava, executed, wall_s = run_net(request.path, file, spikes, request.time_limit_s or 120 + 2.0 * n, tick)
        agreement["lava"] = {**_compare(engine.spikes, lava), "windows": n, "networks": n if graph.has_memory else 1}
    out = graph.output
    if request.output is not None:
        _save(request.output, engine.spikes[out])
    counts, ann_macs = count(graph, engine.activity), dense_macs(graph) * steps
    fields = ("n_neurons", "n_synapses", "spikes_out", "effective_synops", "dense_synops", "neuron_updates")
    totals: dict[str, int] = {f: sum(getattr(c, f) for c in counts) for f in fields}
    report = {
        "schema_version": SCHEMA_VERSION, "kind": "netx", "file": str(request.path), "sha256": sha256(request.path),
        "backend": request.backend, "file_layers": file.n_layers, "notes": [*file.notes, *_silent(counts)],
        "input": {**origin, "shape": list(graph.input.shape)}, "output": {"layer": out, "shape": list(graph.shapes[out])},
        "samples": n, "steps_per_window": steps, "time_steps": executed,
        "agreement": {**agreement, "exact": not any(sum(a["layer_mismatches"].values()) for a in agreement.values())},
        "seconds": {"total": time.perf_counter() - begun, "run": wall_s},
        "layers": [c.to_dict() for c in counts],
        "totals": {**totals, "spikes_in": int(engine.activity.spikes[graph.input.name].sum())},
        "ann_twin_macs_per_window": ann_macs,
        "energy": [asdict(e) for e in energies(counts, n, ann_macs)],
        "energy_ranges": [loihi2_range().of(quantities(counts, n), steps)],
    }  # fmt: skip
    if request.study:
        from taaf.deploy.studies.energy_study import energy_study

        name, counted = request.path.stem, {graph.name: engine.activity}
        report["energy_study"] = energy_study(name, {graph.name: graph}, counted, {graph.name: steps}, {}, {})
    if request.details:
        from taaf.deploy.views.details import graph_details

        report["details"] = graph_details(graph, engine, spikes[0])
    return report


def _silent(counts: list[Any]) -> list[str]:
    quiet = [c.layer for c in counts if not c.spikes_out]
    return [f"no spikes from {', '.join(quiet)} on this input: the run says nothing about it"] if quiet else []


def _spikes(request: NetRequest, graph: Graph) -> tuple[np.ndarray, dict[str, Any]]:
    """(N, *shape, T) uint8, and what they are."""
    shape = graph.input.shape
    if request.source is None:
        n = request.samples or DEFAULT_SAMPLES[request.backend]
        steps, rate = request.steps or DEFAULT_STEPS, DEFAULT_RATE if request.rate is None else request.rate
        if n * steps * math.prod(shape) > MAX_INPUT_BYTES:
            raise ConfigError(
                f"--samples {n} --steps {steps}: {math.prod(shape)} inputs each, more than {MAX_INPUT_BYTES} bytes"
            )
        seed = request.seed or 0
        drawn = np.random.default_rng(seed).random((n, *shape, steps), np.float32) < rate
        return drawn.astype(np.uint8), {"generated": True, "rate": rate, "seed": seed}
    if request.rate is not None or request.seed is not None:
        raise ConfigError("--rate, --seed: only for generated spikes; leave them out, or --input")
    array = _load(request.source)
    flat = (math.prod(shape),)
    if any(isinstance(graph.nodes[t], Flatten) for t in graph.targets(graph.input.name)) and array.shape[-2:-1] == flat:
        array = array.reshape(*array.shape[:-2], *shape, array.shape[-1]) if array.ndim <= 3 else array
    if array.shape[:-1] == shape:
        array = array[None]
    if array.ndim != len(shape) + 2 or array.shape[1:-1] != shape:
        wanted = ", ".join(map(str, shape))
        raise DataError(f"{request.source}: shape {array.shape}; allowed (windows, {wanted}, steps) or ({wanted}, steps)")
    n, steps = request.samples or len(array), request.steps or array.shape[-1]
    if n > len(array) or steps > array.shape[-1] or not n:
        raise ConfigError(
            f"--samples {n} --steps {steps}: {request.source} has {len(array)} windows of {array.shape[-1]} steps"
        )
    array = array[:n, ..., :steps]
    require_spikes(graph, array, shape)
    return array.astype(np.uint8), {"generated": False, "file": str(request.source), "sha256": sha256(request.source)}


def _load(path: Path) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"--input {path}: no such file")
    try:
        if path.suffix == ".npz":
            arrays = read_npz(path, MAX_INPUT_BYTES)
            if len(arrays) != 1:
                raise DataError(f"--input {path}: holds {', '.join(sorted(arrays)) or 'nothing'}; allowed one array")
            return next(iter(arrays.values()))
        return read_npy(path, MAX_INPUT_BYTES)
    except ValueError as error:
        raise DataError(f"--input {path}: not a readable .npy or .npz file ({error})") from error


def _with_reference(graph: Graph, spikes: np.ndarray, fast: dict[str, np.ndarray]) -> dict[str, Any]:
    """Spike by spike on the first windows: the step-by-step integer reference is slow."""
    n = int(min(len(spikes), max(1, _REFERENCE_MACS // max(1, dense_macs(graph) * spikes.shape[-1]))))
    traces = [run_reference(graph, window).spikes for window in spikes[:n]]
    exact = {lif.name: np.stack([t[lif.name] for t in traces]) for lif in graph.lifs()}
    return {**_compare({name: fast[name][:n] for name in exact}, exact), "windows": n}


def _compare(ours: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        "neuron_steps_compared": sum(x.size for x in others.values()),
        "layer_mismatches": {name: int((ours[name] != x).sum()) for name, x in others.items()},
    }


def _save(path: Path, spikes: np.ndarray) -> None:
    with written_at_once(path) as temporary, temporary.open("wb") as file:
        np.save(file, spikes)
