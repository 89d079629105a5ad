"""A trained network as the exporter sees it, wherever it came from."""

from collections.abc import Iterable, Iterator
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from taaf.export.frontend import float_graphs, host_encoders
from taaf.models.checkpoint import load_model
from taaf.models.encoder import HostEncoder
from taaf.models.files.writing import sha256
from taaf.models.host_head import HostHead
from taaf.models.ir import Graph
from taaf.models.slayer_lif import prove_by_lava_dl

_BLOCK_VALUES = 1 << 23  # of the widest layer's trace; bounds memory
PROVEN = {  # whether lava-dl is installed -> what the manifest says
    True: "SLAYER CPU forward and float64 head of the checkpoint",
    False: "taaf's own form of SLAYER's CPU forward (lava-dl is not installed) and float64 head of the checkpoint",
}
Traced = tuple[slice, dict[str, np.ndarray]]


def blocks_of(n: int, graphs: Iterable[Graph], steps: int, most: int) -> Iterator[slice]:
    """Slices of up to ``most`` windows, such that the widest layer's spikes of a block stay within bounds."""
    widest = max(int(np.prod(shape)) for graph in graphs for shape in graph.shapes.values())
    size = max(1, min(most, _BLOCK_VALUES // (widest * steps)))
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


class Trained(Protocol):
    """What export needs of a trained network.

    Attributes
    ----------
    name : str
        Of the model, for reports.
    graphs : dict
        Modality -> graph, of the float or the integer stage.
    encoders : dict
        Host encoders of modalities with real-valued input.
    head : HostHead
        The host part.
    steps : dict
        Modality -> time steps of a window.
    provenance : dict
        What the manifest says of the training: sum of the checkpoint, configuration, metrics.
    proven_by : str
        What its spikes and decisions come from.
    logit_tolerance : float
        By which the host head's logits may differ from the trained head's, relative to the largest of a window (at least 1).
    """

    name: str
    graphs: dict[str, Graph]
    encoders: dict[str, HostEncoder]
    head: HostHead
    steps: dict[str, int]
    provenance: dict[str, Any]
    proven_by: str
    logit_tolerance: float

    def traces(self, modality: str, spikes: np.ndarray) -> Iterator[Traced]:
        """Blocks of windows and the trained network's spikes of every population and of the output, uint8, for chip input.

        Time may end before the window does: SLAYER's ``delay_shift`` hides the last steps.
        """

    def encoded(self, modality: str, levels: np.ndarray) -> np.ndarray:
        """The trained encoder's spikes for input levels (N, C, H, W, T)."""

    def decided(self, rows: slice, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The trained head's readout in float64 per output, (N, C), for the feature spikes of these windows."""


@dataclass
class TrainedNetwork:
    """`Trained`, of a checkpoint of taaf-train: lava-dl's own SLAYER runs here where it is installed, else our form of it.

    Parameters
    ----------
    path : Path
        The checkpoint.
    own_code : bool
        Whether code that it names may be imported (`taaf.models.checkpoint.load_model`).
    content : dict, optional
        What the file holds, if it was read before.

    Raises
    ------
    CheckpointError
        As `taaf.models.checkpoint.load_model`.
    """

    path: Path
    own_code: bool = False
    content: InitVar[dict[str, Any] | None] = None
    logit_tolerance: float = 1e-9  # torch float64 against NumPy float64
    name: str = field(init=False)
    proven_by: str = field(init=False)

    def __post_init__(self, content: dict[str, Any] | None) -> None:
        self.model, content = load_model(self.path, self.own_code, content)
        self.proven_by = PROVEN[prove_by_lava_dl(self.model)]
        config = self.model.config
        self.name = {"taaf": "taaf-snn", "scmrl": "s-cmrl"}.get(config.head.type, "snn")
        self.graphs, self.encoders = float_graphs(self.model), host_encoders(self.model)
        trainable = self.model.head
        self.head = HostHead({k: v.numpy() for k, v in trainable.arrays().items()}, trainable.head)
        self.steps = {m: spec.steps for m, spec in config.inputs.items()}
        self.provenance = {
            "checkpoint_sha256": sha256(self.path), "config": content["config"], "metrics": content.get("metrics")
        }  # fmt: skip

    def traces(self, modality: str, spikes: np.ndarray) -> Iterator[Traced]:
        net = self.model.branches[modality].eval()
        for rows in blocks_of(len(spikes), [self.graphs[modality]], spikes.shape[-1], 100):
            with torch.no_grad():
                trace = net.trace(torch.from_numpy(spikes[rows].astype(np.float32)))
            yield rows, {n: v.numpy().astype(np.uint8) for n, v in trace.items()}

    def encoded(self, modality: str, levels: np.ndarray) -> np.ndarray:
        net, scale = self.model.branches[modality].eval(), self.encoders[modality].scale
        with torch.no_grad():
            found = [net.encode(torch.from_numpy(w[None].astype(np.float32) / np.float32(scale))) for w in levels]
        return torch.cat(found).numpy().astype(np.uint8)

    def decided(self, rows: slice, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            output = self.model.head.deployed()({m: torch.from_numpy(f).double() for m, f in features.items()})
        return {u: output.decision(u).numpy() for u in output.logits}
