"""Synthetic speech and log-mel features (to *build* EAD-mini and EAD-36; synthesis needs the ``data`` extra).

espeak-ng is reached through the PyPI package ``espeakng-loader`` with ctypes; nothing of it is vendored.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

SAMPLE_RATE = 22_050
DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-us", "en", "en-029", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-x-rp", "en-us-nyc")
# Voice variants that do not sound like a speaking person at all (no formants a digit could be told by).
_UNUSABLE = {"whisper", "whisperf", "croak", "Demonic", "UniRobot", "anikaRobot", "fast", "Storm", "Tweaky"}
_N_FFT, _HOP = 512, 221  # 23 ms window, 10 ms hop at 22 050 Hz


@dataclass(frozen=True)
class Window:
    """What is kept of a clip: ``bands`` mel bands in ``frames`` frames of ``frame_s`` seconds; it starts within ``onset_s``.

    A clip's voiced part is what lies between its first and last sample louder than ``trim`` times its peak.
    """

    bands: int
    frames: int
    frame_s: float
    onset_s: float
    trim: float = 0.02


EAD_MINI = Window(bands=40, frames=12, frame_s=0.06, onset_s=0.12)


class Synthesiser:
    """espeak-ng as a function (text, voice, rate, pitch, seed) -> waveform.

    Raises
    ------
    ImportError
        If ``espeakng-loader`` is not installed (``uv sync --extra data``).
    """

    def __init__(self) -> None:
        import espeakng_loader

        self._lib = ctypes.CDLL(espeakng_loader.get_library_path())
        path = espeakng_loader.get_data_path().encode()
        rate = self._lib.espeak_Initialize(2, 0, path, 0)  # 2: synchronous, samples to the callback
        if rate != SAMPLE_RATE:
            raise RuntimeError(f"espeak-ng runs at {rate} Hz; expected {SAMPLE_RATE}")
        self._chunks: list[np.ndarray] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._collect)
        self._lib.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: "ctypes._Pointer[ctypes.c_short]", n: int, _events: int) -> int:
        if samples and n > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (n,)).copy())
        return 0

    def say(self, text: str, voice: str, rate: int, pitch: int, seed: int) -> np.ndarray:
        """Speak ``text``; returns float64 in [-1, 1] at 22 050 Hz. ``seed`` makes the breath noise reproducible."""
        self._chunks.clear()
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        self._lib.espeak_SetParameter(1, rate, 0)
        self._lib.espeak_SetParameter(3, pitch, 0)
        self._lib.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        data = text.encode()
        self._lib.espeak_Synth(data, len(data) + 1, 0, 1, 0, 0x1, None, None)
        self._lib.espeak_Synchronize()
        return np.concatenate(self._chunks).astype(np.float64) / 32768 if self._chunks else np.zeros(0)


def usable_variants() -> list[str]:
    """Names of the espeak-ng voice variants that are used as speakers, sorted."""
    from pathlib import Path

    import espeakng_loader

    folder = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    return sorted({p.name for p in folder.iterdir() if " " not in p.name} - _UNUSABLE)


@lru_cache(4)
def _mel_filters(bands: int) -> np.ndarray:
    def mel(hz: np.ndarray) -> np.ndarray:
        return 2595 * np.log10(1 + hz / 700)

    def hz(mel_value: np.ndarray) -> np.ndarray:
        return 700 * (10 ** (mel_value / 2595) - 1)

    edges = hz(np.linspace(mel(np.array(80.0)), mel(np.array(8000.0)), bands + 2))
    bins = np.fft.rfftfreq(_N_FFT, 1 / SAMPLE_RATE)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling))


def log_mel_levels(wave: np.ndarray, snr_db: float, rng: np.random.Generator, form: Window = EAD_MINI) -> np.ndarray:
    """Features of one clip: 8-bit log-mel levels.

    The clip is trimmed to its voiced part, put at a random place of the window, white noise is added at
    ``snr_db`` (relative to the voiced part's power; ``inf`` for none), then
    ``level = clip(round(255 * (10 log10(mel) + 50) / 50), 0, 255)`` with mel energies relative to the clip's peak.

    Returns
    -------
    numpy.ndarray
        Shape (bands, frames), uint8.
    """
    loud = np.flatnonzero(np.abs(wave) > form.trim * np.abs(wave).max(initial=1e-9))
    if len(loud) == 0:
        raise ValueError("the clip is silent")
    voice = wave[loud[0] : loud[-1] + 1]
    n = int(round(form.frames * form.frame_s * SAMPLE_RATE))
    window = np.zeros(n + _N_FFT)
    voice = voice[:n]
    start = int(rng.integers(0, max(1, min(n - len(voice), int(form.onset_s * SAMPLE_RATE)) + 1)))
    window[start : start + len(voice)] = voice
    if np.isfinite(snr_db):
        power = np.mean(voice**2) / 10 ** (snr_db / 10)
        window = window + rng.normal(0, np.sqrt(power), len(window))
    starts = np.arange(0, n, _HOP)
    frames = window[starts[:, None] + np.arange(_N_FFT)] * np.hanning(_N_FFT)
    mel = _mel_filters(form.bands) @ (np.abs(np.fft.rfft(frames, axis=1)) ** 2).T  # (bands, windows)
    step = np.minimum((starts / (form.frame_s * SAMPLE_RATE)).astype(int), form.frames - 1)
    energy = np.stack([mel[:, step == k].mean(axis=1) for k in range(form.frames)], axis=1)
    decibel = 10 * np.log10(energy / energy.max() + 1e-10)
    return np.clip(np.round(255 * (decibel + 50) / 50), 0, 255).astype(np.uint8)


def synthesise_split(
    labels: np.ndarray, variants: list[str], snr_db: tuple[float, float], seed: int, tick: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray]:
    """EAD-mini's: one clip per label with a random speaker of ``variants``; levels (N, 40, 12), speaker index (N,)."""
    rng = np.random.default_rng(seed)
    synth = Synthesiser()
    levels = np.zeros((len(labels), EAD_MINI.bands, EAD_MINI.frames), np.uint8)
    speakers = rng.integers(0, len(variants), len(labels))
    for i, label in enumerate(labels):
        accent = ACCENTS[rng.integers(len(ACCENTS))]
        rate, pitch = int(rng.integers(130, 231)), int(rng.integers(25, 76))
        wave = synth.say(DIGIT_WORDS[label], f"{accent}+{variants[speakers[i]]}", rate, pitch, seed * 100_003 + i)
        levels[i] = log_mel_levels(wave, rng.uniform(*snr_db), rng)
        tick()
    return levels, speakers.astype(np.uint8)
