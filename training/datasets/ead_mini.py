"""EAD-mini: 4 000 / 1 000 pairs of (simulated events of real handwriting, synthetic speech) of the digits 0-9.

The shipped file holds grey digit images and 8-bit log-mel levels; events and audio spikes are computed from them with
integer arithmetic, so they are the same on every machine. See ``models/zoo/EAD_MINI.md`` for sources and licences.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taaf.models import zoo_path
from taaf.models.errors import DataError
from taaf.models.files.placeholders import placeholder
from taaf.training.datasets.events import simulate_events

SHA256 = "766bc16902e9aded03802e7166e8d46ff5956847a14d926cd52a4c44d7ec1063"
LEVELS_PER_BAND = 4
NO_NOISE_DB = 99.0
_NOISE_SEEDS = {"train": 11, "test": 12, "human": 13}  # audio's; the images' are 10 more
LABELS = tuple(str(d) for d in range(10))
_SHAPES = {
    "train_images": (4000, 28, 28), "train_audio": (4000, 40, 12), "train_labels": (4000,), "train_speakers": (4000,),
    "test_images": (1000, 28, 28), "test_audio": (1000, 40, 12), "test_labels": (1000,), "test_speakers": (1000,),
    "human_audio": (10, 40, 12), "human_labels": (10,), "audio_edges": (40, 4),
}  # fmt: skip


@dataclass(frozen=True)
class Split:
    """One split, already spike-encoded.

    Attributes
    ----------
    event : numpy.ndarray
        (N, 2, 34, 34, 8) uint8 in {0, 1}; last axis time.
    audio : numpy.ndarray
        (N, 160, 12) uint8 in {0, 1}; last axis time.
    labels : numpy.ndarray
        (N,) int64 in 0..9.
    """

    event: np.ndarray
    audio: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self) -> dict[str, np.ndarray]:
        """Spikes per modality, in the order the networks take them."""
        return {"event": self.event, "audio": self.audio}


def encode_audio(levels: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Place code of log-mel levels: band b fires channel ``4 b + k`` if ``edges[b, k] <= level < edges[b, k + 1]``.

    A level below ``edges[b, 0]`` fires nothing, so a band sends at most one spike per step. The edges are the
    20, 40, 60 and 80 % quantiles of the training set, per band. The encoder runs on the host.

    Parameters
    ----------
    levels : numpy.ndarray
        (N, 40, T) uint8.
    edges : numpy.ndarray
        (40, 4) uint8, non-decreasing along the second axis.

    Returns
    -------
    numpy.ndarray
        (N, 160, T) uint8 in {0, 1}.
    """
    n, bands, steps = levels.shape
    above = levels[:, :, None, :] >= edges[None, :, :, None]  # (N, 40, 4, T)
    above[:, :, :-1] &= ~above[:, :, 1:]
    return above.reshape(n, bands * edges.shape[1], steps).astype(np.uint8)


def add_noise(levels: np.ndarray, snr_db: float, seed: int) -> np.ndarray:
    """Bury 8-bit log-mel levels in white noise (the waves are not shipped, so this works on mel energies).

    A level L stands for the energy ``e = 10^((50 L / 255 - 50) / 10)`` relative to the clip's peak. Noise energy of mean
    ``mean(e) 10^(-snr_db / 10)``, mean over the clip, is added to every band and step: a gamma variable of shape 6, the
    distribution of six averaged 10 ms frames. The sum is put relative to its new peak and quantised again.

    Parameters
    ----------
    levels : numpy.ndarray
        (N, 40, T) uint8.
    snr_db : float
        Clip energy over noise energy; 99 or more: ``levels`` unchanged.
    seed : int
        Of the noise.
    """
    if snr_db >= NO_NOISE_DB:
        return levels
    energy = 10 ** ((levels * (50 / 255) - 50) / 10)
    power = energy.mean(axis=(1, 2), keepdims=True) / 10 ** (snr_db / 10)
    energy = energy + power * np.random.default_rng(seed).gamma(6, 1 / 6, levels.shape)
    decibel = 10 * np.log10(energy / energy.max(axis=(1, 2), keepdims=True))
    return np.clip(np.round(255 * (decibel + 50) / 50), 0, 255).astype(np.uint8)


def add_image_noise(images: np.ndarray, snr_db: float, seed: int) -> np.ndarray:
    """White Gaussian noise of variance ``mean(x^2) 10^(-snr_db / 10)`` on grey images, before the camera sees them.

    The mean is over the image. As S-CMRL's public code adds noise to frames (arXiv 2502.12488), but for the limits of a grey
    image: the sum is rounded and clipped to 0..255. The noise is part of the scene: it moves with the digit.

    Parameters
    ----------
    images : numpy.ndarray
        (N, 28, 28) uint8.
    snr_db : float
        Image power over noise power; 99 or more: ``images`` unchanged.
    seed : int
        Of the noise.
    """
    if snr_db >= NO_NOISE_DB:
        return images
    power = (images.astype(np.float64) ** 2).mean(axis=(1, 2), keepdims=True) / 10 ** (snr_db / 10)
    noise = np.sqrt(power) * np.random.default_rng(seed).standard_normal(images.shape)
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


def _load() -> dict[str, np.ndarray]:
    path = zoo_path("ead_mini.npz")
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read the EAD-mini data set ({error.strerror}); reinstall taaf") from error
    found = hashlib.sha256(raw).hexdigest()
    if found != SHA256:
        if what := placeholder(path):
            raise DataError(f"{path}: {what}")
        raise DataError(f"{path}: SHA-256 is {found[:12]}…, expected {SHA256[:12]}…; restore the shipped file")
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in _SHAPES}
    for key, shape in _SHAPES.items():
        if arrays[key].shape != shape:
            raise DataError(f"{path}: {key} has shape {arrays[key].shape}, expected {shape}; restore the shipped file")
    return arrays


def train_voices() -> np.ndarray:
    """(4000,) the synthetic voice of every training sample, 0 to 61; none of them speaks in the test part."""
    return _load()["train_speakers"]


def load_split(name: str, indices: slice | np.ndarray | None = None, audio_snr_db: float = NO_NOISE_DB,
               event_snr_db: float = NO_NOISE_DB) -> Split:  # fmt: skip
    """Load and encode a split.

    Parameters
    ----------
    name : {"train", "test", "human"}
        ``human`` pairs every test image with the *recorded human* digit of its class (10 clips, one speaker).
    indices : slice or array, optional
        Restrict to these samples, before any events are simulated.
    audio_snr_db, event_snr_db : float
        Noise for `add_noise` and `add_image_noise`; 99 or more: none.

    Raises
    ------
    DataError
        If the name is unknown, or the shipped file is missing or changed (its SHA-256 is checked).
    """
    if name not in ("train", "test", "human"):
        raise DataError(f"split {name!r} unknown; EAD-mini has train, test and human")
    data = _load()
    part = "test" if name == "human" else name
    labels = data[f"{part}_labels"]
    audio = data["human_audio"][labels] if name == "human" else data[f"{part}_audio"]
    audio = add_noise(audio, audio_snr_db, _NOISE_SEEDS[name])
    images = add_image_noise(data[f"{part}_images"], event_snr_db, _NOISE_SEEDS[name] + 10)
    keep = slice(None) if indices is None else indices
    return Split(
        event=simulate_events(images[keep]),
        audio=encode_audio(audio[keep], data["audio_edges"]),
        labels=labels[keep].astype(np.int64),
    )
