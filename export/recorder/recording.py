"""A recorded module: its graphs, its host part, and SLAYER's evidence on any windows."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from taaf.export.recorder.evidence import Evidence, joined, listen
from taaf.export.recorder.host import HostPart
from taaf.export.recorder.replay import Tape
from taaf.export.recorder.values import Neurons, Population
from taaf.models.errors import DataError
from taaf.models.ir import Graph, Shape

_WINDOWS_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Recording:
    """A recorded module.

    Attributes
    ----------
    name : str
    graphs : dict of str to Graph
        One integer-stage graph per modality; joins, OR pooling and concatenation are as the user wrote them.
    lags : dict of str to (dict of str to int)
        Modality -> LIF name -> steps that SLAYER's answer is behind the graph (one per block with ``delay_shift``). A decision by
        spike counts over SLAYER's window misses the last ``lag`` steps of the output.
    host : HostPart or None
        What the module does behind the chip; None if it returns the output spikes of one population per modality.
    """

    name: str
    graphs: dict[str, Graph]
    lags: dict[str, dict[str, int]]
    host: HostPart | None
    _tape: Tape
    _ends: dict[str, list[Population]]
    _populations: dict[str, list[Neurons]]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the inputs, in the order of ``forward``."""
        return tuple(self.graphs)

    def trace(self, inputs: Mapping[str, "torch.Tensor | np.ndarray"]) -> Evidence:
        """SLAYER's spikes of every population of the graphs on ``inputs``, {modality: (N, *shape, T)} of zeros and ones.

        The user's module runs in eval mode, its states cleared for every block of windows, and is left as it was.
        """
        tensors = checked_inputs(self.name, inputs, {m: g.input.shape for m, g in self.graphs.items()})
        n = len(next(iter(tensors.values())))
        starts = range(0, n, _WINDOWS_AT_ONCE)
        blocks = [[x[at : at + _WINDOWS_AT_ONCE] for x in tensors.values()] for at in starts]
        return joined([listen(self._tape, block, self._ends, self._populations) for block in blocks])


def checked_inputs(
    name: str, inputs: Mapping[str, "torch.Tensor | np.ndarray"], shapes: Mapping[str, Shape] | None
) -> dict[str, torch.Tensor]:
    """The inputs as float32, in the order of ``shapes`` where those are known; `DataError` if they are not equally many spikes."""
    found: dict[str, torch.Tensor] = {}
    if not inputs or (shapes is not None and set(shapes) != set(inputs)):
        raise DataError(f"{name}: inputs {', '.join(inputs) or 'none'}; expected {', '.join(shapes or ()) or 'at least one'}")
    for modality in shapes or inputs:
        x = torch.as_tensor(inputs[modality]).detach().to(torch.float32)
        where = f"{name}: input {modality!r} {tuple(x.shape)}"
        if x.dim() not in (3, 5) or min(x.shape) < 1:
            raise DataError(f"{where}: expected (windows, channels, height, width, steps) or (windows, neurons, steps)")
        if shapes is not None and tuple(x.shape[1:-1]) != shapes[modality]:
            raise DataError(f"{where}: recorded with {shapes[modality]} per window and step")
        if not ((x == 0) | (x == 1)).all():
            raise DataError(f"{where} holds {x.min():g}..{x.max():g}; expected spikes, 0 and 1: encode it as spikes first")
        found[modality] = x.clone()
    if len({len(x) for x in found.values()}) > 1:
        raise DataError(f"{name}: " + ", ".join(f"{m} has {len(x)} windows" for m, x in found.items()) + "; give equally many")
    return found
