"""CREMA-D: 7 442 clips of 91 actors, six emotions (Cao et al. 2014), in the layout that audio-visual learning code uses.

    ROOT/train.csv, test.csv         rows ``1088_IOM_NEU_XX,NEU``; the published lists have 6 698 and 744
    ROOT/AudioWAV/ID.wav
    ROOT/VideoFlash/ID.flv           or, if it exists, ROOT/Image-01-FPS/ID/00000.jpg …

ID is actor_sentence_emotion_level, e.g. ``1001_DFA_ANG_XX``.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from taaf.models.errors import DataError
from taaf.training.datasets.audio_visual import AudioVisualRecipe
from taaf.training.datasets.bad_samples import BadSamples
from taaf.training.datasets.cache import Item, prepare
from taaf.training.datasets.lists import first_folder, read_rows, require_choice, require_positive, require_root
from taaf.training.datasets.pairs import AudioVisualPairs

CLASSES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
RATE = 22_050
SECONDS = 3
TEST_SHARE = 0.1  # of the actors, in the speaker-disjoint split
_ID = re.compile(r"([0-9]{4})_[A-Z]{3}_([A-Z]{3})_[A-Z]{1,2}")  # one published ID ends in a single X


def open_crema_d(
    root: Path | str,
    split: str,
    *,
    steps: int = 3,
    audio_steps: int | None = None,
    cache: Path | str | None = None,
    workers: int = 1,
    on_bad: str = "stop",
    split_kind: str = "official",
    quiet: bool = False,
    seed: int = 0,
) -> AudioVisualPairs:
    """Open CREMA-D; what is not in the cache yet is decoded.

    Parameters
    ----------
    root : Path
        Folder with the csv lists and the media folders.
    split : {"train", "test"}
        Which part.
    steps : int
        Time steps T, one frame each: the middles of T equal parts of the clip; if it has fewer frames, the last again.
    audio_steps : int, optional
        Time steps of the sound, whose spectrogram is the same at each (default: ``steps``).
    cache : Path, optional
        Cache folder (default: ``ROOT/.taaf-cache``); about 0.65 MB per clip at T = 3.
    workers : int
        Processes that decode.
    on_bad : {"stop", "skip"}
        What a bad row, clip or class does.
    split_kind : {"official", "speaker-disjoint"}
        ``official``: train.csv and test.csv as published. **They share all 91 actors**, so that accuracy is not one of
        unseen speakers. ``speaker-disjoint``: a tenth of the actors, drawn with ``seed``, are the test set; both lists
        are read and then split by actor.
    quiet : bool
        No progress bar.
    seed : int
        Of the speaker-disjoint split.

    Returns
    -------
    AudioVisualPairs
        visual (3, 224, 224, T), ImageNet-normalised; audio (1, 257, 188, T_a), log STFT of 3 s at 22 050 Hz (`log_stft`).

    Raises
    ------
    DataError
        For a missing folder or list, an option that does not exist, and bad samples as ``on_bad`` says.
    """
    require_choice(split, ("train", "test"), "CREMA-D split")
    require_choice(split_kind, ("official", "speaker-disjoint"), "CREMA-D split_kind")
    require_positive(steps, "steps")
    require_positive(audio_steps or steps, "audio_steps")
    folder = require_root(root, "CREMA-D")
    bad = BadSamples(on_bad)
    sound = first_folder(folder, ("AudioWAV",), "wave files ID.wav")
    visual = first_folder(folder, ("Image-01-FPS", "VideoFlash"), "frames ID/00000.jpg or videos ID.flv")
    if split_kind == "official":
        ids = read_ids(folder / f"{split}.csv", bad)
    else:
        everything = list(dict.fromkeys([*read_ids(folder / "train.csv", bad), *read_ids(folder / "test.csv", bad)]))
        held_out = held_out_actors(everything, seed)
        ids = [i for i in everything if (actor_of(i) in held_out) == (split == "test")]
    bad.require_some(len(ids), f"CREMA-D {split}")
    suffix = "" if visual.name == "Image-01-FPS" else ".flv"
    items = [Item(i, (visual / f"{i}{suffix}", sound / f"{i}.wav")) for i in ids]
    recipe = AudioVisualRecipe(steps, RATE, SECONDS, power=False)
    store = Path(cache) if cache is not None else folder / ".taaf-cache"
    kept, files = prepare(items, recipe, store, bad, workers=workers, quiet=quiet, title=f"CREMA-D {split}")
    names = [ids[i] for i in kept]
    found = AudioVisualPairs(
        f"CREMA-D {split}", files, [label_of(n) for n in names], CLASSES, names, bad.n_skipped, audio_steps=audio_steps or 0
    )
    if split_kind != "official":
        found.group_names = tuple(map(actor_of, names))
    return found


def read_ids(path: Path, bad: BadSamples) -> list[str]:
    """Sample IDs of one csv list; rows that are malformed, repeated or contradict their ID are reported to ``bad``."""
    ids: dict[str, int] = {}
    for number, row in read_rows(path, ","):
        where = f"{path}:{number}"
        match = _ID.fullmatch(row[0])
        if len(row) != 2 or match is None:
            bad.report(f"{where}: found {','.join(row)[:80]!r}, expected ID,CLASS such as 1088_IOM_NEU_XX,NEU")
        elif row[1] not in CLASSES:
            bad.report(f"{where}: unknown class {row[1]!r}; allowed {', '.join(CLASSES)}")
        elif match[2] != row[1]:
            bad.report(f"{where}: class {row[1]} contradicts the ID {row[0]}, which says {match[2]}; correct the row")
        elif row[0] in ids:
            bad.report(f"{where}: {row[0]} is listed already in line {ids[row[0]]}; remove one")
        else:
            ids[row[0]] = number
    return list(ids)


def actor_of(sample_id: str) -> str:
    """The four digits of the actor."""
    return sample_id[:4]


def label_of(sample_id: str) -> int:
    """Index into `CLASSES`."""
    return CLASSES.index(sample_id.split("_")[2])


def held_out_actors(ids: Sequence[str], seed: int) -> frozenset[str]:
    """A tenth (at least one) of the actors of ``ids``, the same for the same seed in whatever order the IDs come."""
    actors = sorted({actor_of(i) for i in ids})
    if len(actors) < 2:
        raise DataError(
            f"CREMA-D speaker-disjoint split: found {len(actors)} actor, needs at least 2; use split_kind='official'"
        )
    order = np.random.default_rng(seed).permutation(len(actors))
    return frozenset(actors[i] for i in order[: max(1, round(TEST_SHARE * len(actors)))])
