"""A trained network as the exporter sees it, wherever it came from."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from taaf.models.encoder import HostEncoder
from taaf.models.host_head import HostHead
from taaf.models.ir import Graph

_BLOCK_VALUES = 1 << 23  # of the widest layer's trace; bounds memory
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
