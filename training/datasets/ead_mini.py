"""EAD-mini: 4 000 / 1 000 pairs of (simulated events of real handwriting, synthetic speech) of the digits 0-9.

The shipped file holds grey digit images and 8-bit log-mel levels; events and audio spikes are computed from them with
integer arithmetic, so they are the same on every machine. See ``models/zoo/EAD_MINI.md`` for sources and licences.
"""

from dataclasses import dataclass

import numpy as np

from taaf.models import zoo_path
from taaf.models.errors import DataError
from taaf.training.datasets.events import MICRO_STEPS, N_BINS, simulate_events
from taaf.training.datasets.shipped import read_shipped

SHA256 = "766bc16902e9aded03802e7166e8d46ff5956847a14d926cd52a4c44d7ec1063"
LEVELS_PER_BAND = 4
AUDIO_STEPS = 12  # of the shipped levels
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
        (N, 2, 34, 34, T) uint8 in {0, 1}; last axis time, in EAD-mini 8 steps unless others were asked for.
    audio : numpy.ndarray
        (N, C, T) uint8 in {0, 1}; in EAD-mini 160 channels, 12 steps unless others were asked for.
    labels : numpy.ndarray
        (N,) int64.
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
        (N, bands, T) uint8.
    edges : numpy.ndarray
        (bands, 4) uint8, non-decreasing along the second axis.

    Returns
    -------
    numpy.ndarray
        (N, 4 bands, T) uint8 in {0, 1}.
    """
    n, bands, steps = levels.shape
    above = levels[:, :, None, :] >= edges[None, :, :, None]  # (N, bands, 4, T)
    above[:, :, :-1] &= ~above[:, :, 1:]
    return above.reshape(n, bands * edges.shape[1], steps).astype(np.uint8)


def over_steps(levels: np.ndarray, steps: int) -> np.ndarray:
    """Levels at another number of time steps: step k of T is the mean level over its part ``[k / T, (k + 1) / T)`` of the clip.

    In integers: of T_in steps, step i covers ``[i T, (i + 1) T)`` and step k ``[k T_in, (k + 1) T_in)`` of T_in T equal parts; the
    parts that they share are the weight of level i, and the weighted sum over T_in is rounded half up. With T = T_in the levels
    themselves. The mean is one of decibels: the place code that follows has its edges in them.

    Parameters
    ----------
    levels : numpy.ndarray
        (N, 40, T_in) uint8.
    steps : int
        T, 1 or more.

    Returns
    -------
    numpy.ndarray
        (N, 40, T) uint8.

    Examples
    --------
    >>> over_steps(np.array([[[10, 20, 40]]], np.uint8), 2)  # (2 * 10 + 20) / 3 and (20 + 2 * 40) / 3
    array([[[13, 33]]], dtype=uint8)
    """
    given = levels.shape[-1]
    first, last = (np.arange(given) + n for n in (0, 1))
    shared = np.minimum(last[:, None] * steps, (np.arange(steps) + 1) * given) - np.maximum(
        first[:, None] * steps, np.arange(steps) * given
    )
    total = levels.astype(np.int64) @ shared.clip(0)  # (N, 40, T), times T_in
    return ((2 * total + given) // (2 * given)).astype(np.uint8)


def add_noise(levels: np.ndarray, snr_db: float, seed: int, windows: int = 6) -> np.ndarray:
    """Bury 8-bit log-mel levels in white noise (the waves are not shipped, so this works on mel energies).

    A level L stands for the energy ``e = 10^((50 L / 255 - 50) / 10)`` relative to the clip's peak. Noise energy of mean
    ``mean(e) 10^(-snr_db / 10)``, mean over the clip, is added to every band and step: a gamma variable of shape
    ``windows``, the distribution of so many averaged windows, 10 ms apart. The sum is put relative to its new peak and quantised again.

    Parameters
    ----------
    levels : numpy.ndarray
        (N, bands, T) uint8.
    snr_db : float
        Clip energy over noise energy; 99 or more: ``levels`` unchanged.
    seed : int
        Of the noise.
    windows : int
        Windows per step: six in EAD-mini.
    """
    if snr_db >= NO_NOISE_DB:
        return levels
    energy = 10 ** ((levels * (50 / 255) - 50) / 10)
    power = energy.mean(axis=(1, 2), keepdims=True) / 10 ** (snr_db / 10)
    energy = energy + power * np.random.default_rng(seed).gamma(windows, 1 / windows, levels.shape)
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
    return read_shipped(zoo_path("ead_mini.npz"), SHA256, _SHAPES)


def train_voices() -> np.ndarray:
    """(4000,) the synthetic voice of every training sample, 0 to 61; none of them speaks in the test part."""
    return _load()["train_speakers"]


def load_split(name: str, indices: slice | np.ndarray | None = None, audio_snr_db: float = NO_NOISE_DB,
               event_snr_db: float = NO_NOISE_DB, event_steps: int = 0, audio_steps: int = 0) -> Split:  # fmt: skip
    """Load and encode a split.

    Parameters
    ----------
    name : {"train", "test", "human"}
        ``human`` pairs every test image with the *recorded human* digit of its class (10 clips, one speaker).
    indices : slice or array, optional
        Restrict to these samples, before any events are simulated.
    audio_snr_db, event_snr_db : float
        Noise for `add_noise` and `add_image_noise`; 99 or more: none.
    event_steps, audio_steps : int
        Time steps; 0: 8 and 12. Events are binned anew (`simulate_events`), audio levels averaged (`over_steps`), both in integers.

    Raises
    ------
    DataError
        If the name is unknown, there are more than 24 steps, or the shipped file is missing or changed (its SHA-256 is checked).
    """
    if name not in ("train", "test", "human"):
        raise DataError(f"split {name!r} unknown; EAD-mini has train, test and human")
    for modality, n in (("event", event_steps), ("audio", audio_steps)):
        if not 0 <= n <= MICRO_STEPS:
            raise DataError(f"branches.{modality}.steps (={n}): EAD-mini is cut into 1 to {MICRO_STEPS} steps")
    data = _load()
    part = "test" if name == "human" else name
    labels = data[f"{part}_labels"]
    audio = data["human_audio"][labels] if name == "human" else data[f"{part}_audio"]
    audio = add_noise(audio, audio_snr_db, _NOISE_SEEDS[name])
    images = add_image_noise(data[f"{part}_images"], event_snr_db, _NOISE_SEEDS[name] + 10)
    keep = slice(None) if indices is None else indices
    return Split(
        event=simulate_events(images[keep], event_steps or N_BINS),
        audio=encode_audio(over_steps(audio[keep], audio_steps or AUDIO_STEPS), data["audio_edges"]),
        labels=labels[keep].astype(np.int64),
    )
