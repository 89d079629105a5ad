"""Windows of spikes to calibrate and to measure with: from an .npz file, or generated and called so in the report."""

from pathlib import Path
from typing import Any

import numpy as np

from taaf.export.targets.nir.graph import FloatNet
from taaf.models.errors import DataError
from taaf.models.files.npz import read_npz
from taaf.models.files.writing import sha256

GENERATED_RATE, GENERATED_WINDOWS, GENERATED_STEPS = 0.2, 16, 32
MAX_BYTES = 1 << 31  # of the file's arrays, of all spikes, and of one window's float drive


def calibration_inputs(
    path: Path | None, nets: dict[str, FloatNet]
) -> tuple[dict[str, np.ndarray], np.ndarray | None, dict[str, Any]]:
    """Inputs per branch (N, *shape, T), labels (N,) if given, and what the report says of them.

    Parameters
    ----------
    path : Path or None
        An .npz with one array per branch (a single branch may be called "inputs") and optionally "labels"; None: generated.

    Raises
    ------
    DataError
        If the file cannot be read, or an array is missing, too large or of the wrong shape.
    """
    if path is None:
        rng = np.random.default_rng(0)
        most = min(_most_windows(net, GENERATED_STEPS) for net in nets.values())
        if not most:
            raise DataError(f"{', '.join(nets)}: a layer is too large to run {GENERATED_STEPS} steps in {MAX_BYTES} bytes")
        shape = (min(GENERATED_WINDOWS, most), GENERATED_STEPS)
        inputs = {
            b: (rng.random((shape[0], *net.graph.input.shape, shape[1])) < GENERATED_RATE).astype(np.uint8)
            for b, net in nets.items()
        }
        how = f"generated: independent spikes of rate {GENERATED_RATE} per step, {shape[0]} windows of {shape[1]} steps, seed 0"
        return inputs, None, {"source": f"{how}; not the task's data, so the deviation on the task may differ"}
    arrays = _read_npz(path)
    inputs, labels = {}, arrays.get("labels")
    for branch, net in nets.items():
        key = branch if branch in arrays else "inputs"
        wanted = net.graph.input.shape
        if key not in arrays or (key == "inputs" and len(nets) > 1):
            raise DataError(f"{path}: no array {branch!r}; found {', '.join(arrays) or 'nothing'}; one branch may use 'inputs'")
        x = arrays[key]
        if x.ndim != len(wanted) + 2 or x.shape[1:-1] != wanted or 0 in x.shape or x.dtype.kind not in "buif":
            raise DataError(f"{path}: {key} is {x.dtype} {x.shape}; allowed numbers (N, {', '.join(map(str, wanted))}, T)")
        if labels is not None and (labels.shape != x.shape[:1] or labels.dtype.kind not in "iu"):
            raise DataError(f"{path}: labels {labels.dtype} {labels.shape}; allowed whole numbers ({len(x)},) as for {key}")
        allowed = _most_windows(net, x.shape[-1])
        if len(x) > allowed:
            raise DataError(f"{path}: {len(x)} windows of {key} need too much memory; allowed up to {allowed}")
        inputs[branch] = x
    shapes = {b: list(x.shape) for b, x in inputs.items()}
    return inputs, labels, {"source": str(path), "sha256": sha256(path), "shapes": shapes, "labels": labels is not None}


def _most_windows(net: FloatNet, steps: int) -> int:
    """Windows whose spikes fit the bound; 0 if not even the float drive of one window does."""
    sizes = [int(np.prod([int(n) for n in shape], dtype=object)) for shape in net.graph.shapes.values()]
    return 0 if 8 * max(sizes) * steps > MAX_BYTES else MAX_BYTES // (sum(sizes) * steps)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; --calibrate takes an .npz with spikes (N, *input shape, T)")
    try:
        return read_npz(path, MAX_BYTES)
    except ValueError as error:
        raise DataError(f"{path}: not a readable .npz file ({error})") from error
