"""From a checkpoint to a verified NetX bundle."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from taaf.export.bundle.reader import in_shape, read_bundle
from taaf.export.bundle.writer import write_bundle
from taaf.export.intervals import LayerIntervals, analyse
from taaf.export.limits import check_limits
from taaf.export.passes import CompileReport, GuardedChain, compile_graph, fold_batch_norm, with_guard
from taaf.export.targets.netx.write import write_netx
from taaf.export.trained import Trained, blocks_of
from taaf.export.verify import LayerCheck, Lowered, require_exact, shown_of, verify_branch, verify_encoder
from taaf.hw_sim.counters import dense_macs
from taaf.hw_sim.engine import Engine
from taaf.models.encoder import HostEncoder
from taaf.models.errors import BackendUnavailableError, LimitExceededError, ParityError
from taaf.models.files.writing import undisturbed
from taaf.models.host_head import HeadOutput
from taaf.models.ir import Graph
from taaf.models.shell.packages import installed_versions

_EAD36 = {
    "event": "binary ON/OFF events per pixel and time bin (2 x 34 x 34), straight to the chip",
    "audio": "place code of 24 log-mel bands on the host: at most one of 4 channels per band and frame, two frames per step",
}
ENCODERS = {
    "ead-mini": {
        "event": "binary ON/OFF events per pixel and time bin (2 x 34 x 34), straight to the chip",
        "audio": "place code of 40 log-mel bands on the host: at most one of 4 channels per band and step",
    },
    "ead36-balanced": _EAD36,
    "ead36-imbalanced": _EAD36,
}
BINNED = "events per channel and time bin, straight to the chip"  # the sets on disk are events already
CONVOLVED = "8-bit input levels, convolution and LIF on the host, in integers; their spikes go to the chip"
_TOOLS = ("taaf", "torch", "lava-nc", "lava-dl", "numpy", "h5py")
_STOP_LIMIT_S = 8.0
_VERIFY_MACS = 5e10  # dense multiply-accumulates: a few seconds in the engine, about ten in the reference
BUNDLED, WINDOWS = "bundled", "windows.npz"  # verification windows that are kept in the bundle


@dataclass(frozen=True)
class ExportResult:
    """What was proven and what the compiler did.

    Attributes
    ----------
    out : Path
        The bundle.
    checks : list of LayerCheck
        One per population.
    report : list of str
        What the compiler says of its passes.
    accuracy : dict
        Percent per output on the given windows; empty without labels or without a head that decides.
    lava : dict or None
        Agreement of the run on Lava, if one was asked for.
    """

    out: Path
    checks: list[LayerCheck]
    report: list[str]
    accuracy: dict[str, float]
    lava: dict[str, Any] | None


def export_netx(
    trained: Trained, out: Path, inputs: dict[str, np.ndarray], labels: np.ndarray | None, label_names: list[str], *,
    data: dict[str, Any] | None = None, verify_lava: int = 0, quiet: bool = True, allow_saturation: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> ExportResult:  # fmt: skip
    """Compile, write and verify; nothing is left at ``out`` unless every check passed.

    Parameters
    ----------
    trained : Trained
        The network.
    inputs : dict
        Verification windows per modality, usually the whole test set (`taaf.training.sources.Windows`).
    labels : numpy.ndarray or None
        (N,) class indices, if they are known.
    data : dict, optional
        The [data] table of where the windows come from, for the manifest; None: they are kept in the bundle.
    verify_lava : int
        Also run this many windows through the Lava runtime (0: none).
    allow_saturation : bool
        Also accept layers whose u or v is not proven to stay within 24 bits. Verification still decides on all windows.

    Raises
    ------
    CheckpointError, UnsupportedLayerError, LimitExceededError, ParityError, BundleError, BackendUnavailableError
        Each naming what is wrong and where.
    """
    report = CompileReport()
    unlowered: dict[str, Graph] = {}
    compiled: dict[str, Graph] = {}
    intervals: dict[str, list[LayerIntervals]] = {}
    names, window, encoders = list(trained.graphs), max(trained.steps.values()), trained.encoders
    for name, graph in trained.graphs.items():
        unlowered[name], compiled[name] = compile_graph(graph, saturate=True, report=report)
        intervals[name] = analyse_checked(compiled[name], window, allow_saturation, report)
    guards = guarded_chains(compiled, window, report)
    chains = {m: guards[m].chain for m in names}
    guard_steps = max(g.guard_steps for g in guards.values())
    inputs = {m: inputs[m] if m in encoders else in_shape(inputs[m], compiled[m].input.shape) for m in names}
    for name, encoder in encoders.items():
        share = 100 * encoder.peak * 4096 / max(1, encoder.v_decay) / (1 << 24)
        proven = "proven" if share < 100 and encoder.v_decay else "not proven: only the verified windows tell"
        report.say(
            f"encoder: {name}: {encoder.n_macs:,} MACs per step on the host; {share:.3g} % of training's float32, {proven}"
        )
    n = len(inputs[names[0]])
    known = np.full(n, -1, np.int64) if labels is None else np.asarray(labels, np.int64)
    found: dict[str, Any] = {}

    def fill(stage: Path) -> None:
        for name, graph in chains.items():
            write_netx(graph, stage / f"{name}.net")
        for name, encoder in encoders.items():
            np.savez(stage / f"encoder_{name}.npz", **encoder.arrays())
        arrays = sorted(trained.head.arrays.items(), key=lambda item: item[0].startswith("align_"))
        np.savez(stage / "head.npz", **dict(arrays))
        if data is None:
            np.savez_compressed(stage / WINDOWS, **{m: _packed(x) for m, x in inputs.items()})
        found["golden"] = _trained_results(trained, unlowered, encoders, inputs, known)
        np.savez_compressed(stage / "golden.npz", **found["golden"])

    def check(stage: Path) -> None:
        form = "" if trained.proven_by.startswith("SLAYER") else "our form of the "
        first = f"{form}SLAYER forward = " if "SLAYER" in trained.proven_by else ""
        say(f"verifying on every window: {first}integer reference = engine on the re-read files")
        found["checks"] = _verify(trained, stage, unlowered, compiled, inputs, report, quiet, say)
        found["lava"] = _verify_on_lava(stage, verify_lava) if verify_lava else None

    kept = {"set": BUNDLED, "file": WINDOWS} if data is None else data
    manifest = {
        "model": trained.name, "data": kept, "labels": label_names, "window_steps": window, "guard_steps": guard_steps,
        "branches": {
            m: {
                "file": f"{m}.net", "input_shape": list(chains[m].input.shape), "input_steps": trained.steps[m],
                "reset_interval": window + guard_steps, "reset_offset": 1 + guard_steps, "output_delay": len(chains[m].lifs()),
                "guard": {"steps": guards[m].guard_steps, "channels": guards[m].n_sync},
                "layers": [{"name": n.name, "delay": i + 1} for i, n in enumerate(chains[m].lifs())],
                "relays": report.relays_of(chains[m]),
                "ann_macs": dense_macs(unlowered[m]), **_encoder_entry(m, encoders.get(m), str(kept.get("set", ""))),
                "intervals": [row.to_dict() for row in intervals[m]],
            } for m in names
        },
        "head": {"file": "head.npz", **trained.head.head.spec()},
        "golden": {"file": "golden.npz", "source": trained.proven_by},
        "allow_saturation": allow_saturation, "compiler": report.lines, "training": trained.provenance,
        "tools": installed_versions(_TOOLS),
    }  # fmt: skip
    write_bundle(out, manifest, fill, check)
    predicted = {u: found["golden"][f"predictions_{u}"] for u in trained.head.outputs}
    accuracy = {} if labels is None else {u: float(100 * (p == known).mean()) for u, p in predicted.items()}
    return ExportResult(out, found["checks"], report.lines, accuracy, found["lava"])


def guarded_chains(chains: dict[str, Graph], window: int, report: CompileReport) -> dict[str, GuardedChain]:
    """Chains whose windows may follow each other: with guard steps where spikes wait in synapses (recurrence, delays).

    Where that has no form for one branch, no branch gets guard steps, and every window runs alone.

    Raises
    ------
    LimitExceededError
        If a window cannot run alone either: biases would make spikes in a recurrence or a delay before it starts.
    """
    try:
        first = {m: with_guard(chain, window) for m, chain in chains.items()}
        most = max(g.guard_steps for g in first.values())
        found = {m: with_guard(chain, window + most - first[m].guard_steps) for m, chain in chains.items()}
        for guarded in found.values():  # a window starts after idle steps where another branch needs more guard steps
            for line in guarded.lines:
                report.say(line)
        return found
    except LimitExceededError as error:
        for chain in chains.values():
            check_limits(chain, pipelined=False, state=False)
        report.say(f"guard: none, so every window runs alone on Lava: {error}")
        return {m: GuardedChain(chain, window, 0, 0) for m, chain in chains.items()}


def windows_to_verify(trained: Trained) -> int:
    """How many windows are verified unless told otherwise: as many as keep engine and reference within a minute or so."""
    if not trained.encoders:  # networks of spikes are small
        return 1 << 30
    macs = sum(dense_macs(fold_batch_norm(g)) * trained.steps[m] for m, g in trained.graphs.items() if m in trained.encoders)
    return max(1, int(_VERIFY_MACS / max(1.0, macs)))


def _packed(x: np.ndarray) -> np.ndarray:
    """Spikes as bits along time, input levels as they are."""
    return np.packbits(x, axis=-1) if x.dtype == np.uint8 else x


def _encoder_entry(name: str, encoder: HostEncoder | None, data_set: str) -> dict[str, Any]:
    """What the manifest says about how inputs become spikes."""
    if encoder is None:
        return {"encoder": ENCODERS.get(data_set, {}).get(name, BINNED)}
    return {"encoder": CONVOLVED, "encoder_file": f"encoder_{name}.npz", "encoder_spec": encoder.spec()}


def analyse_checked(graph: Graph, window: int, allow_saturation: bool, report: CompileReport) -> list[LayerIntervals]:
    """Refuse what is beyond the limits; say what is proven of each layer and what saturation was allowed for."""
    check_limits(graph, pipelined=False, fill=False, window_steps=window, allow_saturation=allow_saturation)
    rows = analyse(graph, window)
    for row in rows:
        report.say(str(row))
        for line in row.saturation():
            report.say(f"--allow-saturation: {line}")
    return rows


def _trained_results(
    trained: Trained,
    graphs: dict[str, Graph],
    encoders: dict[str, HostEncoder],
    inputs: dict[str, np.ndarray],
    labels: np.ndarray,
) -> dict[str, np.ndarray]:
    """Feature spikes (packed bits), logits and predictions of the trained model, in evaluation batches."""
    features: dict[str, np.ndarray] = {}
    for m, x in inputs.items():
        spikes = trained.encoded(m, x) if m in encoders else x
        outputs = np.concatenate([shown_of(trace, graphs[m].output) for _, trace in trained.traces(m, spikes)])
        if outputs.shape[-1] < spikes.shape[-1]:  # what SLAYER does not show
            rest = Engine(graphs[m]).run(spikes).spikes[graphs[m].output][..., outputs.shape[-1] :]
            outputs = np.concatenate([outputs, rest], -1)
        features[m] = outputs.reshape(len(outputs), -1, outputs.shape[-1])
    golden = {f"features_{m}": np.packbits(f) for m, f in features.items()} | {"labels": labels}
    parts: dict[str, list[np.ndarray]] = {}
    for rows in blocks_of(len(labels), graphs.values(), max(trained.steps.values()), 250):
        for u, readout in trained.decided(rows, {m: f[rows] for m, f in features.items()}).items():
            parts.setdefault(u, []).append(readout)
    logits = {u: np.concatenate(p) for u, p in parts.items()}
    golden |= {f"predictions_{u}": x.argmax(1).astype(np.uint16) for u, x in logits.items()}
    return golden | ({"logits": logits["fused"]} if "fused" in logits else {})


def _verify(
    trained: Trained, stage: Path, unlowered: dict[str, Graph], compiled: dict[str, Graph], inputs: dict[str, np.ndarray],
    report: CompileReport, quiet: bool, say: Callable[[str], None],
) -> list[LayerCheck]:  # fmt: skip
    bundle = read_bundle(stage)
    checks: list[LayerCheck] = []
    features: dict[str, np.ndarray] = {}
    total = sum(len(x) for x in inputs.values())
    with tqdm(total=total, desc="verify", unit="window", disable=quiet or None, leave=False) as bar:
        for name, graph in bundle.graphs.items():
            spikes = inputs[name]
            if name in bundle.encoders:
                check, spikes = verify_encoder(trained, name, bundle.encoders[name], spikes)
                checks.append(check)
            lowered = Lowered(unlowered[name], compiled[name], graph, report)
            branch, features[name] = verify_branch(trained, lowered, spikes, bar.update)
            checks += branch
            features[name] = bundle.features_of(name, features[name])
    for line in checks:
        say(str(line))
    require_exact(checks)
    for finding in filter(None, (c.finding for c in checks)):
        report.say(f"finding: {finding}")
    if not bundle.head.decides:
        return checks
    windows = len(next(iter(inputs.values())))
    for rows in blocks_of(windows, bundle.graphs.values(), bundle.window_steps, 250):
        block = {m: f[rows] for m, f in features.items()}
        _verify_head(trained, bundle.head(block), rows, block)
    say(f"✓ host head: equal to torch's on {windows} windows (logits <= {trained.logit_tolerance:g}, every decision)")
    return checks


def _verify_head(trained: Trained, numpy_head: HeadOutput, rows: slice, features: dict[str, np.ndarray]) -> None:
    for u, expected in trained.decided(rows, features).items():
        found = numpy_head.logits[u]
        scale = np.maximum(1.0, np.abs(expected).max(1, keepdims=True, initial=0))
        apart = np.where((expected == found) | (np.isnan(expected) & np.isnan(found)), 0, np.abs(expected - found) / scale)
        worst = float(apart.max(initial=0))
        moved = int((expected.argmax(1) != found.argmax(1)).sum())
        if not worst <= trained.logit_tolerance or moved:
            raise ParityError(f"host head, output {u}: logits differ by {worst:.3g} and {moved} decisions from torch")


def _verify_on_lava(stage: Path, n_windows: int) -> dict[str, Any]:
    """Run the staged bundle with taaf-deploy in its own process (Lava forks; the exporter must not import it)."""
    command = [sys.executable, "-m", "taaf.deploy.cli", str(stage), "--backend", "sim", "--samples", str(n_windows)]
    process = subprocess.Popen(
        [*command, "--json", "-q"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", errors="replace"
    )
    try:
        stdout, stderr = process.communicate()
    except BaseException:  # killed at once it would leave its Lava processes behind
        with undisturbed():
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=_STOP_LIMIT_S)
            process.kill()
        raise
    if process.returncode == 1:
        raise ParityError(f"--verify-lava: {stderr.strip() or 'the Lava run disagrees with the trained model'}")
    if process.returncode != 0:
        raise BackendUnavailableError(f"--verify-lava: {stderr.strip() or f'taaf-deploy ended with {process.returncode}'}")
    result: dict[str, Any] = json.loads(stdout)["agreement"]
    return result
