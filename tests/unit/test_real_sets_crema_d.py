"""CREMA-D from real .flv, .wav and .jpg files: shapes, numbers, splits, cache, and bad files."""

import logging
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from media_fixtures import tone, write_image, write_video, write_wav
from torch.utils.data import DataLoader

from taaf.models.errors import DataError, OutputError
from taaf.training.datasets import crema_d
from taaf.training.datasets.crema_d import open_crema_d
from taaf.training.datasets.registry import describe
from taaf.training.datasets.spectrograms import log_stft

IDS = ("1001_DFA_ANG_XX", "1002_IEO_HAP_HI", "1003_TIE_SAD_LO", "1004_IWW_NEU_XX", "1040_ITH_SAD_X")
MEAN, STD = (torch.tensor(v).view(3, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips: 1.5 s of a 1 kHz tone at 16 kHz, and six frames of different colours."""
    root = tmp_path_factory.mktemp("crema")
    for index, name in enumerate(IDS):
        write_wav(root / f"AudioWAV/{name}.wav", tone(16_000, 1.5, 1000), 16_000)
        write_video(root / f"VideoFlash/{name}.flv", [(200, 40 * k, 20 + 30 * index) for k in range(6)])
    rows = [f"{i},{i.split('_')[2]}" for i in IDS]
    (root / "train.csv").write_text("\ufeff" + "\r\n".join(rows[:3]) + "\r\n", encoding="utf-8")
    (root / "test.csv").write_text("\n".join(rows[3:]), encoding="utf-8")
    return root


@pytest.fixture
def root(source: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(source, tmp_path / "crema", copy_function=shutil.copy2))


def test_shapes_and_labels(root: Path) -> None:
    """257x188 spectrogram, 3x224x224 frames, classes in the published order; the list starts with a byte order mark."""
    data = open_crema_d(root, "train")
    assert data.modalities == ("visual", "audio") and data.label_names == ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
    assert len(data) == 3 and data.labels.tolist() == [5, 1, 2] and data.sample_names == IDS[:3]
    visual, audio, label = data[0]
    assert visual.shape == (3, 224, 224, 3) and audio.shape == (1, 257, 188, 3) and label == 5
    assert visual.dtype == audio.dtype == torch.float32
    assert open_crema_d(root, "test").labels.tolist() == [0, 2]
    visual, audio, labels = next(iter(DataLoader(pickle.loads(pickle.dumps(data)), batch_size=3)))
    assert visual.shape == (3, 3, 224, 224, 3) and audio.shape == (3, 1, 257, 188, 3) and labels.tolist() == [5, 1, 2]
    assert "3 samples, 0 skipped" in describe(data) and "ANG 1" in describe(data)


def test_frames_are_the_middles_of_equal_parts_normalised(root: Path) -> None:
    """Six frames, T = 3: frames 1, 3 and 5, in RGB; the codec is lossy, so within 4 levels of 255."""
    visual, _, _ = open_crema_d(root, "train")[1]
    expected = torch.tensor([[200, 200, 200], [40, 120, 200], [50, 50, 50]]) / 255
    assert torch.allclose(visual[:, 112, 112] * STD + MEAN, expected, atol=4 / 255)
    two, heard, _ = open_crema_d(root, "train", steps=8, audio_steps=2)[1]
    assert (
        heard.shape == (1, 257, 188, 2)
        and two.shape[-1] == 8
        and torch.equal(two[..., 5], two[..., 7])
        and not torch.equal(two[..., 4], two[..., 5])
    )


def test_spectrogram_against_the_definition(root: Path) -> None:
    """Frame 60 is the windowed DFT of samples 60 * 353 - 256 …; a 1 kHz tone peaks in bin round(1000 * 512 / 22050)."""
    _, audio, _ = open_crema_d(root, "train")[0]
    assert torch.equal(audio[..., 0], audio[..., 2])
    spectrogram = audio[0, :, :, 0].numpy()
    assert (spectrogram[:, 20:80].argmax(0) == 23).all()
    n = np.arange(512)
    wave = 0.5 * np.sin(2 * np.pi * 1000 * (60 * 353 - 256 + n) / 22_050)
    hann = np.sin(np.pi * n / 512) ** 2
    by_hand = [np.log(abs(sum(wave * hann * np.exp(-2j * np.pi * k * n / 512))) + 1e-7) for k in (22, 23, 24)]
    np.testing.assert_allclose(spectrogram[22:25, 60], by_hand, atol=0.01)
    assert log_stft(np.zeros(66_150)).shape == (257, 188)
    np.testing.assert_allclose(log_stft(np.zeros(66_150)), np.log(1e-7), rtol=1e-6)


def test_short_audio_is_repeated_and_clipped(root: Path) -> None:
    """Half a second, louder than full scale in a float file, in two channels: repeated to 3 s of its clipped mean."""
    rng = np.random.default_rng(0)
    wave = rng.uniform(-1.6, 1.6, 11_025).astype(np.float32)
    channels = np.stack([wave + 0.1, wave - 0.1], 1)
    soundfile.write(str(root / f"AudioWAV/{IDS[0]}.wav"), channels, 22_050, subtype="FLOAT")
    _, audio, _ = open_crema_d(root, "train")[0]
    expected = log_stft(np.clip(np.tile(wave, 6), -1, 1))
    np.testing.assert_allclose(audio[0, :, :, 0].numpy(), expected, atol=1e-3)


def test_extracted_frames_are_read_in_natural_order(root: Path) -> None:
    """Image-01-FPS takes the place of the videos; fewer frames than steps repeat the last; 10.jpg comes after 2.jpg."""
    colours = {"1.jpg": (250, 0, 0), "2.jpg": (0, 250, 0), "10.jpg": (0, 0, 250)}
    for sample in IDS:
        for name, colour in colours.items():
            write_image(root / f"Image-01-FPS/{sample}/{name}", colour)
    visual, _, _ = open_crema_d(root, "train", steps=4)[0]
    seen = visual[:, 112, 112] * STD + MEAN
    assert seen.argmax(0).tolist() == [0, 1, 2, 2] and torch.allclose(seen.max(0).values, torch.tensor(250 / 255), atol=4 / 255)


def test_speaker_disjoint_split(root: Path) -> None:
    """A tenth of the actors (here one) is the test set: disjoint, complete, the same for one seed."""
    parts = {s: open_crema_d(root, s, split_kind="speaker-disjoint", seed=3).sample_names for s in ("train", "test")}
    actors = {s: {crema_d.actor_of(n) for n in names} for s, names in parts.items()}
    assert len(actors["test"]) == 1 and not actors["train"] & actors["test"]
    assert sorted(parts["train"] + parts["test"]) == sorted(IDS)
    trained = open_crema_d(root, "train", split_kind="speaker-disjoint", seed=3)
    assert trained.groups == tuple(map(crema_d.actor_of, trained.sample_names)) and open_crema_d(root, "train").groups is None
    ids = [f"{1000 + a}_DFA_ANG_XX" for a in range(91)]
    assert len(crema_d.held_out_actors(ids, 0)) == 9
    assert crema_d.held_out_actors(ids, 0) == crema_d.held_out_actors(ids[::-1], 0) != crema_d.held_out_actors(ids, 1)


def test_second_open_decodes_nothing(root: Path) -> None:
    """With its size and time restored, even a spoiled video goes unnoticed; with a new time it is read again."""
    first = open_crema_d(root, "train")[0]
    video = root / f"VideoFlash/{IDS[0]}.flv"
    times = {p: p.stat().st_mtime_ns for p in (root / ".taaf-cache").rglob("*.npz")}
    assert len(times) == 3
    stat = video.stat()
    video.write_bytes(b"\0" * stat.st_size)
    os.utime(video, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = open_crema_d(root, "train")[0]
    assert all(torch.equal(a, b) for a, b in zip(first[:2], again[:2], strict=True))
    assert times == {p: p.stat().st_mtime_ns for p in (root / ".taaf-cache").rglob("*.npz")}
    os.utime(video)
    with pytest.raises(DataError, match=rf"{IDS[0]}\.flv: not readable as flv"):
        open_crema_d(root, "train")


def test_workers_give_the_same_files(root: Path) -> None:
    """Two processes and one write the same arrays under the same names, and leave nothing else."""
    folders = [root / "one", root / "two"]
    for workers, folder in enumerate(folders, start=1):
        open_crema_d(root, "train", cache=folder, workers=workers)
    names = [sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file()) for f in folders]
    assert names[0] == names[1] and len(names[0]) == 3 and all(n.suffix == ".npz" for n in names[0])
    for name in names[0]:
        one, two = (np.load(f / name) for f in folders)
        assert all(np.array_equal(one[key], two[key]) for key in ("frames", "audio"))


def spoil_not_a_video(root: Path) -> str:
    (root / f"VideoFlash/{IDS[0]}.flv").write_text("#EXTM3U\nhttp://127.0.0.1:9/a.ts\n")
    return rf"{IDS[0]}\.flv: not readable as flv"


def spoil_empty_video(root: Path) -> str:
    """The FLV header (version 1, video only) and no tag."""
    (root / f"VideoFlash/{IDS[0]}.flv").write_bytes(b"FLV\x01\x01\0\0\0\x09\0\0\0\0")
    return rf"{IDS[0]}\.flv: not readable as flv \(End of file\)"


def spoil_zero_length_audio(root: Path) -> str:
    write_wav(root / f"AudioWAV/{IDS[0]}.wav", np.zeros(0), 16_000)
    return rf"{IDS[0]}\.wav: the audio has length zero"


def spoil_audio_not_finite(root: Path) -> str:
    soundfile.write(str(root / f"AudioWAV/{IDS[0]}.wav"), np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
    return rf"{IDS[0]}\.wav: the audio holds samples that are not finite"


def spoil_not_audio(root: Path) -> str:
    (root / f"AudioWAV/{IDS[0]}.wav").write_bytes(b"nothing")
    return rf"{IDS[0]}\.wav: not readable as audio"


def spoil_missing_audio(root: Path) -> str:
    (root / f"AudioWAV/{IDS[0]}.wav").unlink()
    return rf"{IDS[0]}\.wav: missing media of the listed sample"


def spoil_missing_video(root: Path) -> str:
    (root / f"VideoFlash/{IDS[0]}.flv").unlink()
    return rf"{IDS[0]}\.flv: missing media of the listed sample"


def spoil_unknown_class(root: Path) -> str:
    text = (root / "train.csv").read_text(encoding="utf-8-sig")
    (root / "train.csv").write_text(text.replace(",ANG", ",ANGRY"), encoding="utf-8")
    return r"train\.csv:1: unknown class 'ANGRY'; allowed NEU, HAP, SAD, FEA, DIS, ANG"


def spoil_contradiction(root: Path) -> str:
    text = (root / "train.csv").read_text(encoding="utf-8-sig")
    (root / "train.csv").write_text(text.replace(",ANG", ",SAD"), encoding="utf-8")
    return r"train\.csv:1: class SAD contradicts the ID"


def spoil_path_as_id(root: Path) -> str:
    text = (root / "train.csv").read_text(encoding="utf-8-sig")
    (root / "train.csv").write_text(text.replace(IDS[0], "../../etc/passwd"), encoding="utf-8")
    return r"train\.csv:1: found '../../etc/passwd,ANG', expected ID,CLASS"


SPOILERS = [f for name, f in sorted(globals().items()) if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda f: f.__name__[6:])
def test_bad_samples_stop_or_are_skipped(spoil, root: Path, caplog: pytest.LogCaptureFixture) -> None:  # type: ignore[no-untyped-def]
    """One line that names the file; ``skip`` warns with the same line and leaves the other two samples."""
    message = spoil(root)
    with pytest.raises(DataError, match=message) as caught:
        open_crema_d(root, "train")
    assert "\n" not in str(caught.value)
    with caplog.at_level(logging.WARNING):
        data = open_crema_d(root, "train", on_bad="skip")
    assert data.sample_names == IDS[1:3] and data.n_skipped == 1
    assert len(caplog.messages) == 1 and caplog.messages[0] == f"skipped: {caught.value}"


def test_bad_samples_found_by_workers(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Errors come back from worker processes in the order of the samples."""
    for name in (IDS[2], IDS[0]):
        (root / f"AudioWAV/{name}.wav").write_bytes(b"nothing")
    with pytest.raises(DataError, match=IDS[0]):
        open_crema_d(root, "train", workers=2)
    data = open_crema_d(root, "train", workers=2, on_bad="skip")
    assert data.sample_names == (IDS[1],)
    assert [IDS[0] in caplog.messages[0], IDS[2] in caplog.messages[1]] == [True, True]


def test_nothing_left_and_missing_parts(root: Path, tmp_path: Path) -> None:
    """Root, list, folders, options: each error says what is expected."""
    with pytest.raises(DataError, match=r"nowhere: does not exist, expected the root folder of CREMA-D"):
        open_crema_d(tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match=r"split \(='val'\): allowed train, test"):
        open_crema_d(root, "val")
    with pytest.raises(DataError, match=r"on_bad \(='ignore'\)"):
        open_crema_d(root, "train", on_bad="ignore")
    with pytest.raises(DataError, match=r"workers \(=0\)"):
        open_crema_d(root, "train", workers=0)
    for name in IDS:
        (root / f"AudioWAV/{name}.wav").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"no usable sample is left \(3 skipped\)"):
        open_crema_d(root, "train", on_bad="skip")
    (root / "train.csv").write_bytes(b"\xff\xfe1\0")
    with pytest.raises(DataError, match=r"train\.csv: not UTF-8"):
        open_crema_d(root, "train")
    (root / "train.csv").unlink()
    with pytest.raises(DataError, match=r"train\.csv: missing"):
        open_crema_d(root, "train")
    shutil.rmtree(root / "VideoFlash")
    with pytest.raises(DataError, match="no Image-01-FPS or VideoFlash folder"):
        open_crema_d(root, "test")


def test_cache_that_cannot_be_written_or_is_damaged(root: Path) -> None:
    """The cache folder is a file; a cache file was cut."""
    (root / "taken").write_text("")
    with pytest.raises(OutputError, match="preprocessed samples cannot be written.*--cache"):
        open_crema_d(root, "train", cache=root / "taken")
    data = open_crema_d(root, "train")
    for path in (root / ".taaf-cache").rglob("*.npz"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged or missing cache file; delete it"):
        data[0]
