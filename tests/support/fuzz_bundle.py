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
    from taaf.training.datasets import ead_mini

    return ead_mini.load_split(name, slice(2) if name != "test" else slice(5))


def read_deployed(folder: Path) -> None:
    """`taaf-deploy --backend fast --samples 2` without its command line, on data that are loaded once."""
    from taaf.deploy import report
    from taaf.training import sources

    sources.load_split = lambda name, *_: _split(name)
    report.deploy(report.Request(folder, "fast", 2), lambda _: None, lambda _: None)


def _weight(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return 2 * rng.integers(-20, 40, shape).astype(np.int32)


def _chain(name: str, *nodes: Any) -> Graph:
    return Graph(name, nodes, [(a.name, b.name) for a, b in itertools.pairwise(nodes)])


def _taaf(rng: np.random.Generator) -> tuple[dict[str, Graph], dict[str, Any]]:
    """Branches and settings of a small TAAF head."""
    conv = Conv2d("c", _weight(rng, 1, 2, 3, 3), (12, 12))
    dense = Dense("d", _weight(rng, 3, 9))
    graphs = {
        "event": _chain("event", Input("i", (2, 34, 34)), conv, Lif("a"), Flatten("f"), dense, Lif("b")),
        "audio": _chain("audio", Input("i", (160,)), Dense("d", _weight(rng, 3, 160)), Lif("a")),
    }
    return graphs, {"type": "taaf", "aligned_steps": 2}


def _scmrl(rng: np.random.Generator) -> tuple[dict[str, Graph], dict[str, Any]]:
    """The same of a small S-CMRL head: 9 and 4 tokens of 8 channels."""
    graphs = {
        "event": _chain("event", Input("i", (2, 34, 34)), Conv2d("c", _weight(rng, 16, 2, 3, 3), (12, 12)), Lif("a")),
        "audio": _chain("audio", Input("i", (1, 40, 4)), Conv2d("c", _weight(rng, 16, 1, 3, 3), (10, 2)), Lif("a")),
    }
    return graphs, {"type": "scmrl", "aligned_steps": 2, "attention_heads": 2, "mlp_ratio": 1}


def small_bundle(folder: Path, kind: str = "taaf") -> Path:
    """A valid bundle of a few neurons, for EAD-mini's inputs; ``kind`` of head: "taaf" or "scmrl"."""
    from taaf.deploy.backends.fast import run_fast
    from taaf.export.bundle.reader import Bundle
    from taaf.export.bundle.writer import write_bundle
    from taaf.export.targets.netx.write import write_netx
    from taaf.models.heads import head_of
    from taaf.models.host_head import HostHead

    rng, steps = np.random.default_rng(0), {"event": 8, "audio": 12}
    graphs, settings = {"taaf": _taaf, "scmrl": _scmrl}[kind](rng)
    inputs = {m: {"shape": list(g.shapes[g.output]), "steps": steps[m]} for m, g in graphs.items()}
    head = head_of({"classes": 10, "inputs": inputs, **settings})
    shapes = {name: array.shape for name, array in head.arrays().items()}
    for name, (n_out, n_in) in head.projections().items():
        shapes |= {f"{name}_weight": (n_out, n_in), f"{name}_bias": (n_out,)}
    arrays = {k: np.round(rng.normal(size=s) * 64) / 64 for k, s in shapes.items()}
    manifest: dict[str, Any] = {
        "model": kind, "labels": list("0123456789"), "window_steps": 12, "training": {"checkpoint_sha256": "0"},
        "branches": {
            b: {"file": f"{b}.net", "input_shape": list(g.input.shape), "input_steps": steps[b], "ann_macs": 1}
            for b, g in graphs.items()
        },
        "head": {"file": "head.npz", **head.spec()}, "golden": {"file": "golden.npz"},
    }  # fmt: skip
    test = _split("test")
    bundle = Bundle(folder, manifest, graphs, HostHead(arrays, head), {})
    found = run_fast(bundle, bundle.encode(test.inputs()))

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
