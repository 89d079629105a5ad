"""Where a deployment's windows come from: the user's file, the bundle itself, or the data set the network was trained on."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taaf.deploy.backends.base import BackendResult
from taaf.export.bundle.reader import Bundle, in_shape
from taaf.export.netx_bundle import BUNDLED
from taaf.models.encoder import to_levels
from taaf.models.errors import BundleError, ConfigError, DataError, did_you_mean
from taaf.models.files.npz import read_npz
from taaf.models.files.writing import write_at_once
from taaf.models.host_head import softmax
from taaf.training.config import from_dict, with_root
from taaf.training.datasets.arrays import read_windows
from taaf.training.sources import RECORDED, Windows, open_windows

MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Source:
    """Which windows: ``input`` (a file of the user's), or a ``split`` of the data set lying at ``root``, preprocessed
    into ``cache``."""

    split: str = "test"
    root: str | None = None
    cache: str | None = None
    input: Path | None = None


def windows_of(bundle: Bundle, source: Source) -> tuple[Windows, bool]:
    """The windows, and whether they are those the bundle was verified on (so that results are known).

    Raises
    ------
    ConfigError, DataError
        If they cannot be had, or are not of the bundle's shapes.
    """
    if source.input is not None:
        return _of_file(bundle, source.input), False
    data = bundle.manifest.get("data", {})
    if source.split != "test" and source.split not in (more := RECORDED.get(bundle.data_set, ())):
        raise ConfigError(f"--split {source.split}: {bundle.data_set} has no such split; allowed {', '.join(('test', *more))}")
    if data.get("set") == BUNDLED:
        return _of_bundle(bundle, str(data.get("file"))), True
    known = bundle.golden["labels"]
    config = with_root(from_dict({"data": data}, f"{bundle.path}: manifest").data, source.root, source.cache)
    if ":" in config.set:
        raise ConfigError(f"{bundle.path}: manifest: data.set {config.set[:40]!r} names code; give the windows with --input")
    windows = open_windows(config, bundle.specs(), source.split, limit=len(known))
    if source.split == "test" and not np.array_equal(windows.labels[: len(known)], known[: len(windows)]):
        raise DataError(
            f"{bundle.path}: was verified on {len(known)} windows, the test set found has {len(windows)} with "
            "other labels; give --root of the same data or export the network again"
        )
    return windows, source.split == "test"


def _of_bundle(bundle: Bundle, name: str) -> Windows:
    try:
        arrays = read_npz(bundle.path / name, MAX_BYTES)
    except ValueError as error:
        raise BundleError(f"{bundle.path / name}: not readable ({error}); export the bundle again") from error
    inputs, n = {}, len(bundle.golden["labels"])
    for m, spec in bundle.specs().items():
        if m not in arrays:
            raise BundleError(f"{bundle.path / name}: no array {m!r}; export the bundle again")
        x, last = arrays[m], spec.steps if spec.scale else -(-spec.steps // 8)
        if x.dtype != (np.int8 if spec.scale else np.uint8) or x.ndim < 3 or x.shape[-1] != last or len(x) != n:
            raise BundleError(
                f"{bundle.path / name}: {m} is {x.dtype} {x.shape}, no {n} windows of {spec.steps} steps; export it again"
            )
        inputs[m] = x if spec.scale else np.unpackbits(x, axis=-1, count=spec.steps)
    return Windows(inputs, bundle.golden["labels"], tuple(bundle.manifest["labels"]))


def _of_file(bundle: Bundle, path: Path) -> Windows:
    inputs, labels, _ = read_windows(path, bundle.modalities)
    if labels is not None and bundle.head.decides and labels.max(initial=0) >= len(bundle.manifest["labels"]):
        raise DataError(f"{path}: labels go up to {labels.max()}, the bundle has {len(bundle.manifest['labels'])} classes")
    found = as_taken(bundle, inputs, str(path))
    n = len(next(iter(found.values())))
    return Windows(found, np.full(n, -1, np.int64) if labels is None else labels, tuple(bundle.manifest["labels"]))


def as_taken(bundle: Bundle, inputs: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Numbers as the branches take them: spikes uint8, or levels int8 where an encoder follows; ``where`` begins the message.

    Raises
    ------
    DataError
        If a branch that takes spikes is given anything but zeros and ones.
    """
    found = {}
    for m, spec in bundle.specs().items():
        x = inputs[m]
        if spec.scale:
            found[m] = x if x.dtype == np.int8 else to_levels(x, spec.scale)
        elif not ((x == 0) | (x == 1)).all():
            raise DataError(f"{where}: {m} holds values other than 0 and 1; this branch takes spikes")
        else:
            found[m] = x.astype(np.uint8)
    return found


def one_window(bundle: Bundle, window: Mapping[str, Any], where: str) -> dict[str, np.ndarray]:
    """A window {modality: (*shape, steps)} encoded for the chip, {branch: (1, *shape, steps)}; ``where`` begins the message.

    Raises
    ------
    DataError
        If a modality is missing or unknown, or its array is of another shape, not of numbers, not finite, or not of zeros and
        ones where the branch takes spikes.
    """
    if not isinstance(window, Mapping):
        raise DataError(f"{where}: found {type(window).__name__}, expected one array per modality: {', '.join(bundle.graphs)}")
    if unknown := [str(m) for m in window if m not in bundle.graphs]:
        raise DataError(f"{where}: unknown modality {unknown[0]!r}; {did_you_mean(unknown[0], bundle.graphs)}")
    arrays = {}
    for m, spec in bundle.specs().items():
        if m not in window:
            raise DataError(f"{where}: no array of {m!r}; a window has {', '.join(bundle.graphs)}")
        x = np.asarray(window[m])
        if x.dtype.kind not in "buif":
            raise DataError(f"{where}: {m} is {x.dtype}; allowed numbers")
        wanted = (*spec.shape, spec.steps)
        if x.size != np.prod(wanted) or x.shape[-1:] != wanted[-1:]:
            raise DataError(f"{where}: {m} has shape {x.shape}; allowed {wanted}, steps last")
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise DataError(f"{where}: {m} holds values that are NaN or infinite; correct them")
        arrays[m] = x.reshape(1, *wanted)
    return bundle.encode(as_taken(bundle, arrays, where))


def require_fit(bundle: Bundle, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs of the bundle's branches, in their shapes; raises `BundleError` where they do not fit."""
    if missing := [m for m in bundle.graphs if m not in inputs]:
        raise BundleError(f"{bundle.path}: has branches {', '.join(bundle.graphs)}, the windows have no {', '.join(missing)}")
    found = {}
    for m, spec in bundle.specs().items():
        x = inputs[m] if m in bundle.encoders else in_shape(inputs[m], bundle.taken_shape(m))
        if x.shape[1:] != (*spec.shape, spec.steps):
            raise BundleError(f"{bundle.path}: branch {m} takes {(*spec.shape, spec.steps)}, the windows give {x.shape[1:]}")
        found[m] = x
    return found


def write_predictions(path: Path, result: BackendResult, windows: Windows) -> None:
    """Decisions, probabilities and exit steps of every window, as .csv (one row each) or .npz.

    Without a head the feature spikes are written, .npz only.

    Raises
    ------
    ConfigError
        If a .csv is asked for where nothing is decided.
    OutputError
        If it cannot be written.
    """
    steps = result.exit_steps
    if not result.logits:
        if path.suffix != ".npz":
            raise ConfigError(f"--output {path}: the bundle has no head, its feature spikes are arrays; allowed .npz")
        _write_npz(path, {f"features_{m}": f for m, f in result.features.items()})
        return
    logits = result.logits["fused"]
    probability, decision = softmax(logits), logits.argmax(1)
    if path.suffix == ".npz":
        extra = {} if steps is None else {"exit_steps": steps}
        _write_npz(path, {"decision": decision, "probability": probability, "logits": logits, **extra})
        return
    names = windows.label_names
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    exits = [] if steps is None else ["exit_step"]
    writer.writerow(["window", "decision", *exits, *(f"p_{name}" for name in names)])
    for i, k in enumerate(decision):
        writer.writerow([i, names[k], *([int(steps[i])] if steps is not None else []), *(f"{p:.6g}" for p in probability[i])])
    write_at_once(path, text.getvalue())


def _write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_at_once(path, buffer.getvalue())
