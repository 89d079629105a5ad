"""AVE: 4 143 ten-second clips of 28 audio-visual events (Tian et al. 2018).

    ROOT/Annotations.txt                          a header, then ``Category&VideoID&Quality&Start&End`` (seconds)
    ROOT/trainSet.txt, valSet.txt, testSet.txt    the same fields; a header is allowed and skipped
    ROOT/AVE/VideoID.mp4                          frames and sound

or, instead of the videos, what was extracted from them before (both folders are needed):

    ROOT/Image-01-FPS-SE/VideoID/*.jpg            frames of the event only, from its start to its end
    ROOT/Audio/VideoID.wav                        the sound of the whole clip

A set row may stop after VideoID; quality, start and end are then those of Annotations.txt.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from taaf.models.errors import did_you_mean
from taaf.training.datasets.audio_visual import AudioVisualRecipe
from taaf.training.datasets.bad_samples import BadSamples
from taaf.training.datasets.cache import Item, prepare
from taaf.training.datasets.lists import first_folder, read_rows, require_choice, require_positive, require_root
from taaf.training.datasets.pairs import AudioVisualPairs

CLASSES = (
    "Church bell", "Male speech, man speaking", "Bark", "Fixed-wing aircraft, airplane", "Race car, auto racing",
    "Female speech, woman speaking", "Helicopter", "Violin, fiddle", "Flute", "Ukulele", "Frying (food)", "Truck", "Shofar",
    "Motorcycle", "Acoustic guitar", "Train horn", "Clock", "Banjo", "Goat", "Baby cry, infant cry", "Bus", "Chainsaw", "Cat",
    "Horse", "Toilet flush", "Rodents, rats, mice", "Accordion", "Mandolin",
)  # fmt: skip
RATE = 16_000
SECONDS = 10
LISTS = {"train": "trainSet.txt", "validation": "valSet.txt", "test": "testSet.txt"}
_ID = re.compile(r"[A-Za-z0-9_-]+")  # YouTube's alphabet; also keeps a list from naming files elsewhere


@dataclass(frozen=True)
class Clip:
    """One row: class name, video, and the start and end of the event in seconds."""

    category: str
    video: str
    start: float
    end: float


def open_ave(
    root: Path | str,
    split: str,
    *,
    steps: int = 4,
    audio_steps: int | None = None,
    cache: Path | str | None = None,
    workers: int = 1,
    on_bad: str = "stop",
    split_kind: str = "official",
    quiet: bool = False,
) -> AudioVisualPairs:
    """Open AVE; what is not in the cache yet is decoded.

    Parameters
    ----------
    root : Path
        Folder with the lists and the media folders; AVE/ is used if both layouts are there.
    split : {"train", "validation", "test"}
        Which list.
    steps : int
        Time steps T, one frame each: the middles of T equal parts of the event; if it has fewer frames, the last again.
    audio_steps : int, optional
        Time steps of the sound, whose spectrogram is the same at each (default: ``steps``).
    cache : Path, optional
        Cache folder (default: ``ROOT/.taaf-cache``); about 1.6 MB per clip at T = 4.
    workers : int
        Processes that decode.
    on_bad : {"stop", "skip"}
        What a bad row, clip or class does.
    split_kind : {"official"}
        There is no other: AVE names no speakers.
    quiet : bool
        No progress bar.

    Returns
    -------
    AudioVisualPairs
        visual (3, 224, 224, T), ImageNet-normalised; audio (1, 257, 1004, T_a), `log_power` of the clip's first 10 s at
        16 kHz (shorter sound is repeated). Labels index `CLASSES`.

    Raises
    ------
    DataError
        For a missing folder or list, an option that does not exist, and bad samples as ``on_bad`` says.
    """
    require_choice(split, tuple(LISTS), "AVE split")
    require_choice(split_kind, ("official",), "AVE split_kind")
    require_positive(steps, "steps")
    require_positive(audio_steps or steps, "audio_steps")
    folder = require_root(root, "AVE")
    bad = BadSamples(on_bad)
    annotated = read_clips(folder / "Annotations.txt", {}, bad)
    known: dict[str, list[Clip]] = {}
    for clip in annotated:
        known.setdefault(clip.video, []).append(clip)
    clips = read_clips(folder / LISTS[split], known, bad)
    bad.require_some(len(clips), f"AVE {split}")
    visual = first_folder(folder, ("AVE", "Image-01-FPS-SE"), "videos VideoID.mp4 or frames VideoID/*.jpg")
    if visual.name == "AVE":
        videos = [visual / f"{c.video}.mp4" for c in clips]
        items = [Item(c.video, (v, v), (c.start, c.end)) for c, v in zip(clips, videos, strict=True)]
    else:
        sound = first_folder(folder, ("Audio",), "wave files VideoID.wav")
        items = [Item(c.video, (visual / c.video, sound / f"{c.video}.wav")) for c in clips]
    recipe = AudioVisualRecipe(steps, RATE, SECONDS, power=True)
    store = Path(cache) if cache is not None else folder / ".taaf-cache"
    kept, files = prepare(items, recipe, store, bad, workers=workers, quiet=quiet, title=f"AVE {split}")
    labels = [CLASSES.index(clips[i].category) for i in kept]
    names = [clips[i].video for i in kept]
    return AudioVisualPairs(f"AVE {split}", files, labels, CLASSES, names, bad.n_skipped, audio_steps=audio_steps or 0)


def read_clips(path: Path, known: dict[str, list[Clip]], bad: BadSamples) -> list[Clip]:
    """Clips of one list.

    Parameters
    ----------
    path : Path
        Annotations.txt or a set list.
    known : dict
        Annotated clips per video; empty when Annotations.txt itself is read. A set row must agree with one of them.
    bad : BadSamples
        Gets rows that are malformed, of an unknown class, repeated, or not annotated.
    """
    clips: dict[Clip, int] = {}
    for number, row in read_rows(path, "&"):
        if number == 1 and row[0].lower() == "category":
            continue
        where = f"{path}:{number}"
        clip = _clip(row, known, where)
        if isinstance(clip, str):
            bad.report(clip)
        elif clip in clips and known:
            bad.report(f"{where}: {clip.video} is listed already in line {clips[clip]}; remove one")
        else:
            clips[clip] = number
    return list(clips)


def _clip(row: Sequence[str], known: dict[str, list[Clip]], where: str) -> Clip | str:
    """The clip of a row, or what is wrong with it."""
    if len(row) not in ((5, 3, 2) if known else (5,)) or not _ID.fullmatch(row[1]):
        return f"{where}: found {'&'.join(row)[:80]!r}, expected Category&VideoID&Quality&Start&End"
    category, video = row[:2]
    if category not in CLASSES:
        return f"{where}: unknown class {category!r}; {did_you_mean(category, CLASSES)}"
    if known:
        same = [c for c in known.get(video, []) if c.category == category]
        if not same:
            found = ", ".join(c.category for c in known.get(video, [])) or "nothing"
            return f"{where}: {video} is listed as {category}, Annotations.txt has {found}; correct one of them"
        if len(row) < 5:
            return same[0]
    try:
        start, end = float(row[3]), float(row[4])
    except ValueError:
        start = end = 0.0
    if not 0 <= start < end < 3600:
        return f"{where}: event from {row[3]!r} to {row[4]!r}, expected seconds with 0 <= start < end"
    return Clip(category, video, start, end)
