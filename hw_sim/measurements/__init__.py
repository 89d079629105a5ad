"""Published measurements of Loihi chips as data with sources, and our estimates beside them. A new file is a new measurement."""

from pathlib import Path


def measurement_names() -> list[str]:
    """Files of measurements, without their ending."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.toml"))
