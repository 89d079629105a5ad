"""Simulated event camera: turns a static grey image into polarity events under three saccades.

The camera is modelled the usual way: a pixel emits an ON (OFF) event each time its log intensity has risen
(fallen) by a contrast threshold since its last event. The image moves as on the N-MNIST rig (three straight
saccades that close a triangle). All arithmetic is on integers (a fixed-point logarithm table, bilinear
interpolation in 1/16 pixel), so the events are the same on every machine. They are *simulated events of images*,
not recordings of an event camera.
"""

import numpy as np

SIZE = 34  # field of view in pixels, as N-MNIST
N_BINS = 8  # time steps the events are binned into, unless others are asked for
MICRO_STEPS = 24  # of the camera; bins are made of whole ones
_SUBPIXEL = 16
_VERTICES = ((0, 0), (44, 28), (-36, 28), (0, 0))  # saccade corners (x, y) in 1/16 pixel
_LOG_TABLE = np.round(512 * np.log2(1 + np.arange(256) / 24)).astype(np.int16)
_THRESHOLD = 420  # contrast threshold, in units of log2 / 512


def _path() -> np.ndarray:
    """Camera displacement before each micro step, shape (steps + 1, 2), in 1/16 pixel."""
    path = []
    for i in range(MICRO_STEPS + 1):
        leg, part = divmod(3 * i, MICRO_STEPS)
        if leg == 3:
            leg, part = 2, MICRO_STEPS
        (x0, y0), (x1, y1) = _VERTICES[leg], _VERTICES[leg + 1]
        path.append((x0 + (x1 - x0) * part // MICRO_STEPS, y0 + (y1 - y0) * part // MICRO_STEPS))
    return np.array(path)


def _shifted_log(padded: np.ndarray, dx: int, dy: int, pad: int) -> np.ndarray:
    """Log intensity of the field seen with displacement (dx, dy) in 1/16 pixel; (N, 34, 34) int16."""
    ix, fx = divmod(dx, _SUBPIXEL)
    iy, fy = divmod(dy, _SUBPIXEL)
    y, x = pad + iy, pad + ix

    def window(oy: int, ox: int) -> np.ndarray:
        return padded[:, y + oy : y + oy + SIZE, x + ox : x + ox + SIZE]

    value = (
        (_SUBPIXEL - fx) * (_SUBPIXEL - fy) * window(0, 0)
        + fx * (_SUBPIXEL - fy) * window(0, 1)
        + (_SUBPIXEL - fx) * fy * window(1, 0)
        + fx * fy * window(1, 1)
    )
    return _LOG_TABLE[value >> 8]


def simulate_events(images: np.ndarray, n_bins: int = N_BINS) -> np.ndarray:
    """Simulate the camera and bin its events.

    Parameters
    ----------
    images : numpy.ndarray
        Grey images, shape (N, 28, 28), uint8 in [0, 255].
    n_bins : int
        Time steps T, 1 to 24. The camera moves in 24 micro steps whatever T; micro step i falls into bin ``i T // 24``, so that
        bins hold three micro steps each at T = 8, four or five at T = 5.

    Returns
    -------
    numpy.ndarray
        Spikes, shape (N, 2, 34, 34, T), uint8 in {0, 1}: channel 0 ON, channel 1 OFF; last axis is time. A bin
        holds 1 if at least one event of that pixel and polarity fell into it.

    Raises
    ------
    ValueError
        If the images have another shape or type, or there are more bins than micro steps.
    """
    if not 1 <= n_bins <= MICRO_STEPS:
        raise ValueError(f"n_bins (={n_bins}): allowed 1 to {MICRO_STEPS}")
    if images.ndim != 3 or images.shape[1:] != (28, 28) or images.dtype != np.uint8:
        raise ValueError(f"images: found {images.shape} {images.dtype}; allowed (N, 28, 28) uint8")
    pad, margin = 4, (SIZE - 28) // 2
    path = _path()
    out = np.zeros((n_bins, len(images), 2, SIZE, SIZE), np.uint8)  # time-major in memory
    for start in range(0, len(images), 250):  # bounded memory
        block = images[start : start + 250].astype(np.int32)
        padded = np.pad(block, ((0, 0), *[(pad + margin, pad + margin)] * 2))
        reference = _shifted_log(padded, int(path[0, 0]), int(path[0, 1]), pad).copy()
        for step, (dx, dy) in enumerate(path[1:]):
            change = _shifted_log(padded, int(dx), int(dy), pad) - reference
            on, off = change >= _THRESHOLD, change <= -_THRESHOLD
            reference += (change // _THRESHOLD * _THRESHOLD) * on - (-change // _THRESHOLD * _THRESHOLD) * off
            out[step * n_bins // MICRO_STEPS, start : start + 250, 0] |= on
            out[step * n_bins // MICRO_STEPS, start : start + 250, 1] |= off
    return np.moveaxis(out, 0, -1)
