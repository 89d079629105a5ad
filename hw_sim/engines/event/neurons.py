"""Parameters of neurons in the order of the event engine's indices."""

from dataclasses import dataclass

import numpy as np

from taaf.hw_sim.engines.event.plan import LifLayer
from taaf.models.ir.nodes import spread

NEVER = 1 << 30  # a threshold that 24 bits do not reach


@dataclass(frozen=True, eq=False)
class Period:
    """64 bias and 64 v_th, int32, of as many neurons as repeat (a multiple of 32), or of all: for `kernels.fire16`."""

    bias: np.ndarray
    threshold: np.ndarray


@dataclass(frozen=True, eq=False)
class Neurons:
    """64 bias, 64 v_th and 4096 minus the decays of all neurons, int64 (n,): for `kernels.lif32`."""

    bias: np.ndarray
    threshold: np.ndarray
    keep_u: np.ndarray
    keep_v: np.ndarray


def _scaled(layer: LifLayer) -> tuple[np.ndarray, np.ndarray]:
    """64 bias and 64 v_th, int64, which broadcast to the layer's shape."""
    lif, shape = layer.lif, layer.layout.shape
    return 64 * spread(0 if lif.bias is None else lif.bias, shape), 64 * spread(lif.v_th_mant, shape)


def period_of(layer: LifLayer) -> Period:
    """One pixel's parameters where all pixels have the same and no padding follows the last; else everybody's."""
    layout = layer.layout
    values = [np.clip(x, -NEVER, NEVER).astype(np.int32) for x in _scaled(layer)]
    period = int(np.lcm(layout.cp, 32))
    repeats = layer.lif.bias is None or layer.lif.bias.ndim == 1
    if repeats and layout.n % period == 0 and layout.n == layout.pixels * layout.cp:
        pixel = [np.full(layout.cp, padding, np.int32) for padding in (0, NEVER)]
        for to, value in zip(pixel, values, strict=True):
            to[: layout.shape[0]] = value.reshape(-1)
        return Period(*(np.resize(x, period) for x in pixel))
    return Period(*(layout.spread(x, padding).astype(np.int32) for x, padding in zip(values, (0, NEVER), strict=True)))


def neurons_of(layer: LifLayer) -> Neurons:
    """Padding never fires."""
    lif, layout = layer.lif, layer.layout
    bias, threshold = _scaled(layer)
    return Neurons(
        layout.spread(bias, 0),
        layout.spread(threshold, 1 << 62),
        layout.spread(4096 - spread(lif.i_decay, layout.shape), 0),
        layout.spread(4096 - spread(lif.v_decay, layout.shape), 0),
    )
