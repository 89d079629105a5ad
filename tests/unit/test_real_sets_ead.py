"""EAD from byte-exact N-MNIST .bin, MNIST-DVS .aedat and N-TIDIGITS .hdf5 files."""

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from media_fixtures import dvs128, write_aedat, write_nmnist, write_ntidigits

from taaf.models.config import InputSpec
from taaf.models.errors import DataError
from taaf.training.config import DataConfig
from taaf.training.datasets.ead import open_ead_mnistdvs, open_ead_nmnist, pair_by_class
from taaf.training.datasets.event_files import read_dvs128, read_nmnist
from taaf.training.datasets.registry import describe, open_dataset
from taaf.training.sources import open_split

WORDS = ("z", "1", "2", "3", "4", "5", "6", "7", "8", "9", "o")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two (train) and one (test) recordings per digit of N-MNIST, ten per digit of MNIST-DVS, all eleven words."""
    root = tmp_path_factory.mktemp("ead")
    for digit in range(10):
        for part, count in (("Train", 2), ("Test", 1)):
            for k in range(count):
                events = [(digit, 5, 1, 10), (33, digit, 0, 59_999), (7, 8, 1, 60_000), (7, 8, 1, 60_001), (1, 1, 1, 300_000)]
                write_nmnist(root / f"N-MNIST/{part}/{digit}/{2 + k:05d}.bin", events)
        for k in range(10):
            records = [(dvs128(47 + digit, 47, 1), 1_000_000), (dvs128(0, 0, 1), 1_200_000), (dvs128(80, 80, 0), 1_499_999)]
            name = f"grabbed_data{digit}/scale4/mnist_{digit}_scale04_{k + 1:04d}.aedat"
            write_aedat(root / "MNIST-DVS" / name, [*records, (0x8000, 1_000_001)])
    write_ntidigits(
        root / "n-tidigits.hdf5",
        {
            part: {
                **{f"man-{s}-{r}-{w}": ([0, i, 63], [0.1, 0.35, 0.6]) for s in who for r in "ab" for i, w in enumerate(WORDS)},
                f"man-{who[0]}-a-12o": ([1], [0.0]),
            }
            for part, who in (("train", ["ac", "ae"]), ("test", ["bd"]))
        },
    )
    return root


@pytest.fixture
def root(source: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(source, tmp_path / "ead", copy_function=shutil.copy2))


def test_nmnist_bit_by_bit(tmp_path: Path) -> None:
    """Bytes x, y, p | t22..16, t15..8, t7..0."""
    path = tmp_path / "00002.bin"
    path.write_bytes(bytes([33, 2, 0b1111_1110, 0x86, 0xA0, 0, 31, 0b0111_1111, 0xFF, 0xFE]))
    events = read_nmnist(path)
    assert (events.x.tolist(), events.y.tolist(), events.channel.tolist()) == ([33, 0], [2, 31], [0, 1])
    assert events.t.tolist() == [0x7E86A0, 2**23 - 2]


def test_dvs128_bit_by_bit(tmp_path: Path) -> None:
    """Bit 0 polarity (0 is ON), 1-7 mirrored column, 8-14 row from the bottom, 15 external; a header of two lines."""
    words = [0b0_0000011_0000101_0, 0b0_1111111_0000000_1, 0b1_0000000_0000000_0]
    path = write_aedat(tmp_path / "a.aedat", [(w, 7 + i) for i, w in enumerate(words)])
    events = read_dvs128(path)
    assert (events.x.tolist(), events.y.tolist()) == ([127 - 5, 127], [127 - 3, 0])
    assert events.channel.tolist() == [0, 1] and events.t.tolist() == [7, 8]


def test_nmnist_pairs(root: Path) -> None:
    """Shapes, bins of 60 ms (late events dropped), the spoken digit's spikes, labels, the same pairs for one seed."""
    data = open_ead_nmnist(root, "train")
    assert data.modalities == ("event", "audio") and data.label_names == tuple("0123456789")
    assert np.bincount(data.labels).tolist() == [2] * 10 and len(open_ead_nmnist(root, "test")) == 10
    event, audio, label = data[6]
    assert event.shape == (2, 34, 34, 5) and audio.shape == (64, 5) and label == 3 and event.dtype == torch.float32
    assert sorted(map(tuple, event.nonzero().tolist())) == [(0, 5, 3, 0), (0, 8, 7, 1), (1, 3, 33, 0)]
    assert sorted(map(tuple, audio.nonzero().tolist())) == [(0, 0), (3, 2), (63, 4)]
    for name, digit in zip(data.sample_names, data.labels, strict=True):
        word = name.split("-")[-1]
        assert digit == (0 if word in "zo" else int(word))
    assert open_ead_nmnist(root, "train").audio_of.tolist() == data.audio_of.tolist()
    assert open_ead_nmnist(root, "train", seed=1).audio_of.tolist() != data.audio_of.tolist()
    assert "2" in describe(data) and "EAD N-MNIST train: 20 samples" in describe(data)


def test_steps_of_each_modality_and_speakers_of_the_validation_part(root: Path) -> None:
    """Events and cochlea spikes are each those of their own number of steps; a validation part has speakers of its own."""
    specs = {"event": InputSpec(steps=5), "audio": InputSpec(steps=3)}
    data = DataConfig(set="ead-nmnist", root=str(root), validation=0.5)
    both = open_split(replace(data, validation=0.0), specs, "train")
    five, three = (open_ead_nmnist(root, "train", steps=n) for n in (5, 3))
    for i in (0, 7, 19):
        event, audio, label = both[i]
        assert torch.equal(event, five[i][0]) and torch.equal(audio, three[i][1]) and label == five[i][2]
    train, validation = (open_split(data, specs, split) for split in ("train", "validation"))
    assert len(train) + len(validation) == 20 and set(five.groups or ()) == {"man-ac", "man-ae"}
    held = [i for i, who in enumerate(five.groups or ()) if who == "man-ac"]
    assert validation.class_indices().tolist() in (five.labels[held].tolist(), np.delete(five.labels, held).tolist())


def test_pairing_uses_audio_evenly() -> None:
    """Seven event samples on three audio samples of the class: 3, 2, 2 uses; a class without audio is an error."""
    partner = pair_by_class(np.array([1] * 7 + [4]), np.array([4, 1, 1, 1]), 0)
    assert sorted(np.bincount(partner[:7], minlength=4).tolist()) == [0, 2, 2, 3] and partner[7] == 0
    with pytest.raises(DataError, match="digit 5: 1 event recordings and no spoken sample"):
        pair_by_class(np.array([5]), np.array([4]), 0)


def test_mnist_dvs_pairs(root: Path) -> None:
    """The last tenth of the files is the test part; the middle 34x34 pixels; bins over the recording's length."""
    train, test = open_ead_mnistdvs(root, "train"), open_ead_mnistdvs(root, "test")
    assert len(train) == 90 and len(test) == 10 and all("_0010+" in n for n in test.sample_names)
    event, _, label = test[4]
    assert label == 4 and sorted(map(tuple, event.nonzero().tolist())) == [(0, 0, 4, 0), (1, 33, 33, 4)]
    with pytest.raises(DataError, match=r"size \(=30\): allowed 28, 34"):
        open_ead_mnistdvs(root, "train", size=30)
    with pytest.raises(DataError, match="no scale8 folder"):
        open_ead_mnistdvs(root, "train", scale=8)
    with pytest.raises(DataError, match=r"scale \(=5\): allowed 4, 8, 16"):
        open_ead_mnistdvs(root, "train", scale=5)


def test_halves_of_mnist_dvs(root: Path) -> None:
    """Half of each digit's files, the same ones every time, not the first ones; N-MNIST has its own parts. 28 px by the shape asked for.

    Seen failing with one draw for all digits.
    """
    parts = {split: open_ead_mnistdvs(root, split, split_kind="half") for split in ("train", "test")}
    names = {split: {n.split("+")[0] for n in part.sample_names} for split, part in parts.items()}
    assert all(np.bincount(part.labels).tolist() == [5] * 10 for part in parts.values())
    assert not names["train"] & names["test"] and len(names["train"] | names["test"]) == 100
    numbers = {d: frozenset(int(n[-2:]) for n in names["train"] if n.startswith(f"mnist_{d}")) for d in range(10)}
    assert frozenset(range(1, 6)) not in numbers.values() and len(set(numbers.values())) > 5
    assert open_ead_mnistdvs(root, "test", split_kind="half").sample_names == parts["test"].sample_names
    with pytest.raises(DataError, match="EAD split_kind.*half.*official, speaker-disjoint"):
        open_ead_nmnist(root, "test", split_kind="half")
    data = DataConfig(set="ead-mnistdvs", root=str(root), split="half")
    for path in root.rglob("*.aedat"):
        write_aedat(path, [(dvs128(50, 77, 1), 0), (dvs128(49, 60, 1), 3), (dvs128(77, 50, 0), 9)])
    for size, corner in ((28, 50), (34, 47)):
        asked = {"event": InputSpec((2, size, size), 4), "audio": InputSpec((1, 64, 1), 4)}
        opened = open_split(data, asked, "test")
        assert opened[0][0].shape == (2, size, size, 4) and len(opened) == 50
        expected = [(0, 77 - corner, 50 - corner, 0), (0, 60 - corner, 49 - corner, 1), (1, 50 - corner, 77 - corner, 3)]
        inside = [e for e in expected if min(e[:3]) >= 0]  # pixel 49 is left of the smaller window
        assert sorted(map(tuple, opened[0][0].nonzero().tolist())) == sorted(inside) and len(inside) == (2 if size == 28 else 3)


@pytest.mark.parametrize(("scale", "first", "last"), [(8, 30, 97), (16, 0, 127)])
def test_larger_scales_are_reduced(tmp_path: Path, scale: int, first: int, last: int) -> None:
    """Scale 8: 68 pixels around the middle in blocks of 2; scale 16: all 128 in blocks of 4, with a margin of one."""
    from taaf.training.datasets.event_files import cropped

    path = write_aedat(tmp_path / "a.aedat", [(dvs128(first, last, 1), 0), (dvs128(last, first, 0), 1)])
    events = cropped(read_dvs128(path), scale)
    low, high = (0, 33) if scale == 8 else (1, 32)
    assert (events.x.tolist(), events.y.tolist()) == ([low, high], [high, low])


def test_workers_give_the_same_samples(root: Path) -> None:
    """One and three processes."""
    one = open_ead_mnistdvs(root, "train", cache=root / "one")
    three = open_ead_mnistdvs(root, "train", cache=root / "three", workers=3)
    assert one.sample_names == three.sample_names
    assert all(torch.equal(one[i][0], three[i][0]) for i in range(len(one)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0" * 7, "7 bytes, expected a positive multiple of 5"),
        (b"", "0 bytes, expected a positive multiple of 5"),
        (bytes([34, 0, 0, 0, 0]), "event 0 at x=34 y=0 lies outside the 34x34 sensor"),
        (bytes([0, 0, 0x7F, 0xFF, 0xFF]), "event 0 at 8388607 us, a recording has 300000 us from 0 on"),
        (bytes([9, 240, 0, 0, 0]), "0 events, only marks of clock overflows"),
        (bytes([9, 9, 0x06, 0, 0]), "no event in the window"),
    ],
)
def test_bad_nmnist(root: Path, content: bytes, message: str, caplog: pytest.LogCaptureFixture) -> None:
    """Stop and skip, naming the file."""
    (root / "N-MNIST/Test/3/00002.bin").write_bytes(content)
    with pytest.raises(DataError, match=rf"Test/3/00002\.bin: {message}"):
        open_ead_nmnist(root, "test")
    data = open_ead_nmnist(root, "test", on_bad="skip")
    assert 3 not in data.labels and len(data) == 9 and data.n_skipped == 1 and message[:8] in caplog.messages[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"#!AER-DAT3.1\r\n", r"starts with b'#!AER-DAT3.1\\r\\n', expected #!AER-DAT2.0"),
        (b"#!AER-DAT2.0\r\n", "0 bytes after the header"),
        (b"#!AER-DAT2.0", "0 bytes after the header"),
        (b"#!AER-DAT2.0\r\n" + b"\0" * 9, "9 bytes after the header, expected a positive multiple of 8"),
        (b"#!AER-DAT2.0\r\n\0\x01" + b"\0" * 6, "event 0 has address 0x10000, outside a 128x128 DVS128"),
        (b"#!AER-DAT2.0\r\n\0\0\x80" + b"\0" * 5, "0 pixel events"),
    ],
)
def test_bad_aedat(tmp_path: Path, content: bytes, message: str) -> None:
    """Another version, cut, empty, another sensor."""
    (tmp_path / "a.aedat").write_bytes(content)
    with pytest.raises(DataError, match=f"a.aedat: {message}"):
        read_dvs128(tmp_path / "a.aedat")


def test_wrong_folders_and_names(root: Path) -> None:
    """A missing digit, an unknown one, a foreign file name, an empty digit, no N-TIDIGITS."""
    (root / "N-MNIST/Test/ten").mkdir()
    with pytest.raises(DataError, match="ten: unknown class folder, allowed 0 to 9"):
        open_ead_nmnist(root, "test")
    shutil.rmtree(root / "N-MNIST/Test/ten")
    (root / "N-MNIST/Test/4/00002.bin").unlink()
    with pytest.raises(DataError, match="Test/4: 0 recordings"):
        open_ead_nmnist(root, "test")
    shutil.rmtree(root / "N-MNIST/Test/4")
    with pytest.raises(DataError, match="Test/4: missing folder of a digit"):
        open_ead_nmnist(root, "test")
    assert len(open_ead_nmnist(root, "test", on_bad="skip")) == 9
    folder = root / "MNIST-DVS/grabbed_data2/scale4"
    (folder / "mnist_2_scale04_0001.aedat").rename(folder / "mnist_7_scale04_0001.aedat")
    with pytest.raises(DataError, match=r"mnist_7_scale04_0001\.aedat: expected a name such as mnist_2_scale04"):
        open_ead_mnistdvs(root, "train")
    (root / "n-tidigits.hdf5").unlink()
    with pytest.raises(DataError, match=r"n-tidigits\.hdf5: missing, expected the N-TIDIGITS file"):
        open_ead_nmnist(root, "test")


def spoil(file: h5py.File, how: str) -> None:
    """Damage the sample man-bd-a-3 or a key of the test part."""
    sample = "man-bd-a-3"
    if how == "no key":
        del file["test_addresses"]
    elif how == "no sample":
        del file[f"test_timestamps/{sample}"]
    elif how == "other digits":
        labels = [s.replace(b"bd-a-3", b"bd-a-x") for s in file["test_labels"][()]]
        del file["test_labels"]
        file["test_labels"] = labels
    else:
        key, value = {
            "channel": ("addresses", np.array([64, 0, 0], np.uint8)),
            "length": ("addresses", np.array([1], np.uint8)),
            "empty": ("addresses", np.array([], np.uint8)),
            "nan": ("timestamps", np.array([0, np.nan, 1], np.float32)),
            "external": ("addresses", h5py.ExternalLink("/etc/passwd", "/x")),
            "soft": ("addresses", h5py.SoftLink("/train_addresses/man-ac-a-3")),
        }[how]
        del file[f"test_{key}/{sample}"]
        file[f"test_{key}/{sample}"] = value
        if how == "empty":
            del file[f"test_timestamps/{sample}"]
            file[f"test_timestamps/{sample}"] = np.array([], np.float32)


@pytest.mark.parametrize(
    ("how", "message", "skippable"),
    [
        ("no key", "/test_addresses is missing; expected the keys", False),
        ("no sample", "/test_timestamps/man-bd-a-3 is missing", True),
        ("other digits", "test_labels has 'man-bd-a-x'; expected speaker-repetition-digits", True),
        ("channel", "channels 0 to 64, expected 0 to 63", True),
        ("length", r"addresses \(1,\), timestamps \(3,\); expected the same length", True),
        ("empty", "man-bd-a-3: 0 spikes", True),
        ("nan", "timestamps that are not finite", True),
        ("external", r"man-bd-a-3 is a link \(ExternalLink\)", True),
        ("soft", r"man-bd-a-3 is a link \(SoftLink\)", True),
    ],
)
def test_bad_ntidigits(root: Path, how: str, message: str, skippable: bool) -> None:
    """Keys, samples, channels, times; links to other files are refused."""
    path = root / "n-tidigits.hdf5"
    with h5py.File(path, "r+") as file:
        spoil(file, how)
    with pytest.raises(DataError, match=rf"n-tidigits\.hdf5: .*{message}|n-tidigits\.hdf5: {message}"):
        open_ead_nmnist(root, "test")
    if skippable:
        data = open_ead_nmnist(root, "test", on_bad="skip")
        assert data.n_skipped == 1 and "man-bd-b-3" in data.sample_names[3]
    else:
        with pytest.raises(DataError, match=message):
            open_ead_nmnist(root, "test", on_bad="skip")


def test_external_storage_is_refused(root: Path) -> None:
    """A data set whose bytes lie in another file."""
    secret = root / "secret"
    secret.write_bytes(b"\1\2\3")
    with h5py.File(root / "n-tidigits.hdf5", "r+") as file:
        del file["test_addresses/man-bd-a-3"]
        file.create_dataset("test_addresses/man-bd-a-3", (3,), np.uint8, external=[(str(secret), 0, 3)])
    with pytest.raises(DataError, match="man-bd-a-3 is stored in other files"):
        open_ead_nmnist(root, "test")


def test_not_hdf5_and_shared_speakers(root: Path) -> None:
    """speaker-disjoint checks what official promises."""
    path = root / "n-tidigits.hdf5"
    assert len(open_ead_nmnist(root, "test", split_kind="speaker-disjoint")) == 10
    with h5py.File(path, "r+") as file:
        del file["test_labels"]
        file["test_labels"] = [b"man-ac-b-1"]
    with pytest.raises(DataError, match=r"train and test share 1 speakers \(man-ac, …\)"):
        open_ead_nmnist(root, "test", split_kind="speaker-disjoint")
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 50)
    with pytest.raises(DataError, match=r"n-tidigits\.hdf5: not readable as HDF5"):
        open_ead_nmnist(root, "test")


def test_registry(root: Path) -> None:
    """By name, with near matches; options that an opener does not have are named."""
    assert len(open_dataset("ead-nmnist", root, "test", steps=3)) == 10
    with pytest.raises(DataError, match="data set 'CREMA_D' unknown; did you mean 'crema-d'"):
        open_dataset("CREMA_D", root, "test")
    with pytest.raises(DataError, match="data set ave: unknown option 'zoom'; allowed: steps, audio_steps, cache"):
        open_dataset("ave", root, "test", zoom=4)
