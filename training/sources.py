"""From a [data] table to the data set it names."""

from collections.abc import Sequence
from pathlib import Path

from taaf.models.config import ModelConfig
from taaf.models.errors import ConfigError
from taaf.training.config import DataConfig
from taaf.training.data import Batch, InMemory, PairDataset, Sample
from taaf.training.ead_mini import LABELS, load_split


class FirstSamples(PairDataset):
    """The first ``n`` samples of a data set."""

    def __init__(self, whole: PairDataset, n: int) -> None:
        self.whole, self.n = whole, min(n, len(whole))
        self.modalities, self.label_names = whole.modalities, whole.label_names

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.n:
            raise IndexError(index)
        return self.whole[index]

    def batch(self, indices: Sequence[int]) -> Batch:
        return self.whole.batch(indices)


def open_split(data: DataConfig, model: ModelConfig, split: str, quiet: bool = True) -> PairDataset:
    """The "train" or "test" part of the configured data set (for EAD-mini also "human").

    Raises
    ------
    ConfigError
        If the set needs a ``root`` and has none, or the model asks for unequal steps the set does not have.
    DataError
        Naming the file that is missing or bad.
    """
    limit = {"train": data.train_pairs, "test": data.test_pairs}.get(split, 0) or None
    if data.set == "ead-mini":
        part = load_split(split, slice(limit), data.audio_snr_db)
        return InMemory(part.event, part.audio, part.labels, ("event", "audio"), LABELS)
    if not data.root:
        raise ConfigError(f"data.root: empty; {data.set} is not shipped, give --root FOLDER (or data.root), where it lies")
    if model.event_steps != model.audio_steps:
        raise ConfigError(
            f"model.audio_steps (={model.audio_steps}): {data.set} has as many as event_steps (={model.event_steps})"
        )
    from taaf.training.datasets.registry import open_dataset

    whole = open_dataset(
        data.set, Path(data.root), split, steps=model.event_steps, cache=Path(data.cache) if data.cache else None,
        workers=max(1, data.workers), on_bad=data.on_bad, split_kind=data.split, quiet=quiet,
    )  # fmt: skip
    return whole if limit is None else FirstSamples(whole, limit)
