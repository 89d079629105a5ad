"""Files that lie about themselves, one by one. Not yet run against the readers as they were before."""

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from small_graphs import CASES
from small_networks import taaf_tables

from taaf.export.bundle.manifest import manifest_problems
from taaf.export.bundle.reader import read_bundle
from taaf.export.ptq.inputs import calibration_inputs
from taaf.export.targets.netx.read import read_netx
from taaf.export.targets.netx.write import write_netx
from taaf.models import zoo_path
from taaf.models.checkpoint import load_model, read_checkpoint
from taaf.models.errors import BundleError, CheckpointError, ConfigError, DataError, TaafError
from taaf.models.files import hdf5, torch_archive
from taaf.models.files.npz import read_npz
from taaf.models.files.torch_archive import read_tensor_archive
from taaf.training.config import load_config

SHIPPED = zoo_path("ead_mini.pt")
EVENT = '[branches.event]\nnetwork = "conv"\n'


def _rewritten(target: Path, change: Callable[[str, bytes], bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(SHIPPED) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


def test_tensor_beyond_its_record(tmp_path: Path) -> None:
    """`torch.load(weights_only=True)` hands out memory behind a record that is shorter than declared (torch 2.3)."""
    path = _rewritten(tmp_path / "x.pt", lambda n, raw: raw[:4] if n.endswith("data/26") else raw)
    if torch.__version__.startswith("2.3."):
        assert torch.load(path, weights_only=True)["state"]["branches.event.readout.weight"].numel() == 663552 // 4
    with pytest.raises(CheckpointError, match="record 26 has 4 bytes, declared are 165888 values"):
        read_checkpoint(path)


def test_compressed_checkpoint(tmp_path: Path) -> None:
    """torch.save stores plainly; a packed archive may be a bomb."""
    with pytest.raises(CheckpointError, match=r"compressed, encrypted"):
        read_checkpoint(_rewritten(tmp_path / "x.pt", lambda _, raw: raw, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize(
    ("content", "mention"),
    [
        (torch.zeros(1).expand(10**12), "in a record of 1 values"), (torch.Size([1]), "asks for torch.Size"),
        (torch.zeros(2, device="meta"), "asks for torch._utils"), ({1.5: 1}, "keys that are neither"), (1j, "asks for"),
        ({"a": torch.nn.Parameter(torch.zeros(1))}, "asks for torch._utils._rebuild_parameter"),
    ],
)  # fmt: skip
def test_contents_no_checkpoint_needs(content: object, mention: str, tmp_path: Path) -> None:
    """Views larger than their data (10^12 values that anything would multiply), and objects of other classes."""
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=mention):
        read_tensor_archive(tmp_path / "x.pt")


def test_repeated_lists(tmp_path: Path) -> None:
    """60 lists that hold each other twice unfold to 2^60; comparing them with a configuration would not end."""
    deep: list = []
    for _ in range(15):
        deep = [deep, deep, deep]
    torch.save(deep, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="more than 1000000 parts"):
        read_tensor_archive(tmp_path / "x.pt")


@pytest.mark.parametrize("raw", [b"\x80\x02r\xff\xff\xff\x7f.", pickle.dumps(b"x" * 300), b"\x80\x02c__builtin__\nprint\n(tR."])
def test_pickle_operations(raw: bytes, tmp_path: Path) -> None:
    """A memo index of 2^31 (the C unpickler allocates that many), operations and names that no checkpoint uses."""
    path = _rewritten(tmp_path / "x.pt", lambda n, old: raw if n.endswith("data.pkl") else old)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "mention"), [((1 << 700,) * 3, "a whole number of 701 bits"), (torch.zeros([1] * 17), "17 dimensions")]
)
def test_numbers_without_end(content: object, mention: str, tmp_path: Path) -> None:
    """Sizes whose product takes for ever. Seen failing without the two limits."""
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=mention):
        read_tensor_archive(tmp_path / "x.pt")


def test_files_leave_nothing_behind(tmp_path: Path) -> None:
    """BUILD sets attributes of what the file names; a function shared between files would keep them."""
    described = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x03\x00\x00\x00badK\x01sb."
    _rewritten(tmp_path / "x.pt", lambda n, old: described if n.endswith("data.pkl") else old)
    with pytest.raises(ValueError, match="it holds a function"):
        read_tensor_archive(tmp_path / "x.pt")
    assert not hasattr(torch_archive._describe, "bad")


def test_configuration_larger_than_its_weights(tmp_path: Path) -> None:
    """65 536 features would need terabytes; the network used to be built before its weights were looked at. Versions 2 and 3."""
    content = torch.load(SHIPPED, weights_only=True)
    today = {**content, "version": 3, "config": taaf_tables(), "state": load_model(SHIPPED)[0].state_dict()}
    for value, mention in ((1 << 16, "has shape"), (10**9, "allowed 1 to"), ("x", "expected int"), (True, "expected int")):
        content["config"]["model"]["features"] = value
        today["config"]["branches"]["event"]["features"] = value
        for stored in (content, today):
            torch.save(stored, tmp_path / "x.pt")
            with pytest.raises(CheckpointError, match=mention):
                load_model(tmp_path / "x.pt")


def _npz(path: Path, header: str, data: bytes = b"", method: int = zipfile.ZIP_STORED) -> Path:
    raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("a.npy", raw)
    return path


@pytest.mark.parametrize(
    ("header", "mention"),
    [
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}", "declares"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "expected numbers"),
        ("{'descr': '|V1000000000', 'fortran_order': False, 'shape': (1,)}", "expected numbers"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}", "expected numbers"), ("(" * 5000, ""),
    ],
)  # fmt: skip
def test_arrays_that_lie(header: str, mention: str, tmp_path: Path) -> None:
    """`numpy.load` allocates 8 TB for the first before it reads."""
    with pytest.raises(ValueError, match=mention):
        read_npz(_npz(tmp_path / "x.npz", header), 1 << 20)


def test_small_files_that_ask_for_memory(tmp_path: Path) -> None:
    """Calibration inputs: a file of 300 bytes made `numpy.load` allocate what it declares. All arrays come by one reader now."""
    path = _npz(tmp_path / "x.npz", "{'descr': '<f8', 'fortran_order': False, 'shape': (700000000,)}")
    with pytest.raises(DataError, match=r"declares \(700000000,\) float64 and holds 0 bytes"):
        calibration_inputs(path, {})
    cut = _npz(tmp_path / "y.npz", "{'descr': '|u1', 'fortran_order': False, 'shape': (4,)}", bytes(4))
    content = cut.read_bytes()
    at = content.index(b"PK\x01\x02")
    for start in (18, at + 20):  # both say that the member is longer than it is
        content = content[:start] + struct.pack("<II", 1 << 30, 1 << 30) + content[start + 8 :]
    cut.write_bytes(content)
    with pytest.raises(ValueError, match="declares|possible zip bomb"):  # newer Pythons notice it themselves
        read_npz(cut, 1 << 31)


def test_array_bomb(tmp_path: Path) -> None:
    """More bytes than allowed when unpacked."""
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (4194304,)}"
    path = _npz(tmp_path / "x.npz", header, bytes(1 << 22), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000 and read_npz(path, 1 << 23)["a"].size == 1 << 22
    with pytest.raises(ValueError, match="allowed 1000 and 1048576"):
        read_npz(path, 1 << 20)


def _replace(key: str, put: Callable[[h5py.File, str], object]) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[key]
        put(file, key)

    return change


W = "layer/1/weight"
LIES: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "soft link": (_replace(W, lambda f, k: f.__setitem__(k, h5py.SoftLink("/layer/1/shape"))), "SoftLink"),
    "external link": (_replace(W, lambda f, k: f.__setitem__(k, h5py.ExternalLink("/etc/passwd", "/x"))), "ExternalLink"),
    "linked group": (_replace("layer/1/neuron", lambda f, k: f.__setitem__(k, h5py.SoftLink("/layer/1"))), "SoftLink"),
    "linked root": (_replace("layer", lambda f, k: f.__setitem__(k, h5py.ExternalLink("other.h5", "/x"))), "ExternalLink"),
    "external data": (
        _replace(W, lambda f, k: f.create_dataset(k, (8, 8), "u1", external=[("/etc/passwd", 0, 64)])), "other files"
    ),
    "foreign filter": (_replace(W, lambda f, k: f.create_dataset(k, data=np.ones((8, 8)), compression="lzf")), "filter 32000"),
    "declared only": (_replace(W, lambda f, k: f.create_dataset(k, (10**5, 10**4), "f4")), "declares"),
    "sparse chunks": (_replace(W, lambda f, k: f.create_dataset(k, (8000, 8000), "f4", chunks=(8, 8))), "declares"),
    "packed zeros": (
        _replace(W, lambda f, k: f.create_dataset(k, (2**15, 2**14), "u1", chunks=(2**15, 2**14), compression="gzip")), "declares"
    ),
    "infinite": (_replace(W, lambda f, k: f.__setitem__(k, np.full((8, 8), np.inf))), "not integers"),
    "more than 32 bits": (_replace(W, lambda f, k: f.__setitem__(k, np.full((8, 8), 2.0**40))), "not integers"),
    "two thresholds": (_replace("layer/1/neuron/vThMant", lambda f, k: f.__setitem__(k, [1, 2])), "neither one value"),
    "name": (lambda f: f["layer/1"].attrs.__setitem__("name", "\x1b[2J"), "name that is not"),
    "many names": (lambda f: f["layer/1"].attrs.__setitem__("name", ["a"] * 1000), "expected one text"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_netx_files_that_lie(lie: str, tmp_path: Path) -> None:
    """Links were followed, filters looked up as plug-ins, declared sizes allocated."""
    write_netx(CASES["dense"](np.random.default_rng(0)), tmp_path / "x.net")
    change, mention = LIES[lie]
    with h5py.File(tmp_path / "x.net", "r+") as file:
        change(file)
    with pytest.raises(TaafError, match=mention):
        read_netx(tmp_path / "x.net", "net")


@pytest.mark.parametrize(
    "read", ["export.targets.netx.read import read_netx as read", "export.targets.nir.read import read_nir as read"]
)
def test_heap_that_leads_nowhere(read: str, tmp_path: Path) -> None:
    """An object of no length: the HDF5 library never gets past it. Seen hanging where `hdf5.open_file` was not used."""
    path = tmp_path / "x.net"
    write_netx(CASES["dense"](np.random.default_rng(0)), path)
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    content[heap + 16 : heap + 32] = bytes(16)
    path.write_bytes(content)
    script = f"from pathlib import Path; from taaf.{read}; read(Path({str(path)!r}), 'net')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "BundleError" in done.stderr and "a heap of the file is damaged" in done.stderr


GCOL = b"GCOL\x01\0\0\0"


@pytest.mark.parametrize("shift", range(8))
def test_weights_that_spell_a_heap(shift: int, tmp_path: Path) -> None:
    """71, 67, 79, 76 as int8, at any place, with more behind it: good files were refused for bytes that look like a heap."""
    write_netx(CASES["dense"](np.random.default_rng(0)), tmp_path / "x.net")
    with h5py.File(tmp_path / "x.net", "r+") as file:
        values = np.resize(np.frombuffer(GCOL + bytes(8), np.int8), file[W].size)
        shape = file[W].shape
        del file[W]
        file[W] = np.roll(values, shift).reshape(shape)
    assert (tmp_path / "x.net").read_bytes().count(GCOL) > 3
    assert (read_netx(tmp_path / "x.net", "net").nodes["dense"].weight == np.roll(values, shift).reshape(shape)).all()


def test_names_and_time_stamps_that_spell_a_heap(tmp_path: Path) -> None:
    """A data set made on 27 July 2010, a link's name, an attribute."""
    path, called = tmp_path / "x.h5", "GCOL\x01\x01\x01\x01"
    before = int(time.time())
    with h5py.File(path, "w") as file:
        file.create_group(called).attrs["a"] = np.frombuffer(GCOL * 4, np.uint8)
        file.create_dataset("x", data=[1, 2], track_times=True)
    content = path.read_bytes()
    made = [stamp for t in range(before - 1, before + 60) if (stamp := b"\x01\0\0\0" + struct.pack("<I", t)) in content]
    path.write_bytes(content.replace(made[0], b"\x01\0\0\0GCOL"))
    with hdf5.open_file(path) as file:
        assert sorted(file) == [called, "x"] and b"GCOL" in path.read_bytes() and file["x"][1] == 2


def _texts(folder: Path, **how: object) -> tuple[Path, bytes]:
    """A file of 40 texts of variable length, "" among them, and its bytes."""
    path = folder / "t.h5"
    with h5py.File(path, "w", libver=how.pop("libver", "earliest")) as file:  # type: ignore[arg-type]
        file.create_dataset(
            "t", data=np.array(["", *(f"sample-{i}" for i in range(39))], object), dtype=h5py.string_dtype(), **how
        )
        file.attrs["of"] = "text"
        for i in range(20):
            file.create_group(f"g{i}").attrs["name"] = "n" * i
    return path, path.read_bytes()


@pytest.mark.parametrize(
    "how",
    [{}, {"libver": "latest"}, {"chunks": (7,)}, {"chunks": (16,), "compression": "gzip", "shuffle": True},
     {"chunks": (16,), "compression": "gzip", "libver": "latest"}],
    ids=str,
)  # fmt: skip
def test_every_damaged_heap_is_found(how: dict[str, object], tmp_path: Path) -> None:
    """Whatever refers to it: attributes, contiguous and packed data, old and new headers. Each heap, damaged, hangs the library."""
    path, content = _texts(tmp_path, **how)
    with hdf5.open_file(path) as file:
        assert hdf5.member(file, "t", h5py.Dataset).asstr()[:3].tolist() == ["", "sample-0", "sample-1"]
        assert hdf5.read_label(file["g3"], "name") == "nnn"
    at, heaps = content.find(GCOL), 0
    while at >= 0:
        path.write_bytes(content[: at + 16] + bytes(16) + content[at + 32 :])
        with pytest.raises(ValueError, match="a heap of the file is damaged"), hdf5.open_file(path):
            pass
        at, heaps = content.find(GCOL, at + 4), heaps + 1
    assert heaps > 0


def test_virtual_data(tmp_path: Path) -> None:
    """A virtual dataset reads other files."""
    write_netx(CASES["dense"](np.random.default_rng(0)), tmp_path / "x.net")
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", shape=(4,))
    with h5py.File(tmp_path / "x.net", "r+") as file:
        del file[W]
        file.create_virtual_dataset(W, layout)
    with pytest.raises(BundleError, match="other files"):
        read_netx(tmp_path / "x.net", "net")


@pytest.mark.parametrize("kind", ["link", "pipe", "nested", "NaN", "no training"])
def test_manifests_that_lie(kind: str, tmp_path: Path) -> None:
    """Links and pipes in place of the manifest, nesting beyond the parser, NaN, and an entry that the report needs."""
    bundle = tmp_path / "bundle"
    shutil.copytree(zoo_path("ead_mini"), bundle)
    file = bundle / "manifest.json"
    text = file.read_text()
    file.unlink()
    if kind == "link":
        (tmp_path / "m.json").write_text(text)
        file.symlink_to(tmp_path / "m.json")
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "nested":
        file.write_text("[" * 100_000)
    elif kind == "NaN":
        file.write_text(text.replace('"window_steps": 12', '"window_steps": NaN'))
    else:
        file.write_text(text.replace('"training"', '"train"'))
    with pytest.raises(BundleError, match=r"manifest\.json: (not a plain|not valid|training: missing)"):
        read_bundle(bundle)


def test_files_outside_the_bundle(tmp_path: Path) -> None:
    """The file is there and its sum fits; only its place is wrong."""
    folder = shutil.copytree(zoo_path("ead_mini"), tmp_path / "bundle")
    shutil.copy(folder / "event.net", tmp_path / "event.net")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["branches"]["event"]["file"] = "../event.net"
    manifest["files"]["../event.net"] = manifest["files"]["event.net"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"file name '\.\./event\.net' is not allowed"):
        read_bundle(folder)


def test_manifest_limits() -> None:
    """Every entry that is used later; the shipped manifest has no problems."""
    manifest = json.loads((zoo_path("ead_mini") / "manifest.json").read_text())
    assert manifest_problems(manifest) == []
    manifest["window_steps"], manifest["labels"] = 10**9, [1]
    manifest["branches"]["event"]["input_shape"] = [10**5, 10**5]
    manifest["branches"]["audio"] = None
    found = manifest_problems(manifest)
    assert [p.split(":")[0] for p in found] == ["labels", "window_steps", "branches.event.input_shape", "branches.audio"]


@pytest.mark.parametrize(
    ("text", "mention"),
    [
        ("[optimiser]\nlearning_rate = " + "9" * 400, "up to 1e\\+09"), ("[optimiser]\nlearning_rate = nan", "must be finite"),
        ("[optimiser]\nlearning_rate = inf", "must be finite"), (EVENT + "features = 1000000000", "allowed 1 to 65536"),
        (EVENT + "steps = 100000", "allowed 0 to 1024"), (EVENT + "shape = [9, 9999, 9999]", "up to 16777216 values"),
        ("x = " + "[" * 50_000, "not valid TOML"),
        ("a = " + "9" * 5000, "not valid TOML"), ("optimiser = 3", "expected a table"), ("#" * 2_000_000, "more than"),
    ],
)  # fmt: skip
def test_configurations_that_lie(text: str, mention: str, tmp_path: Path) -> None:
    """Numbers and nesting beyond any use, and a table that is none."""
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=mention):
        load_config(tmp_path / "c.toml", {"optimiser": {"epochs": 2}})


def test_sound_bytes_are_read_as_before() -> None:
    """The own reader gives what torch.load gives."""
    ours, theirs = read_tensor_archive(SHIPPED), torch.load(io.BytesIO(SHIPPED.read_bytes()), weights_only=True)
    assert ours["config"] == theirs["config"] and ours["state"].keys() == theirs["state"].keys()
    assert all(torch.equal(ours["state"][k], v) for k, v in theirs["state"].items())
