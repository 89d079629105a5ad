"""What lies in a file's place after a failed download, or is still being written: every reader says what it is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from media_fixtures import write_ntidigits
from small_graphs import CASES

from taaf.deploy.netx_file import NetRequest, deploy_net
from taaf.export.bundle.reader import read_bundle
from taaf.export.ptq.inputs import calibration_inputs
from taaf.export.targets.netx.read import read_netx_file
from taaf.export.targets.netx.write import write_netx
from taaf.export.targets.nir.file import load_nir
from taaf.models import zoo_path
from taaf.models.checkpoint import read_checkpoint
from taaf.models.errors import FileBusyError, TaafError
from taaf.models.files.placeholders import placeholder
from taaf.training.config import load_config
from taaf.training.datasets.bad_samples import BadSamples
from taaf.training.datasets.event_files import read_dvs128, read_nmnist
from taaf.training.datasets.lists import read_rows
from taaf.training.datasets.media import read_audio, read_images, read_video
from taaf.training.datasets.ntidigits import read_ntidigits

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 123456\n" % (b"4d" * 32)
IN_PLACE = {
    "lfs": (POINTER + b" " * 2, "Git LFS pointer, not the file itself; run `git lfs pull`"),  # 135 bytes: 27 N-MNIST events
    "annex": (b"/annex/objects/SHA256E-s31390--f50d7ac4.wav\n", "git-annex pointer"),
    "page": (b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><head><title>404</title></head></html>", "web page (HTML)"),
    "comment": (b"<!-- moved -->\n<HTML lang='en'>", "web page (HTML)"),
}


def _input(path: Path) -> None:
    write_netx(CASES["dense"](np.random.default_rng(0)), path.with_name("x.net"))
    deploy_net(NetRequest(path.with_name("x.net"), "fast", source=path), lambda _: None, lambda _: None)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "checkpoint": ("model.pt", read_checkpoint),
    "netx": ("a.net", lambda p: read_netx_file(p, "a")),
    "nir": ("a.nir", load_nir),
    "calibration": ("a.npz", lambda p: calibration_inputs(p, {})),
    "input": ("a.npy", _input),
    "configuration": ("a.toml", lambda p: load_config(p, {})),
    "list": ("train.csv", lambda p: read_rows(p, ",")),
    "wave": ("a.wav", lambda p: read_audio(p, 16_000, 1)),
    "track": ("a.mp4", lambda p: read_audio(p, 16_000, 1)),
    "video": ("a.flv", lambda p: read_video(p, 2, 8)),
    "image": ("a.jpg", lambda p: read_images([p], 8)),
    "N-MNIST": ("a.bin", read_nmnist),
    "DVS128": ("a.aedat", read_dvs128),
    "cochlea": ("a.hdf5", lambda p: read_ntidigits(p, "test", 5, BadSamples("stop"))),
}


@pytest.mark.parametrize("kind", IN_PLACE)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_names_what_it_got(reader: str, kind: str, tmp_path: Path) -> None:
    """Seen failing in all: "not readable as ...", "event 0 at x=118 lies outside", "found 'version https…'"."""
    name, read = READERS[reader]
    content, said = IN_PLACE[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TaafError) as caught:
        read(tmp_path / name)
    assert said in str(caught.value) and str(caught.value).startswith((f"{tmp_path / name}: ", f"--input {tmp_path / name}: "))


@pytest.mark.parametrize("name", ["manifest.json", "event.net", "head.npz"])
def test_pointers_in_a_bundle(name: str, tmp_path: Path) -> None:
    """A repository of bundles, cloned without its large files."""
    bundle = shutil.copytree(zoo_path("ead_mini"), tmp_path / "bundle")
    (bundle / name).write_bytes(POINTER)
    with pytest.raises(TaafError, match=rf"{name}: a Git LFS pointer"):
        read_bundle(bundle)


def test_other_files_are_what_they_are(tmp_path: Path) -> None:
    """A placeholder's words further inside, files that are not there, and folders."""
    (tmp_path / "a").write_text(json.dumps({"html": "<html>", "at": POINTER.decode()}))
    assert placeholder(tmp_path / "a") is placeholder(tmp_path / "b") is placeholder(tmp_path) is None


@pytest.mark.parametrize("reader", ["netx", "nir", "cochlea"])
def test_a_file_that_is_being_written(reader: str, tmp_path: Path) -> None:
    """HDF5's lock says so; what is on the disk is half a file. Seen failing: "damaged", "download the file again"."""
    name, read = READERS[reader]
    path = tmp_path / name
    write_ntidigits(path, {"test": {"man-ac-a-1": ([1], [0.0])}})
    with (
        h5py.File(path, "r+"),
        pytest.raises(FileBusyError, match=rf"{name}: in use, another process holds it open for writing"),
    ):
        read(path)
    with h5py.File(path, "r"):  # readers share
        try:
            read(path)
        except TaafError as error:
            assert not isinstance(error, FileBusyError)


def test_locking_can_be_turned_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in HDF5 itself, by its own variable."""
    write_netx(CASES["dense"](np.random.default_rng(0)), tmp_path / "x.net")
    with h5py.File(tmp_path / "x.net", "r+"):
        monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "FALSE")
        assert read_netx_file(tmp_path / "x.net", "x").n_layers == 2
