"""What a file is that a user gave for something else, and the way in."""

import zipfile
from pathlib import Path

_HDF5 = b"\x89HDF\r\n\x1a\n"


def recognised(path: Path) -> str | None:
    """One clause that names what ``path`` is and what to do with it; None if it is nothing that we know."""
    if path.is_dir():
        return _folder(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return None
    known = (
        (head.startswith(_HDF5), "an HDF5 file: a .net is exported with --branch NAME=FILE, windows are given with --inputs"),
        (_is_safetensors(head), "a safetensors file: load it in the function that builds the module, FILE.py:FUNCTION"),
        (_is_onnx(head), "an ONNX model, which holds no spiking network; record the torch module instead"),
        (path.suffix == ".py", f"Python code: name the function in it that builds the module, {path}:FUNCTION"),
        (head[:1] == b"\x80", "a pickle, which is code and is not opened; save model.state_dict() and give --weights"),
    )
    found = next((what for is_so, what in known if is_so), None)
    return _archive(path) if found is None and zipfile.is_zipfile(path) else found


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 26


def _is_onnx(head: bytes) -> bool:
    return head[:1] == b"\x08" and (b"pytorch" in head or b"onnx" in head)


def _folder(path: Path) -> str | None:
    if (path / "manifest.json").is_file():
        return "a bundle, exported already; run it with `taaf-deploy`"
    if (path / "model.pt").is_file():
        return f"a folder of a training; give {path / 'model.pt'}"
    return "a folder"


def _archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):  # damaged
        return None
    if any(n.endswith(".npy") for n in names):
        return "an .npz file of arrays; windows are given with --inputs"
    if any("/code/" in n or n.endswith("constants.pkl") for n in names):
        return "TorchScript, which does not keep SLAYER's layers; give the code that builds the module, FILE.py:FUNCTION"
    if any(n.endswith("data.pkl") for n in names):
        return (
            "a torch file without taaf's format mark, perhaps a state dict or a pickled module: give FILE.py:FUNCTION --weights"
        )
    return None
