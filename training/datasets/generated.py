"""Generated audio-visual pairs in CREMA-D's shapes, for measurements that need the paper's input sizes and no real data.

Nothing here is recorded: frames are a drifting grating over smooth colour noise, sounds a harmonic tone in noise. The class
sets the grating's angle and the tone's pitch, so that something can be learned. Sounds become spectrograms, and frames are
normalised, exactly as in the real sets (`taaf.training.datasets`).
"""

import numpy as np
import torch

from taaf.models.config import ModelConfig
from taaf.models.errors import ConfigError
from taaf.training.data import PairDataset, Sample
from taaf.training.datasets.pairs import IMAGENET_MEAN, IMAGENET_STD
from taaf.training.datasets.spectrograms import N_BINS, log_stft

SIZES = {"train": 96, "test": 32}
CLASSES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")  # CREMA-D's, so that a network fits both
RATE, SECONDS = 22_050, 3
_SEEDS = {"train": 1, "test": 2}
_GRID = 8  # cells of the colour noise along a side


class GeneratedPairs(PairDataset):
    """visual (3, S, S, T), ImageNet-normalised; audio (1, B, F, T), log STFT, the same at every step.

    Parameters
    ----------
    model : ModelConfig
        ``frame_size`` S, ``audio_bins`` B, ``audio_frames`` F and ``event_steps`` T are read.
    split : {"train", "test"}
        Different random numbers.

    Raises
    ------
    ConfigError
        If a spectrogram of 3 s has fewer bins or frames.
    """

    modalities = ("visual", "audio")
    label_names = CLASSES

    def __init__(self, model: ModelConfig, split: str) -> None:
        frames = 1 + RATE * SECONDS // 353
        if model.audio_bins > N_BINS or model.audio_frames > frames:
            found = (model.audio_bins, model.audio_frames)
            raise ConfigError(f"model.audio_bins, audio_frames (={found}): generated spectrograms have {(N_BINS, frames)}")
        self.model, self.split = model, split

    def __len__(self) -> int:
        return SIZES[self.split]

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng, label = np.random.default_rng([_SEEDS[self.split], index]), index % len(CLASSES)
        m = self.model
        frames = torch.from_numpy(_frames(rng, label, m.frame_size, m.event_steps)).float() / 255
        mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        spectrogram = log_stft(_sound(rng, label))[: m.audio_bins, : m.audio_frames]
        audio = torch.from_numpy(spectrogram)[None, :, :, None].repeat(1, 1, 1, m.audio_steps)
        return (frames - mean) / std, audio, label


def _frames(rng: np.random.Generator, label: int, size: int, steps: int) -> np.ndarray:
    """(3, S, S, T) uint8."""
    axis = np.linspace(0, 1, size)
    angle = np.pi * label / len(CLASSES) + 0.1 * rng.standard_normal()
    waves = 2 * np.pi * rng.uniform(4, 10) * (np.cos(angle) * axis[:, None] + np.sin(angle) * axis)
    phase, colour = rng.uniform(0, 2 * np.pi), rng.uniform(20, 60, 3)
    between = np.maximum(0, 1 - np.abs(np.arange(_GRID) - axis[:, None] * (_GRID - 1)))  # (S, grid), linear interpolation
    smooth = np.einsum("yi,cij,xj->cyx", between, rng.uniform(60, 200, (3, _GRID, _GRID)), between)
    rows = [smooth + colour[:, None, None] * np.sin(waves + phase + 0.8 * t) for t in range(steps)]
    noisy = np.stack(rows, -1) + 6 * rng.standard_normal((3, size, size, steps))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _sound(rng: np.random.Generator, label: int) -> np.ndarray:
    """(66150,) in [-1, 1]."""
    time = np.arange(RATE * SECONDS) / RATE
    pitch = 110 * 2 ** (label / 3) * (1 + 0.03 * rng.standard_normal())
    parts = [np.sin(2 * np.pi * pitch * k * time + rng.uniform(0, 6)) / k for k in range(1, 9)]
    envelope = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(1, 4) * time + rng.uniform(0, 6))
    wave = 0.2 * envelope * sum(parts) + 0.01 * rng.standard_normal(len(time))
    return np.clip(wave, -1, 1)
