"""A user's own network: recorded from its torch module, or read from .net files, with a head and windows to prove it on."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from taaf.export.bundle.manifest import MAX_TEXT
from taaf.export.netx_bundle import ExportResult, export_netx
from taaf.export.own_code import Module
from taaf.export.recorded import ONNX_TOLERANCE, RecordedNetwork, Spikes, head_to_onnx
from taaf.export.recorder import Evidence, Recording, record
from taaf.export.trained import blocks_of
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.reference import run_reference
from taaf.models.config import MODALITY
from taaf.models.errors import ConfigError, DataError, UnsupportedLayerError, did_you_mean
from taaf.models.files.writing import sha256
from taaf.models.heads import find_head
from taaf.models.heads.base import FUSED, Features
from taaf.models.host_head import HostHead
from taaf.models.ir import Graph

OWN = "own"  # the head that the user's module brings
HEADS = ("rate", "none", OWN)


def to_bundle(
    model: "Module | RecordedNetwork", inputs: Mapping[str, Any] | None = None, labels: Any = None, *, out: Path | str,
    head: "str | nn.Module | None" = None, label_names: list[str] | None = None, verify_lava: int = 0,
    allow_saturation: bool = False, say: Callable[[str], None] = lambda _: None,
) -> ExportResult:  # fmt: skip
    """Compile a network of lava-dl SLAYER parts into a verified bundle.

    Every spike of SLAYER's forward on ``inputs`` is compared with the compiled network before anything is written.

    Parameters
    ----------
    model : torch.nn.Module, dict or RecordedNetwork
        As `record_network`.
    inputs : dict
        Modality -> windows (N, *shape, T) of zeros and ones, shape (C, H, W) or (F,); not with a `RecordedNetwork`.
    labels : array, optional
        (N,) class indices; without them no accuracy is claimed.
    out : Path
        The bundle's folder; an existing bundle is replaced.
    head : str or torch.nn.Module, optional
        As `record_network`.
    verify_lava : int
        Also run this many windows on the Lava runtime.

    Returns
    -------
    ExportResult
        What was proven, the compiler's report, the accuracy.

    Raises
    ------
    UnsupportedLayerError, LimitExceededError, ParityError, DataError, ConfigError
        Naming what has no exact form, with the user's file and line.

    Examples
    --------
    >>> from taaf import export
    >>> export.to_bundle(net, {"event": windows}, labels, head="rate", out="bundle").accuracy  # doctest: +SKIP
    {'fused': 97.5, 'event': 97.5}
    """
    if isinstance(model, RecordedNetwork):
        network = model
    else:
        if inputs is None:
            raise ConfigError("to_bundle: inputs are needed, {modality: windows (N, *shape, T)}")
        network = record_network(model, inputs, labels, head=head, label_names=label_names)
    return export_netx(
        network, Path(out), network.windows(), network.labels, network.label_names, verify_lava=verify_lava,
        allow_saturation=allow_saturation, say=say,
    )  # fmt: skip


def record_network(
    model: Module, inputs: Mapping[str, Any], labels: Any = None, *, head: "str | nn.Module | None" = None,
    label_names: list[str] | None = None,
) -> RecordedNetwork:  # fmt: skip
    """Turn a torch module into integer graphs, with SLAYER's spikes on all windows as evidence.

    Parameters
    ----------
    model : torch.nn.Module or dict
        Takes the modalities in the order of ``inputs``; or one module per modality, optionally with "head", a module that takes
        their outputs. It is run in eval mode and left as it was.
    inputs : dict
        Modality -> windows (N, *shape, T) of zeros and ones.
    labels : array, optional
        (N,) class indices.
    head : str or torch.nn.Module, optional
        "rate": the class whose output neurons fire most; "none": the spikes that leave the chip are the result; "own": what the module does
        behind the chip; or a torch module that takes the output spikes (N, *shape, T) of every modality in order and returns
        logits (N, C). By default the module's own if it has one, else "rate" with labels and "none" without.
    label_names : list of str, optional
        By default "0", "1", ... With head "rate" they say how many classes there are, each of equally many output neurons;
        without names every output neuron is a class.

    Raises
    ------
    UnsupportedLayerError, DataError, ConfigError
        Naming what has no exact form, with the user's file and line.
    """
    windows = {m: _spikes(m, x) for m, x in inputs.items()}
    if isinstance(head, nn.Module):
        if not isinstance(model, Mapping):
            raise ConfigError(
                "head: a torch module goes with a dictionary of branch modules; put it into the model's forward otherwise"
            )
        model, head = {**model, "head": head}, OWN
    example = {m: torch.from_numpy(x[:1].astype(np.float32)) for m, x in windows.items()}
    recording = record(model, example)
    steps = {m: x.shape[-1] for m, x in windows.items()}
    _require_shown(recording, steps)
    evidence = recording.trace(windows)
    known = _labels(labels, len(next(iter(windows.values()))))
    kind = head or (OWN if recording.host is not None else "rate" if known is not None else "none")
    if kind not in HEADS:
        raise ConfigError(f"head (={kind!r}): unknown; {did_you_mean(kind, HEADS)}")
    if (kind == OWN) != (recording.host is not None) and kind != "none":
        raise ConfigError(
            f"head (={kind!r}): the module {'computes on the host behind its spikes' if recording.host else 'ends in spikes'}; "
            f"allowed {'own, none' if recording.host else 'rate, none'}"
        )
    features = {m: Features(g.shapes[g.output], steps[m]) for m, g in recording.graphs.items()}
    names = _class_names(kind, features, label_names or [], known)
    host, logits, tolerance, names = _head(kind, recording, evidence, features, names)
    return RecordedNetwork(
        recording.graphs, host, steps, {m: Spikes.of(x) for m, x in windows.items()}, known, names,
        {m: _kept(recording.graphs[m], evidence, m) for m in recording.graphs}, logits, tolerance, {"checkpoint_sha256": "", "config": {}},
        name="own network" if isinstance(model, Mapping) else recording.name,
    )  # fmt: skip


def _require_shown(recording: Recording, steps: Mapping[str, int]) -> None:
    """Refuse windows of which SLAYER shows no step at its output: nothing could be compared there."""
    for m, lag in recording.output_lags.items():
        if steps[m] <= lag:
            raise DataError(
                f"{recording.name}: {m} has windows of {steps[m]} steps, and SLAYER's delay_shift hides {lag}, so that nothing of its "
                "output is known; give longer windows"
            )


def _class_names(kind: str, features: Mapping[str, Features], given: list[str], labels: np.ndarray | None) -> list[str]:
    """Names of the classes: those given, or else numbers; head "rate" has a class per output neuron unless names say how many."""
    if strange := [n for n in given if not n.isprintable() or len(n) > MAX_TEXT]:
        raise DataError(f"names: {strange[0][:40]!r}: allowed printable texts of up to {MAX_TEXT} characters")
    highest = -1 if labels is None else int(labels.max(initial=-1))
    if kind != "rate":
        names = given or [str(k) for k in range(highest + 1)]
    else:
        fewest = min(x.size for x in features.values())
        grouped = given and not any(x.size % len(given) for x in features.values())
        names = given if grouped else [*given, *map(str, range(len(given), fewest))]
        if len(names) > fewest:
            raise DataError(f"names lists {len(names)} classes, head rate decides between {fewest} output neurons")
    if highest >= len(names):
        raise DataError(f"labels go up to {highest}, there are {len(names)} classes ({'names' if given else 'output neurons'})")
    return names


def _spikes(name: str, x: Any) -> np.ndarray:
    if not MODALITY.fullmatch(name):
        raise ConfigError(
            f"inputs: {name[:40]!r}: a modality is named with up to 32 lower-case letters, digits and _, from a letter on"
        )
    array = np.asarray(x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x)
    if array.ndim not in (3, 5) or 0 in array.shape or not ((array == 0) | (array == 1)).all():
        raise DataError(
            f"inputs: {name} is {array.dtype} {array.shape}; allowed zeros and ones (windows, F, steps) or (windows, C, H, W, steps)"
        )
    return array.astype(np.uint8)


def _labels(labels: Any, n: int) -> np.ndarray | None:
    if labels is None:
        return None
    found = np.asarray(labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else labels)
    if found.shape != (n,) or found.dtype.kind not in "iu" or found.min(initial=0) < 0:
        raise DataError(f"labels: {found.dtype} {found.shape}; allowed whole numbers ({n},) from 0 on")
    return found.astype(np.int64)


def _kept(graph: Graph, evidence: Evidence, modality: str) -> dict[str, Spikes]:
    """SLAYER's spikes of every population, and of the output where that is none, cut where SLAYER's window ends."""
    found = {n: x[..., : evidence.steps[modality][n]] for n, x in evidence.spikes[modality].items()}
    if graph.output not in found:
        found[graph.output] = evidence.features[modality][..., : evidence.feature_steps[modality]]
    return {n: Spikes.of(np.ascontiguousarray(x)) for n, x in found.items()}


_Found = tuple[HostHead, dict[str, np.ndarray], float, list[str]]


def _head(kind: str, recording: Recording, evidence: Evidence, features: Mapping[str, Features], names: list[str]) -> _Found:
    if kind == OWN:
        return _own_head(recording, evidence, features, names)
    find = find_head(kind)
    if kind == "none":
        return HostHead({}, find(features, len(names), find.options_type())), {}, 0.0, names
    classes = len(names)
    shown = {m: x.steps - recording.output_lags[m] for m, x in features.items()}
    hidden = any(recording.output_lags[m] for m in features)
    host = HostHead({}, find(features, classes, find.options_type(tuple(shown.values()) if hidden else ())))
    seen = {m: evidence.features[m][..., :n] for m, n in shown.items()}  # as SLAYER's user counts: all that leaves the module
    logits = {m: x.reshape(len(x), classes, -1).sum(-1).astype(np.float64) for m, x in seen.items()}
    fused = sum(logits.values(), np.zeros(()))
    own = sum((x.reshape(len(x), classes, -1).sum(-1) for x in evidence.outputs), np.zeros(()))
    if not np.array_equal(fused, own):
        raise UnsupportedLayerError(
            f"{recording.name}: its spikes counted on the chip are not those that leave the module (axonal delays behind its last "
            "neurons push some out of the window); leave the delays out there, or take head none"
        )
    return host, {FUSED: fused, **logits}, 0.0, names


def _own_head(recording: Recording, evidence: Evidence, features: Mapping[str, Features], names: list[str]) -> _Found:
    host = recording.host
    assert host is not None
    given = {m: torch.from_numpy(evidence.features[m].astype(np.float32)) for m in features}
    silent = {m: torch.zeros_like(x) for m, x in given.items()}
    with torch.no_grad():
        readout = host(*given.values())
        if not isinstance(readout, torch.Tensor) or readout.dim() != 2:
            shape = tuple(readout.shape) if isinstance(readout, torch.Tensor) else type(readout).__name__
            raise ConfigError(
                f"{recording.name}: behind the chip it returns {shape}; a head returns logits (windows, classes): read out over "
                "time in forward, or end in spikes and take head rate"
            )
        if not torch.isfinite(readout).all():
            window = int((~torch.isfinite(readout)).any(1).nonzero()[0])
            raise ConfigError(
                f"{recording.name}: its logits of window {window} are NaN or infinite; correct forward, or the weights"
            )
        first = host(*(x[:1] for x in given.values()))
        if not (first - readout[:1]).abs().max() <= ONNX_TOLERANCE * readout[:1].abs().max().clamp_min(1):
            raise ConfigError(
                f"{recording.name}: decides otherwise on a window alone than on a batch; a chip sees one window at a time: leave out "
                "what mixes the windows of a batch behind the spikes"
            )
        alone = {m: host(*(given[n] if n == m else silent[n] for n in given)) for m in given}
    logits = {FUSED: readout, **alone}
    model = head_to_onnx(host, [x[:2] for x in given.values()])
    classes = readout.shape[1]
    if len(names) > classes:
        raise DataError(f"labels go up to {len(names) - 1}, the head decides between {classes} classes")
    names = [*names, *map(str, range(len(names), classes))]
    kind = find_head("onnx")
    head = HostHead({"onnx": model}, kind(features, classes, kind.options_type(len(model), False, ONNX_TOLERANCE)))
    return head, {u: x.double().numpy() for u, x in logits.items()}, ONNX_TOLERANCE, names


class FileNetwork(RecordedNetwork):
    """Branches read from .net files: no training is known of them, the integer reference is what proves the rest."""

    def traces(self, modality: str, spikes: np.ndarray) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
        graph = self.graphs[modality]
        for rows in blocks_of(len(spikes), [graph], spikes.shape[-1], 100):
            runs = [run_reference(graph, w).spikes for w in spikes[rows]]
            yield rows, {name: np.stack([r[name] for r in runs]) for name in runs[0]}


def file_network(
    branches: Mapping[str, Path], graphs: Mapping[str, Graph], inputs: Mapping[str, Any], labels: Any, head: str | None,
    label_names: list[str],
) -> FileNetwork:  # fmt: skip
    """Branches of the integer stage, however they came, with a head "rate" or "none".

    Raises
    ------
    ConfigError, DataError
        If head, windows and branches do not fit together.
    """
    windows = {m: _spikes(m, inputs[m]) for m in graphs}
    known = _labels(labels, len(next(iter(windows.values()))))
    kind = head or ("rate" if known is not None else "none")
    if kind not in ("rate", "none"):
        raise ConfigError(f"--head {kind}: branches of files take rate or none")
    for m, graph in graphs.items():
        if windows[m].shape[1:-1] != graph.input.shape:
            raise DataError(f"inputs: {m} is {windows[m].shape[1:-1]} per step, {branches[m]} takes {graph.input.shape}")
    steps = {m: x.shape[-1] for m, x in windows.items()}
    features = {m: Features(g.shapes[g.output], steps[m]) for m, g in graphs.items()}
    names = _class_names(kind, features, label_names, known)
    find = find_head(kind)
    host = HostHead({}, find(features, len(names), find.options_type()))
    outputs = {m: Engine(g).run(windows[m]).spikes[g.output] for m, g in graphs.items()}
    logits = host({m: x.reshape(len(x), -1, x.shape[-1]) for m, x in outputs.items()}).logits
    sums = {m: sha256(p) for m, p in branches.items()}
    return FileNetwork(
        dict(graphs), host, steps, {m: Spikes.of(x) for m, x in windows.items()}, known, names, {m: {} for m in graphs}, logits, 0.0,
        {"checkpoint_sha256": next(iter(sums.values())), "config": {}, "files": sums}, name="network of files",
        proven_by="integer reference of the given files; nothing is known of their training",
    )  # fmt: skip
