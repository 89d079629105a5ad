"""Windows of one's own: every form is read the same, and what does not fit is refused by file and array."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from taaf.models.config import InputSpec, NetworkConfig
from taaf.models.errors import ConfigError, DataError
from taaf.training.config import DataConfig, LossConfig, TrainConfig
from taaf.training.data import InMemory, load_batches
from taaf.training.datasets.arrays import open_arrays, read_windows
from taaf.training.datasets.own import OwnDataset
from taaf.training.distributed import Ranks
from taaf.training.sources import open_split, open_windows
from taaf.training.trainer import Trainer

RNG = np.random.default_rng(0)
N = 6
ARRAYS: dict[str, Any] = {
    "event": (RNG.random((N, 2, 5, 4, 3)) < 0.3).astype(np.uint8), "audio": RNG.normal(size=(N, 7, 5)).astype(np.float32),
    "touch": RNG.random((N, 3, 2)) < 0.5, "labels": np.array([0, 1, 2, 0, 1, 2], np.int16), "names": np.array(["a", "b", "c"]),
}  # fmt: skip
INPUTS = ("event", "audio", "touch")


def _npz(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz")


def _h5(path: Path, arrays: dict[str, Any]) -> Path:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        for name, x in arrays.items():
            file[name] = x.astype(h5py.string_dtype()) if x.dtype.kind == "U" else x
    return path.with_suffix(".h5")


def _folder(path: Path, arrays: dict[str, Any]) -> Path:
    path.mkdir()
    for name, x in arrays.items():
        np.save(path / f"{name}.npy", x)
    return path


FORMS = [_npz, _h5, _folder]


@pytest.mark.parametrize("write", FORMS)
def test_every_form_is_read_the_same(write: Callable[[Path, dict[str, Any]], Path], tmp_path: Path) -> None:
    """Arrays in the order asked for, labels as int64, names; without labels and names too."""
    inputs, labels, names = read_windows(write(tmp_path / "x", ARRAYS), ("audio", "event"))
    assert list(inputs) == ["audio", "event"] and names == ["a", "b", "c"]
    for m, x in inputs.items():
        np.testing.assert_array_equal(x, ARRAYS[m])
        assert x.dtype == ARRAYS[m].dtype
    assert labels is not None and labels.dtype == np.int64 and labels.tolist() == [0, 1, 2, 0, 1, 2]
    inputs, labels, names = read_windows(write(tmp_path / "y", {m: ARRAYS[m] for m in INPUTS}), ())
    assert set(inputs) == set(INPUTS) and labels is None and names == []


@pytest.mark.parametrize("write", FORMS)
def test_a_set_of_two_parts(write: Callable[[Path, dict[str, Any]], Path], tmp_path: Path) -> None:
    """``train`` and ``test`` below the root, with the modalities of the branches; the first pairs only, if that is asked for."""
    test = {k: x if k == "names" else x[:4] for k, x in ARRAYS.items()}
    write(tmp_path / "train", ARRAYS)
    write(tmp_path / "test", test)
    data = DataConfig(set="arrays", root=str(tmp_path), train_pairs=5)
    specs = {"touch": InputSpec(), "event": InputSpec()}
    parts = {split: open_split(data, specs, split) for split in ("train", "test")}
    assert [len(p) for p in parts.values()] == [5, 4] and parts["train"].label_names == ("a", "b", "c")
    assert parts["test"].specs() == {"touch": InputSpec((3,), 2), "event": InputSpec((2, 5, 4), 3)}
    x, y = parts["train"].batch([1, 3])
    np.testing.assert_array_equal(x["event"].numpy(), ARRAYS["event"][[1, 3]])
    assert y.tolist() == [1, 0] and str(x["touch"].dtype) == "torch.float32"
    windows = open_windows(data, specs, "test")
    assert windows.inputs["touch"].dtype == np.uint8 and windows.labels.tolist() == [0, 1, 2, 0]


def test_real_numbers_become_levels(tmp_path: Path) -> None:
    """With a scale; without one they are refused, and the remedy is named."""
    data = DataConfig(set="arrays", root=str(_npz(tmp_path / "x", {**ARRAYS, "audio": ARRAYS["audio"][:, None, None]})))
    levels = open_windows(data, {"audio": InputSpec(scale=8)}, "test").inputs["audio"]
    assert levels.dtype == np.int8
    np.testing.assert_array_equal(levels[:, 0, 0], np.clip(np.rint(8 * ARRAYS["audio"]), -128, 127))
    with pytest.raises(DataError, match=r"audio inputs are real numbers.*branches\.audio\.scale"):
        open_windows(data, {"audio": InputSpec()}, "test")


def test_one_file_is_the_test_part(tmp_path: Path) -> None:
    """Training needs both parts."""
    for path in (_npz(tmp_path / "x", ARRAYS), _folder(tmp_path / "y", ARRAYS)):
        assert len(open_arrays(path, ("event",), "test")) == N
        with pytest.raises(
            DataError, match=r"no train\.npz, train\.h5 or folder train/; training needs 'train' and 'test' there"
        ):
            open_arrays(path, ("event",), "train")
    with pytest.raises(ConfigError, match=r"data\.root: empty; arrays is not shipped"):
        open_split(DataConfig(set="arrays"), {"event": InputSpec()}, "train")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "missing array": ({"event": None, "evnt": ARRAYS["event"]}, "no array 'event'; did you mean 'evnt'"),
    "another missing": ({"event": None}, "no array 'event'; allowed: audio, touch"),
    "fewer windows": ({"event": ARRAYS["event"][:5]}, "event has 5 windows, audio has 6 windows, touch has 6 windows, labels has 6"),
    "fewer labels": ({"labels": ARRAYS["labels"][:5]}, "labels has 5 windows; they must be as many"),
    "no steps": ({"event": ARRAYS["event"][:, 0, 0, 0]}, r"event is uint8 \(6, 3\); allowed numbers \(windows, \*shape, steps\)"),
    "no windows": ({"event": ARRAYS["event"][:0]}, r"event is uint8 \(0, 2, 5, 4, 3\)"),
    "no time": ({"event": ARRAYS["event"][..., :0]}, "event is uint8"),
    "words": ({"event": np.full((N, 2, 3), "a")}, "event is <U1"),
    "NaN": ({"audio": np.where(ARRAYS["audio"] > 1, np.nan, ARRAYS["audio"])}, "audio holds values that are NaN or infinite"),
    "infinite": ({"audio": np.where(ARRAYS["audio"] > 1, np.inf, ARRAYS["audio"])}, "audio holds values that are NaN or infinite"),
    "real labels": ({"labels": np.zeros(N)}, r"labels is float64 \(6,\); allowed whole numbers \(windows,\) from 0 to 65535"),
    "one-hot labels": ({"labels": np.eye(N, dtype=int)}, r"labels is int64 \(6, 6\); allowed whole numbers"),
    "negative labels": ({"labels": np.array([0, 1, 2, -1, 1, 2])}, "labels is int64 .* from 0 to"),
    "huge labels": ({"labels": np.array([0, 1, 2, 1 << 40, 1, 2])}, "labels is int64 .* to 65535"),
    "labels beyond names": ({"labels": np.array([0, 1, 3, 0, 1, 2])}, "labels go up to 3, names lists 3 classes"),
    "table of names": ({"names": np.array([["a", "b", "c"]])}, r"names is .* \(1, 3\); allowed one text per class"),
    "no labels": ({"labels": None}, "has no array 'labels'; training and accuracy need"),
}  # fmt: skip


@pytest.mark.parametrize("write", FORMS)
@pytest.mark.parametrize("case", WRONG)
def test_arrays_that_do_not_fit(case: str, write: Callable[[Path, dict[str, Any]], Path], tmp_path: Path) -> None:
    """The file and the array are named."""
    changes, mention = WRONG[case]
    arrays = {k: x for k, x in {**ARRAYS, **changes}.items() if x is not None}
    if write is _h5 and case == "words":
        mention = r"/event holds object \(6, 2, 3\), expected numbers"
    with pytest.raises(DataError, match=mention) as error:
        open_arrays(write(tmp_path / "x", arrays), INPUTS, "test")
    assert str(tmp_path / "x") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "mention"),
    [
        ("x.npz", None, "no such file"), ("x.npz", b"hello", "allowed .npz, .h5 or a folder of .npy"),
        ("x.h5", b"hello", "cannot be read as arrays"),
        ("x", "folder", "a folder without .npy files"), ("x.npz", "objects", "expected numbers or short texts"),
    ],
)  # fmt: skip
def test_files_that_are_no_arrays(name: str, content: bytes | str | None, mention: str, tmp_path: Path) -> None:
    """One line; nothing is unpickled."""
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content == "objects":
        np.savez(path, event=np.array([{}], object))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(DataError, match=mention):
        read_windows(path, ("event",))


def test_class_names_are_numbers_unless_given(tmp_path: Path) -> None:
    arrays = {k: x for k, x in ARRAYS.items() if k != "names"}
    assert open_arrays(_npz(tmp_path / "x", arrays), ("event",), "test").label_names == ("0", "1", "2")


class _Own(list):
    modalities, label_names = ("imu",), ("a", "b")


_X = np.zeros((3, 4), np.float32)


@pytest.mark.parametrize(
    ("samples", "mention"),
    [
        (None, "sample 0: TypeError"), (_Own(), "sample 0: IndexError"), (_Own([1]), "sample 0: TypeError.*expected"),
        (_Own([(_X, "a")]), "sample 0: TypeError: 'str'"), (_Own([(_X, 0.5)]), "sample 0: TypeError: 'float'"),
        (_Own([("x", 0)]), "sample 0: "), (_Own([({"gyro": _X}, 0)]), "sample 0: KeyError: 'imu'"),
        (_Own([(_X, _X, 0)]), "sample 0 has 2 inputs for 1 modalities"),
        (_Own([(_X, 0), (_X, 2)]), "sample 1 is of class 2; allowed 0 to 1"),
        (_Own([(_X, 0), (_X[:, :3], 1)]), r"sample 1 has \(3, 3\) where the first has \(3, 4\)"), ([(_X, 0)], "no attribute modalities"),
    ],
)  # fmt: skip
def test_samples_of_ones_own_that_do_not_fit(samples: Any, mention: str) -> None:
    """One line that names the sample, whatever the user's code does."""
    with pytest.raises(DataError, match=mention):
        OwnDataset(samples, "data.set x:y").batch([0, 1])


def test_samples_of_ones_own() -> None:
    own = OwnDataset(_Own([(_X, torch.tensor(1)), (_X + 1, np.int64(0))]), "x")
    inputs, labels = own.batch([0, 1])
    assert labels.tolist() == [1, 0] and inputs["imu"].sum() == 12 and own.specs()["imu"].steps == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_workers_are_one_line(workers: int) -> None:
    """torch would put the worker's traceback into the message."""
    data = OwnDataset(_Own([(_X, 0), (_X, 1), (_X[:, :3], 1)]), "data.set x:y")
    batches = load_batches(data, [[0, 1], [1, 2]], workers)
    assert next(batches)[1].tolist() == [0, 1]
    with pytest.raises(DataError, match=r"^data.set x:y: sample 2 has \(3, 3\) where [^\n]*$"):
        next(batches)


def test_training_looks_at_every_window(tmp_path: Path) -> None:
    """A value that is no spike in the last window: refused before training, not at the export."""
    x = np.zeros((4, 3, 4), np.float32)
    x[-1, 0, 0] = 0.5
    data = InMemory({"imu": x}, np.arange(4) % 2, ("a", "b"))
    tables = {"branches": {"imu": {"network": "dense", "hidden": 3, "features": 2}}, "head": {"type": "rate", "classes": 2}}
    config = TrainConfig(network=NetworkConfig.from_dict(tables), loss=LossConfig(balance="readout"))
    with pytest.raises(ConfigError, match="branches.imu: its inputs are real numbers"):
        Trainer(config, data, data, Ranks.single())
