"""AVE from real .mp4 files with an AAC track, and from extracted frames and .wav files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from media_fixtures import tone, write_image, write_video, write_wav
from scipy.signal import spectrogram as scipy_spectrogram

from taaf.models.config import InputSpec
from taaf.models.errors import ConfigError, DataError
from taaf.training.config import DataConfig
from taaf.training.datasets.ave import CLASSES, open_ave
from taaf.training.datasets.spectrograms import log_power, tile_to
from taaf.training.sources import open_splits

HEADER = "Category&VideoID&Quality&StartTime&EndTime\n"
ROWS = {
    "train": ["Church bell&RUhOCu3LNXM&good&0&2", "Male speech, man speaking&-5f6_Dqqr5k&good&1&2"],
    "validation": ["Flute&aaaaaaaaaaa&good&0&2"],
    "test": ["Mandolin&bbbbbbbbbbb&good&0&1"],
}
VIDEOS = ("RUhOCu3LNXM", "-5f6_Dqqr5k", "aaaaaaaaaaa", "bbbbbbbbbbb")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos of 2 s at 10 frames per second that grow brighter, with a 2 kHz tone."""
    root = tmp_path_factory.mktemp("ave")
    for video in VIDEOS:
        write_video(root / f"AVE/{video}.mp4", [(10 * k, 10 * k, 10 * k) for k in range(20)], sound=tone(44_100, 2.0, 2000))
    (root / "Annotations.txt").write_text(HEADER + "\n".join(row for rows in ROWS.values() for row in rows))
    (root / "trainSet.txt").write_text("\n".join(ROWS["train"]) + "\n")  # no header
    (root / "valSet.txt").write_text(HEADER + "\n".join(ROWS["validation"]))
    (root / "testSet.txt").write_text("Mandolin&bbbbbbbbbbb\n")  # no times
    return root


@pytest.fixture
def root(source: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(source, tmp_path / "ave", copy_function=shutil.copy2))


def test_shapes_splits_and_tolerated_lists(root: Path) -> None:
    """257x1004 spectrogram, four frames; lists with and without header or times; parts are disjoint."""
    parts = {split: open_ave(root, split) for split in ("train", "validation", "test")}
    assert len(CLASSES) == len(set(CLASSES)) == 28
    assert {s: d.labels.tolist() for s, d in parts.items()} == {"train": [0, 1], "validation": [8], "test": [27]}
    assert len({n for d in parts.values() for n in d.sample_names}) == 4
    visual, audio, label = parts["train"][0]
    assert visual.shape == (3, 224, 224, 4) and audio.shape == (1, 257, 1004, 4) and label == 0
    assert torch.equal(audio[..., 0], audio[..., 3])
    assert abs(float(audio[..., 0].mean())) < 1e-4 and abs(float(audio[..., 0].std()) - 1) < 1e-4


def test_four_and_three_steps_and_the_validation_list(root: Path) -> None:
    """The paper's "4-3": frames at four steps, sound at three; valSet.txt is the validation part, or a share where it is missing."""
    specs = {"visual": InputSpec(steps=4, scale=32), "audio": InputSpec(steps=3, scale=32)}
    data = DataConfig(set="ave", root=str(root))
    parts = open_splits(data, specs)
    assert parts.validation is not None and parts.validation.class_indices().tolist() == [8] and len(parts.train) == 2
    assert {m: s.steps for m, s in parts.train.specs().items()} == {"visual": 4, "audio": 3}
    (frames, sound, label), (same, repeated, _) = parts.train[1], open_ave(root, "train")[1]
    assert torch.equal(frames, same) and torch.equal(sound, repeated[..., :3]) and label == 1
    (root / "valSet.txt").unlink()
    assert open_splits(data, specs).validation is None
    with pytest.raises(ConfigError, match="data.validation .=0.9.: holds out"):
        open_splits(DataConfig(set="ave", root=str(root), validation=0.9), specs)


def test_frames_lie_within_the_event(root: Path) -> None:
    """From 0 to 2 s: frames 2, 7, 12, 17; from 1 to 2 s: frames 11, 13, 16, 18; lossy within 4 levels."""
    data = open_ave(root, "train")
    for index, frames in ((0, [2, 7, 12, 17]), (1, [11, 13, 16, 18])):
        red = (data[index][0][0, 112, 112] * 0.229 + 0.485) * 255
        assert torch.allclose(red, 10 * torch.tensor(frames, dtype=torch.float32), atol=4)


def test_tone_from_the_aac_track(root: Path) -> None:
    """2 kHz peaks in bin 2000 * 512 / 16000 = 64, everywhere but at the seams of the repetition."""
    _, audio, _ = open_ave(root, "train")[0]
    assert ((audio[0, :, :, 0].argmax(0) == 64).float().mean()) > 0.95


def test_power_density_against_scipy() -> None:
    """The published preprocessing is scipy's spectrogram(nperseg=512, noverlap=353) of the wave, log, standardised."""
    wave = tile_to(np.random.default_rng(1).normal(0, 0.3, 70_000), 160_000)
    _, _, power = scipy_spectrogram(wave, 16_000, nperseg=512, noverlap=353)
    expected = np.log(power + 1e-7)
    expected = (expected - expected.mean()) / (expected.std() + 1e-9)
    found = log_power(wave, 16_000)
    assert found.shape == (257, 1004)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.array_equal(wave[:70_000], wave[70_000:140_000]) and np.abs(wave).max() <= 1


def test_extracted_frames_and_waves(root: Path) -> None:
    """Image-01-FPS-SE holds the event's frames, Audio the whole sound; the same spectrogram as the tone at 16 kHz."""
    shutil.rmtree(root / "AVE")
    for video in VIDEOS:
        for k in range(5):
            write_image(root / f"Image-01-FPS-SE/{video}/{k:05d}.png", (50 * k, 0, 0))
        write_wav(root / f"Audio/{video}.wav", tone(16_000, 10.0, 2000), 16_000)
    visual, audio, _ = open_ave(root, "train")[0]
    red = (visual[0, 0, 0] * 0.229 + 0.485) * 255
    assert torch.allclose(red, torch.tensor([0.0, 50, 150, 200]), atol=0.01)
    assert (audio[0, :, :, 0].argmax(0) == 64).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Church bell", "Church bel", r"Annotations\.txt:2: unknown class 'Church bel'; did you mean 'Church bell'"),
        ("Church bell", "Quux", r"unknown class 'Quux'; allowed: Church bell; Male speech"),
        ("&0&2\nMale", "&2&0\nMale", r"Annotations\.txt:2: event from '2' to '0', expected seconds"),
        ("&0&2\nMale", "&a&b\nMale", r"Annotations\.txt:2: event from 'a' to 'b'"),
        ("RUhOCu3LNXM", "../RUhO", r"Annotations\.txt:2: found 'Church bell&../RUhO&good&0&2'"),
        ("&good&0&2\nMale", "\nMale", r"Annotations\.txt:2: found 'Church bell&RUhOCu3LNXM', expected Category"),
    ],
)
def test_bad_annotations(root: Path, old: str, new: str, message: str) -> None:
    """Stop names file, line and what is allowed; skip drops the row, and then the set row that is not annotated."""
    path = root / "Annotations.txt"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=message) as caught:
        open_ave(root, "train")
    assert "\n" not in str(caught.value)
    assert open_ave(root, "train", on_bad="skip").sample_names == ("-5f6_Dqqr5k",)


def test_set_rows_must_agree_with_the_annotations(root: Path) -> None:
    """Another class, a video that is not annotated, a repeated row."""
    path = root / "trainSet.txt"
    good = path.read_text()
    for text, message in (
        (
            good.replace("Church bell", "Flute"),
            r"trainSet\.txt:1: RUhOCu3LNXM is listed as Flute, Annotations\.txt has Church bell",
        ),
        (
            good.replace("RUhOCu3LNXM", "unknown"),
            r"trainSet\.txt:1: unknown is listed as Church bell, Annotations\.txt has nothing",
        ),
        (good + good.splitlines()[0], r"trainSet\.txt:3: RUhOCu3LNXM is listed already in line 1"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            open_ave(root, "train")


def test_bad_videos(root: Path, tmp_path: Path) -> None:
    """No audio track, an event after the end, a file cut in the middle, a missing list, a wrong split kind."""
    video = root / "AVE/RUhOCu3LNXM.mp4"
    whole = video.read_bytes()
    write_video(video, [(9, 9, 9)] * 20)
    with pytest.raises(DataError, match=r"RUhOCu3LNXM\.mp4: no audio track"):
        open_ave(root, "train")
    video.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"RUhOCu3LNXM\.mp4: truncated: its box 'mdat' declares"):
        open_ave(root, "train")
    assert open_ave(root, "train", on_bad="skip").sample_names == ("-5f6_Dqqr5k",)
    for table, found in (
        (whole.rindex(b"stsd"), "the audio track has an unknown codec"),
        (whole.index(b"stsz"), "the video has 0 frames"),
    ):
        video.write_bytes(whole[:table] + b"skip" + whole[table + 4 :])  # without its description; without its sizes
        with pytest.raises(DataError, match=rf"RUhOCu3LNXM\.mp4: {found}"):
            open_ave(root, "train")
    video.write_bytes(whole)
    for name in ("Annotations.txt", "trainSet.txt"):
        text = (root / name).read_text()
        (root / name).write_text(text.replace("&0&2", "&5&9", 1))
    with pytest.raises(DataError, match=r"the video has 0 frames between 5 and 9 s of 1\.9 s"):
        open_ave(root, "train")
    with pytest.raises(DataError, match=r"split_kind \(='speaker-disjoint'\): allowed official"):
        open_ave(root, "train", split_kind="speaker-disjoint")
    (root / "Annotations.txt").unlink()
    with pytest.raises(DataError, match=r"Annotations\.txt: missing"):
        open_ave(root, "train")
