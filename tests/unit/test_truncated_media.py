"""Files that end before they say are bad samples; streams that declare nothing are not."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from media_fixtures import tone, write_video, write_wav

from taaf.models.errors import DataError
from taaf.training.datasets.audio_visual import AudioVisualRecipe
from taaf.training.datasets.bad_samples import BadSamples
from taaf.training.datasets.cache import Item, prepare
from taaf.training.datasets.media import read_audio, read_video

COLOURS = [(20 * i, 250 - 20 * i, 99) for i in range(12)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One file of every kind, and an .mp4 whose index comes first."""
    folder = tmp_path_factory.mktemp("whole")
    for suffix in ("flv", "mp4"):
        write_video(folder / f"a.{suffix}", COLOURS, sound=tone(44_100, 1.2, 440))
    write_wav(folder / "a.wav", tone(16_000, 1.5, 440), 16_000)
    soundfile.write(
        str(folder / "a.flac"), tone(16_000, 1.5, 440) + 0.01 * np.random.default_rng(0).normal(size=24_000), 16_000
    )
    found = {p.name: p.read_bytes() for p in folder.iterdir()}
    found["first.mp4"] = _index_first(found["a.mp4"])
    return found


def _index_first(content: bytes) -> bytes:
    """ftyp moov mdat, as for streaming: every chunk offset (stco) grows by the size of what comes before."""
    at, boxes = 0, []
    while at < len(content):
        length = struct.unpack(">I", content[at : at + 4])[0]
        boxes.append(content[at : at + length])
        at += length
    kinds = {b[4:8]: b for b in boxes}
    index, data = bytearray(kinds[b"moov"]), kinds[b"mdat"]
    moved = len(kinds[b"ftyp"]) + len(index) - content.index(data[:64])
    at = index.find(b"stco")
    while at >= 0:
        (count,) = struct.unpack(">I", index[at + 8 : at + 12])
        for k in range(count):
            place = at + 12 + 4 * k
            index[place : place + 4] = struct.pack(">I", struct.unpack(">I", index[place : place + 4])[0] + moved)
        at = index.find(b"stco", at + 4)
    return kinds[b"ftyp"] + bytes(index) + data


def _read(path: Path) -> None:
    if path.suffix in (".flv", ".mp4"):
        read_video(path, 4, 16)
    read_audio(path, 16_000, 1.0)


@pytest.mark.parametrize("name", ["a.flv", "first.mp4", "a.mp4", "a.wav", "a.flac"])
def test_every_cut_is_noticed(name: str, whole: dict[str, bytes], tmp_path: Path) -> None:
    """Twelve places, up to the last bytes. Seen failing: two thirds of the frames were the last one that was there."""
    content, path = whole[name], tmp_path / name
    path.write_bytes(content)
    _read(path)
    for k in range(1, 13):
        path.write_bytes(content[: len(content) * k // 13 if k < 12 else len(content) - 6])
        with pytest.raises(DataError, match=rf"{name}: ") as caught:
            _read(path)
        if name in ("a.flv", "first.mp4", "a.wav") and k > 4:
            assert "truncated: " in str(caught.value)


def test_a_cut_between_two_tags(whole: dict[str, bytes], tmp_path: Path) -> None:
    """What is left of the .flv is well formed; only its duration says more."""
    content, at = whole["a.flv"], 13
    while at < len(content) / 2:
        at += 15 + int.from_bytes(content[at + 1 : at + 4], "big")
    (tmp_path / "a.flv").write_bytes(content[:at])
    with pytest.raises(DataError, match=r"a\.flv: truncated: it declares 1\.[0-9]+ s and ends at 0\.[0-9]+ s"):
        read_video(tmp_path / "a.flv", 4, 16)


@pytest.mark.parametrize("declared", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFDB])
def test_streamed_waves(declared: int, whole: dict[str, bytes], tmp_path: Path) -> None:
    """Recorders and pipes write their header before they know how much comes."""
    content = bytearray(whole["a.wav"])
    at = content.index(b"data")
    content[at + 4 : at + 8] = content[4:8] = struct.pack("<I", declared)
    (tmp_path / "a.wav").write_bytes(content)
    assert len(read_audio(tmp_path / "a.wav", 16_000, 10)) == 24_000


def test_streamed_videos(whole: dict[str, bytes], tmp_path: Path) -> None:
    """An .flv without a duration (0, as live recordings have it), cut between tags."""
    content = bytearray(whole["a.flv"])
    at = content.index(b"\x00\x08duration\x00")
    content[at + 11 : at + 19] = bytes(8)
    (tmp_path / "a.flv").write_bytes(content)
    assert read_video(tmp_path / "a.flv", 4, 16).shape == (4, 16, 16, 3)


def test_more_chunks_than_sound(whole: dict[str, bytes], tmp_path: Path) -> None:
    """Tags behind the sound, a RIFF size that counts its own header, and a cut through the tags."""
    content = whole["a.wav"] + b"LIST" + struct.pack("<I", 300) + bytes(300)
    full = content[:4] + struct.pack("<I", len(content)) + content[8:]
    (tmp_path / "a.wav").write_bytes(full)
    assert len(read_audio(tmp_path / "a.wav", 16_000, 10)) == 24_000
    (tmp_path / "a.wav").write_bytes(full[:-100])
    with pytest.raises(DataError, match="chunk 'LIST' declares 300 bytes, 200 are there"):
        read_audio(tmp_path / "a.wav", 16_000, 10)
    (tmp_path / "a.wav").write_bytes(full[: len(whole["a.wav"])])
    with pytest.raises(DataError, match=r"it declares 48\d+ bytes and has 48\d+"):
        read_audio(tmp_path / "a.wav", 16_000, 10)


def test_truncated_samples_obey_on_bad(whole: dict[str, bytes], tmp_path: Path) -> None:
    """Skip leaves the whole ones."""
    for name in ("good", "cut"):
        (tmp_path / f"{name}.wav").write_bytes(whole["a.wav"])
        (tmp_path / f"{name}.flv").write_bytes(whole["a.flv"][: None if name == "good" else 3000])
    items = [Item(n, (tmp_path / f"{n}.flv", tmp_path / f"{n}.wav")) for n in ("good", "cut")]
    recipe = AudioVisualRecipe(2, 16_000, 1, power=False)
    kept, _ = prepare(items, recipe, tmp_path / "cache", bad := BadSamples("skip"), quiet=True)
    assert kept == [0] and bad.n_skipped == 1
    with pytest.raises(DataError, match=r"cut\.flv: truncated: "):
        prepare(items, recipe, tmp_path / "cache", BadSamples("stop"), quiet=True)
