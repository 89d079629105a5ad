"""From a [data] table to the data set it names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taaf.models.config import InputSpec
from taaf.models.encoder import to_levels
from taaf.models.errors import ConfigError, DataError
from taaf.training.config import DataConfig
from taaf.training.data import FirstSamples, InMemory, MultimodalDataset, SomeModalities, SomeSamples
from taaf.training.datasets.ead_mini import LABELS, NO_NOISE_DB, load_split, train_voices
from taaf.training.held_out import held_out

Specs = Mapping[str, InputSpec]
MAX_WINDOWS = 1000  # of a set on disk; verification and deployment keep them in memory


def open_split(data: DataConfig, specs: Specs, split: str, quiet: bool = True) -> MultimodalDataset:
    """The "train", "validation" or "test" part of the configured data set (of those in `RECORDED` also what is named there), with the
    modalities of ``specs``.

    "validation" is what the set itself brings (`has_validation`), else the share ``data.validation`` of its training part
    (`taaf.training.held_out`), which "train" is then without.

    Parameters
    ----------
    specs : mapping
        Modality -> what the network takes; a set whose sizes can be chosen follows them.

    Raises
    ------
    ConfigError
        If the set needs a ``root`` and has none, or has no such modality or validation part.
    DataError
        Naming the file that is missing or bad.
    """
    limit = _limit(data, split)
    if data.set == "ead-mini":
        part = load_split(
            "train" if split == "validation" else split,
            _ead_mini_indices(data, split, limit),
            *_noise(data, split),
            *(specs[m].steps if m in specs else 0 for m in ("event", "audio")),
        )
        whole: MultimodalDataset = InMemory({"event": part.event, "audio": part.audio}, part.labels, LABELS)
        return whole if tuple(specs) == whole.modalities else SomeModalities(whole, tuple(specs))
    whole = _opened(data, specs, split, quiet)
    whole = whole if tuple(specs) == whole.modalities else SomeModalities(whole, tuple(specs))
    return whole if limit is None or len(whole) <= limit else FirstSamples(whole, limit)


@dataclass(frozen=True)
class Splits:
    """The parts of a data set that a training takes; ``validation`` is None where there is none."""

    train: MultimodalDataset
    validation: MultimodalDataset | None
    test: MultimodalDataset


def open_splits(data: DataConfig, specs: Specs, quiet: bool = True) -> Splits:
    """All parts that a training takes; errors as of `open_split`."""
    train, test = (open_split(data, specs, split, quiet) for split in ("train", "test"))
    given = data.validation > 0 or has_validation(data)
    return Splits(train, open_split(data, specs, "validation", quiet) if given else None, test)


def has_validation(data: DataConfig) -> bool:
    """Whether the set brings a validation part of its own.

    EAD-36 does; AVE's valSet.txt, ``validation`` beside one's own arrays, and a function's are such.
    """
    if ":" in data.set:
        from taaf.training.datasets.own import has_validation

        return has_validation(data.set)
    return data.set in _VALIDATED and _VALIDATED[data.set](data)


def _require_share(data: DataConfig) -> float:
    if data.validation <= 0:
        raise ConfigError(
            f"data.validation (=0): {data.set} brings no validation part; give the share of its training part, e.g. 0.1"
        )
    return data.validation


def _ead_mini_indices(data: DataConfig, split: str, limit: int | None) -> slice | np.ndarray:
    """Which samples of the part: a validation part has voices of its own."""
    if split != "validation" and (split != "train" or not data.validation):
        return slice(limit)
    voices = train_voices()
    chosen = held_out(voices, _require_share(data), voices) == (split == "validation")
    return np.flatnonzero(chosen)[:limit]


def _opened(data: DataConfig, specs: Specs, split: str, quiet: bool) -> MultimodalDataset:
    """The whole part, of any set but EAD-mini."""
    own = split not in ("train", "validation") or has_validation(data)
    if not own and split == "validation":
        _require_share(data)
    part = "train" if not own else split
    whole = _OWN[data.set](data, specs, part) if data.set in _OWN else _on_disk(data, specs, part, quiet)
    if own or not data.validation:
        return whole
    chosen = held_out(whole.class_indices(), data.validation, whole.groups) == (split == "validation")
    indices = np.flatnonzero(chosen)
    return whole.part(indices) if isinstance(whole, InMemory) else SomeSamples(whole, indices)


def _generated(data: DataConfig, specs: Specs, split: str) -> MultimodalDataset:
    from taaf.training.datasets.generated import GeneratedPairs

    return GeneratedPairs(specs, split)


def _arrays(data: DataConfig, specs: Specs, split: str) -> MultimodalDataset:
    from taaf.training.datasets.arrays import open_arrays

    return open_arrays(_root(data), tuple(specs), split)


def _limit(data: DataConfig, split: str) -> int | None:
    """How many samples of a part are asked for; None: all."""
    return {"train": data.train_pairs, "test": data.test_pairs}.get(split, 0) or None


def _noise(data: DataConfig, split: str) -> tuple[float, float]:
    """Noise of audio and images in a part, dB."""
    return (data.audio_snr_db, data.event_snr_db) if data.noise_in == "all" or split == "train" else (NO_NOISE_DB, NO_NOISE_DB)


def _ead36(data: DataConfig, specs: Specs, split: str) -> MultimodalDataset:
    from taaf.training.datasets import ead36

    klettres = Path(data.root) if data.root else None
    part = ead36.load_split(ead36.SETS[data.set], split, _limit(data, split), *_noise(data, split), klettres)
    return InMemory(part.inputs(), part.labels, ead36.LABELS)


_OWN: dict[str, Callable[[DataConfig, Specs, str], MultimodalDataset]] = {
    "generated": _generated, "arrays": _arrays, "ead36-balanced": _ead36, "ead36-imbalanced": _ead36,
}  # fmt: skip
RECORDED = {  # sets with splits of recorded human speech, and which
    "ead-mini": ("human",), "ead36-balanced": ("human", "human-klettres"), "ead36-imbalanced": ("human", "human-klettres"),
}  # fmt: skip


def _has_arrays(data: DataConfig) -> bool:
    from taaf.training.datasets.arrays import has_part

    return has_part(_root(data), "validation")


def _has_list(data: DataConfig) -> bool:
    from taaf.training.datasets.ave import LISTS

    return (_root(data) / LISTS["validation"]).is_file()


_VALIDATED: dict[str, Callable[[DataConfig], bool]] = {  # may bring a validation part
    "arrays": _has_arrays, "ave": _has_list, "ead36-balanced": lambda _: True, "ead36-imbalanced": lambda _: True,
}  # fmt: skip


def _root(data: DataConfig) -> Path:
    if not data.root:
        raise ConfigError(f"data.root: empty; {data.set} is not shipped, give --root FOLDER (or data.root), where it lies")
    return Path(data.root)


def _on_disk(data: DataConfig, specs: Specs, split: str, quiet: bool) -> MultimodalDataset:
    if ":" in data.set:
        from taaf.training.datasets.own import open_own

        return open_own(data.set, split)
    from taaf.training.datasets.registry import open_dataset, require_known

    require_known(data.set, "ead-mini", *_OWN, "module:function")
    root = _root(data)
    given = {m: spec.steps for m, spec in specs.items() if spec.steps}
    if not given:
        raise ConfigError(
            f"branches.{next(iter(specs))}.steps: missing; {data.set} is cut into as many time steps as are asked for"
        )
    own = {"size": 28} if data.set == "ead-mnistdvs" and specs.get("event", InputSpec()).shape[1:] == (28, 28) else {}
    seen = next((n for m, n in given.items() if m != "audio"), next(iter(given.values())))
    return open_dataset(
        data.set, root, split, steps=seen, audio_steps=given.get("audio", seen), cache=Path(data.cache) if data.cache else None,
        workers=max(1, data.workers), on_bad=data.on_bad, split_kind=data.split, quiet=quiet, **own,
    )  # fmt: skip


@dataclass(frozen=True)
class Windows:
    """Inputs as a deployed network takes them.

    Attributes
    ----------
    inputs : dict
        Modality -> (N, *shape, T): spikes uint8 in {0, 1} for the chip, or input levels int8 for the host's encoder.
    labels : numpy.ndarray
        (N,) int64; -1 where a label is not known.
    label_names : tuple of str
        Class names.
    """

    inputs: dict[str, np.ndarray]
    labels: np.ndarray
    label_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def open_windows(data: DataConfig, specs: Specs, split: str, quiet: bool = True, limit: int = MAX_WINDOWS) -> Windows:
    """The samples of a split as a deployed network takes them: all of what is in memory, the first ``limit`` of other sets.

    Raises
    ------
    ConfigError, DataError
        As `open_split`; also if an input is not finite, or real numbers arrive at a branch that takes spikes.
    """
    found = open_split(data, specs, split, quiet)
    whole = found.whole if isinstance(found, SomeModalities) else found
    if isinstance(whole, InMemory) and not any(specs[m].scale for m in found.modalities):
        inputs = {m: _deployed(data.set, m, whole.inputs[m], None) for m in found.modalities}
        return Windows(inputs, whole.labels, found.label_names)
    n = min(len(found), limit, MAX_WINDOWS)
    samples = [found.batch([i]) for i in range(n)]  # converted one by one: floats take four times the memory
    inputs = {
        m: np.concatenate([_deployed(data.set, m, x[m].numpy(), specs[m].scale or None) for x, _ in samples])
        for m in found.modalities
    }
    return Windows(inputs, np.concatenate([y.numpy() for _, y in samples]), found.label_names)


def _deployed(dataset: str, name: str, x: np.ndarray, scale: int | None) -> np.ndarray:
    if scale is not None and np.isfinite(x).all():
        return to_levels(x, scale)
    if x.dtype == np.uint8 and x.max(initial=0) <= 1:
        return x
    if not ((x == 0) | (x == 1)).all():
        kind = "hold values that are NaN or infinite" if scale else "are real numbers, a chip takes spikes"
        raise DataError(
            f"{dataset}: {name} inputs {kind}; correct them, or give branches.{name}.scale: its first convolution is then an "
            "encoder on the host"
        )
    return x.astype(np.uint8)
