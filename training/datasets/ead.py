"""EAD: digits seen by an event camera and heard by a silicon cochlea, paired by class.

ROOT/n-tidigits.hdf5
ROOT/N-MNIST/Train/0/00002.bin …, Test/…                            (or ROOT/Train, ROOT/Test)
ROOT/MNIST-DVS/grabbed_data0/scale4/mnist_0_scale04_0001.aedat …    (or ROOT/grabbed_data0)
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from taaf.models.errors import DataError, TaafError
from taaf.models.files import hdf5
from taaf.models.files.placeholders import naming_placeholders
from taaf.training.datasets.bad_samples import BadSamples
from taaf.training.datasets.cache import Item, prepare
from taaf.training.datasets.event_files import EventRecipe
from taaf.training.datasets.lists import first_folder, own_entries, require_choice, require_file, require_positive, require_root
from taaf.training.datasets.ntidigits import SpokenDigits, read_names, read_ntidigits, speaker_of, speakers
from taaf.training.datasets.pairs import EventAudioPairs

AUDIO_FILE = "n-tidigits.hdf5"
SCALES = (4, 8, 16)
SIZES = (28, 34)  # of MNIST-DVS here: that of MNIST, that of N-MNIST
_HALF_SEED = 500


def open_ead_nmnist(
    root: Path | str,
    split: str,
    *,
    steps: int = 5,
    audio_steps: int | None = None,
    cache: Path | str | None = None,
    workers: int = 1,
    on_bad: str = "stop",
    split_kind: str = "official",
    quiet: bool = False,
    seed: int = 0,
) -> EventAudioPairs:
    """Open N-MNIST (60 000 / 10 000) paired with the single digits of N-TIDIGITS; what is not in the cache yet is decoded.

    Parameters
    ----------
    root : Path
        Folder with both sets.
    split : {"train", "test"}
        Which part, of both sets.
    steps : int
        Time steps T.
    audio_steps : int, optional
        Those of the spoken digits (default: ``steps``).
    cache : Path, optional
        Cache folder (default: ``ROOT/.taaf-cache``); about 2 kB per recording at T = 5. N-TIDIGITS is not cached: its
        single digits are read from the one file in seconds.
    workers : int
        Processes that decode.
    on_bad : {"stop", "skip"}
        What a bad recording or spoken sample does.
    split_kind : {"official", "speaker-disjoint"}
        The official parts. ``speaker-disjoint`` also makes sure that they share no speaker, as they are published.
    quiet : bool
        No progress bar.
    seed : int
        Of the pairing (`pair_by_class`).

    Returns
    -------
    EventAudioPairs
        event (2, 34, 34, T) and audio (64, T_a), float32 in {0, 1}. One pair per event recording.

    Raises
    ------
    DataError
        For a missing folder or file, an option that does not exist, and bad samples as ``on_bad`` says.
    """
    folder = _begin(root, split, split_kind, steps, audio_steps or steps)
    bad = BadSamples(on_bad)
    base = folder / "N-MNIST" if (folder / "N-MNIST").is_dir() else folder
    part = first_folder(base, (split.capitalize(),), "N-MNIST digit folders 0 to 9")
    recordings = []
    for digit, sub in _digit_folders(part, "", bad):
        files = [path for path in own_entries(sub) if path.suffix == ".bin"]
        if not files:
            bad.report(f"{sub}: 0 recordings, expected files such as 00002.bin")
        recordings += [(path, digit) for path in files]
    recipe, heard = EventRecipe(steps, 0), audio_steps or steps
    return _open(folder, "N-MNIST", split, recordings, recipe, heard, cache, bad, seed, workers=workers, quiet=quiet)


def open_ead_mnistdvs(
    root: Path | str,
    split: str,
    *,
    steps: int = 5,
    audio_steps: int | None = None,
    cache: Path | str | None = None,
    workers: int = 1,
    on_bad: str = "stop",
    split_kind: str = "official",
    quiet: bool = False,
    seed: int = 0,
    scale: int = 4,
    size: int = 34,
) -> EventAudioPairs:
    """Open MNIST-DVS of one scale (10 000 recordings) paired with the single digits of N-TIDIGITS.

    Parameters and result as `open_ead_nmnist`, and:

    split_kind : {"official", "speaker-disjoint", "half"}
        MNIST-DVS has no published split: of every digit, the last tenth of the files (by number) is the test part. "half": a random
        half, 500 of 1 000, as S-CMRL's public code (arXiv 2502.12488) has it; here always the same one. N-TIDIGITS has its own parts.
    scale : {4, 8, 16}
        Size of the digit.
    size : {28, 34}
        Side of the middle part that is kept (`cropped`).
    """
    for name, value, allowed in (("scale", scale, SCALES), ("size", size, SIZES)):
        if value not in allowed:
            raise DataError(f"MNIST-DVS {name} (={value!r}): allowed {', '.join(map(str, allowed))}")
    folder = _begin(root, split, split_kind, steps, audio_steps or steps, "half")
    bad = BadSamples(on_bad)
    base = folder / "MNIST-DVS" if (folder / "MNIST-DVS").is_dir() else folder
    recordings = []
    for digit, sub in _digit_folders(base, "grabbed_data", bad):
        numbered = []
        for path in own_entries(first_folder(sub, (f"scale{scale}",), "MNIST-DVS recordings")):
            if path.suffix != ".aedat":
                continue
            match = re.fullmatch(r"mnist_([0-9])_scale([0-9]{2})_([0-9]{1,9})", path.stem)
            if match is None or (int(match[1]), int(match[2])) != (digit, scale):
                bad.report(f"{path}: expected a name such as mnist_{digit}_scale{scale:02d}_0001.aedat in this folder")
            else:
                numbered.append((int(match[3]), path))
        if not numbered:
            bad.report(
                f"{sub / f'scale{scale}'}: 0 recordings, expected files such as mnist_{digit}_scale{scale:02d}_0001.aedat"
            )
        files = [path for _, path in sorted(numbered)]
        train = _training_half(len(files), digit) if split_kind == "half" else np.arange(len(files)) < _first_part(len(files))
        recordings += [(path, digit) for path, own in zip(files, train == (split == "train"), strict=True) if own]
    return _open(
        folder,
        f"MNIST-DVS scale {scale}",
        split,
        recordings,
        EventRecipe(steps, scale, size),
        audio_steps or steps,
        cache,
        bad,
        seed,
        workers=workers,
        quiet=quiet,
    )


def _first_part(n: int) -> int:
    return n - max(1, n // 10)


def _training_half(n: int, digit: int) -> np.ndarray:
    """(n,) bool with n // 2 set, drawn for each digit."""
    return np.random.default_rng((_HALF_SEED, digit)).permutation(n) < n // 2


def pair_by_class(event_labels: np.ndarray, audio_labels: np.ndarray, seed: int) -> np.ndarray:
    """For every event sample an audio sample of its class.

    Within a class both are put in a random order (one generator, classes ascending) and joined; there are fewer audio
    samples, so they come again from the first, each one as often as any other, give or take one.

    Returns
    -------
    numpy.ndarray
        (len(event_labels),) int64 indices into the audio samples.

    Raises
    ------
    DataError
        If a class has no audio sample.
    """
    rng = np.random.default_rng(seed)
    partner = np.zeros(len(event_labels), np.int64)
    for label in np.unique(event_labels):
        events = rng.permutation(np.flatnonzero(event_labels == label))
        audio = rng.permutation(np.flatnonzero(audio_labels == label))
        if not len(audio):
            raise DataError(f"digit {label}: {len(events)} event recordings and no spoken sample; check N-TIDIGITS")
        partner[events] = np.resize(audio, len(events))
    return partner


def _begin(root: Path | str, split: str, split_kind: str, steps: int, audio_steps: int, *kinds: str) -> Path:
    require_choice(split, ("train", "test"), "EAD split")
    require_choice(split_kind, ("official", "speaker-disjoint", *kinds), "EAD split_kind")
    require_positive(steps, "steps")
    require_positive(audio_steps, "audio_steps")
    folder = require_root(root, "EAD")
    require_file(folder / AUDIO_FILE, "the N-TIDIGITS file")
    if split_kind == "speaker-disjoint":
        _require_disjoint_speakers(folder / AUDIO_FILE)
    return folder


def _digit_folders(folder: Path, prefix: str, bad: BadSamples) -> list[tuple[int, Path]]:
    """The folders ``prefix0`` to ``prefix9``; others that start with the prefix are unknown classes."""
    found = {p.name: p for p in own_entries(folder) if p.is_dir() and p.name.startswith(prefix)}
    wanted = [f"{prefix}{d}" for d in range(10)]
    for name in sorted(set(found) - set(wanted)):
        bad.report(f"{found[name]}: unknown class folder, allowed {wanted[0]} to {wanted[-1]}")
    for name in wanted:
        if name not in found:
            bad.report(f"{folder / name}: missing folder of a digit; put its recordings there")
    return [(digit, found[name]) for digit, name in enumerate(wanted) if name in found]


@naming_placeholders
def _require_disjoint_speakers(path: Path) -> None:
    try:
        with hdf5.open_file(path) as file:
            shared = speakers(read_names(file, "train", path)) & speakers(read_names(file, "test", path))
    except TaafError:
        raise
    except Exception as error:  # h5py raises many kinds on damaged files
        raise DataError(f"{path}: not readable as HDF5; download the file again") from error
    if shared:
        raise DataError(f"{path}: train and test share {len(shared)} speakers ({min(shared)}, …); use split_kind='official'")


def _open(
    folder: Path,
    name: str,
    split: str,
    recordings: Sequence[tuple[Path, int]],
    recipe: EventRecipe,
    audio_steps: int,
    cache: Path | str | None,
    bad: BadSamples,
    seed: int,
    *,
    workers: int,
    quiet: bool,
) -> EventAudioPairs:
    title = f"EAD {name} {split}"
    bad.require_some(len(recordings), title)
    spoken: SpokenDigits = read_ntidigits(folder / AUDIO_FILE, split, audio_steps, bad)
    items = [Item(path.stem, (path,)) for path, _ in recordings]
    store = Path(cache) if cache is not None else folder / ".taaf-cache"
    kept, files = prepare(items, recipe, store, bad, workers=workers, quiet=quiet, title=title)
    labels = np.array([recordings[i][1] for i in kept], np.int64)
    partner = pair_by_class(labels, spoken.labels, seed)
    names = [f"{items[i].name}+{spoken.names[p]}" for i, p in zip(kept, partner, strict=True)]
    found = EventAudioPairs(title, files, list(labels), names, spoken.spikes, partner, bad.n_skipped, recipe.size, recipe.steps)
    found.group_names = tuple(speaker_of(spoken.names[p]) for p in partner)  # a spoken digit has many pairs
    return found
