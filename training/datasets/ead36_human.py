"""Recorded letters and digits for EAD-36: read where their packages lie, in the encoder's form.

asterisk-core-sounds-en-wav (Debian; CC BY-SA 3.0; one voice) and PyPI ``spokennumbers`` (MIT; digits, one voice) become the
shipped ``ead36_human.npz``. Debian's klettres-data (GPL-2+; letters, two voices) is read where it is installed, never shipped.
"""

from pathlib import Path

import numpy as np

from taaf.models.errors import DataError
from taaf.training.datasets.ead36 import LABELS, WINDOW
from taaf.training.datasets.media import read_audio
from taaf.training.datasets.speech import SAMPLE_RATE, Window, log_mel_levels

KLETTRES = Path("/usr/share/klettres")
ASTERISK = Path("/usr/share/asterisk/sounds")
SNR_DB = (10.0, 30.0)  # as the synthetic clips
ONSETS = 5  # levels per recording, each with its own onset and noise
_TRIM = 0.05  # recordings are not silent before and after the word
_MAX_SECONDS = 5.0
_FORM = Window(WINDOW.bands, WINDOW.frames, WINDOW.frame_s, WINDOW.onset_s, _TRIM)

Clips = tuple[np.ndarray, np.ndarray, np.ndarray]


def levels_of(recordings: list[tuple[Path, int, int]], seed: int) -> Clips:
    """Log-mel levels of recordings, ``ONSETS`` of each.

    Parameters
    ----------
    recordings : list of (Path, int, int)
        Sound file, label, speaker.
    seed : int
        Of onsets and noise.

    Returns
    -------
    levels, labels, speakers : numpy.ndarray
        (5 K, 24, 10), (5 K,), (5 K,), all uint8.

    Raises
    ------
    DataError
        Naming a file that cannot be decoded.
    """
    rng = np.random.default_rng(seed)
    levels, labels, speakers = [], [], []
    for path, label, speaker in recordings:
        wave = read_audio(path, SAMPLE_RATE, _MAX_SECONDS).astype(np.float64)
        for _ in range(ONSETS):
            levels.append(log_mel_levels(wave, rng.uniform(*SNR_DB), rng, _FORM))
            labels.append(label)
            speakers.append(speaker)
    return np.stack(levels), np.array(labels, np.uint8), np.array(speakers, np.uint8)


def klettres_clips(folder: Path) -> Clips:
    """The letters of KLettres, American and British English (speakers 2 and 3), as `levels_of` gives them.

    Raises
    ------
    DataError
        If a file is not there; klettres-data cannot be shipped, so that it has to be installed.
    """
    found = []
    for speaker, (language, name) in enumerate((("en", str.upper), ("en_GB", str.lower)), start=2):
        for label, letter in enumerate(LABELS[10:], start=10):
            path = folder / language / "alpha" / f"{name(letter)}.ogg"
            found.append(
                (_require(path, "klettres-data", "or give --root FOLDER (data.root) with its en/ and en_GB/"), label, speaker)
            )
    return levels_of(found, seed=3602)


def shipped_clips(folder: Path) -> Clips:
    """Letters and digits of Asterisk's English prompts (speaker 0) and the digits of ``spokennumbers`` (speaker 1).

    Raises
    ------
    DataError
        If a recording is not there.
    """
    voice, found = folder / "en_US_f_Allison", []
    for label, name in enumerate(LABELS):
        path = voice / ("digits" if name.isdigit() else "letters") / f"{name.lower()}.wav"
        found.append((_require(path, "asterisk-core-sounds-en-wav", "or give --asterisk FOLDER"), label, 0))
    import spokennumbers

    digits = Path(spokennumbers.__file__).parent / "default"
    return levels_of(found + [(digits / f"{d}.wav", d, 1) for d in range(10)], seed=3601)


def _require(path: Path, package: str, otherwise: str) -> Path:
    if not path.is_file():
        raise DataError(f"{path}: no such file; install Debian's {package}, {otherwise}")
    return path
