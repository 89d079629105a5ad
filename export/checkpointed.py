"""The network of a checkpoint of `taaf-train`, as the exporter sees it."""

from collections.abc import Iterator
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taaf.export.frontend import float_graphs, host_encoders
from taaf.export.trained import Traced, blocks_of
from taaf.models.checkpoint import load_model
from taaf.models.files.writing import sha256
from taaf.models.host_head import HostHead
from taaf.models.slayer_lif import prove_by_lava_dl

PROVEN = {  # whether lava-dl is installed -> what the manifest says
    True: "SLAYER CPU forward and float64 head of the checkpoint",
    False: "taaf's own form of SLAYER's CPU forward (lava-dl is not installed) and float64 head of the checkpoint",
}


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
