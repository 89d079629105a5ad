"""Time alignment T_m -> T of every modality: Conv1d with time as channels (kernel 3 along features), then LIF.

The paper's alignment is not public; this one is ours. Weights are multiples of 1/64, so that every voltage is a short dyadic
number and the spikes do not depend on the order of summation. It starts as resampling: output step k listens to the input steps
it covers. ``alignment = "fixed"`` keeps exactly that: an aligned step spikes where any input step it covers did.
"""

from collections.abc import Mapping
from typing import Any

from taaf.models.heads.base import Array, Arrays, Features, Ops

NOISE = 0.02


def alignment_arrays(inputs: Mapping[str, Features], steps: int, kind: str) -> dict[str, Array]:
    """``align_<m>_weight`` (T, T_m, 3) and ``align_<m>_bias`` (T,) of every modality."""
    found: dict[str, Array] = {}
    learned = kind == "learned"
    for m, x in inputs.items():
        found[f"align_{m}_weight"] = Array((steps, x.steps, 3), "align", NOISE if learned else 0.0, learned)
        found[f"align_{m}_bias"] = Array((steps,), "zero", 0.0, learned)
    return found


def align(ops: Ops, arrays: Arrays, features: Mapping[str, Any]) -> dict[str, Any]:
    """Feature spikes (N, F, T_m) -> aligned spikes (N, T, F) per modality."""
    return {
        m: ops.lif(ops.over_steps(x, ops.on_grid(arrays[f"align_{m}_weight"]), ops.on_grid(arrays[f"align_{m}_bias"])))
        for m, x in features.items()
    }


def alignment_macs(inputs: Mapping[str, Features], steps: int) -> int:
    """Multiply-accumulates per window (dense count)."""
    return sum(3 * steps * x.steps * x.size for x in inputs.values())


def alignment_stage(inputs: Mapping[str, Features], steps: int) -> tuple[str, str]:
    """Title and detail for reports."""
    sizes = list(dict.fromkeys(x.size for x in inputs.values()))
    features = f"{' and '.join(f'{n:,}' for n in sizes)} features" + (" each" if len(sizes) == 1 and len(inputs) > 1 else "")
    return "time alignment", f"{' and '.join(str(x.steps) for x in inputs.values())} → {steps} steps, {features}"
