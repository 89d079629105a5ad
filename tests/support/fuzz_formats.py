"""What is fuzzed: per format a small valid input, how to damage it, and how the product reads it."""

import io
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import media_fixtures
import nir_nets
import numpy as np
import torch
from fuzz_bundle import damage_bundle, damaged, read_deployed, small_bundle
from mutations import Mutation, mutate_bytes, mutate_hdf5, mutate_npz, mutate_toml, mutate_value, mutate_zip

Reader = Callable[[Path], Any]


@dataclass(frozen=True)
class Format:
    """One kind of input.

    Attributes
    ----------
    name : str
        File name it is written to; for a bundle the name of its folder.
    seed : callable
        (folder) -> content of a valid file.
    mutations : tuple
        Chosen at random for every input.
    read : callable
        The product's reader, given the file. It must return or raise `TaafError`.
    part : str
        For formats that live in a bundle: the file that is damaged ("any": any of them). Sums are made to fit again.
    head : str
        Of such formats: which head the bundle has (`fuzz_bundle.small_bundle`).
    """

    name: str
    seed: Callable[[Path], bytes]
    mutations: tuple[Mutation, ...]
    read: Reader
    part: str = ""
    head: str = "taaf"


def small_checkpoint(folder: Path) -> bytes:
    """A valid checkpoint of a few neurons."""
    from taaf.models.checkpoint import save_checkpoint
    from taaf.models.config import NetworkConfig
    from taaf.models.network import MultimodalSnn

    event = {"network": "conv", "shape": [2, 5, 5], "steps": 8, "channels": 1, "wide": 1, "features": 2}
    audio = {"network": "dense", "shape": [4], "steps": 12, "hidden": 2, "features": 2}
    config = NetworkConfig.from_dict({"branches": {"event": event, "audio": audio}})
    model = MultimodalSnn(config)
    optimiser = torch.optim.AdamW(model.parameters())
    save_checkpoint(folder / "seed.pt", model, config.to_dict(), optimiser=optimiser.state_dict(), history=[{"a": 1}])
    return (folder / "seed.pt").read_bytes()


def mutate_checkpoint(data: bytes, rng: Random) -> bytes:
    """Saved again by torch with other values: shapes, types, configuration, nesting, objects of other classes."""
    content = torch.load(io.BytesIO(data), weights_only=True)
    kind = rng.randrange(5)
    if kind == 0:
        table = rng.choice(("branches", "head", "neuron"))
        content["config"][table] = mutate_value(content["config"][table], rng)
    elif kind == 1:
        name = rng.choice(list(content["state"]))
        tensors = (
            torch.zeros(1).expand(10**12), torch.zeros(10**6), torch.zeros(0), torch.full((1,), float("nan")), torch.zeros(1, 1),
            torch.zeros(2, dtype=torch.complex64), torch.zeros(2, dtype=torch.bool), torch.zeros(3, 3).to_sparse(), None, 3,
            torch.zeros(8)[3:].as_strided((5,), (0,)), torch.nn.Parameter(torch.zeros(1)), torch.zeros(3, device="meta"),
        )  # fmt: skip
        content["state"][name] = rng.choice(tensors)
    elif kind == 2:
        content = mutate_value(content, rng)
    elif kind == 3:
        deep: Any = []
        for _ in range(rng.choice((30, 60))):
            deep = [deep, deep]
        content["config"] = deep
    else:
        content["extra"] = rng.choice(
            (torch.float32, {1, 2}, 1j, b"x", range(3), np.float64(3), Path("x"), slice(3), torch.Size([3]))
        )
    out = io.BytesIO()
    try:
        torch.save(content, out)
    except (RecursionError, OverflowError, UnicodeError):
        return mutate_bytes(data, rng)
    return out.getvalue()


def mutate_structure(data: bytes, rng: Random) -> bytes:
    """Damage to the pickle inside a checkpoint only; checksums fit."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {m: archive.read(m) for m in archive.namelist()}
    name = next(m for m in members if m.endswith("data.pkl"))
    members[name] = mutate_bytes(members[name], rng)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as new:
        for member, content in members.items():
            new.writestr(member, content)
    return out.getvalue()


def _load_model(path: Path) -> None:
    from taaf.models.checkpoint import load_model

    load_model(path)


def _netx(path: Path) -> None:
    from taaf.export.limits import check_limits
    from taaf.export.targets.netx.read import read_netx

    check_limits(read_netx(path, "net"))


def _nir(path: Path) -> None:
    from taaf.export.targets.nir.read import read_nir

    read_nir(path, nir_nets.DT)


def _nir_seed(folder: Path) -> bytes:
    return nir_nets.write(folder / "seed.nir", nir_nets.small()).read_bytes()


ENCODER = {"input_shape": [3, 9, 8], "scale": 32, "stride": 2, "padding": 3, "v_decay": 2048, "v_th_mant": 128}


def _encoder(path: Path) -> None:
    from taaf.export.bundle.reader import _read_npz
    from taaf.models.encoder import HostEncoder

    HostEncoder.from_bundle(_read_npz(path), ENCODER)(np.zeros((1, 3, 9, 8, 2), np.int8))


def _encoder_seed(_folder: Path) -> bytes:
    out, weight = io.BytesIO(), 2 * np.arange(-20, 274, dtype=np.int16).reshape(2, 3, 7, 7) // 9 * 2
    np.savez(out, weight=weight, bias=np.arange(2, dtype=np.int16))
    return out.getvalue()


def _bundle_part(part: str) -> Callable[[Path], bytes]:
    return lambda folder: (small_bundle(folder / "seed") / part).read_bytes()


def _toml(path: Path) -> None:
    from taaf.models.config import NetworkConfig
    from taaf.models.network import MultimodalSnn
    from taaf.training.config import load_config

    network = load_config(path, {"optimiser": {"epochs": 2}}).network
    network = network.completed(NetworkConfig.from_dict({}).inputs).check()
    with torch.device("meta"):  # sizes within limits; `Trainer` counts the parameters before it makes them
        MultimodalSnn(network)


def _toml_seed(_folder: Path) -> bytes:
    from taaf.training.commands.study import CONFIGS

    return (CONFIGS / "ablation.toml").read_bytes() + b"phi = 0.5\n"


def _npz(path: Path) -> None:
    from taaf.training.datasets.cache import load

    load(path)


def _made(make: Callable[[Path], Path], name: str) -> Callable[[Path], bytes]:
    return lambda folder: make(folder / name).read_bytes()


def _media(kind: str) -> Reader:
    def read(path: Path) -> Any:
        from taaf.training.datasets import crema_d, event_files, media, ntidigits
        from taaf.training.datasets.bad_samples import BadSamples

        if kind == "audio":
            return media.read_audio(path, 16_000, 3.0)
        if kind == "video":
            return media.read_video(path, 2, 16)
        if kind == "image":
            return media.read_images([path], 16)
        if kind == "digits":
            return ntidigits.read_ntidigits(path, "train", 5, BadSamples("stop"))
        if kind == "csv":
            return crema_d.read_ids(path, BadSamples("stop"))
        return event_files.read_nmnist(path) if kind == "nmnist" else event_files.read_dvs128(path)

    return read


def _wave(path: Path) -> Path:
    return media_fixtures.write_wav(path, media_fixtures.tone(8000, 0.2, 440), 8000)


def _video(path: Path) -> Path:
    sound = media_fixtures.tone(44_100, 0.3, 440)
    return media_fixtures.write_video(path, [(255, 0, 0), (0, 255, 0), (0, 0, 255)], size=(32, 32), sound=sound)


def _digits(path: Path) -> Path:
    return media_fixtures.write_ntidigits(path, {"train": {"man-ac-a-1": ([1, 2, 63], [0.0, 0.1, 0.2])}})


def _csv(_folder: Path) -> bytes:
    return b"1088_IOM_NEU_XX,NEU\n1001_DFA_ANG_XX,ANG\n1002_IEO_HAP_HI,HAP\n"


ONE, DATA = (mutate_bytes,), [(x, x, 1, 1000 * x) for x in range(30)]
FORMATS: dict[str, Format] = {
    "checkpoint": Format("x.pt", small_checkpoint, (mutate_bytes, mutate_zip, mutate_checkpoint, mutate_structure), _load_model),
    "bundle": Format("bundle", lambda _: b"", (), read_deployed, "any"),
    "manifest": Format("bundle", lambda _: b"", (), read_deployed, "manifest.json"),
    "head": Format("bundle", lambda _: b"", (), read_deployed, "head.npz"),
    "scmrl-manifest": Format("bundle", lambda _: b"", (), read_deployed, "manifest.json", "scmrl"),
    "scmrl-head": Format("bundle", lambda _: b"", (), read_deployed, "head.npz", "scmrl"),
    "golden": Format("bundle", lambda _: b"", (), read_deployed, "golden.npz"),
    "net": Format("x.net", _bundle_part("event.net"), (mutate_bytes, mutate_hdf5, mutate_hdf5), _netx),
    "nir": Format("x.nir", _nir_seed, (mutate_bytes, mutate_hdf5, mutate_hdf5), _nir),
    "encoder": Format("x.npz", _encoder_seed, (mutate_bytes, mutate_zip, mutate_npz), _encoder),
    "npz": Format("x.npz", _bundle_part("golden.npz"), (mutate_bytes, mutate_zip, mutate_npz), _npz),
    "toml": Format("x.toml", _toml_seed, (mutate_bytes, mutate_toml, mutate_toml), _toml),
    "wav": Format("x.wav", _made(_wave, "s.wav"), ONE, _media("audio")),
    "flac": Format("x.wav", _made(_wave, "s.flac"), ONE, _media("audio")),
    "mp4": Format("x.mp4", _made(_video, "s.mp4"), ONE, _media("video")),
    "flv": Format("x.flv", _made(_video, "s.flv"), ONE, _media("video")),
    "mp4-audio": Format("x.mp4", _made(_video, "s.mp4"), ONE, _media("audio")),
    "jpg": Format("x.jpg", _made(lambda p: media_fixtures.write_image(p, (9, 8, 7)), "s.jpg"), ONE, _media("image")),
    "png": Format("x.png", _made(lambda p: media_fixtures.write_image(p, (9, 8, 7)), "s.png"), ONE, _media("image")),
    "bin": Format("x.bin", _made(lambda p: media_fixtures.write_nmnist(p, DATA), "s.bin"), ONE, _media("nmnist")),
    "aedat": Format("x.aedat", _made(lambda p: media_fixtures.write_aedat(p, [(5, 6), (9, 8)]), "s.aedat"), ONE, _media("dvs")),
    "digits": Format("x.hdf5", _made(_digits, "s.hdf5"), (mutate_bytes, mutate_hdf5, mutate_hdf5), _media("digits")),
    "csv": Format("x.csv", _csv, ONE, _media("csv")),
}  # fmt: skip
MEDIA = ("wav", "flac", "mp4", "flv", "mp4-audio", "jpg", "png", "bin", "aedat", "digits", "csv")


def make_input(form: Format, seed: bytes, bundle: Path | None, target: Path, rng: Random) -> Path:
    """Write one damaged input below ``target`` and return the path to read."""
    path = target / form.name
    if form.part:
        assert bundle is not None
        shutil.copytree(bundle, path)
        damage_bundle(path, form.part, rng)
    else:
        path.write_bytes(damaged(rng.choice(form.mutations), seed, rng))
    return path
