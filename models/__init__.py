"""Network definitions, the typed integer graph (IR), host head and the shipped reference models."""

from pathlib import Path


def zoo_path(name: str) -> Path:
    """Path of a shipped file or folder in ``models/zoo``."""
    return Path(__file__).parent / "zoo" / name
