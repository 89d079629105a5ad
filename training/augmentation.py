"""Random changes of training inputs. Random numbers are the global batch's, so that they do not depend on the number of processes.

Maps are inputs (C, H, W, T) of any modality but "audio": events of a camera, or frames, which are real numbers.
"""

from collections.abc import Mapping

import torch
from torch.nn import functional

from taaf.training.config import OptimiserConfig

Inputs = dict[str, torch.Tensor]


def augment(
    inputs: Inputs, o: OptimiserConfig, rng: torch.Generator, real: Mapping[str, bool], n_global: int, own: slice
) -> Inputs:
    """Inputs (N, *shape, T) of this process's part ``own`` of a batch of ``n_global`` samples, changed as ``o`` says.

    Parameters
    ----------
    real : mapping
        Modality -> whether its inputs are real numbers.
    """
    maps = [m for m in inputs if m != "audio" and inputs[m].dim() == 5]
    if o.shift_pixels and (events := [m for m in maps if not real[m]]):
        down, right = torch.randint(-o.shift_pixels, o.shift_pixels + 1, (2,), generator=rng).tolist()
        inputs = inputs | {m: shifted(inputs[m], down, right) for m in events}
    for m in (m for m in maps if real[m] and (o.shift_pixels or o.flip or o.crop_area < 1)):
        inputs = inputs | {m: cropped(inputs[m], *(x[own] for x in _drawn(n_global, o, rng)))}
    if o.audio_drop:
        for m in (m for m in inputs if m not in maps):
            keep = torch.rand((n_global, *inputs[m].shape[1:]), generator=rng) >= o.audio_drop
            inputs = inputs | {m: inputs[m] * keep[own]}
    return _silenced(inputs, o.modality_drop, torch.rand(n_global, generator=rng)[own]) if o.modality_drop else inputs


def shifted(x: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """Maps (N, C, H, W, T) moved by whole pixels; what comes in from outside is silence, what leaves is gone."""
    height, width = x.shape[2:4]
    moved = functional.pad(x, (0, 0, right, -right, down, -down))
    assert moved.shape[2:4] == (height, width)
    return moved


def cropped(x: torch.Tensor, area: torch.Tensor, place: torch.Tensor, shift: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """A part of every frame, the same at all of its steps, at the size of the frame (bilinear); outside of the frame is 0.

    Parameters
    ----------
    x : torch.Tensor
        (N, C, H, W, T).
    area : torch.Tensor
        (N,) share of the frame's area that is seen, its aspect kept: ``sqrt(area)`` of each side.
    place : torch.Tensor
        (N, 2) where the part lies, 0 to 1, left to right and top to bottom.
    shift : torch.Tensor
        (N, 2) and by how many pixels it is moved right and down.
    flip : torch.Tensor
        (N,) bool: left and right are exchanged.
    """
    n, channels, height, width, steps = x.shape
    side = area.sqrt()
    corner = 2 / torch.tensor([width, height]) * shift + (2 * place - 1) * (1 - side)[:, None]  # centre of the part, -1 to 1
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = side * torch.where(flip, -1.0, 1.0), side, corner
    flat = x.movedim(-1, 1).reshape(n, steps * channels, height, width)
    grid = functional.affine_grid(theta.to(x), list(flat.shape), align_corners=False)
    seen = functional.grid_sample(flat, grid, align_corners=False)
    return seen.reshape(n, steps, channels, height, width).movedim(1, -1)


def _drawn(n: int, o: OptimiserConfig, rng: torch.Generator) -> tuple[torch.Tensor, ...]:
    """The arguments of `cropped` for n samples."""
    area = o.crop_area + (1 - o.crop_area) * torch.rand(n, generator=rng)
    place = torch.rand(n, 2, generator=rng)
    shift = torch.randint(-o.shift_pixels, o.shift_pixels + 1, (n, 2), generator=rng)
    return area, place, shift, (torch.rand(n, generator=rng) < 0.5) & torch.tensor(o.flip)


def _silenced(inputs: Inputs, drop: float, drawn: torch.Tensor) -> Inputs:
    """One modality silenced of a share ``drop`` of the samples."""
    share, found = drop / len(inputs), {}
    for i, (m, x) in enumerate(inputs.items()):
        silent = (drawn >= i * share) & (drawn < (i + 1) * share)
        found[m] = x * (~silent).to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))
    return found
