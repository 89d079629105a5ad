"""Integer reference, fast exact engine, counters and energy conventions, mapper onto cores and chips.

The face, imported when first used: `Engine`, `run_reference`, `count`, `energies` and `load_chip`.
"""

from typing import TYPE_CHECKING

from taaf.models.shell.face import lazy_face

if TYPE_CHECKING:
    from taaf.hw_sim.counters import count
    from taaf.hw_sim.energy import energies, load_chip
    from taaf.hw_sim.engine import Engine
    from taaf.hw_sim.reference import run_reference

__all__ = [
    "Engine",
    "count",
    "energies",
    "load_chip",
    "run_reference",
]

__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "Engine": "taaf.hw_sim.engine",
        "run_reference": "taaf.hw_sim.reference",
        "count": "taaf.hw_sim.counters",
        "energies": "taaf.hw_sim.energy",
        "load_chip": "taaf.hw_sim.energy",
    },
)
