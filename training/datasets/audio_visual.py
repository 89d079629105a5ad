"""Recipe of an audio-visual sample (frames, log spectrogram); imports no torch, so that workers start quickly."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from taaf.training.datasets.cache import Item
from taaf.training.datasets.media import IMAGE_SUFFIXES, list_images, pick_evenly, read_audio, read_images, read_video
from taaf.training.datasets.spectrograms import log_power, log_stft, tile_to

IMAGE_SIZE = 224


@dataclass(frozen=True)
class AudioVisualRecipe:
    """Decode ``sources = (video, folder of frames or one image, audio file)``; ``options`` may hold (start, end) of a video in s.

    Attributes
    ----------
    steps : int
        Frames T; 1 for a still image.
    rate : int
        Audio samples per second.
    seconds : int
        Audio length; shorter audio is repeated.
    power : bool
        False: `log_stft` (CREMA-D). True: `log_power`, standardised (AVE).
    """

    steps: int
    rate: int
    seconds: int
    power: bool
    version: ClassVar[int] = 2

    def __call__(self, item: Item) -> dict[str, np.ndarray]:
        """frames (3, 224, 224, T) uint8 RGB and audio (257, F) float32."""
        visual, sound = item.sources
        if visual.is_dir():
            paths = list_images(visual)
            frames = read_images([paths[i] for i in pick_evenly(len(paths), self.steps)], IMAGE_SIZE)
        elif visual.suffix.lower() in IMAGE_SUFFIXES:
            frames = read_images([visual], IMAGE_SIZE)
        else:
            frames = read_video(visual, self.steps, IMAGE_SIZE, (item.options[0], item.options[1]) if item.options else None)
        wave = tile_to(read_audio(sound, self.rate, self.seconds), self.rate * self.seconds)
        spectrogram = log_power(wave, self.rate) if self.power else log_stft(wave)
        return {"frames": np.ascontiguousarray(frames.transpose(3, 1, 2, 0)), "audio": spectrogram}
