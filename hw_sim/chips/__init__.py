"""Chips as data with sources: limits of a core and a chip (``limits``), costs (``mapped`` and here). A new file is a new chip."""

from pathlib import Path


def chip_names() -> list[str]:
    """Chips whose limits are known, onto which networks are mapped."""
    return sorted(p.stem for p in (Path(__file__).parent / "limits").glob("*.toml"))
