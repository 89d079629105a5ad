"""Configurations of small networks on EAD-mini's inputs, and the exporter on a network in memory."""

from pathlib import Path
from typing import Any

from taaf.export.checkpointed import TrainedNetwork
from taaf.models.checkpoint import save_checkpoint
from taaf.models.config import NetworkConfig
from taaf.models.network import MultimodalSnn
from taaf.training.config import from_dict

EVENT = {"network": "conv", "shape": [2, 34, 34], "steps": 8}
AUDIO = {"network": "dense", "shape": [160], "steps": 12}
SMALL_BRANCHES = """
[branches.event]
network = "conv"
shape = [2, 34, 34]
steps = 8
channels = {channels}
wide = {wide}
features = {features}
[branches.audio]
network = "dense"
shape = [160]
steps = 12
hidden = {hidden}
features = {features}
"""


def taaf_tables(
    channels: int = 8, wide: int = 16, hidden: int = 128, features: int = 128, classes: int = 10, **head: Any
) -> dict[str, Any]:
    """Tables ``branches`` and ``head`` of the reference model, or of a narrower one; ``head``: settings of its head."""
    event = {**EVENT, "channels": channels, "wide": wide, "features": features}
    audio = {**AUDIO, "hidden": hidden, "features": features}
    return {"branches": {"event": event, "audio": audio}, "head": {"type": "taaf", "classes": classes, **head}}


def taaf_config(**changes: Any) -> NetworkConfig:
    """`taaf_tables` as a configuration."""
    return NetworkConfig.from_dict(taaf_tables(**changes))


def small_branches(channels: int = 2, wide: int = 2, hidden: int = 16, features: int = 16) -> str:
    """The tables of both branches as text of a configuration file."""
    return SMALL_BRANCHES.format(channels=channels, wide=wide, hidden=hidden, features=features)


def trained(folder: Path, network: MultimodalSnn, **tables: Any) -> TrainedNetwork:
    """The network as the exporter sees it: saved as ``folder / model.pt`` as `taaf-train` would, and read again."""
    save_checkpoint(folder / "model.pt", network, from_dict({**network.config.to_dict(), **tables}).to_dict())
    return TrainedNetwork(folder / "model.pt")
