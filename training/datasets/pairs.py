"""The data sets the openers return: cached audio-visual pairs, and pairs of event and audio spikes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from taaf.training.data import MultimodalDataset, Sample
from taaf.training.datasets.cache import load

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class NamedPairs(MultimodalDataset):
    """What all real sets share.

    Attributes
    ----------
    name : str
        Data set and split, for messages.
    label_names : tuple of str
        Class names.
    labels : numpy.ndarray
        (N,) int64.
    sample_names : tuple of str
        What each sample is called in its set.
    n_skipped : int
        Bad samples and list rows left out.
    group_names : tuple of str, optional
        `groups`: the actor, recording or speaker of each sample, of sets that part them.
    """

    name: str
    labels: np.ndarray
    sample_names: tuple[str, ...]
    n_skipped: int
    group_names: tuple[str, ...] | None = None

    @property
    def groups(self) -> tuple[str, ...] | None:
        return self.group_names

    def __len__(self) -> int:
        return len(self.labels)

    def class_indices(self) -> np.ndarray:
        return self.labels


class AudioVisualPairs(NamedPairs):
    """Frames and a log spectrogram per clip, read from the cache: (3, 224, 224, T) and (1, 257, F, T_a), float32.

    Frames are normalised with ImageNet's mean and deviation. The spectrogram is the same at every time step. No
    augmentation: that is the trainer's.

    Parameters
    ----------
    still_steps : int
        Time steps T of a still image, which is cached once; 0: the cached frames are the time steps.
    audio_steps : int
        Time steps T_a of the spectrogram; 0: T.
    """

    modalities = ("visual", "audio")

    def __init__(
        self,
        name: str,
        files: Sequence[Path],
        labels: Sequence[int],
        label_names: tuple[str, ...],
        sample_names: Sequence[str],
        n_skipped: int = 0,
        still_steps: int = 0,
        audio_steps: int = 0,
    ) -> None:
        self.name, self.label_names, self.n_skipped = name, label_names, n_skipped
        self._still_steps, self._audio_steps = still_steps, audio_steps
        self.labels = np.array(labels, np.int64)
        self.sample_names = tuple(sample_names)
        self._files = tuple(files)

    def __getitem__(self, index: int) -> Sample:
        arrays = load(self._files[index])
        mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        visual = (torch.from_numpy(arrays["frames"]).float() / 255 - mean) / std  # (3, 224, 224, T)
        if self._still_steps:
            visual = visual.repeat(1, 1, 1, self._still_steps)
        steps = self._audio_steps or visual.shape[-1]
        audio = torch.from_numpy(arrays["audio"])[None, :, :, None].repeat(1, 1, 1, steps)  # (1, 257, F, T_a)
        return visual, audio, int(self.labels[index])


class EventAudioPairs(NamedPairs):
    """Binary event and audio spikes of one digit: (2, size, size, T) from the cache and (64, T_a) from memory, float32.

    Attributes
    ----------
    audio_of : numpy.ndarray
        (N,) index of the audio sample each event sample is paired with.
    """

    modalities = ("event", "audio")

    def __init__(
        self,
        name: str,
        files: Sequence[Path],
        labels: Sequence[int],
        sample_names: Sequence[str],
        audio: np.ndarray,
        audio_of: np.ndarray,
        n_skipped: int = 0,
        size: int = 34,
        steps: int = 0,
    ) -> None:
        self.name, self.n_skipped, self.size = name, n_skipped, size
        self._steps = steps or audio.shape[-1]
        self.label_names = tuple("0123456789")
        self.labels = np.array(labels, np.int64)
        self.sample_names = tuple(sample_names)
        self.audio_of = audio_of
        self._files, self._audio = tuple(files), audio

    def __getitem__(self, index: int) -> Sample:
        audio = torch.from_numpy(self._audio[self.audio_of[index]]).float()  # (64, T_a)
        shape = (2, self.size, self.size, self._steps)
        bits = np.unpackbits(load(self._files[index])["bits"], count=int(np.prod(shape)))
        return torch.from_numpy(bits.reshape(shape)).float(), audio, int(self.labels[index])
