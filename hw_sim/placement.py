"""Where a core lies: tiles on a chip's mesh, chips on a plane.

Cores are taken in the order of the layers, and within a layer by channel, row and column of their tile. They fill the
tiles (routers) of a chip along a snake: east along the first row, west along the next, and so on, so that cores that
follow each other are neighbours. Chips are filled one after another, and lie on the plane along a snake of their own,
``ceil(sqrt(n))`` in a row. Coordinates are routers: x counts eastwards, y northwards. Where spikes are known,
`taaf.hw_sim.mapper.placing` goes on from here.
"""

import math
from dataclasses import dataclass

import numpy as np

from taaf.hw_sim.mapper.chip_limits import ChipLimits


@dataclass(frozen=True)
class Placement:
    """Per core (n,): chip, router position on the whole plane, and which of the router's cores it is."""

    chip: np.ndarray
    x: np.ndarray
    y: np.ndarray
    slot: np.ndarray
    n_chips: int

    @property
    def n_tiles(self) -> np.ndarray:
        """Routers in use, per chip."""
        used = np.unique(np.stack([self.chip, self.x, self.y]), axis=1)
        return np.bincount(used[0], minlength=self.n_chips)


def place(n_cores: int, limits: ChipLimits) -> Placement:
    """Place ``n_cores`` cores in order."""
    core = np.arange(n_cores)
    chip, within = np.divmod(core, limits.cores_per_chip)
    tile, slot = np.divmod(within, limits.cores_per_tile)
    n_chips = -(-n_cores // limits.cores_per_chip)
    chip_x, chip_y = _snake(chip, math.isqrt(max(n_chips - 1, 0)) + 1)
    x, y = _snake(tile, limits.width)
    return Placement(chip, chip_x * limits.width + x, chip_y * limits.height + y, slot, n_chips)


def _snake(index: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of positions along a snake of ``width``."""
    row, column = np.divmod(index, width)
    return np.where(row % 2 == 0, column, width - 1 - column), row
