"""Axes of batch and time that exporters leave in NIR's shapes: taken away where that is unambiguous.

NIR's shapes are those of one sample at one time step, (F,) or (C, H, W). Exporters trace a network on a sample with an axis of
batch, of time, or both, and write (1, F), (1, 1, F) (Rockpool) or (1, C, H, W). How many axes belong to the data follows from
the layer that takes it: the last one for Linear and Affine, the last three for Conv2d and pooling. Axes before those must be 1.
"""

from collections.abc import Sequence

import nir
import numpy as np

from taaf.export.targets.nir.modules import SpikeMaxPool
from taaf.models.errors import UnsupportedLayerError

_FLAT = (nir.Linear, nir.Affine)
_MAPS = (nir.Conv2d, nir.SumPool2d, nir.AvgPool2d, SpikeMaxPool)


def input_shape(where: str, node: nir.Input, fed: Sequence[nir.NIRNode]) -> tuple[int, ...]:
    """(F,) or (C, H, W) of an Input that feeds these layers.

    Raises
    ------
    UnsupportedLayerError
        If an axis other than the data's is not 1, or there are too few.
    """
    shape = tuple(int(n) for n in np.asarray(node.input_type["input"]).reshape(-1))
    if any(isinstance(n, _FLAT) for n in fed):
        axes, takes = 1, "(F,)"
    elif any(isinstance(n, _MAPS) for n in fed):
        axes, takes = 3, "(C, H, W)"
    else:
        axes, takes = (1, "(F,)") if len(shape) < 3 else (3, "(F,) or (C, H, W)")
    leading, data = shape[: max(len(shape) - axes, 0)], shape[-axes:]
    if len(data) < axes or any(n != 1 for n in leading) or min(data, default=0) < 1:
        raise UnsupportedLayerError(
            f"{where}: input shape {shape}; allowed {takes} of one sample at one step, after axes of 1 (a batch or time axis of more "
            "than 1 cannot be told from the data: export with a sample of one step and one item)"
        )
    return data


def flattens_all(node: nir.Flatten) -> bool:
    """Whether nothing but axes of 1 is left beside the flattened ones."""
    start, end = int(node.start_dim), int(node.end_dim)
    given = node.input_type["input"] if isinstance(node.input_type, dict) else None
    if given is None:
        return start == 0 and end in (-1, 2)
    shape = [int(n) for n in np.asarray(given).reshape(-1)]
    start, end = (i + len(shape) if i < 0 else i for i in (start, end))
    return all(n == 1 for n in [*shape[:start], *shape[end + 1 :]])
