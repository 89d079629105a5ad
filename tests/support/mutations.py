"""Hostile inputs: damaged bytes, and files that are well formed but lie. Everything is drawn from one `random.Random`."""

import io
import json
import os
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np

Mutation = Callable[[bytes, Random], bytes]
HUGE = (0, 1, -1, 127, 255, 256, 65_535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64, 10**18, 10**400)
VALUES: tuple[Any, ...] = (
    *HUGE, None, True, False, "", "x", "../../x", "/etc/passwd", "\x1b[2J", "\x00", "é" * 50, "x" * 100_000, [], {}, [[]],
    [1, 2, 3], {"file": "../x"}, 0.5, -0.5, 1e308, float("nan"), float("inf"), [10**9] * 3,
)  # fmt: skip


def mutate_bytes(data: bytes, rng: Random) -> bytes:
    """One to four of: flip, set a number, cut, insert, duplicate, delete, zero, splice."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not raw:
            return b""
        at = rng.randrange(len(raw)) if rng.random() < 0.5 else rng.randrange(min(len(raw), 2048))
        n = rng.choice((1, 2, 4, 8, 16, 64, 512))
        kind = rng.randrange(8)
        if kind == 0:
            raw[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            size = rng.choice((1, 2, 4, 8))
            raw[at : at + size] = (rng.choice(HUGE) % 256**size).to_bytes(size, rng.choice(("little", "big")))
        elif kind == 2:
            del raw[at:]
        elif kind == 3:
            raw[at:at] = rng.randbytes(n)
        elif kind == 4:
            raw[at:at] = raw[at : at + n] * rng.choice((1, 2, 50))
        elif kind == 5:
            del raw[at : at + n]
        elif kind == 6:
            raw[at : at + n] = bytes(min(n, len(raw) - at))
        else:
            other = rng.randrange(len(raw))
            raw[at : at + n] = raw[other : other + n]
    return bytes(raw)


def mutate_value(value: Any, rng: Random) -> Any:
    """Replace, remove or repeat one part of nested dictionaries and lists, chosen on a random walk from the root."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        changed = dict(value)
        kind = rng.randrange(10)
        if kind == 0:
            del changed[key]
        elif kind == 1:
            changed[rng.choice(("../x", "", "x" * 1000, "file", "\n"))] = changed[key]
        elif kind == 2:
            changed[key] = rng.choice(list(value.values()))
        else:
            changed[key] = mutate_value(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.6:
        at = rng.randrange(len(value))
        return rng.choice(
            (value[:at], value[:at] + value, value * 1000, [*value[:at], mutate_value(value[at], rng), *value[at + 1 :]])
        )
    if rng.random() < 0.03:
        deep: Any = value
        for _ in range(rng.choice((50, 5000))):
            deep = [deep] if rng.random() < 0.5 else {"x": deep}
        return deep
    return rng.choice(VALUES)


def mutate_json(data: bytes, rng: Random) -> bytes:
    """JSON with other values, or deeper than any parser recurses."""
    if rng.random() < 0.02:
        return b'{"format": ' + rng.choice((b"[", b'{"x":')) * 100_000
    value = mutate_value(json.loads(data), rng)
    try:
        return json.dumps(value).encode("utf-8", "surrogatepass")
    except RecursionError:
        return b'{"format": "taaf-bundle", "x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"


def mutate_toml(data: bytes, rng: Random) -> bytes:
    """TOML with other values, keys and tables."""
    lines = data.decode().splitlines()
    at = rng.randrange(len(lines))
    texts = (
        "1e400",
        "nan",
        "-inf",
        "9" * 5000,
        "1979-05-27",
        '"\\u0000"',
        "[[[]]]",
        "[" * 3000,
        "{a = 1}",
        '"x"',
        "true",
        "-1",
        "2.5",
    )
    value = rng.choice((*texts, *(str(h) for h in HUGE)))
    kind = rng.randrange(6)
    if kind < 3:
        lines[at] = re.sub(r"=.*", lambda _: f"= {value}", lines[at])
    elif kind == 3:
        lines.insert(
            at, rng.choice(("[data]", "[x]", "model = 3", "optimiser = []", "[[loss]]", "a.b.c = 1", "[" + "a." * 2000 + "b]"))
        )
    elif kind == 4:
        lines.append(rng.choice(lines))
    else:
        lines = lines[at:]
    return "\n".join(lines).encode()


def mutate_zip(data: bytes, rng: Random) -> bytes:
    """The same members in a lying archive: bombs, other names, repeated, renamed or missing members, other methods."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(m.filename, archive.read(m)) for m in archive.infolist()]
    at = rng.randrange(len(members))
    name, content = members[at]
    method = zipfile.ZIP_STORED
    kind = rng.randrange(7)
    if kind == 0:
        members[at], method = (name, bytes(rng.choice((1 << 20, 1 << 24)))), zipfile.ZIP_DEFLATED
    elif kind == 1:
        members[at] = (
            rng.choice(("../../escaped", "/tmp/escaped", "a" * 60_000, "", "x.npy", name + "/", name.upper())),
            content,
        )
    elif kind == 2:
        members.append((rng.choice(members)[0], content))
    elif kind == 3:
        del members[at]
    elif kind == 4:
        members[at] = (name, mutate_bytes(content, rng))
    elif kind == 5:
        other = rng.randrange(len(members))
        members[at], members[other] = (name, members[other][1]), (members[other][0], content)
    else:
        members += [(f"{i}.npy", content) for i in range(rng.choice((3, 1100)))] if len(content) < 10_000 else []
    out = io.BytesIO()
    import warnings

    with (
        warnings.catch_warnings(),
        zipfile.ZipFile(out, "w", rng.choice((method, method, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))) as archive,
    ):
        warnings.simplefilter("ignore")
        for member, text in members:
            archive.writestr(member or "x", text)
    return mutate_bytes(out.getvalue(), rng) if rng.random() < 0.2 else out.getvalue()


def mutate_npz(data: bytes, rng: Random) -> bytes:
    """An .npz whose array headers declare other shapes and types than the data have."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {m: archive.read(m) for m in archive.namelist()}
    name = rng.choice(list(members))
    array = np.load(io.BytesIO(members[name]))
    shape = rng.choice(
        ((10**12,), (2**31, 2**31), (0,), (0, 10**18), (-1,), (), (*array.shape, 1), array.shape[::-1], (True,), (2**64,))
    )
    descr = rng.choice(
        ("<f8", "<f4", "|O", "|V1000000000", "<U1000000000", "<c16", "<M8[s]", ">f8", "|b1", "<i8", "[('a','<f8')]", "x")
    )
    kind = rng.randrange(4)
    if kind == 0:
        with np.errstate(all="ignore"):
            array = array.astype(rng.choice((np.float64, np.int8, np.complex128, np.bool_)))
    elif kind == 1 and array.dtype.kind == "f" and array.size:
        array = array.copy()
        array.flat[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, 1e300))
    header: dict[str, Any] = {"descr": array.dtype.str, "fortran_order": rng.random() < 0.1, "shape": array.shape}
    if kind == 2:
        header["shape"] = shape
    elif kind == 3:
        header["descr"] = descr
    text = repr(header) if rng.random() < 0.95 else "(" * rng.choice((100, 9000))
    raw = text.encode() + b" " * 10 + b"\n"
    members[name] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + array.tobytes()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return out.getvalue()


def mutate_hdf5(data: bytes, rng: Random) -> bytes:
    """One dataset replaced by a link, a huge, filtered, external, virtual or foreign one; or other attributes."""
    file_bytes = io.BytesIO(data)
    with h5py.File(file_bytes, "r+") as file:
        names: list[str] = []
        file.visititems(lambda n, o: names.append(n) if isinstance(o, h5py.Dataset) else None)
        name = rng.choice(names)
        value = file[name][()]
        if rng.random() < 0.1:
            file[name].parent.attrs["name"] = rng.choice(("x" * 60_000, "\x1b[2J", 3, b"\xff", np.zeros(1000), ""))
            file.flush()
            return file_bytes.getvalue()
        del file[name]
        _REPLACEMENTS[rng.randrange(len(_REPLACEMENTS))](file, name, np.asarray(value), rng)
    return file_bytes.getvalue()


def _huge(file: h5py.File, name: str, value: np.ndarray, rng: Random) -> None:
    shape = rng.choice(((10**9,), (2**30, 4), (2**40,), (10**5, 10**5, 10**5)))
    chunks = rng.choice((None, True, (2**20, *[1] * (len(shape) - 1))))
    file.create_dataset(name, shape, value.dtype if value.dtype.kind in "if" else "f4", chunks=chunks)


def _packed(file: h5py.File, name: str, value: np.ndarray, rng: Random) -> None:
    data = np.atleast_1d(value)
    data = data if data.dtype.kind in "ifS" else np.zeros(3)
    how = rng.choice(
        ({"compression": "gzip"}, {"compression": "lzf"}, {"shuffle": True}, {"fletcher32": True}, {"scaleoffset": 3})
    )
    file.create_dataset(name, data=data.astype(np.int32) if "scaleoffset" in how else data, chunks=True, **how)


def _bomb(file: h5py.File, name: str, value: np.ndarray, rng: Random) -> None:
    data = np.zeros(rng.choice((1 << 18, 1 << 22)), np.float32)
    file.create_dataset(name, data=data, chunks=True, compression="gzip", compression_opts=9)


def _numbers(file: h5py.File, name: str, value: np.ndarray, rng: Random) -> None:
    choices: tuple[Any, ...] = (
        np.nan, np.inf, 2**31, -(2**31), 2**63 - 1, 0.5, b"x", "vlen", b"\xff" * 100, np.zeros(0), np.zeros((2, 2)),
        np.array([10**9, 10**9, 2]), np.array([b"conv", b"dense"]), np.zeros(3, np.complex64), h5py.Empty("f4"), True,
        np.full(np.shape(value), np.nan), np.zeros(np.shape(value)), np.full(np.shape(value) or (1,), 254), -1, 0, 1, 10**6,
    )  # fmt: skip
    file[name] = rng.choice(choices)


_REPLACEMENTS: tuple[Callable[[h5py.File, str, np.ndarray, Random], None], ...] = (
    _huge, _packed, _bomb, _numbers, _numbers, _numbers,
    lambda f, n, v, r: f.__setitem__(n, h5py.SoftLink(r.choice(("/layer", "/nowhere", f"/{n}", "/layer/0/shape")))),
    lambda f, n, v, r: f.__setitem__(n, h5py.ExternalLink(r.choice(("/etc/passwd", "other.net", "/dev/zero")), "/layer")),
    lambda f, n, v, r: f.create_dataset(n, (64,), "u1", external=[(r.choice(("/etc/passwd", "made_here", "/dev/zero")), 0, 64)]),
    lambda f, n, v, r: f.create_virtual_dataset(n, _virtual(r)),
    lambda f, n, v, r: f.create_group(n),
    lambda f, n, v, r: None,
    lambda f, n, v, r: f.__setitem__(n, f[f.name]),
    lambda f, n, v, r: f.__setitem__(n, np.dtype("f4")),
    lambda f, n, v, r: f.create_dataset(n, data=[h5py.Reference()] * 3, dtype=h5py.ref_dtype),
)  # fmt: skip


def _virtual(rng: Random) -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(rng.choice(("/etc/passwd", ".", "other.h5")), "layer", shape=(4,))
    return layout


def mutate_folder(folder: Path, rng: Random) -> None:
    """What a bundle's folder can do: links, folders and pipes instead of files, missing and extra files."""
    files = sorted(p for p in folder.iterdir() if p.is_file())
    path = rng.choice(files)
    content = path.read_bytes()
    path.unlink()
    kind = rng.randrange(6)
    if kind == 0:
        (folder.parent / "outside").write_bytes(content)
        path.symlink_to(folder.parent / "outside")
    elif kind == 1:
        path.symlink_to(rng.choice(("/dev/zero", "/etc/passwd", path.name, "nowhere")))
    elif kind == 2:
        path.mkdir()
    elif kind == 3:
        os.mkfifo(path)
    elif kind == 4:
        path.write_bytes(b"")
