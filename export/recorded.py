"""A network of the user's as the exporter sees it: integer graphs, the head, and SLAYER's own spikes as evidence.

It is made once where the user's module and SLAYER are (`record_network`), can be kept in a file, and is exported or fitted from
there without either.
"""

import io
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from taaf.export.checkpointed import TrainedNetwork
from taaf.export.trained import Traced, blocks_of
from taaf.models.checkpoint import FORMAT, VERSION, read_checkpoint
from taaf.models.config import MAX_STEPS, MODALITY
from taaf.models.encoder import HostEncoder
from taaf.models.errors import CheckpointError, TaafError, UnsupportedLayerError
from taaf.models.files.writing import sha256, write_at_once
from taaf.models.heads.base import Features
from taaf.models.host_head import HostHead
from taaf.models.ir import Graph
from taaf.models.ir.plain import from_plain, to_plain

KIND = "recorded"
ONNX_TOLERANCE = 1e-4  # of a head of the user's: between torch and onnxruntime, both float32


@dataclass(frozen=True)
class Spikes:
    """Spikes as bits: (N, *shape, T) uint8 in {0, 1}."""

    bits: np.ndarray
    shape: tuple[int, ...]

    @staticmethod
    def of(values: np.ndarray) -> "Spikes":
        return Spikes(np.packbits(values.reshape(len(values), -1), axis=1), values.shape)

    def holds(self, shape: tuple[int, ...], fewest: int, most: int) -> bool:
        """Whether these are spikes (*shape, T) with T from ``fewest`` to ``most``, and all bits are there."""
        size = -(-math.prod(self.shape[1:]) // 8)
        fits = self.bits.dtype == np.uint8 and self.bits.shape == (shape[0], size)
        return fits and self.shape[:-1] == shape and fewest <= self.shape[-1] <= most

    def rows(self, rows: slice) -> np.ndarray:
        """Some windows."""
        bits, n = self.bits[rows], int(np.prod(self.shape[1:]))
        return np.unpackbits(bits, axis=1, count=n).reshape(len(bits), *self.shape[1:])


@dataclass(eq=False)
class RecordedNetwork:
    """`taaf.export.trained.Trained`, of a user's module.

    Attributes
    ----------
    graphs : dict
        Modality -> integer graph.
    head : HostHead
        The host part.
    steps : dict
        Modality -> time steps of a window.
    inputs : dict
        Modality -> the windows it was recorded on.
    labels : numpy.ndarray or None
        Their classes.
    label_names : list of str
        Class names.
    evidence : dict
        Modality -> population -> SLAYER's spikes on these windows; time may end earlier (``delay_shift``).
    logits : dict
        Output of the head -> torch's readout of these windows, (N, C) float64.
    """

    graphs: dict[str, Graph]
    head: HostHead
    steps: dict[str, int]
    inputs: dict[str, Spikes]
    labels: np.ndarray | None
    label_names: list[str]
    evidence: dict[str, dict[str, Spikes]]
    logits: dict[str, np.ndarray]
    logit_tolerance: float
    provenance: dict[str, Any]
    name: str = "own network"
    proven_by: str = "SLAYER CPU forward of the user's module, recorded on these windows"
    encoders: dict[str, HostEncoder] = field(default_factory=dict)

    def windows(self) -> dict[str, np.ndarray]:
        """The windows it was recorded on, (N, *shape, T) per modality."""
        return {m: x.rows(slice(None)) for m, x in self.inputs.items()}

    def traces(self, modality: str, spikes: np.ndarray) -> Iterator[Traced]:
        known = self.inputs[modality]
        for rows in blocks_of(len(spikes), [self.graphs[modality]], spikes.shape[-1], 100):
            if not np.array_equal(spikes[rows].reshape(-1), known.rows(rows).reshape(-1)):
                raise CheckpointError(f"{modality}: other windows than the network was recorded on; record it again with them")
            yield rows, {name: found.rows(rows) for name, found in self.evidence[modality].items()}

    def encoded(self, modality: str, levels: np.ndarray) -> np.ndarray:
        raise CheckpointError(f"{modality}: a recorded network has no encoder on the host")

    def decided(self, rows: slice, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {u: logits[rows] for u, logits in self.logits.items()}

    def save(self, path: Path) -> None:
        """Write one file of tensors and numbers; raises `OutputError` if it cannot be written."""
        content = {
            "format": FORMAT, "version": VERSION, "kind": KIND, "graphs": {m: to_plain(g, _tensor) for m, g in self.graphs.items()},
            "steps": self.steps, "inputs": _packed(self.inputs), "label_names": self.label_names,
            "labels": None if self.labels is None else _tensor(self.labels),
            "evidence": {m: _packed(found) for m, found in self.evidence.items()},
            "logits": {u: _tensor(x) for u, x in self.logits.items()}, "logit_tolerance": self.logit_tolerance,
            "head": {"spec": self.head.head.spec(), "arrays": {k: _tensor(v) for k, v in self.head.arrays.items()}},
        }  # fmt: skip
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_at_once(path, buffer.getvalue())

    @staticmethod
    def load(path: Path) -> "RecordedNetwork":
        """Inverse of `save`, of a file that is not trusted; raises `CheckpointError` that says what is wrong with it."""
        return RecordedNetwork._of(path, read_checkpoint(path))

    @staticmethod
    def _of(path: Path, content: dict[str, Any]) -> "RecordedNetwork":
        try:
            labels = content["labels"]
            found = RecordedNetwork(
                {m: from_plain(g, _array) for m, g in content["graphs"].items()},
                HostHead({k: _array(v) for k, v in content["head"]["arrays"].items()}, content["head"]["spec"]),
                {m: int(n) for m, n in content["steps"].items()}, _unpacked(content["inputs"]),
                None if labels is None else _array(labels), [str(n) for n in content["label_names"]],
                {m: _unpacked(found) for m, found in content["evidence"].items()},
                {u: _array(x) for u, x in content["logits"].items()}, float(content["logit_tolerance"]),
                {"checkpoint_sha256": sha256(path), "config": {}},
            )  # fmt: skip
            if problem := next(found._misfits(), None):
                raise CheckpointError(f"{problem}; record the network again")
            return found
        except TaafError as error:
            raise CheckpointError(f"{path}: {error}") from error
        except Exception as error:  # of values that nobody checked
            raise CheckpointError(f"{path}: not a recorded network ({type(error).__name__}: {error})") from error

    def _misfits(self) -> Iterator[str]:
        """What of a stored network does not fit together; what comes after the first may fail."""
        n = len(next(iter(self.inputs.values())).bits) if self.inputs else 0
        head = self.head.head
        if not n or not self.graphs.keys() == self.steps.keys() == self.inputs.keys() == self.evidence.keys():
            yield "graphs, steps, inputs and evidence are not of the same modalities, one or more, or hold no windows"
        if head.modalities != tuple(self.graphs) or not all(MODALITY.fullmatch(m) for m in self.graphs):
            yield f"the head reads {', '.join(head.modalities)}, the graphs are {', '.join(self.graphs)}"
        for m, graph in self.graphs.items():
            steps, taken = self.steps[m], head.inputs[m]
            if not 1 <= steps <= MAX_STEPS or taken != Features(graph.shapes[graph.output], steps):
                yield f"{m}: {steps} steps and output {graph.shapes[graph.output]}, the head takes {taken}"
            if not self.inputs[m].holds((n, *graph.input.shape), steps, steps):
                yield f"{m}: its windows are {self.inputs[m].shape}, its graph takes {graph.input.shape} at {steps} steps"
            for name in dict.fromkeys([*(lif.name for lif in graph.lifs()), graph.output]):
                if name not in self.evidence[m] or not self.evidence[m][name].holds((n, *graph.shapes[name]), 1, steps):
                    yield f"{m}.{name}: no evidence of {n} windows of {graph.shapes[name]}"
        if set(self.logits) != set(head.outputs) or any(x.shape != (n, head.classes) for x in self.logits.values()):
            yield f"its logits are not those of {n} windows and {head.classes} classes"
        if not 0 <= self.logit_tolerance <= ONNX_TOLERANCE:
            yield f"logit_tolerance (={self.logit_tolerance:g}): allowed up to {ONNX_TOLERANCE:g}"
        if head.classes != len(self.label_names):
            yield f"it names {len(self.label_names)} classes, the head has {head.classes}"
        known = self.labels
        if known is not None and (
            known.shape != (n,) or known.dtype.kind not in "iu" or known.min() < 0 or known.max() >= head.classes
        ):
            yield f"labels: {known.dtype} {known.shape}; expected {n} class indices below {head.classes}"


def open_trained(path: Path, own_code: bool = False) -> "RecordedNetwork | TrainedNetwork":
    """A checkpoint of taaf-train or a recorded network; raises `CheckpointError` that says what is wrong with the file."""
    content = read_checkpoint(path)
    if content.get("kind") == KIND:
        return RecordedNetwork._of(path, content)
    return TrainedNetwork(path, own_code, content)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def _array(value: Any) -> np.ndarray:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"expected a tensor, found {type(value).__name__}")
    return np.array(value.numpy())


def _packed(found: Mapping[str, Spikes]) -> dict[str, Any]:
    return {name: {"bits": _tensor(x.bits), "shape": list(x.shape)} for name, x in found.items()}


def _unpacked(found: Mapping[str, Any]) -> dict[str, Spikes]:
    return {name: Spikes(_array(x["bits"]), tuple(int(n) for n in x["shape"])) for name, x in found.items()}


def head_to_onnx(head: nn.Module, features: list[torch.Tensor]) -> np.ndarray:
    """A torch head as the bytes of an ONNX model, the number of windows left open; uint8.

    Raises
    ------
    UnsupportedLayerError
        With torch's reason if it cannot be exported.
    """
    buffer = io.BytesIO()
    names = [f"features_{i}" for i in range(len(features))]
    axes = {name: {0: "windows"} for name in [*names, "logits"]}
    try:
        with warnings.catch_warnings():  # of the tracer; what it makes is compared with torch on every window
            warnings.simplefilter("ignore")
            told = {"input_names": names, "output_names": ["logits"], "dynamic_axes": axes, "opset_version": 17}
            torch.onnx.export(head.eval(), tuple(features), buffer, **told)
    except Exception as error:  # what torch raises here is not listed anywhere
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnsupportedLayerError(
            f"what the module does behind the chip cannot become ONNX: torch says {first[:300]!r}; write that part of forward otherwise, "
            "or leave it out with head none (the spikes that leave the chip are then the result)"
        ) from error
    return np.frombuffer(buffer.getvalue(), np.uint8)
