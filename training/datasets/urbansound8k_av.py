"""UrbanSound8K-AV: sounds of UrbanSound8K (Salamon et al. 2014), each with one still image (Guo et al., SMMT), ten classes.

    ROOT/Dataset_v3_vision/CLASS/NAME.jpg     one image per sound
    ROOT/Dataset_v3_sound/CLASS/NAME.wav      up to 4 s

CLASS is one of `CLASSES`; NAME is that of UrbanSound8K, recording-class-occurrence-slice, e.g. ``126153-9-0-6`` in street_music.
The layout is the one that S-CMRL's public code reads (arXiv 2502.12488; github.com/Brain-Cog-Lab/S-CMRL).
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from taaf.models.errors import did_you_mean
from taaf.training.datasets.audio_visual import AudioVisualRecipe
from taaf.training.datasets.bad_samples import BadSamples
from taaf.training.datasets.cache import Item, prepare
from taaf.training.datasets.lists import first_folder, own_entries, require_choice, require_positive, require_root
from taaf.training.datasets.pairs import AudioVisualPairs

CLASSES = (
    "air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling",
    "engine_idling", "gun_shot", "jackhammer", "siren", "street_music",
)  # fmt: skip
VISION, SOUND = "Dataset_v3_vision", "Dataset_v3_sound"
RATE = 22_050
SECONDS = 4
TRAIN_SHARE = 0.7  # of each class
_NAME = re.compile(r"([0-9]{1,9})-([0-9])-[0-9]{1,9}-[0-9]{1,9}")


def open_urbansound8k_av(
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
    """Open UrbanSound8K-AV; what is not in the cache yet is decoded.

    Parameters
    ----------
    root : Path
        Folder with Dataset_v3_vision and Dataset_v3_sound.
    split : {"train", "test"}
        Which part.
    steps : int
        Time steps T; image and spectrogram are the same at each.
    audio_steps : int, optional
        Time steps of the sound (default: ``steps``).
    cache : Path, optional
        Cache folder (default: ``ROOT/.taaf-cache``); about 0.4 MB per clip, for any T.
    workers : int
        Processes that decode.
    on_bad : {"stop", "skip"}
        What a bad clip, an image or a sound without the other, or a wrong class folder does.
    split_kind : {"official", "recording-disjoint"}
        ``official``: the first 0.7 of each class are the training set (`first_share`), as in S-CMRL's code. It takes files in
        the order in which the disk lists them, so that its exact split cannot be had again; here they are sorted by name. **A
        recording was cut into several slices**: in a disk's order they lie on both sides; sorted, they lie side by side, and
        one recording per class at most is cut by it (one that holds several classes can be on both sides, too). Accuracies of
        the two are not comparable. ``recording-disjoint``: about 0.7 of each class (`whole_recordings`), and no recording on
        both sides.
    quiet : bool
        No progress bar.

    Returns
    -------
    AudioVisualPairs
        visual (3, 224, 224, T), ImageNet-normalised; audio (1, 257, 250, T_a), log STFT of 4 s at 22 050 Hz (`log_stft`): shorter
        sound is repeated, like CREMA-D's. S-CMRL's code does not repeat it, scales spectrograms of any length to 128x128, and
        cuts 128x128 out of the images. Labels index `CLASSES`.

    Raises
    ------
    DataError
        For a missing folder, an option that does not exist, and bad samples as ``on_bad`` says.
    """
    require_choice(split, ("train", "test"), "UrbanSound8K-AV split")
    require_choice(split_kind, ("official", "recording-disjoint"), "UrbanSound8K-AV split_kind")
    require_positive(steps, "steps")
    require_positive(audio_steps or steps, "audio_steps")
    folder, title = require_root(root, "UrbanSound8K-AV"), f"UrbanSound8K-AV {split}"
    bad = BadSamples(on_bad)
    names = find_clips(folder, bad)
    trained = first_share(names) if split_kind == "official" else whole_recordings(names)
    names = [name for name in names if (name in trained) == (split == "train")]
    bad.require_some(len(names), title)
    vision, sound = ({name: folder / part / CLASSES[label_of(name)] for name in names} for part in (VISION, SOUND))
    items = [Item(name, (vision[name] / f"{name}.jpg", sound[name] / f"{name}.wav")) for name in names]
    recipe = AudioVisualRecipe(1, RATE, SECONDS, power=False)  # one frame, whatever T
    store = Path(cache) if cache is not None else folder / ".taaf-cache"
    kept, files = prepare(items, recipe, store, bad, workers=workers, quiet=quiet, title=title)
    names = [names[i] for i in kept]
    labels = [label_of(n) for n in names]
    found = AudioVisualPairs(title, files, labels, CLASSES, names, bad.n_skipped, steps, audio_steps or 0)
    if split_kind != "official":
        found.group_names = tuple(map(recording_of, names))
    return found


def find_clips(root: Path, bad: BadSamples) -> list[str]:
    """Names of the clips that have both an image and a sound in the folder of their class, by class and name.

    Reported to ``bad``: folders that are no class, missing ones, names that do not fit their folder, and an image or a sound
    without the other. Other files are ignored.
    """
    vision = first_folder(root, (VISION,), "images CLASS/NAME.jpg")
    heard = first_folder(root, (SOUND,), "sounds CLASS/NAME.wav")
    images, sounds = _names_by_class(vision, ".jpg", bad), _names_by_class(heard, ".wav", bad)
    clips = []
    for name in CLASSES:
        for clip in sorted(images[name] | sounds[name]):
            image, sound = vision / name / f"{clip}.jpg", heard / name / f"{clip}.wav"
            if clip not in images[name]:
                bad.report(f"{sound}: a sound without its image {image}; put it there or remove the sound")
            elif clip not in sounds[name]:
                bad.report(f"{image}: an image without its sound {sound}; put it there or remove the image")
            else:
                clips.append(clip)
    return clips


def _names_by_class(folder: Path, suffix: str, bad: BadSamples) -> dict[str, set[str]]:
    """Class -> names of the files with this suffix that fit it."""
    for path in own_entries(folder):
        if path.is_dir() and path.name not in CLASSES:
            bad.report(f"{path}: unknown class folder; {did_you_mean(path.name, CLASSES)}")
    found: dict[str, set[str]] = {}
    for label, name in enumerate(CLASSES):
        found[name] = set()
        if not (folder / name).is_dir():
            bad.report(f"{folder / name}: missing folder of a class; put its {suffix} files there")
            continue
        for path in own_entries(folder / name):
            if path.suffix != suffix:
                continue
            match = _NAME.fullmatch(path.stem)
            if match is None or not path.is_file():
                bad.report(
                    f"{path}: expected a file recording-class-occurrence-slice{suffix} such as 126153-{label}-0-6{suffix}"
                )
            elif int(match[2]) != label:
                says = CLASSES[int(match[2])]
                bad.report(f"{path}: its name says class {match[2]} ({says}), its folder {label}; move or rename it")
            else:
                found[name].add(path.stem)
    return found


def label_of(name: str) -> int:
    """Index into `CLASSES`."""
    return int(name.split("-")[1])


def recording_of(name: str) -> str:
    """The freesound recording that the clip was cut from."""
    return name.split("-")[0]


def first_share(names: Sequence[str]) -> frozenset[str]:
    """The first ``round(0.7 n)`` of the n names of each class, in their order."""
    parts = [[name for name in names if label_of(name) == label] for label in range(len(CLASSES))]
    return frozenset(name for part in parts for name in part[: round(TRAIN_SHARE * len(part))])


def whole_recordings(names: Sequence[str]) -> frozenset[str]:
    """Names of whole recordings, about 0.7 of each class; the same in whatever order the names come.

    Class by class, recordings in the order of their names: each is taken if that brings the number of taken clips of the class
    nearer to 0.7 of them. A recording that holds several classes goes where the first of them put it.
    """
    taken: dict[str, bool] = {}
    for label in range(len(CLASSES)):
        sizes = Counter(recording_of(name) for name in names if label_of(name) == label)
        n_taken = sum(size for recording, size in sizes.items() if taken.get(recording))
        for recording in sorted(sizes.keys() - taken.keys()):
            taken[recording] = n_taken + sizes[recording] / 2 <= TRAIN_SHARE * sizes.total()
            n_taken += sizes[recording] * taken[recording]
    return frozenset(name for name in names if taken[recording_of(name)])
