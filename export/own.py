"""A user's own network: recorded from its torch module, or read from .net files, with a head and windows to prove it on."""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from taaf.export.netx_bundle import ExportResult, export_netx
from taaf.export.recorded import RecordedNetwork, Spikes, head_to_onnx
from taaf.export.recorder import Evidence, Recording, record
from taaf.export.trained import blocks_of
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.reference import run_reference
from taaf.models.errors import CheckpointError, ConfigError, DataError, did_you_mean
from taaf.models.files.torch_archive import read_tensor_archive
from taaf.models.files.writing import sha256
from taaf.models.heads import find_head
from taaf.models.heads.base import FUSED, Features
from taaf.models.host_head import HostHead
from taaf.models.ir import Graph
from taaf.models.slayer_lif import require_lava_dl

Module = nn.Module | Mapping[str, nn.Module]
OWN = "own"  # the head that the user's module brings
HEADS = ("rate", "none", OWN)
ONNX_TOLERANCE = 1e-4


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
        Class names; by default "0", "1", ... With head "rate" every class has one output neuron, or, where names are given and
        there are more neurons, as many each, one class after the other.

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
    names = label_names or ([] if known is None else [str(k) for k in range(int(known.max(initial=0)) + 1)])
    steps = {m: x.shape[-1] for m, x in windows.items()}
    features = {m: Features(g.shapes[g.output], steps[m]) for m, g in recording.graphs.items()}
    host, logits, tolerance, names = _head(kind, recording, evidence, features, names, label_names is not None)
    return RecordedNetwork(
        recording.graphs, host, steps, {m: Spikes.of(x) for m, x in windows.items()}, known, names,
        {m: _kept(recording.graphs[m], evidence, m) for m in recording.graphs}, logits, tolerance, {"checkpoint_sha256": "", "config": {}},
        name="own network" if isinstance(model, Mapping) else recording.name,
        hidden_steps={m: n for m, n in recording.output_lags.items() if n},
    )  # fmt: skip


def _spikes(name: str, x: Any) -> np.ndarray:
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


def _rate_names(features: Mapping[str, Features], names: list[str], told: bool) -> list[str]:
    """Class names of head "rate": a neuron per class, or as many per class as the user's own list of names (``told``) leaves."""
    if told:
        return names
    n = min(x.size for x in features.values())
    if len(names) > n:
        raise DataError(
            f"labels go up to {len(names) - 1}, {n} output neurons decide between {n} classes; give label_names for more per class"
        )
    return [str(k) for k in range(n)]


def _head(
    kind: str, recording: Recording, evidence: Evidence, features: Mapping[str, Features], names: list[str], told: bool
) -> _Found:
    if kind == OWN:
        return _own_head(recording, evidence, features, names)
    find = find_head(kind)
    if kind == "none":
        return HostHead({}, find(features, len(names), find.options_type())), {}, 0.0, names
    names = _rate_names(features, names, told)
    classes = len(names)
    left = {m: x.steps - recording.output_lags[m] for m, x in features.items()}  # steps that leave SLAYER's module
    hidden = any(left[m] < x.steps for m, x in features.items())
    if min(left.values()) < 1:
        raise DataError(
            f"windows of {', '.join(str(x.steps) for x in features.values())} steps: none leaves the module, which delays more"
        )
    host = HostHead({}, find(features, classes, find.options_type(tuple(left.values()) if hidden else ())))
    counts = {}
    for m in features:  # as SLAYER's user counts: all that leaves the module
        spikes = evidence.features[m][..., : left[m]]
        counts[m] = spikes.reshape(len(spikes), classes, -1).sum(-1).astype(np.float64)
    return host, {FUSED: sum(counts.values(), np.zeros(())), **counts}, 0.0, names


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


def import_module(spec: str) -> Module:
    """Call ``file.py:function`` (or ``module:function``), which is the user's own code, and return its module or modules.

    Raises
    ------
    ConfigError
        If it cannot be imported, or returns something else.
    """
    require_lava_dl()  # quietly, before the user's file imports it
    path, _, function = spec.rpartition(":")
    if not path or not function.isidentifier():
        raise ConfigError(f"{spec}: expected FILE.py:FUNCTION, a function without arguments that builds the network")
    try:
        found = getattr(_import(path), function)
    except (Exception, SystemExit) as error:  # whatever the user's file does
        raise ConfigError(f"{spec}: cannot be imported ({type(error).__name__}: {error})") from error
    try:
        required = [
            p for p in inspect.signature(found).parameters.values() if p.default is p.empty and p.kind < p.VAR_POSITIONAL
        ]
        if required:
            raise TypeError(f"needs arguments: {', '.join(p.name for p in required)}")
        model = found()
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{spec}: {function}() failed ({type(error).__name__}: {error})") from error
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, Mapping) and model and all(isinstance(m, nn.Module) for m in model.values()):
        return dict(model)
    raise ConfigError(f"{spec}: {function}() returned {type(model).__name__}; allowed a torch module or {{modality: module}}")


def _import(path: str) -> Any:
    file = Path(path)
    if file.suffix != ".py":
        return importlib.import_module(path)
    if not file.is_file():
        raise FileNotFoundError(f"no such file {file}")
    sys.path.insert(0, str(file.resolve().parent))  # what it imports lies beside it
    module_spec = importlib.util.spec_from_file_location(file.stem, file)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[file.stem] = module
    module_spec.loader.exec_module(module)
    return module


def load_weights(model: Module, path: Path, inputs: Mapping[str, np.ndarray]) -> None:
    """Load a state dict, which is not trusted, into the user's module or modules.

    The module runs once first: SLAYER makes the decays and delays of its neurons at the first forward.

    Raises
    ------
    CheckpointError
        If the file is none, or does not fit; names the first key that does not.
    """
    try:
        content = read_tensor_archive(path)
    except ValueError as error:
        raise CheckpointError(f"{path}: not a readable state dict: {error}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path}: holds {type(content).__name__}; allowed a state dict, torch.save(model.state_dict(), path)"
        )
    for key in ("state_dict", "model_state_dict", "model", "state"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    modules = {"": model} if isinstance(model, nn.Module) else dict(model)
    for name, module in modules.items():
        given = [x for m, x in inputs.items() if name in ("", m)]
        state = content.get(name) if name and isinstance(content.get(name), Mapping) else content
        if name and state is content:
            state = {k.removeprefix(f"{name}."): v for k, v in content.items() if k.startswith(f"{name}.")}
        where = f"{path} ({name})" if name else str(path)
        _load(module, dict(state or {}), [torch.from_numpy(x[:1].astype(np.float32)) for x in given], where)


def _load(module: nn.Module, state: dict[str, torch.Tensor], inputs: list[torch.Tensor], where: str) -> None:
    if inputs:
        was_training = module.training
        with torch.no_grad():
            module.eval()(*inputs)
        module.train(was_training)
    try:
        wrong = module.load_state_dict(state, strict=False)
    except Exception as error:  # shapes
        raise CheckpointError(f"{where}: does not fit the network ({str(error).splitlines()[-1].strip()})") from error
    if problem := [*wrong.missing_keys, *wrong.unexpected_keys][:1]:
        kind = "missing in the file" if wrong.missing_keys else "not in the network"
        raise CheckpointError(f"{where}: {problem[0]} is {kind}; give the weights of this very network")


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
    steps = {m: x.shape[-1] for m, x in windows.items()}
    features = {m: Features(g.shapes[g.output], steps[m]) for m, g in graphs.items()}
    names = label_names or ([] if known is None else [str(k) for k in range(int(known.max(initial=0)) + 1)])
    if kind == "rate":
        names = _rate_names(features, names, bool(label_names))
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
