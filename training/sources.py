"""From a [data] table to the data set it names."""

from pathlib import Path

from taaf.models.config import ModelConfig
from taaf.models.errors import ConfigError
from taaf.training.config import DataConfig
from taaf.training.data import InMemory, PairDataset
from taaf.training.ead_mini import LABELS, load_split


def open_split(data: DataConfig, model: ModelConfig, split: str, quiet: bool = True) -> PairDataset:
    """The "train" or "test" part of the configured data set (for EAD-mini also "human").

    Raises
    ------
    ConfigError
        If the set needs a ``root`` and has none.
    DataError
        Naming the file that is missing or bad.
    """
    limit = {"train": data.train_pairs, "test": data.test_pairs}.get(split, 0) or None
    if data.set == "ead-mini":
        part = load_split(split, slice(limit), data.audio_snr_db)
        return InMemory(part.event, part.audio, part.labels, ("event", "audio"), LABELS)
    if not data.root:
        raise ConfigError(
            f"data.root: empty; the {data.set} data set is not shipped, set data.root to the folder that holds it"
        )
    from taaf.training.datasets.registry import open_dataset

    return open_dataset(
        data.set, Path(data.root), split, steps=(model.event_steps, model.audio_steps), cache=Path(data.cache) if data.cache else None,
        workers=data.workers, on_bad=data.on_bad, split_kind=data.split, quiet=quiet, limit=limit,
    )  # fmt: skip
