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
import torch
from tqdm import tqdm

from taaf.export.bundle.reader import in_shape, read_bundle
from taaf.export.bundle.writer import write_bundle
from taaf.export.frontend import float_graphs, host_encoders
from taaf.export.intervals import LayerIntervals, analyse
from taaf.export.limits import check_limits
from taaf.export.passes import CompileReport, compile_graph
from taaf.export.targets.netx.write import write_netx
from taaf.export.verify import LayerCheck, blocks_of, require_exact, verify_branch, verify_encoder
from taaf.hw_sim.counters import dense_macs
from taaf.models.checkpoint import load_model
from taaf.models.config import ModelConfig
from taaf.models.encoder import HostEncoder
from taaf.models.errors import BackendUnavailableError, ParityError
from taaf.models.files.writing import sha256, undisturbed
from taaf.models.head import deployed_forward
from taaf.models.host_head import HeadOutput
from taaf.models.ir import Graph
from taaf.models.shell.packages import installed_versions
from taaf.models.taaf import TaafSnn

MODEL_NAMES = {"taaf": "taaf-snn", "scmrl": "s-cmrl"}
ENCODERS = {
    "ead-mini": {
        "event": "binary ON/OFF events per pixel and time bin (2 x 34 x 34), straight to the chip",
        "audio": "place code of 40 log-mel bands on the host: at most one of 4 channels per band and step",
    }
}
BINNED = "events per channel and time bin, straight to the chip"  # the sets on disk are events already
CONVOLVED = "8-bit input levels, convolution and LIF on the host, in integers; their spikes go to the chip"
_TOOLS = ("taaf", "torch", "lava-nc", "lava-dl", "numpy", "h5py")
_STOP_LIMIT_S = 8.0
_VERIFY_MACS = 5e10  # dense multiply-accumulates: a few seconds in the engine, about ten in the reference
_CHIP_MACS = {"resnet18": 1.75e9, "sps_real": 6e7}  # per time step, width 64, input 224 x 224 (a stem: four max poolings)
_LOGIT_TOLERANCE = 1e-9  # torch float64 against NumPy float64


@dataclass(frozen=True)
class ExportResult:
    """What was proven and what the compiler did."""

    out: Path
    checks: list[LayerCheck]
    report: list[str]
    accuracy: dict[str, float]
    lava: dict[str, Any] | None


def export_netx(
    checkpoint: Path, out: Path, inputs: dict[str, np.ndarray], labels: np.ndarray, label_names: list[str], *,
    verify_lava: int, quiet: bool, allow_saturation: bool = False, say: Callable[[str], None] = lambda _: None,
) -> ExportResult:  # fmt: skip
    """Compile, write and verify; nothing is left at ``out`` unless every check passed.

    Parameters
    ----------
    inputs : dict
        Verification windows per modality, usually the whole test set (`taaf.training.sources.Windows`).
    verify_lava : int
        Also run this many windows through the Lava runtime (0: none).
    allow_saturation : bool
        Also accept layers whose u or v is not proven to stay within 24 bits. Verification still decides on all windows.

    Raises
    ------
    CheckpointError, UnsupportedLayerError, LimitExceededError, ParityError, BundleError, BackendUnavailableError
        Each naming what is wrong and where.
    """
    model, content = load_model(checkpoint)
    report = CompileReport()
    unlowered: dict[str, Graph] = {}
    chains: dict[str, Graph] = {}
    intervals: dict[str, list[LayerIntervals]] = {}
    config = model.config
    window = max(config.event_steps, config.audio_steps)
    for name, graph in float_graphs(model).items():
        unlowered[name], chains[name] = compile_graph(graph, saturate=True, report=report)
        intervals[name] = analyse_checked(chains[name], window, allow_saturation, report)
    encoders = host_encoders(model)
    inputs = {m: x if m in encoders else in_shape(x, chains[m]) for m, x in inputs.items()}
    for name, encoder in encoders.items():
        share = 100 * encoder.peak * 4096 / max(1, encoder.v_decay) / (1 << 24)
        proven = "proven" if share < 100 and encoder.v_decay else "not proven: only the verified windows tell"
        report.say(
            f"encoder: {name}: {encoder.n_macs:,} MACs per step on the host; {share:.3g} % of training's float32, {proven}"
        )
    steps = dict(zip(config.modalities, (config.event_steps, config.audio_steps), strict=True))
    found: dict[str, Any] = {}
    data = {k: v for k, v in content["config"].get("data", {}).items() if k not in ("root", "cache", "workers")}

    def fill(stage: Path) -> None:
        for name, graph in chains.items():
            write_netx(graph, stage / f"{name}.net")
        for name, encoder in encoders.items():
            np.savez(stage / f"encoder_{name}.npz", **encoder.arrays())
        np.savez(stage / "head.npz", **head_arrays(model))
        found["golden"] = _trained_results(model, unlowered, inputs, labels)
        np.savez_compressed(stage / "golden.npz", **found["golden"])

    def check(stage: Path) -> None:
        say("verifying on every window: SLAYER forward = integer reference = engine on the re-read files")
        found["checks"] = _verify(model, stage, unlowered, inputs, report, quiet, say)
        found["lava"] = _verify_on_lava(stage, verify_lava) if verify_lava else None

    manifest = {
        "model": MODEL_NAMES[config.head], "data": data, "labels": label_names, "window_steps": window,
        "branches": {
            m: {
                "file": f"{m}.net", "input_shape": list(chains[m].input.shape), "input_steps": steps[m],
                "reset_interval": window, "reset_offset": 1, "output_delay": len(chains[m].lifs()),
                "layers": [{"name": n.name, "delay": i + 1} for i, n in enumerate(chains[m].lifs())],
                "relays": report.relays_of(chains[m]),
                "ann_macs": dense_macs(unlowered[m]), **_encoder_entry(m, encoders.get(m), data.get("set", "ead-mini")),
                "intervals": [row.to_dict() for row in intervals[m]],
            } for m in config.modalities
        },
        "head": {"file": "head.npz", "type": config.head, **head_spec(model), "aligned_steps": config.aligned_steps},
        "golden": {"file": "golden.npz", "source": "SLAYER CPU forward and float64 head of the checkpoint"},
        "allow_saturation": allow_saturation, "compiler": report.lines,
        "training": {"checkpoint_sha256": sha256(checkpoint), "config": content["config"], "metrics": content.get("metrics")},
        "tools": installed_versions(_TOOLS),
    }  # fmt: skip
    write_bundle(out, manifest, fill, check)
    accuracy = {u: float(100 * (found["golden"][f"predictions_{u}"] == labels).mean()) for u in ("fused", *config.modalities)}
    return ExportResult(out, found["checks"], report.lines, accuracy, found["lava"])


def windows_to_verify(config: ModelConfig) -> int:
    """How many windows are verified unless told otherwise: fewer of branches with real-valued input, by the size of their maps."""
    widths = {"resnet18": config.resnet_width, "sps_real": config.token_channels}
    kinds = dict(zip(config.modalities, (config.first_branch, config.audio_branch), strict=True))
    macs = 0.0
    for m in config.input_scales:
        pixels = int(np.prod(config.input_shapes[m][1:]))
        macs += _CHIP_MACS[kinds[m]] * (widths[kinds[m]] / 64) ** 2 * pixels / 224**2
    macs *= max(config.event_steps, config.audio_steps)
    return max(1, int(_VERIFY_MACS / max(1.0, macs)))


def _encoder_entry(name: str, encoder: HostEncoder | None, data_set: str) -> dict[str, Any]:
    """What the manifest says about how inputs become spikes."""
    if encoder is None:
        return {"encoder": ENCODERS.get(data_set, {}).get(name, BINNED)}
    return {"encoder": CONVOLVED, "encoder_file": f"encoder_{name}.npz", "encoder_spec": encoder.spec()}


def analyse_checked(graph: Graph, window: int, allow_saturation: bool, report: CompileReport) -> list[LayerIntervals]:
    """Refuse what is beyond the limits; say what is proven of each layer and what saturation was allowed for."""
    check_limits(graph, window_steps=window, allow_saturation=allow_saturation)
    rows = analyse(graph, window)
    for row in rows:
        report.say(str(row))
        for line in row.saturation():
            report.say(f"--allow-saturation: {line}")
    return rows


def head_spec(model: TaafSnn) -> dict[str, Any]:
    """What `taaf.models.host_heads.host_head` must know beside the arrays."""
    spec: dict[str, Any] = model.head.spec()
    return spec


def head_arrays(model: TaafSnn) -> dict[str, np.ndarray]:
    """The host head's arrays in float64; alignment already on its grid."""
    arrays = model.head.arrays()
    for m in model.config.modalities:
        weight, bias = model.align[m].quantised()
        arrays |= {f"align_{m}_weight": weight, f"align_{m}_bias": bias}
    return {k: v.detach().double().numpy() for k, v in arrays.items()}


def _trained_results(
    model: TaafSnn, graphs: dict[str, Graph], inputs: dict[str, np.ndarray], labels: np.ndarray
) -> dict[str, np.ndarray]:
    """Feature spikes (packed bits), logits and predictions of the trained model, in evaluation batches."""
    parts: dict[str, list[np.ndarray]] = {}
    names, scales = model.config.modalities, model.config.input_scales
    for rows in blocks_of(len(labels), graphs.values(), model.config.event_steps, 250):
        block = [torch.from_numpy(inputs[m][rows].astype(np.float32) / np.float32(scales.get(m, 1))) for m in names]
        features, output = model.predict(*block)
        for m in names:
            parts.setdefault(f"features_{m}", []).append(features[m].numpy().astype(np.uint8))
        for u in output.logits:
            parts.setdefault(f"logits_{u}", []).append(output.decision(u).numpy())
    joined = {k: np.concatenate(v) for k, v in parts.items()}
    golden = {k: np.packbits(v) if k.startswith("features") else v for k, v in joined.items()}
    golden |= {f"predictions_{u}": joined[f"logits_{u}"].argmax(1).astype(np.uint8) for u in ("fused", *names)}
    return {
        **{k: v for k, v in golden.items() if not k.startswith("logits")},
        "logits": joined["logits_fused"],
        "labels": labels,
    }


def _verify(
    model: TaafSnn, stage: Path, unlowered: dict[str, Graph], inputs: dict[str, np.ndarray], report: CompileReport,
    quiet: bool, say: Callable[[str], None],
) -> list[LayerCheck]:  # fmt: skip
    bundle = read_bundle(stage)
    checks: list[LayerCheck] = []
    features: dict[str, np.ndarray] = {}
    total = sum(len(x) for x in inputs.values())
    with tqdm(total=total, desc="verify", unit="window", disable=quiet or None, leave=False) as bar:
        for name, graph in bundle.graphs.items():
            spikes = inputs[name]
            if name in bundle.encoders:
                check, spikes = verify_encoder(model, name, bundle.encoders[name], spikes)
                checks.append(check)
            branch, features[name] = verify_branch(model, graph, unlowered[name], spikes, report.relays_of(graph), bar.update)
            checks += branch
            features[name] = bundle.features_of(name, features[name])
    for line in checks:
        say(str(line))
    require_exact(checks)
    for finding in filter(None, (c.finding for c in checks)):
        report.say(f"finding: {finding}")
    windows = len(inputs[model.config.first_name])
    for rows in blocks_of(windows, bundle.graphs.values(), bundle.window_steps, 250):
        block = {m: f[rows] for m, f in features.items()}
        _verify_head(model, bundle.head(block), block)
    say(f"✓ host head: NumPy float64 = torch float64 on {windows} windows (<= {_LOGIT_TOLERANCE:g}, argmax equal)")
    return checks


def _verify_head(model: TaafSnn, numpy_head: HeadOutput, features: dict[str, np.ndarray]) -> None:
    with torch.no_grad():
        output = deployed_forward(model.align, model.head, {m: torch.from_numpy(f) for m, f in features.items()})
    for u, logits in numpy_head.logits.items():
        trained = output.decision(u).numpy()
        worst = float(np.abs(trained - logits).max())
        moved = int((trained.argmax(1) != logits.argmax(1)).sum())
        if worst > _LOGIT_TOLERANCE or moved:
            raise ParityError(f"host head, output {u}: logits differ by {worst:.3g} and {moved} decisions from torch")


def _verify_on_lava(stage: Path, n_windows: int) -> dict[str, Any]:
    """Run the staged bundle with taaf-deploy in its own process (Lava forks; the exporter must not import it)."""
    command = [sys.executable, "-m", "taaf.deploy.cli", str(stage), "--backend", "sim", "--samples", str(n_windows)]
    process = subprocess.Popen([*command, "--json", "-q"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
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
