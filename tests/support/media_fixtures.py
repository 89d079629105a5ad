"""Small real media in the true formats: .wav by soundfile, .flv and .mp4 by PyAV, .jpg by Pillow, events byte by byte."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import av
import h5py
import numpy as np
import soundfile
from PIL import Image

from taaf.models.errors import DataError
from taaf.training.datasets.cache import Item

Colour = tuple[int, int, int]


def tone(rate: int, seconds: float, hertz: float, amplitude: float = 0.5) -> np.ndarray:
    """A sine, (N,) float64."""
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def write_wav(path: Path, samples: np.ndarray, rate: int) -> Path:
    """A 16-bit .wav of (N,) or (N, channels) samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(path), samples, rate, subtype="PCM_16")
    return path


def write_video(
    path: Path,
    colours: Sequence[Colour],
    fps: int = 10,
    size: tuple[int, int] = (64, 48),
    sound: np.ndarray | None = None,
    rate: int = 44_100,
) -> Path:
    """A video of one plain colour per frame: Sorenson H.263 in .flv, MPEG-4 in .mp4; with an AAC track if given sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    with av.open(str(path), "w") as out:
        stream = out.add_stream("flv" if path.suffix == ".flv" else "mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 2_000_000
        track = out.add_stream("aac", rate=rate, layout="mono") if sound is not None else None
        for index, colour in enumerate(colours):
            frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), colour, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound is not None and track is not None:
            for start in range(0, len(sound), 1024):
                block = sound[None, start : start + 1024].astype(np.float32)
                audio = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
                audio.sample_rate, audio.pts, audio.time_base = rate, start, Fraction(1, rate)
                out.mux(track.encode(audio))
            out.mux(track.encode(None))
    return path


def write_image(path: Path, colour: Colour, size: tuple[int, int] = (80, 60)) -> Path:
    """A plain .jpg or .png."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def write_nmnist(path: Path, events: Sequence[tuple[int, int, int, int]]) -> Path:
    """N-MNIST: 40 bits per event (x, y, polarity, microseconds): 8 + 8 + 1 + 23, most significant first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join((x << 32 | y << 24 | p << 23 | t).to_bytes(5, "big") for x, y, p, t in events))
    return path


def write_aedat(path: Path, records: Sequence[tuple[int, int]], header: bytes = b"#!AER-DAT2.0\r\n# a comment\r\n") -> Path:
    """AER-DAT 2.0: a header of # lines, then (address, microseconds) as two big-endian 32-bit words."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + b"".join(a.to_bytes(4, "big") + t.to_bytes(4, "big") for a, t in records))
    return path


def dvs128(x: int, y: int, on: int) -> int:
    """Raw DVS128 address of a pixel counted from the top left: both axes are mirrored, and ON is polarity bit 0."""
    return (127 - y) << 8 | (127 - x) << 1 | (1 - on)


def write_ntidigits(path: Path, parts: dict[str, dict[str, tuple[Sequence[int], Sequence[float]]]]) -> Path:
    """N-TIDIGITS: ``parts[train or test][sample] = (addresses, seconds)``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for part, samples in parts.items():
            file.create_dataset(f"{part}_labels", data=np.array([s.encode() for s in samples], "S32"))
            for sample, (addresses, seconds) in samples.items():
                file.create_dataset(f"{part}_addresses/{sample}", data=np.array(addresses, np.uint8))
                file.create_dataset(f"{part}_timestamps/{sample}", data=np.array(seconds, np.float32))
    return path


@dataclass(frozen=True)
class CountingRecipe:
    """A recipe that reads a text file: a number is stored after ``seconds``; "crash" ends the process, "bad" is a bad sample."""

    seconds: float = 0.0
    version: ClassVar[int] = 1

    def __call__(self, item: Item) -> dict[str, np.ndarray]:
        text = item.sources[0].read_text()
        time.sleep(self.seconds)
        if text == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if text == "bad":
            raise DataError(f"{item.sources[0]}: bad")
        return {"number": np.array(int(text))}
