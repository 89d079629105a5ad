"""Network definitions, the typed integer graph (IR), host heads and the shipped reference models.

The face, imported when first used: `NetworkConfig`, `MultimodalSnn`, `SpikingNet`, `Wiring`, `Spikes`, `load_model`,
`save_checkpoint`, `HostHead` and `zoo_path`.

>>> from taaf import models
>>> models.NetworkConfig.from_dict({}).modalities
('event', 'audio')
"""

from pathlib import Path
from typing import TYPE_CHECKING

from taaf.models.shell.face import lazy_face

if TYPE_CHECKING:
    from taaf.models.checkpoint import load_model, save_checkpoint
    from taaf.models.config import NetworkConfig
    from taaf.models.host_head import HostHead
    from taaf.models.network import MultimodalSnn, SpikingNet
    from taaf.models.wiring import Spikes, Wiring

__all__ = [
    "HostHead",
    "MultimodalSnn",
    "NetworkConfig",
    "SHIPPED",
    "Spikes",
    "SpikingNet",
    "Wiring",
    "load_model",
    "save_checkpoint",
    "zoo_path",
]

SHIPPED = {"taaf": "ead_mini", "scmrl": "scmrl_ead_mini"}  # head -> shipped model, and the configuration it was trained with


def zoo_path(name: str) -> Path:
    """Path of a shipped file or folder in ``models/zoo``."""
    return Path(__file__).parent / "zoo" / name


__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "NetworkConfig": "taaf.models.config",
        "MultimodalSnn": "taaf.models.network",
        "SpikingNet": "taaf.models.network",
        "Wiring": "taaf.models.wiring",
        "Spikes": "taaf.models.wiring",
        "load_model": "taaf.models.checkpoint",
        "save_checkpoint": "taaf.models.checkpoint",
        "HostHead": "taaf.models.host_head",
    },
)
