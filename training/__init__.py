"""Data sets, losses, trainer and the taaf-train command.

The face, imported when first used: `TrainConfig`, `load_config`, `open_split`, `open_splits`, `InMemory`, `MultimodalDataset`,
`Trainer` and `evaluate`.
"""

from typing import TYPE_CHECKING

from taaf.models.shell.face import lazy_face

if TYPE_CHECKING:
    from taaf.training.config import TrainConfig, load_config
    from taaf.training.data import InMemory, MultimodalDataset
    from taaf.training.sources import open_split, open_splits
    from taaf.training.trainer import Trainer, evaluate

__all__ = [
    "InMemory",
    "MultimodalDataset",
    "TrainConfig",
    "Trainer",
    "evaluate",
    "load_config",
    "open_split",
    "open_splits",
]

__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "TrainConfig": "taaf.training.config",
        "load_config": "taaf.training.config",
        "open_split": "taaf.training.sources",
        "open_splits": "taaf.training.sources",
        "InMemory": "taaf.training.data",
        "MultimodalDataset": "taaf.training.data",
        "Trainer": "taaf.training.trainer",
        "evaluate": "taaf.training.trainer",
    },
)
