"""Generated audio-visual pairs in CREMA-D's shapes, for measurements that need the paper's input sizes and no real data.

Nothing here is recorded: frames are a drifting grating over smooth colour noise, sounds a harmonic tone in noise. The class
sets the grating's angle and the tone's pitch, so that something can be learned. Sounds become spectrograms, and frames are
normalised, exactly as in the real sets (`taaf.training.datasets`).
"""

from collections.abc import Mapping

import numpy as np
import torch

from taaf.models.config import InputSpec
from taaf.models.errors import ConfigError
from taaf.training.data import MultimodalDataset, Sample
from taaf.training.datasets.pairs import IMAGENET_MEAN, IMAGENET_STD
from taaf.training.datasets.spectrograms import N_BINS, log_stft

SIZES = {"train": 96, "test": 32}
CLASSES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")  # CREMA-D's, so that a network fits both
RATE, SECONDS = 22_050, 3
_SEEDS = {"train": 1, "test": 2}
_GRID = 8  # cells of the colour noise along a side


class GeneratedPairs(MultimodalDataset):
    """visual (3, S, S, T), ImageNet-normalised; audio (1, B, F, T), log STFT, the same at every step.

    Parameters
    ----------
    specs : mapping
        What the network takes of "visual" and "audio": shapes (3, S, S) and (1, B, F), and steps T (default 224, 257, 188 and 3).
    split : {"train", "test"}
        Different random numbers.

    Raises
    ------
    ConfigError
        If a spectrogram of 3 s has fewer bins or frames, or a shape is of another kind.
    """

    modalities = ("visual", "audio")
    label_names = CLASSES

    def __init__(self, specs: Mapping[str, InputSpec], split: str) -> None:
        frames = 1 + RATE * SECONDS // 353
        visual, audio = specs.get("visual", InputSpec()), specs.get("audio", InputSpec())
        channels, self.size, width = visual.shape or (3, 224, 224)
        one, self.bins, self.frames = audio.shape or (1, N_BINS, frames)
        self.steps = {"visual": visual.steps or 3, "audio": audio.steps or 3}
        if (channels, one) != (3, 1) or self.size != width:
            raise ConfigError(f"generated: visual {visual.shape}, audio {audio.shape}; allowed (3, S, S) and (1, B, F)")
        if self.bins > N_BINS or self.frames > frames:
            found = (self.bins, self.frames)
            raise ConfigError(
                f"branches.audio.shape (=(1, {found[0]}, {found[1]})): generated spectrograms have {(N_BINS, frames)}"
            )
        self.split = split

    def __len__(self) -> int:
        return SIZES[self.split]

    def class_indices(self) -> np.ndarray:
        return np.arange(len(self)) % len(CLASSES)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng, label = np.random.default_rng([_SEEDS[self.split], index]), index % len(CLASSES)
        frames = torch.from_numpy(_frames(rng, label, self.size, self.steps["visual"])).float() / 255
        mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        spectrogram = log_stft(_sound(rng, label))[: self.bins, : self.frames]
        audio = torch.from_numpy(spectrogram)[None, :, :, None].repeat(1, 1, 1, self.steps["audio"])
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
