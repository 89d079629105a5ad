"""Random changes of training inputs: moved maps do not wrap, crops are bilinear, random numbers are the global batch's."""

import numpy as np
import pytest
import torch

from taaf.training.augmentation import augment, cropped, shifted
from taaf.training.config import OptimiserConfig

RNG = np.random.default_rng(0)
REAL = {"event": False, "visual": True, "audio": True}


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, 1), (-1, 3), (-2, -2)])
def test_what_leaves_a_map_does_not_come_back(down: int, right: int) -> None:
    """Pixel (y, x) is the old (y - down, x - right), 0 from outside; seen failing with torch.roll, and with the axes exchanged."""
    x = RNG.random((2, 3, 5, 6, 4))
    expected = np.zeros_like(x)
    for row in range(5):
        for column in range(6):
            if 0 <= row - down < 5 and 0 <= column - right < 6:
                expected[:, :, row, column] = x[:, :, row - down, column - right]
    np.testing.assert_array_equal(shifted(torch.from_numpy(x), down, right).numpy(), expected)


def _bilinear(frame: np.ndarray, y: float, x: float) -> np.ndarray:
    """(C, H, W) at a point in pixels, pixel centres at whole numbers, 0 outside."""
    total = np.zeros(len(frame))
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < frame.shape[1] and 0 <= column < frame.shape[2]:
                total += frame[:, row, column] * max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column))
    return total


def test_crops_are_their_formula() -> None:
    """Output pixel (j, i) looks at the point of the part of sides sqrt(area) that lies where ``place`` and ``shift`` say.

    Seen failing with the side instead of its square root's, with a flip of the place as well, with one crop for the batch.
    """
    height, width, steps = 6, 8, 2
    x = RNG.random((3, 2, height, width, steps))
    area, place = np.array([1.0, 0.49, 0.3]), RNG.random((3, 2))
    shift, flip = np.array([[1, -2], [0, 0], [-1, 1]]), np.array([False, True, True])
    found = cropped(*(torch.from_numpy(v) for v in (x, area, place, shift, flip)))
    for n in range(3):
        side = np.sqrt(area[n])
        left, top = place[n, 0] * width * (1 - side) + shift[n, 0], place[n, 1] * height * (1 - side) + shift[n, 1]
        for j, i in ((0, 0), (3, 5), (5, 7)):
            column = width - 1 - i if flip[n] else i
            point = top + (j + 0.5) * side - 0.5, left + (column + 0.5) * side - 0.5
            for step in range(steps):
                expected = _bilinear(x[n, ..., step], *point)
                np.testing.assert_allclose(found[n, :, j, i, step].numpy(), expected, atol=1e-5)
    whole = torch.ones(1), torch.zeros(1, 2)
    picture = torch.from_numpy(x[:1]).float()
    same, mirrored = (cropped(picture, *whole, torch.zeros(1, 2), torch.tensor([f])) for f in (False, True))
    torch.testing.assert_close(same, picture)
    torch.testing.assert_close(mirrored, picture.flip(3))


def _inputs(n: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "event": (torch.rand(n, 2, 9, 9, 3) < 0.3).float(),
        "visual": torch.randn(n, 3, 8, 8, 3),
        "audio": torch.randn(n, 5, 3),
    }


def test_random_numbers_are_the_global_batchs() -> None:
    """Two processes with half of a batch each see what one sees; every option on."""
    o = OptimiserConfig(shift_pixels=2, crop_area=0.5, flip=True, audio_drop=0.3, modality_drop=0.4)
    inputs = _inputs(8)

    def changed(own: slice) -> dict[str, torch.Tensor]:
        return augment({m: x[own] for m, x in inputs.items()}, o, torch.Generator().manual_seed(3), REAL, 8, own)

    whole, halves = changed(slice(0, 8)), [changed(slice(0, 4)), changed(slice(4, 8))]
    for m, x in whole.items():
        torch.testing.assert_close(x, torch.cat([half[m] for half in halves]), rtol=0, atol=0)
        assert not torch.equal(x, inputs[m])


def test_what_is_changed() -> None:
    """Events move as one batch and stay spikes; frames each on their own, half of them mirrored; nothing without the options."""
    inputs, rng = _inputs(64), torch.Generator().manual_seed(0)
    still = OptimiserConfig(shift_pixels=0, audio_drop=0.0)
    assert all(torch.equal(x, inputs[m]) for m, x in augment(inputs, still, rng, REAL, 64, slice(64)).items())
    moved = augment(inputs, OptimiserConfig(shift_pixels=2, audio_drop=0.0), rng, REAL, 64, slice(64))
    places = [(d, r) for d in range(-2, 3) for r in range(-2, 3) if torch.equal(moved["event"], shifted(inputs["event"], d, r))]
    assert len(places) == 1 and torch.equal(moved["audio"], inputs["audio"])
    flipped = augment(inputs, OptimiserConfig(shift_pixels=0, flip=True, audio_drop=0.0), rng, REAL, 64, slice(64))
    assert torch.equal(flipped["event"], inputs["event"])
    mirrored = [torch.allclose(a, b.flip(2), atol=1e-5) for a, b in zip(flipped["visual"], inputs["visual"], strict=True)]
    kept = [torch.allclose(a, b, atol=1e-5) for a, b in zip(flipped["visual"], inputs["visual"], strict=True)]
    assert sum(mirrored) + sum(kept) == 64 and 20 < sum(mirrored) < 44
