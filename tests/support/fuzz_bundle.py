"""A small bundle to fuzz: a valid one of a few neurons, how it is damaged, and how the product reads it."""

import hashlib
import itertools
import json
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from mutations import Mutation, mutate_bytes, mutate_folder, mutate_hdf5, mutate_json, mutate_npz, mutate_zip

from taaf.models.ir import Conv2d, Dense, Flatten, Graph, Input, Lif


@lru_cache(maxsize=2)
def _split(name: str) -> Any:
    from taaf.training import ead_mini

    return ead_mini.load_split(name, slice(2) if name != "test" else slice(5))


def read_deployed(folder: Path) -> None:
    """`taaf-deploy --backend fast --samples 2` without its command line, on data that are loaded once."""
    from taaf.deploy import session

    session.load_split = _split
    session.deploy(session.Request(folder, "fast", 2, "test", None), lambda _: None, lambda _: None)


def small_bundle(folder: Path) -> Path:
    """A valid bundle of a few neurons, for EAD-mini's inputs."""
    from taaf.deploy.backends.fast import run_fast
    from taaf.export.bundle import Bundle, write_bundle
    from taaf.export.targets.netx import write_netx
    from taaf.models.host_head import HostHead

    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return 2 * rng.integers(-20, 40, shape).astype(np.int32)

    def chain(name: str, *nodes: Any) -> Graph:
        return Graph(name, nodes, [(a.name, b.name) for a, b in itertools.pairwise(nodes)])

    conv = Conv2d("c", weight(1, 2, 3, 3), (12, 12))
    graphs = {
        "event": chain("event", Input("i", (2, 34, 34)), conv, Lif("a"), Flatten("f"), Dense("d", weight(3, 9)), Lif("b")),
        "audio": chain("audio", Input("i", (160,)), Dense("d", weight(3, 160)), Lif("a")),
    }
    spec = {"fusion": "concat", "attention": "taaf", "attention_on": "logits", "features": 3, "classes": 10}
    shapes = {"classifier_weight": (10, 6), "classifier_bias": (10,), "query": (10, 10), "key": (10, 10)}
    shapes |= {
        "align_event_weight": (2, 8, 3),
        "align_event_bias": (2,),
        "align_audio_weight": (2, 12, 3),
        "align_audio_bias": (2,),
    }
    arrays = {k: np.round(rng.normal(size=s) * 64) / 64 for k, s in shapes.items()}
    manifest: dict[str, Any] = {
        "model": "taaf-snn", "labels": list("0123456789"), "window_steps": 12, "training": {"checkpoint_sha256": "0"},
        "branches": {
            b: {"file": f"{b}.net", "input_shape": list(g.input.shape), "input_steps": s, "ann_macs": 1}
            for (b, g), s in zip(graphs.items(), (8, 12), strict=True)
        },
        "head": {"file": "head.npz", **spec}, "golden": {"file": "golden.npz"},
    }  # fmt: skip
    test = _split("test")
    bundle = Bundle(folder, manifest, graphs, HostHead(arrays, spec), {})
    found = run_fast(bundle, test.inputs())

    def fill(stage: Path) -> None:
        for name, graph in graphs.items():
            write_netx(graph, stage / f"{name}.net")
        np.savez(stage / "head.npz", **arrays)
        golden = {f"features_{b}": np.packbits(f) for b, f in found.features.items()}
        np.savez_compressed(stage / "golden.npz", logits=found.logits["fused"], labels=test.labels, **golden)

    write_bundle(folder, manifest, fill, lambda _: None)
    return folder


def damaged(change: Mutation, content: bytes, rng: Random) -> bytes:
    """The changed content; what the library refuses to write is damaged byte by byte instead."""
    try:
        return change(content, rng)
    except Exception:
        return mutate_bytes(content, rng)


def damage_bundle(folder: Path, part: str, rng: Random) -> None:
    """Damage one file (or the folder); nine times of ten the sums fit afterwards."""
    by_suffix = {".json": mutate_json, ".npz": mutate_npz, ".net": mutate_hdf5}
    if part == "any" and rng.random() < 0.2:
        mutate_folder(folder, rng)
        return
    name = rng.choice(sorted(p.name for p in folder.iterdir())) if part == "any" else part
    path = folder / name
    changes: list[Mutation] = [by_suffix[path.suffix]] * 2 + [mutate_bytes]
    changes += [mutate_zip] if path.suffix == ".npz" else []
    content = damaged(rng.choice(changes), path.read_bytes(), rng)
    path.write_bytes(content)
    if name != "manifest.json" and rng.random() < 0.95:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = hashlib.sha256(content).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))
