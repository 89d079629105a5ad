"""Windows to and from Lava's time axis: (N, *shape, W) arrays here, one endless raster of (W, H, C) or flat steps there."""

import numpy as np

from taaf.models.ir import Shape


def to_stream(windows: np.ndarray, port: tuple[int, ...], n_steps: int) -> np.ndarray:
    """(N, *shape, W) windows back to back and silence up to ``n_steps``, in the axes of a network's input port.

    Lava's convolutions take (W, H, C); a network that starts with flattening takes what is flattened on the host.
    """
    joined = np.moveaxis(windows, 0, -2)  # (*shape, N, W)
    stream = joined.reshape(*joined.shape[:-2], -1)
    silence = np.zeros((*stream.shape[:-1], n_steps - stream.shape[-1]), stream.dtype)
    stream = np.concatenate([stream, silence], axis=-1)
    return stream.transpose(2, 1, 0, 3) if len(port) == 3 else stream.reshape(-1, n_steps)


def to_windows(raster: np.ndarray, delay: int, n_windows: int, window: int, shape: Shape) -> np.ndarray:
    """Cut a layer's raster (steps, *port) into windows at its own phase: (N, *shape, W)."""
    rows = np.asarray(raster[delay : delay + n_windows * window])
    if rows.ndim == 4:
        rows = rows.transpose(0, 3, 2, 1)  # (W, H, C) -> (C, H, W)
    return np.moveaxis(rows.reshape(n_windows, window, *shape), 1, -1)
