"""EAD-36: 4 320 / 720 / 1 800 pairs of (simulated events of fonts and handwriting, synthetic speech) of 0-9 and A-Z.

Two conditions with the same images, validation and test: *balanced* (62 training voices) and *imbalanced* (6: audio is
learned fast and does not generalise). The shipped files hold grey pictures and 8-bit log-mel levels; events and audio spikes
are computed from them with integer arithmetic, so they are the same on every machine. See ``models/zoo/EAD36.md`` for sources
and licences.
"""

from pathlib import Path

import numpy as np

from taaf.models import zoo_path
from taaf.models.errors import DataError, did_you_mean
from taaf.training.datasets.ead_mini import NO_NOISE_DB, Split, add_image_noise, add_noise, encode_audio
from taaf.training.datasets.events import simulate_events
from taaf.training.datasets.shipped import read_shipped
from taaf.training.datasets.speech import DIGIT_WORDS, Window

SHA256 = "8eff1ea4793e1c1a8b1c7f22b58e5147dca4215f11e2b23814009a0e12d3148b"
HUMAN_SHA256 = "b6774c94797e408078b6c638b32029d712342bbbbe33e05f1ce5e4950ce909f7"
LABELS = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
WORDS = (*DIGIT_WORDS, *(f"{letter}." for letter in LABELS[10:]))  # as a synthesiser reads them: "A." is the letter's name
CONDITIONS = ("balanced", "imbalanced")
SETS = {f"ead36-{condition}": condition for condition in CONDITIONS}
SPLITS = ("train", "validation", "test", "human", "human-klettres")
STEPS = 5  # of events and of audio, as the paper's EAD
N_STARTS = 3  # the picture appears at step 0, 1 or 2
FRAMES_PER_STEP = 2
WINDOW = Window(bands=24, frames=FRAMES_PER_STEP * STEPS, frame_s=0.072, onset_s=0.16)
PAIRS = {"train": 4320, "validation": 720, "test": 1800}
_HUMAN_CLIPS = 230
_NOISE_SEEDS = {split: 36 + i for i, split in enumerate(SPLITS)}  # audio's; the images' are 10 more
_LEVELS = (WINDOW.bands, WINDOW.frames)
_SHAPES = {
    **{f"{split}_{key}": (n, *shape) for split, n in PAIRS.items() for key, shape in (
        ("images", (28, 28)), ("starts", ()), ("labels", ()), ("fonts", ()), ("digits", ()))},
    **{f"{part}_{key}": (n, *shape)
       for part, n in (("balanced", PAIRS["train"]), ("imbalanced", PAIRS["train"]),
                       ("validation", PAIRS["validation"]), ("test", PAIRS["test"]))
       for key, shape in (("audio", _LEVELS), ("speakers", ()))},
    **{f"{condition}_edges": (WINDOW.bands, 4) for condition in CONDITIONS},
}  # fmt: skip
_HUMAN_SHAPES = {"audio": (_HUMAN_CLIPS, *_LEVELS), "labels": (_HUMAN_CLIPS,), "speakers": (_HUMAN_CLIPS,)}


def encode(levels: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Place code of the levels (`taaf.training.datasets.ead_mini.encode_audio`), two consecutive frames per time step.

    Channel ``96 f + 4 b + k`` fires at step t if ``edges[b, k] <= levels[b, 2 t + f] < edges[b, k + 1]``.

    Parameters
    ----------
    levels : numpy.ndarray
        (N, 24, 10) uint8.
    edges : numpy.ndarray
        (24, 4) uint8: the 20, 40, 60 and 80 % quantiles of the condition's training set, per band.

    Returns
    -------
    numpy.ndarray
        (N, 192, 5) uint8 in {0, 1}.
    """
    code = encode_audio(levels, edges)
    n, channels, frames = code.shape
    steps = code.reshape(n, channels, frames // FRAMES_PER_STEP, FRAMES_PER_STEP)
    return np.ascontiguousarray(steps.transpose(0, 3, 1, 2)).reshape(n, FRAMES_PER_STEP * channels, -1)


def delayed(events: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Events of sample n shifted ``starts[n]`` steps later; what leaves the window is lost, nothing comes before.

    Parameters
    ----------
    events : numpy.ndarray
        (N, …, T).
    starts : numpy.ndarray
        (N,) integers from 0.
    """
    out = np.zeros_like(events)
    steps = events.shape[-1]
    for start in np.unique(starts):
        rows = starts == start
        out[rows, ..., start:] = events[rows, ..., : steps - start]
    return out


def clips_for(labels: np.ndarray, clip_labels: np.ndarray) -> np.ndarray:
    """For every sample a clip of its class, in turns: the k-th sample of a class gets its clip k modulo their number.

    Returns
    -------
    numpy.ndarray
        (N,) indices of clips, -1 where a class has none.
    """
    found = np.full(len(labels), -1)
    for label in np.unique(clip_labels):
        samples, clips = np.flatnonzero(labels == label), np.flatnonzero(clip_labels == label)
        found[samples] = clips[np.arange(len(samples)) % len(clips)]
    return found


def load_split(condition: str, name: str, limit: int | None = None, audio_snr_db: float = NO_NOISE_DB,
               event_snr_db: float = NO_NOISE_DB, klettres: Path | None = None) -> Split:  # fmt: skip
    """Load and encode a split: events (N, 2, 34, 34, 5), audio (N, 192, 5).

    Parameters
    ----------
    condition : {"balanced", "imbalanced"}
        Which training clips, and the encoder edges found on them; all other splits have the same clips.
    name : {"train", "validation", "test", "human", "human-klettres"}
        The last two pair the test's images with *recorded* clips of their class; ``human-klettres`` has letters only.
    limit : int, optional
        Only the first so many samples.
    audio_snr_db, event_snr_db : float
        Noise for `add_noise` and `add_image_noise` of EAD-mini; 99 or more: none.
    klettres : Path, optional
        Where Debian's klettres-data lies (default /usr/share/klettres).

    Raises
    ------
    DataError
        If condition or name is unknown, a shipped file is missing or changed (SHA-256), or klettres-data is missing.
    """
    if condition not in CONDITIONS:
        raise DataError(f"condition {condition!r} unknown; EAD-36 has {', '.join(CONDITIONS)}")
    if name not in SPLITS:
        raise DataError(f"split {name!r} unknown; {did_you_mean(name, SPLITS)}")
    data = read_shipped(zoo_path("ead36.npz"), SHA256, _SHAPES)
    part = "test" if name.startswith("human") else name
    labels, keep = data[f"{part}_labels"], np.arange(PAIRS[part])
    if part == name:
        levels = data[f"{condition if name == 'train' else name}_audio"]
    else:
        clips, clip_labels = _human(name, klettres)
        chosen = clips_for(labels, clip_labels)
        keep, levels = np.flatnonzero(chosen >= 0), clips[chosen]
    windows = round(100 * WINDOW.frame_s)
    levels = add_noise(levels, audio_snr_db, _NOISE_SEEDS[name], windows)
    images = add_image_noise(data[f"{part}_images"], event_snr_db, _NOISE_SEEDS[name] + 10)
    keep = keep[:limit]
    return Split(
        event=delayed(simulate_events(images[keep], STEPS), data[f"{part}_starts"][keep]),
        audio=encode(levels[keep], data[f"{condition}_edges"]),
        labels=labels[keep].astype(np.int64),
    )


def _human(name: str, klettres: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Levels and labels of the recorded clips."""
    if name == "human":
        data = read_shipped(zoo_path("ead36_human.npz"), HUMAN_SHA256, _HUMAN_SHAPES)
        return data["audio"], data["labels"]
    from taaf.training.datasets.ead36_human import KLETTRES, klettres_clips

    levels, labels, _ = klettres_clips(klettres or KLETTRES)
    return levels, labels
