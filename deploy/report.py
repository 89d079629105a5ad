"""One deployment: load, run on a backend, compare with the trained model, count, convert to energy."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from taaf.deploy.backends.base import BackendResult, pad_window
from taaf.deploy.backends.fast import run_fast
from taaf.deploy.session import Session
from taaf.deploy.windows import Source, require_fit, windows_of, write_predictions
from taaf.export.bundle.reader import Bundle, read_bundle, relay_channels
from taaf.export.netx_bundle import BUNDLED
from taaf.hw_sim.counters import LayerCounts, count
from taaf.hw_sim.early_exit import anytime_logits, cut, exit_steps
from taaf.hw_sim.energy import energies, load_chip, quantities
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.measurements.loihi2_range import loihi2_range
from taaf.hw_sim.reference import run_reference
from taaf.hw_sim.study import of_papers_size
from taaf.models.errors import ConfigError

SCHEMA_VERSION = 1
REFERENCE_WINDOWS = 20  # compared with the integer reference where no results were recorded
DEFAULT_SAMPLES = {"sim": 100, "loihi2": 100}


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    bundle: Path
    backend: str
    samples: int | None = None
    source: Source = field(default_factory=Source)
    time_limit_s: float | None = None
    early_exit: float | None = None
    output: Path | None = None  # where decisions are written
    details: bool = False  # also what the HTML report draws
    study: bool = False  # also the comparison with the paper's energies


def run(
    bundle: Path | str, backend: str = "sim", *, input: Path | str | None = None, samples: int | None = None,
    early_exit: float | None = None, root: str | None = None, time_limit_s: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run a bundle and return its report.

    Parameters
    ----------
    bundle : Path
        A bundle's folder.
    backend : str
        "sim" (Lava runtime), "fast" (exact engine) or "loihi2" (chip).
    input : Path, optional
        Windows of one's own (`taaf.training.datasets.arrays.read_windows`); by default those the bundle was verified on.
    samples : int, optional
        Only the first windows.
    early_exit : float, optional
        Confidence at which a window is decided early.
    root : str, optional
        Where the data set of the training lies.
    time_limit_s : float, optional
        Limit for a run on Lava.

    Returns
    -------
    dict
        What ``taaf-deploy --json`` prints.

    Raises
    ------
    TaafError
        One line that says where, what was found, what is allowed and what to do.
    """
    source = Source(root=root, input=None if input is None else Path(input))
    request = Request(Path(bundle), backend, samples, source, time_limit_s, early_exit)
    return deploy(request, lambda _: None, lambda _: None)


def deploy(request: Request, tick: Callable[[int], Any], started: Callable[[int], Any]) -> dict[str, Any]:
    """Run a deployment and return the report as plain data (``schema_version`` 1).

    ``started(n)`` is called once the number of windows is known, ``tick(k)`` as windows finish.
    """
    bundle = read_bundle(request.bundle)
    if request.backend == "loihi2":  # say what is missing before simulating any data
        from taaf.deploy.backends.loihi2 import require_chip

        require_chip()
    split, known = windows_of(bundle, request.source)
    most = min(len(split), len(bundle.golden["labels"])) if known else len(split)  # with known results
    n = request.samples or min(DEFAULT_SAMPLES.get(request.backend, most), most)
    name = str(request.source.input or f"the {request.source.split} split")
    if n > most:
        raise ConfigError(f"--samples {n}: {name} has {most}{' with known results' if known else ''}; allowed 1..{most}")
    shaped = require_fit(bundle, split.inputs)
    inputs = bundle.encode({m: x[:n] for m, x in shaped.items()})
    labels = split.labels if (split.labels >= 0).all() and len(split) else None
    started(n)
    begun, since, limit = time.perf_counter(), time.monotonic(), request.time_limit_s or 60 + 2.0 * n
    with Session(bundle, request.backend, early_exit=request.early_exit, time_limit_s=limit) as session:
        result = session.run(inputs, tick, limit, since)
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "bundle": str(request.bundle),
        "model": bundle.manifest["model"],
        "checkpoint_sha256": bundle.manifest["training"]["checkpoint_sha256"],
        "backend": request.backend,
        "split": _origin(bundle, request.source),
        "samples": n,
        "accuracy_percent": _accuracy(result, labels),
        "agreement": _agreement(bundle, result, inputs, request, known),
        "saturation": _saturation(bundle, result, inputs),
        "time_steps": result.n_steps,
        "guard_steps": bundle.guard_steps,
        "seconds": {"total": time.perf_counter() - begun, "run": result.wall_s},
    }
    if request.output is not None:
        write_predictions(request.output, result, split)
    if request.backend != "fast" and labels is not None and bundle.head.decides:
        report["accuracy_percent_all"] = _accuracy(run_fast(bundle, bundle.encode(shaped), request.early_exit), labels)
        report["samples_all"] = len(split)
    if result.activity:
        report.update(_costs(bundle, result, n))
    if request.early_exit is not None and result.exit_steps is not None:
        from taaf.deploy.studies.early_exit import early_exit_report

        report["early_exit"] = early_exit_report(bundle, inputs, None if labels is None else labels[:n], request.early_exit)
        report["early_exit"]["ran_mean_steps"] = float(result.exit_steps.mean())
    if request.study:
        report["energy_study"] = _study(bundle, result)
    if request.details:
        from taaf.deploy.views.details import bundle_details

        report["details"] = bundle_details(bundle, result, inputs, split.labels[:n])
    return report


def _accuracy(result: BackendResult, labels: np.ndarray | None) -> dict[str, float]:
    """Percent per output; nothing is claimed of windows whose labels are not known."""
    if labels is None:
        return {}
    labels = labels[: len(next(iter(result.logits.values()), labels))]
    return {u: float(100 * (result.logits[u].argmax(1) == labels).mean()) for u in result.logits}


def _saturation(bundle: Bundle, result: BackendResult, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Layers whose u or v may leave 24 bits, and how often they did; empty where all are proven to stay inside.

    Lava and the chip do not tell, so their events are those of the exact engine on the same input.
    """
    rows = bundle.unproven_layers()
    if not rows:
        return {"proven": True, "layers": []}
    counted = result.activity
    if result.layers or not counted:  # recorded on Lava, or not at all on a chip
        padded = {b: pad_window(x, bundle.window_steps) for b, x in inputs.items()}
        if result.exit_steps is not None:
            padded = {b: cut(x, result.exit_steps + bundle.depth) for b, x in padded.items()}
        counted = {b: Engine(g).run(padded[b]).activity for b, g in bundle.graphs.items()}
    wraps, clips = ({f"{b}.{n}": k for b, a in counted.items() for n, k in getattr(a, e).items()} for e in ("wraps", "clips"))
    layers = [
        {"layer": r.layer, "bounds": r.saturation(), "wraps": wraps.get(r.layer, 0), "clips": clips.get(r.layer, 0)}
        for r in rows
    ]
    return {"proven": False, "layers": layers}


def _agreement(
    bundle: Bundle, result: BackendResult, inputs: dict[str, np.ndarray], request: Request, known: bool
) -> dict[str, Any]:
    """Spikes at the chip boundary and decisions against the trained model (recorded for every test sample).

    Of other samples against the exact engine, or if that is what ran, against the integer reference on the first of them.
    With early exit: the steps the head had seen when it decided, those steps' spikes, and the decision taken there.
    """
    n = len(next(iter(inputs.values())))
    if known:
        features = {b: bundle.expected_features(b)[:n] for b in bundle.graphs}
        logits, reference = (
            bundle.golden.get("logits", np.zeros((n, 1)))[:n],
            _trained(bundle),
        )
    elif request.backend == "fast":
        n = min(n, REFERENCE_WINDOWS)
        inputs = {b: x[:n] for b, x in inputs.items()}
        features, reference = _reference_features(bundle, inputs), "integer reference, step by step"
        logits = _fused(bundle.head(features).logits, n)
    else:
        engine = run_fast(bundle, inputs)
        features, logits, reference = engine.features, _fused(engine.logits, n), "exact engine"
    found, step_errors = {b: f[:n] for b, f in (result.features or {}).items()}, 0
    readout, exits = _fused(result.logits, n)[:n], None if result.exit_steps is None else result.exit_steps[:n]
    compared = sum(features[b].size for b in found)
    if exits is not None:
        anytime = anytime_logits(bundle.head.fused, features, bundle.window_steps)
        steps, _ = exit_steps(anytime, request.early_exit or 0.0)
        logits = anytime[steps - 1, np.arange(n)]
        step_errors = int((steps != exits).sum())
        compared = sum(int(np.minimum(steps, f.shape[-1]).sum()) * f.shape[1] for f in features.values())
        found, features = ({b: cut(f, steps) for b, f in x.items()} for x in (found, features))
        inputs = {b: cut(pad_window(x, bundle.window_steps), steps + bundle.depth) for b, x in inputs.items()}
    spike_errors = sum(int((found[b] != features[b]).sum()) for b in found)
    decision_errors = int((readout.argmax(1) != logits.argmax(1)).sum())
    layer_errors = _layer_errors(bundle, result, inputs)
    return {
        "with": reference, "windows": n, "neuron_steps_compared": compared, "spike_mismatches": spike_errors,
        "decision_mismatches": decision_errors, "exit_step_mismatches": step_errors,
        "max_logit_difference": float(np.abs(readout - logits).max()), "layer_mismatches": layer_errors,
        "exact": spike_errors == decision_errors == step_errors == 0 and not any(layer_errors.values()),
    }  # fmt: skip


def _origin(bundle: Bundle, source: Source) -> str:
    if source.input is not None:
        return str(source.input)
    return "those kept in the bundle" if bundle.manifest.get("data", {}).get("set") == BUNDLED else source.split


def _trained(bundle: Bundle) -> str:
    source = str(bundle.manifest["golden"].get("source", "SLAYER"))
    form = "" if source.startswith("SLAYER") else "our form of the "
    return f"trained model ({form}SLAYER forward, recorded at export)" if "SLAYER" in source else source


def _fused(logits: dict[str, np.ndarray], n: int) -> np.ndarray:
    """The fused readout; zeros where nothing is decided."""
    return logits.get("fused", np.zeros((n, 1)))


def _reference_features(bundle: Bundle, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Feature spikes of whole windows by the readable integer reference."""
    found = {}
    for branch, graph in bundle.graphs.items():
        windows = pad_window(inputs[branch], bundle.window_steps)
        found[branch] = bundle.features_of(branch, np.stack([run_reference(graph, w).spikes[graph.output] for w in windows]))
    return found


def _layer_errors(bundle: Bundle, result: BackendResult, inputs: dict[str, np.ndarray]) -> dict[str, int]:
    """Spikes of recorded layers, idle steps included, that differ from the exact engine's (per layer)."""
    errors = {}
    for branch, layers in result.layers.items():
        exact = Engine(bundle.graphs[branch]).run(pad_window(inputs[branch], bundle.window_steps), keep_all=True)
        errors.update({f"{branch}.{lif}": int((spikes != exact.spikes[lif]).sum()) for lif, spikes in layers.items()})
    return errors


def _study(bundle: Bundle, result: BackendResult) -> dict[str, Any]:
    from taaf.deploy.studies.energy_study import energy_study

    if not result.activity:
        raise ConfigError("--energy-study: this backend does not record spikes; allowed sim and fast")
    branches = bundle.manifest["branches"]
    steps = {b: bundle.input_steps(b) for b in bundle.graphs}
    relays = {b: relay_channels(branches[b]) for b in bundle.graphs}
    encoders = {b: e.n_macs for b, e in bundle.encoders.items()}
    name = bundle.manifest["model"]
    if bundle.data_set == "generated":
        name += " on generated inputs"
    return energy_study(name, bundle.graphs, result.activity, steps, relays, encoders)


def _costs(bundle: Bundle, result: BackendResult, n: int) -> dict[str, Any]:
    counts: list[LayerCounts] = []
    for branch, graph in bundle.graphs.items():
        counts += count(graph, result.activity[branch])
    branches = bundle.manifest["branches"]
    encoder_macs = {b: e.n_macs * bundle.input_steps(b) for b, e in bundle.encoders.items()}
    ann_macs = sum(branches[b]["ann_macs"] * bundle.input_steps(b) for b in bundle.graphs)
    fields = ("n_neurons", "n_synapses", "spikes_out", "effective_synops", "dense_synops", "neuron_updates")
    totals: dict[str, float] = {f: sum(getattr(c, f) for c in counts) for f in fields}
    inputs = sum(int(result.activity[b].spikes[g.input.name].sum()) for b, g in bundle.graphs.items())
    return {
        "layers": [c.to_dict() for c in counts],
        "totals": {**totals, "spikes_in": inputs},
        "host_macs_per_window": bundle.head.n_macs(),
        "host_mac_parts": bundle.head.head.mac_parts(),
        "encoder_macs_per_window": encoder_macs,
        "ann_twin_macs_per_window": ann_macs,
        "energy": [asdict(e) for e in energies(counts, n, ann_macs)],
        "energy_ranges": [
            loihi2_range().of(quantities(counts, n), bundle.window_steps + (bundle.guard_steps if bundle.pipelined else 0))
        ],
        "paper": {
            **load_chip("taaf_paper"),
            "same_size": bool(encoder_macs) and of_papers_size(ann_macs + sum(encoder_macs.values())),
        },
    }
