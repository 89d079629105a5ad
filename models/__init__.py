"""Network definitions, the typed integer graph (IR), host head and the shipped reference models."""

from pathlib import Path

SHIPPED = {"taaf": "ead_mini", "scmrl": "scmrl_ead_mini"}  # head -> shipped model, and the configuration it was trained with


def zoo_path(name: str) -> Path:
    """Path of a shipped file or folder in ``models/zoo``."""
    return Path(__file__).parent / "zoo" / name
