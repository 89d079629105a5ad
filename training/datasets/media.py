"""Audio, video and image files to arrays; whatever is wrong with a file is one `DataError` that names it.

Wave files are read by soundfile, audio tracks and videos by PyAV, images by Pillow. Containers are opened with a fixed
format and the ``file`` protocol only, so a play list in disguise can neither name another file nor reach the network.
"""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import soxr
from PIL import Image, UnidentifiedImageError

from taaf.models.errors import DataError
from taaf.models.files.placeholders import naming_placeholders
from taaf.training.datasets.lists import own_entries
from taaf.training.datasets.whole import require_whole

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_PIXELS = 4096 * 4096  # per image or video frame, checked before anything is decoded
MAX_IMAGE_BYTES = 64 * 2**20
MAX_FRAMES = 100_000  # per video
_UNKNOWN_FRAMES = 1 << 62  # of a stream
_MAX_GAP = 3  # frames at the end that no picture comes of: some encoders write empty ones
_CONTAINERS = {".flv": "flv", ".mp4": "mp4"}
_SUBTYPES_READ_BY_SOUNDFILE = (".wav", ".flac", ".ogg")


@naming_placeholders
def read_audio(path: Path, rate: int, max_seconds: float) -> np.ndarray:
    """First ``max_seconds`` of a file's audio: the mean of its channels, resampled (soxr HQ).

    Parameters
    ----------
    path : Path
        .wav, .flac or .ogg, or an .mp4 or .flv with an audio track.
    rate : int
        Samples per second of the result.
    max_seconds : float
        Read no more than this.

    Returns
    -------
    numpy.ndarray
        (N,) float32, 1 <= N <= max_seconds * rate.

    Raises
    ------
    DataError
        If the file is missing, damaged, has no audio track, zero length, or samples that are not finite.
    """
    _require_file(path)
    require_whole(path)
    read = _read_wave if path.suffix.lower() in _SUBTYPES_READ_BY_SOUNDFILE else _read_track
    wave, found_rate = read(path, max_seconds + 0.1)  # a little more, so that resampling has no edge at the cut
    if not len(wave):
        raise DataError(f"{path}: the audio has length zero; replace the file or skip the sample")
    if not np.isfinite(wave).all():
        raise DataError(f"{path}: the audio holds samples that are not finite; replace the file")
    if found_rate != rate:
        wave = soxr.resample(wave, found_rate, rate, quality="HQ")
    wave = wave[: round(max_seconds * rate)].astype(np.float32)
    if not len(wave):
        raise DataError(f"{path}: the audio is shorter than one sample at {rate} Hz; replace the file or skip the sample")
    return wave


def _read_wave(path: Path, seconds: float) -> tuple[np.ndarray, int]:
    try:
        with soundfile.SoundFile(str(path)) as file:
            rate = int(file.samplerate)
            wanted = min(file.frames, int(seconds * rate) + 1)
            _require_last(file, path)
            samples = file.read(wanted, dtype="float32", always_2d=True)
            if len(samples) < wanted < _UNKNOWN_FRAMES:
                raise DataError(f"{path}: truncated: {len(samples)} of {wanted} samples can be read; replace the file")
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as audio ({_reason(error)}); replace the file") from error
    return samples.mean(axis=1), rate


def _require_last(file: Any, path: Path) -> None:
    """Raise `DataError` unless the last sample that the file declares is there."""
    if not 0 < file.frames < _UNKNOWN_FRAMES:
        return
    try:
        file.seek(file.frames - 1)
        found = len(file.read(1, dtype="float32"))
        file.seek(0)
    except soundfile.SoundFileError:
        found = 0
    if not found:
        raise DataError(f"{path}: truncated: its header declares {file.frames} samples, the last is missing; replace the file")


def _read_track(path: Path, seconds: float) -> tuple[np.ndarray, int]:
    with _container(path) as container:
        stream = _stream(container, "audio", path)
        rate, n_samples, parts = 0, 0, []
        for frame in container.decode(stream):
            if rate not in (0, frame.sample_rate):
                raise DataError(f"{path}: the sample rate changes from {rate} to {frame.sample_rate} Hz; convert the file")
            rate = frame.sample_rate
            parts.append(_mono(frame, path))
            n_samples += len(parts[-1])
            if n_samples >= seconds * rate:
                break
    return (np.concatenate(parts) if parts else np.zeros(0, np.float32))[: int(seconds * rate) + 1], rate


def _mono(frame: Any, path: Path) -> np.ndarray:
    """Mean of the channels of a decoded audio frame, (n,) float32 with full scale 1."""
    samples = frame.to_ndarray()  # planar: (channels, n); packed: (1, n * channels)
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    if samples.dtype == np.uint8:
        samples = samples.astype(np.float32) / 128 - 1
    elif samples.dtype.kind == "i":
        samples = samples / -float(np.iinfo(samples.dtype).min)
    elif samples.dtype.kind != "f":
        raise DataError(f"{path}: audio samples of type {samples.dtype} are not read; convert the file")
    return np.asarray(samples.mean(axis=0), np.float32)


def pick_evenly(n: int, count: int) -> list[int]:
    """``count`` of ``n`` indices: the middles of ``count`` equal parts; if n < count all, then the last one again."""
    if n >= count:
        return [(2 * i + 1) * n // (2 * count) for i in range(count)]
    return [min(i, n - 1) for i in range(count)]


@naming_placeholders
def read_video(path: Path, count: int, size: int, span: tuple[float, float] | None = None) -> np.ndarray:
    """``count`` evenly spaced frames of a video (`pick_evenly`), resized.

    Parameters
    ----------
    path : Path
        .flv or .mp4.
    count : int
        Frames wanted.
    size : int
        Side of the result; see `resize`.
    span : (float, float), optional
        Take only frames with start <= time < end, in seconds from the first frame.

    Returns
    -------
    numpy.ndarray
        (count, size, size, 3) uint8, RGB.

    Raises
    ------
    DataError
        If the file is missing or damaged, has no video track or no frame (in the span), or is larger than the limits.
    """
    _require_file(path)
    require_whole(path)
    times = _frame_times(path)
    chosen = [i for i, t in enumerate(times) if span is None or span[0] <= t - times[0] < span[1]]
    if not chosen:
        found = (
            f"0 frames between {span[0]:g} and {span[1]:g} s of {times[-1] - times[0]:.1f} s" if span and times else "0 frames"
        )
        raise DataError(f"{path}: the video has {found}; replace the file or skip the sample")
    wanted = [times[chosen[i]] for i in pick_evenly(len(chosen), count)]
    frames: list[np.ndarray] = []
    with _container(path) as container:
        stream = _stream(container, "video", path)
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        last = None
        for frame in container.decode(stream):
            if frame.width * frame.height > MAX_PIXELS:
                raise DataError(f"{path}: a frame of {frame.width}x{frame.height}, at most {MAX_PIXELS} pixels are read")
            last = frame
            if frame.time is None or frame.time + 1e-6 < wanted[len(frames)]:
                continue
            picture = resize(frame.to_image(), size)
            while len(frames) < count and wanted[len(frames)] <= frame.time + 1e-6:
                frames.append(picture)
            if len(frames) == count:
                break
        if last is None:
            raise DataError(f"{path}: none of {len(times)} frames can be decoded; replace the file or skip the sample")
        if last.time is None:
            raise DataError(f"{path}: its frames have no time stamps; convert the video or skip the sample")
        if len(frames) < count and last.time + _MAX_GAP * (times[-1] - times[0]) / len(times) < wanted[-1]:
            raise DataError(
                f"{path}: frames can be decoded up to {last.time:.2f} s, the file has them up to {times[-1]:.2f} s; replace the file "
                "or skip the sample"
            )
        frames += [resize(last.to_image(), size)] * (count - len(frames))
    return np.stack(frames)


def _frame_times(path: Path) -> list[float]:
    """Presentation times of all frames in seconds, sorted, without decoding them."""
    with _container(path) as container:
        stream = _stream(container, "video", path)
        if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
            raise DataError(
                f"{path}: {stream.codec_context.width}x{stream.codec_context.height}, at most {MAX_PIXELS} pixels are read"
            )
        times = []
        for packet in container.demux(stream):
            stamp = packet.pts if packet.pts is not None else packet.dts
            if packet.size and stamp is not None:
                times.append(float(stamp * packet.time_base))
            if len(times) > MAX_FRAMES:
                raise DataError(f"{path}: more than {MAX_FRAMES} frames; cut the video")
    return sorted(times)


def list_images(folder: Path) -> list[Path]:
    """The .jpg, .jpeg and .png files (`own_entries`) of a folder in natural order (2 before 10); raises `DataError` if there is none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: missing, expected a folder of extracted frames; extract them or skip the sample")
    found = [p for p in own_entries(folder) if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    if not found:
        raise DataError(f"{folder}: 0 frames, expected {', '.join(IMAGE_SUFFIXES)} files; extract them or skip the sample")
    return sorted(found, key=lambda p: [(int(t), "") if t.isdigit() else (-1, t) for t in re.split(r"([0-9]+)", p.name)])


def read_images(paths: Sequence[Path], size: int) -> np.ndarray:
    """Images resized to (len(paths), size, size, 3) uint8, RGB; raises `DataError` naming the bad one."""
    return np.stack([_read_image(path, size) for path in paths])


@naming_placeholders
def _read_image(path: Path, size: int) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if path.stat().st_size > MAX_IMAGE_BYTES:
                raise DataError(f"{path}: {path.stat().st_size} bytes, at most {MAX_IMAGE_BYTES} are read")
            content = io.BytesIO(path.read_bytes())  # from a file, Pillow allocates what a chunk declares
            with Image.open(content, formats=("JPEG", "PNG")) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(f"{path}: {image.width}x{image.height}, at most {MAX_PIXELS} pixels are read")
                return resize(image.convert("RGB"), size)
    except DataError:
        raise
    except UnidentifiedImageError as error:  # its text shows the object in memory
        raise DataError(f"{path}: not readable as an image (neither JPEG nor PNG); replace the file") from error
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise DataError(f"{path}: not readable as an image ({_reason(error)}); replace the file") from error


def resize(image: Image.Image, size: int) -> np.ndarray:
    """To (size, size, 3) uint8: both sides scaled, aspect not kept; bilinear, with antialiasing when shrinking."""
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


@contextmanager
def _container(path: Path) -> Iterator[Any]:
    """An open PyAV container; FFmpeg's errors become a `DataError`."""
    kind = _CONTAINERS.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"{path}: unknown kind {path.suffix!r}; allowed {', '.join(_CONTAINERS)}")
    try:
        options = {"protocol_whitelist": "file"}
        with av.open(str(path.resolve()), format=kind, options=options, metadata_errors="replace") as container:
            yield container
    except DataError:
        raise
    except Exception as error:  # PyAV adds IndexError and others to FFmpeg's own
        raise DataError(f"{path}: not readable as {kind} ({_reason(error)}); replace the file or skip the sample") from error


def _stream(container: Any, kind: str, path: Path) -> Any:
    """The first audio or video stream. PyAV would crash on one without a decoder, so that is refused here."""
    streams = [stream for stream in container.streams if stream.type == kind]
    if not streams:
        raise DataError(f"{path}: no {kind} track; give another file, or the sound and frames extracted from it")
    if streams[0].codec_context is None:
        raise DataError(f"{path}: the {kind} track has an unknown codec; convert the file or skip the sample")
    return streams[0]


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path}: missing media file of a listed sample; put it there or skip the sample")


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:200]
