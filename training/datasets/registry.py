"""Real data sets by name."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from taaf.models.errors import DataError, did_you_mean
from taaf.training.datasets.ave import open_ave
from taaf.training.datasets.crema_d import open_crema_d
from taaf.training.datasets.ead import open_ead_mnistdvs, open_ead_nmnist
from taaf.training.datasets.pairs import NamedPairs
from taaf.training.datasets.urbansound8k_av import open_urbansound8k_av

OPENERS: dict[str, Callable[..., NamedPairs]] = {
    "crema-d": open_crema_d,
    "ave": open_ave,
    "ead-nmnist": open_ead_nmnist,
    "ead-mnistdvs": open_ead_mnistdvs,
    "urbansound8k-av": open_urbansound8k_av,
}


def require_known(name: str, *others: str) -> None:
    """Raise `DataError` with the nearest name, or all, if there is no such data set, here or among the ``others``."""
    names = (*others, *OPENERS)
    if name not in names:
        raise DataError(f"data set {name!r} unknown; {did_you_mean(name, names)}")


def open_dataset(name: str, root: Path | str, split: str, **options: Any) -> NamedPairs:
    """Open a data set by name; the options are those of its opener (steps, cache, workers, on_bad, split_kind, quiet, …).

    Raises
    ------
    DataError
        If the name (the message has the nearest, or all) or an option is unknown, or what the opener raises.
    """
    require_known(name)
    opener = OPENERS[name]
    allowed = [p.name for p in inspect.signature(opener).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in allowed:
            raise DataError(f"data set {name}: unknown option {option!r}; {did_you_mean(option, allowed)}")
    return opener(root, split, **options)


def describe(dataset: NamedPairs) -> str:
    """A few lines for a person: sizes, shapes, samples per class. Reads the first sample."""
    first, second, _ = dataset[0]
    (a, b), n = dataset.modalities, len(dataset)
    counts = np.bincount(dataset.labels, minlength=len(dataset.label_names))
    return (
        f"{dataset.name}: {n} samples, {dataset.n_skipped} skipped\n"
        f"{a} {tuple(first.shape)} [{first.min():.3g}, {first.max():.3g}], {b} {tuple(second.shape)} "
        f"[{second.min():.3g}, {second.max():.3g}]\n"
        + ", ".join(f"{label} {count}" for label, count in zip(dataset.label_names, counts, strict=True))
    )
