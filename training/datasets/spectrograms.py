"""Log spectrograms: the centred STFT magnitude of CREMA-D and the power density of AVE."""

import numpy as np

from taaf.models.errors import DataError

N_FFT = 512
N_BINS = N_FFT // 2 + 1  # 257
STFT_HOP = 353
PSD_HOP = N_FFT - 353  # segments overlap by 353 samples
FLOOR = 1e-7  # added before the logarithm


def tile_to(wave: np.ndarray, length: int) -> np.ndarray:
    """Repeat a wave (N,) from its start until it has ``length`` samples, and clip it to [-1, 1].

    Raises
    ------
    DataError
        If the wave is empty.
    """
    if not len(wave):
        raise DataError("audio has length zero, expected at least one sample")
    return np.clip(np.resize(wave, length), -1.0, 1.0)


def log_stft(wave: np.ndarray) -> np.ndarray:
    """``log(|STFT| + 1e-7)`` with a periodic Hann window of 512 and a **hop** of 353 samples.

    Frame k is centred on sample 353 k; the wave is padded with 256 zeros at both ends. So 3 s at 22 050 Hz give
    1 + 66150 // 353 = 188 frames, the published 257x188. (An *overlap* of 353 would give 413.)

    Parameters
    ----------
    wave : numpy.ndarray
        (N,) samples in [-1, 1].

    Returns
    -------
    numpy.ndarray
        (257, 1 + N // 353) float32, natural logarithm.
    """
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    segments = _segments(np.pad(wave.astype(np.float64), N_FFT // 2), STFT_HOP)
    return np.log(np.abs(np.fft.rfft(segments * window)) + FLOOR).T.astype(np.float32)


def log_power(wave: np.ndarray, rate: int) -> np.ndarray:
    """Standardised log power density: segments of 512 **overlapping** by 353 samples (a hop of 159), no padding.

    The convention of ``scipy.signal.spectrogram``'s defaults, which AVE code uses: Tukey window (0.25, periodic), the
    mean of every segment removed, one-sided density per Hz. Then ``log(P + 1e-7)``, and mean 0 and deviation 1 over
    the whole spectrogram. 10 s at 16 kHz give 1 + (160000 - 512) // 159 = 1004 frames.

    Parameters
    ----------
    wave : numpy.ndarray
        (N,) samples in [-1, 1], N >= 512.
    rate : int
        Samples per second.

    Returns
    -------
    numpy.ndarray
        (257, 1 + (N - 512) // 159) float32.
    """
    edge = np.minimum(np.arange(N_FFT), N_FFT - np.arange(N_FFT)) / (0.25 * N_FFT)  # distance to the ends; 1/2 ends the taper
    window = np.where(edge < 0.5, 0.5 - 0.5 * np.cos(2 * np.pi * edge), 1.0)
    segments = _segments(wave.astype(np.float64), PSD_HOP)
    power = np.abs(np.fft.rfft((segments - segments.mean(1, keepdims=True)) * window)) ** 2 / (rate * (window**2).sum())
    power[:, 1:-1] *= 2  # one-sided; not the mean and the Nyquist bin
    level = np.log(power + FLOOR).T
    return ((level - level.mean()) / (level.std() + 1e-9)).astype(np.float32)


def _segments(wave: np.ndarray, hop: int) -> np.ndarray:
    """Read-only view (n_frames, 512) of a wave."""
    return np.lib.stride_tricks.sliding_window_view(wave, N_FFT)[::hop]
