"""Pictures of characters for EAD-36: a font's glyph or a handwritten digit, distorted like handwriting (only to *build* it)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE, _FINE = 28, 3  # pictures are drawn and distorted on a grid three times finer
_CANVAS = SIZE * _FINE
_GREY_STEP = 8  # 32 grey levels: half the bytes
MAX_ANGLE, MAX_SHEAR = 0.3, 0.25  # rad; relative
SCALES = (0.85, 1.25)  # of the coordinates: below 1 magnifies
MAX_SHIFT, ELASTIC_PX, ELASTIC_SIGMA = 4.0, 60.0, 7.0  # of the fine grid


def draw(font: Path, character: str, size: int, stroke: int) -> np.ndarray:
    """The glyph in the middle of a fine canvas, its ink's mean in the centre; (84, 84) float64 in 0..255."""
    image = Image.new("L", (_CANVAS, _CANVAS))
    ImageDraw.Draw(image).text(
        (_CANVAS // 2, _CANVAS // 2), character, font=ImageFont.truetype(str(font), size), fill=255, anchor="mm",
        stroke_width=stroke, stroke_fill=255,
    )  # fmt: skip
    pixels = np.asarray(image, np.float64)
    rows, columns = np.nonzero(pixels > 40)
    return np.roll(pixels, (_CANVAS // 2 - round(rows.mean()), _CANVAS // 2 - round(columns.mean())), (0, 1))


def enlarge(digit: np.ndarray) -> np.ndarray:
    """A 28 x 28 handwritten digit on the fine canvas, cubic interpolation; (84, 84) float64 in 0..255."""
    fine = Image.fromarray(digit).resize((_CANVAS, _CANVAS), Image.Resampling.BICUBIC)
    return np.asarray(fine, np.float64)


def distort(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random affine map, an elastic one and a random contrast, then 3 x 3 pixels averaged; (28, 28) uint8.

    The picture is read at ``A (x - c) + c + shift + u(x)``: A rotates by up to 0.3 rad, shears by up to 0.25 and scales by
    1/0.85 to 1/1.25; u is uniform noise smoothed by a Gaussian (Simard, Steinkraus, Platt: "Best practices for
    convolutional neural networks applied to visual document analysis", ICDAR 2003).
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    angle, shear = rng.uniform(-MAX_ANGLE, MAX_ANGLE), rng.uniform(-MAX_SHEAR, MAX_SHEAR)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine = turn @ np.array([[1.0, shear], [0.0, 1.0]]) * rng.uniform(*SCALES)
    grid = np.indices((_CANVAS, _CANVAS)).astype(np.float64) - _CANVAS / 2
    at = np.tensordot(affine, grid, 1) + _CANVAS / 2 + rng.uniform(-MAX_SHIFT, MAX_SHIFT, (2, 1, 1))
    noise = rng.uniform(-1, 1, (2, _CANVAS, _CANVAS))
    at += ELASTIC_PX * np.stack([gaussian_filter(n, ELASTIC_SIGMA) for n in noise])
    fine = map_coordinates(pixels, at, order=1) * rng.uniform(0.6, 1)
    coarse = fine.reshape(SIZE, _FINE, SIZE, _FINE).mean((1, 3))
    return (np.clip(np.round(coarse / _GREY_STEP), 0, 31) * _GREY_STEP).astype(np.uint8)


def glyphs(
    characters: list[str], families: list[list[Path]], digits: list[np.ndarray | None], seed: int, tick: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray]:
    """One picture per character, of a random family and weight, or of the handwritten digit given for it.

    Parameters
    ----------
    characters : list of str
        One per picture.
    families : list of list of Path
        Font files per family.
    digits : list of array or None
        (28, 28) uint8 where a handwritten digit takes the font's place.
    seed : int
        Of everything random.
    tick : function
        Called after every picture.

    Returns
    -------
    pictures, family : numpy.ndarray
        (N, 28, 28) uint8 and the index of the family (N,) int64, -1 for handwriting.
    """
    rng = np.random.default_rng(seed)
    pictures, used = np.zeros((len(characters), SIZE, SIZE), np.uint8), rng.integers(0, len(families), len(characters))
    for i, (character, digit) in enumerate(zip(characters, digits, strict=True)):
        if digit is not None:
            used[i], fine = -1, enlarge(digit)
        else:
            files = families[used[i]]
            fine = draw(files[rng.integers(len(files))], character, int(rng.integers(46, 62)), int(rng.integers(0, 3)))
        pictures[i] = distort(fine, rng)
        tick()
    return pictures, used
