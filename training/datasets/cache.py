"""Cached preprocessing: every sample is decoded once, by several processes, into its own .npz file.

A sample's file name is the SHA-256 of everything its content depends on: the recipe and its settings, the sample's
options, and path, size and modification time of every source file. So a second run decodes only what is missing or
changed, other settings never meet old files, and nothing has to be invalidated. Files appear under their name only
when complete. Delete the folder to free the space.
"""

import contextlib
import hashlib
import json
import sys
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from tqdm import tqdm

from taaf.models.errors import DataError, OutputError
from taaf.models.files.npz import read_npz
from taaf.models.files.writing import make_folder, written_at_once
from taaf.training.datasets.bad_samples import BadSamples
from taaf.training.datasets.lists import require_positive
from taaf.training.datasets.media import list_images

FORMAT = 1
MAX_BYTES = 1 << 30  # per sample


@dataclass(frozen=True)
class Item:
    """One sample to prepare.

    Attributes
    ----------
    name : str
        For messages.
    sources : tuple of Path
        What the recipe reads: files, or folders of images.
    options : tuple of float
        Settings of this sample only, e.g. its start and end.
    """

    name: str
    sources: tuple[Path, ...]
    options: tuple[float, ...] = ()


class Recipe(Protocol):
    """A frozen dataclass of JSON settings that turns an item into arrays; `version` changes when its output does."""

    version: ClassVar[int]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __call__(self, item: Item) -> dict[str, np.ndarray]:
        """Decode one sample; raises `DataError` naming the bad file."""
        ...


@dataclass(frozen=True)
class Job:
    """An item, its recipe and the file to write."""

    item: Item
    recipe: Recipe
    target: Path

    def run(self) -> str | None:
        """Decode and write; the message of a bad sample, or None. Raises `OutputError` if the cache cannot be written."""
        try:
            arrays = self.recipe(self.item)
        except DataError as error:
            return str(error)
        make_folder(self.target.parent)
        with written_at_once(self.target, durable=False) as part, part.open("wb") as file:
            np.savez(file, **arrays)
        return None


def prepare(
    items: Sequence[Item],
    recipe: Recipe,
    folder: Path,
    bad: BadSamples,
    *,
    workers: int = 1,
    quiet: bool = False,
    title: str = "",
) -> tuple[list[int], list[Path]]:
    """Make sure that every item is in the cache.

    Parameters
    ----------
    items : sequence of Item
        The samples, in their order in the data set.
    recipe : Recipe
        How to decode one.
    folder : Path
        Cache folder; created if missing.
    bad : BadSamples
        Stop or skip.
    workers : int
        Processes. 1 decodes in this process; more are started with the *spawn* method (Lava sets *fork*, which is not
        safe with decoder threads), so a script needs its ``if __name__ == "__main__":`` guard.
    quiet : bool
        No progress bar; there is none either if stderr is not a terminal.
    title : str
        Of the progress bar and of messages.

    Returns
    -------
    list of int
        Indices of the usable items.
    list of Path
        Their cache files.

    Raises
    ------
    DataError
        For the first bad sample (``stop``), or if none is usable.
    OutputError
        If the cache cannot be written.
    """
    require_positive(workers, "workers")
    targets: dict[int, Path] = {}
    for index, item in enumerate(items):
        try:
            targets[index] = folder / _key(item, recipe)
        except DataError as error:
            bad.report(error)
    todo = [index for index, target in targets.items() if not target.is_file()]
    jobs = [Job(items[index], recipe, targets[index]) for index in todo]
    hide = quiet or not sys.stderr.isatty()
    try:
        with (
            contextlib.closing(_run(jobs, workers)) as results,
            tqdm(total=len(jobs), desc=title or None, unit="sample", disable=hide, file=sys.stderr) as bar,
        ):
            for index, message in zip(todo, results, strict=True):
                bar.update()
                if message is not None:
                    del targets[index]
                    bad.report(message)
    except (OutputError, OSError) as error:
        raise OutputError(
            f"{folder}: the cache of preprocessed samples cannot be written ({error}); give another folder with --cache (or "
            "[data] cache)"
        ) from error
    bad.require_some(len(targets), title or str(folder))
    return list(targets), list(targets.values())


def _run(jobs: Sequence[Job], workers: int) -> Generator[str | None, None, None]:
    """Messages of the jobs, in their order."""
    if workers == 1 or len(jobs) < 2:
        yield from (job.run() for job in jobs)
        return
    from taaf.training.datasets.processes import run_in_processes

    yield from run_in_processes(jobs, workers)


def _key(item: Item, recipe: Recipe) -> str:
    """Relative path of the cache file; raises `DataError` if a source is missing."""
    files: list[Path] = []
    try:
        for source in item.sources:
            files += list_images(source) if source.is_dir() else [source]
        stats = [(str(path), (s := path.stat()).st_size, s.st_mtime_ns) for path in files]
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: missing media of the listed sample {item.name}; put it there or skip it") from error
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions") from error
    made_by = [FORMAT, type(recipe).__name__, recipe.version, asdict(recipe)]
    digest = hashlib.sha256(json.dumps([made_by, item.options, stats], sort_keys=True).encode()).hexdigest()
    return f"{digest[:2]}/{digest[2:40]}.npz"


def load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of one cache file; raises `DataError` if it is missing or damaged."""
    try:
        return read_npz(path, MAX_BYTES)
    except ValueError as error:
        raise DataError(f"{path}: damaged or missing cache file; delete it and open the data set again") from error
