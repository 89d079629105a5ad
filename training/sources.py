"""From a [data] table to the data set it names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taaf.models.config import REAL, ModelConfig
from taaf.models.encoder import to_levels
from taaf.models.errors import ConfigError, DataError
from taaf.training.config import DataConfig
from taaf.training.data import Batch, InMemory, PairDataset, Sample
from taaf.training.datasets.ead_mini import LABELS, load_split


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
        part = load_split(split, slice(limit), data.audio_snr_db, data.event_snr_db)
        return InMemory(part.event, part.audio, part.labels, ("event", "audio"), LABELS)
    if data.set == "generated":
        from taaf.training.datasets.generated import GeneratedPairs

        made = GeneratedPairs(model, split)
        return made if limit is None else FirstSamples(made, limit)
    from taaf.training.datasets.registry import open_dataset, require_known

    require_known(data.set, "ead-mini", "generated")
    if not data.root:
        raise ConfigError(f"data.root: empty; {data.set} is not shipped, give --root FOLDER (or data.root), where it lies")
    if model.event_steps != model.audio_steps:
        raise ConfigError(
            f"model.audio_steps (={model.audio_steps}): {data.set} has as many as event_steps (={model.event_steps})"
        )
    whole = open_dataset(
        data.set, Path(data.root), split, steps=model.event_steps, cache=Path(data.cache) if data.cache else None,
        workers=max(1, data.workers), on_bad=data.on_bad, split_kind=data.split, quiet=quiet,
    )  # fmt: skip
    return whole if limit is None else FirstSamples(whole, limit)


MAX_WINDOWS = 1000  # of a set on disk; verification and deployment keep them in memory


@dataclass(frozen=True)
class Windows:
    """Inputs as a deployed network takes them.

    Attributes
    ----------
    inputs : dict
        Modality -> (N, *shape, T): spikes uint8 in {0, 1} for the chip, or input levels int8 for the host's encoder.
    labels : numpy.ndarray
        (N,) int64.
    label_names : tuple of str
        Class names.
    """

    inputs: dict[str, np.ndarray]
    labels: np.ndarray
    label_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def open_windows(data: DataConfig, model: ModelConfig, split: str, quiet: bool = True, limit: int = MAX_WINDOWS) -> Windows:
    """The samples of a split as a deployed network takes them: all of EAD-mini, the first ``limit`` of other sets.

    Raises
    ------
    ConfigError, DataError
        As `open_split`; also if an input is not finite, or real numbers arrive at a branch that takes spikes.
    """
    found = open_split(data, model, split, quiet)
    if isinstance(found, InMemory):
        first, second, labels = found.first, found.second, found.labels
    else:
        n = min(len(found), limit, MAX_WINDOWS)
        samples = [found.batch([i]) for i in range(n)]  # converted one by one: floats take four times the memory
        scales = [model.input_scales.get(m) for m in found.modalities]
        first, second = (
            np.concatenate([_deployed(data.set, found.modalities[k], s[k].numpy(), scale) for s in samples])
            for k, scale in enumerate(scales)
        )
        labels = np.concatenate([s[2].numpy() for s in samples])
    return Windows(dict(zip(found.modalities, (first, second), strict=True)), labels, found.label_names)


def _deployed(dataset: str, name: str, x: np.ndarray, scale: int | None) -> np.ndarray:
    if scale is not None and np.isfinite(x).all():
        return to_levels(x, scale)
    if not ((x == 0) | (x == 1)).all():
        kind = "hold values that are NaN or infinite" if scale else "are real numbers, a chip takes spikes"
        raise DataError(f"{dataset}: {name} inputs {kind}; correct them, or use a branch with an encoder ({' or '.join(REAL)})")
    return x.astype(np.uint8)
