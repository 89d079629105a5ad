"""A head in NumPy float64, as it is deployed: without torch, so that it can live inside a Lava process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from taaf.models.errors import BundleError
from taaf.models.fusion import SPIKING_GRID, SPIKING_LIMIT
from taaf.models.heads import head_of
from taaf.models.heads.base import FUSED, Head, Ops, StepOutputs

_TAU, _THRESHOLD = 0.5, 1.0


@dataclass(frozen=True)
class HeadOutput:
    """Keys "fused" and the modalities; of head "none" there are none.

    Attributes
    ----------
    logits : dict
        Readout ``sum_t alpha(t) O(t)``, each (N, C) float64.
    alpha : dict
        Weights of the steps in it, each (N, T) float64.
    """

    logits: dict[str, np.ndarray]
    alpha: dict[str, np.ndarray]


def softmax(x: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def leading_probability(logits: np.ndarray) -> np.ndarray:
    """Softmax probability of the leading class: (..., C) -> (...)."""
    return softmax(logits).max(axis=-1)


def host_lif(current: np.ndarray, at_threshold: bool = False) -> np.ndarray:
    """``v <- v / 2 + I(t)``; a spike and ``v <- 0`` where v > 1, ``at_threshold``: where v >= 1. Both are (N, T, ...)."""
    out = np.zeros_like(current)
    voltage = np.zeros_like(current[:, 0])
    for step in range(current.shape[1]):
        voltage = _TAU * voltage + current[:, step]
        out[:, step] = voltage >= _THRESHOLD if at_threshold else voltage > _THRESHOLD
        voltage = voltage * (1 - out[:, step])
    return out


def host_mlif(current: np.ndarray) -> np.ndarray:
    """``v <- v / 2 + I(t)``; a spike and ``v <- v - 1`` where v / 2 >= 1. Current and spikes are (N, T, ...)."""
    out = np.zeros_like(current)
    voltage = np.zeros_like(current[:, 0])
    for step in range(current.shape[1]):
        voltage = _TAU * voltage + current[:, step]
        out[:, step] = 0.5 * voltage >= _THRESHOLD
        voltage = voltage - out[:, step]
    return out


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def _over_steps(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    padded, n = np.pad(x, ((0, 0), (1, 1), (0, 0))), x.shape[1]
    current: np.ndarray = sum(np.einsum("oi,nfi->nof", weight[:, :, k], padded[:, k : k + n]) for k in range(3)) + bias[:, None]
    return current


def _whole_steps(x: np.ndarray, steps: int) -> np.ndarray:
    return np.pad(x.swapaxes(1, 2), ((0, 0), (0, steps - x.shape[-1]), (0, 0)))


NUMPY_OPS = Ops(
    sigmoid=_sigmoid,
    tanh=np.tanh,
    zeros_like=np.zeros_like,
    ones_like=np.ones_like,
    concatenate=lambda xs: np.concatenate(xs, axis=-1),
    stack=lambda xs: np.stack(xs, axis=-1),
    softmax=softmax,
    on_grid=lambda x: np.round(np.clip(x, -SPIKING_LIMIT, SPIKING_LIMIT) * SPIKING_GRID) / SPIKING_GRID,
    lif=host_lif,
    mlif=host_mlif,
    over_steps=_over_steps,
    whole_steps=_whole_steps,
)


class HostHead:
    """A head with its arrays. Callable on feature spikes.

    Parameters
    ----------
    arrays : mapping
        What `taaf.models.heads.base.Head.arrays` names, and ``<name>_weight``, ``<name>_bias`` of its projections; all finite.
    head : Head or mapping
        The head, or what a bundle says of it (`taaf.models.heads.head_of`).

    Raises
    ------
    BundleError
        If an array is missing, of the wrong shape, or not finite, or the description is not understood.

    Examples
    --------
    >>> head = HostHead({}, {"type": "rate", "classes": 2, "inputs": {"event": {"shape": [2], "steps": 4}}})
    >>> head({"event": np.array([[[1, 0, 1, 1], [0, 1, 0, 0]]])}).logits["fused"]
    array([[3., 1.]])
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], head: Head | Mapping[str, Any]) -> None:
        self.head = head if isinstance(head, Head) else head_of(head)
        raw = {n for n, a in self.head.arrays().items() if a.raw}
        self.arrays = {k: np.asarray(v, np.uint8 if k in raw else np.float64) for k, v in arrays.items()}
        self._check()

    def _check(self) -> None:
        shapes = {n: a.shape for n, a in self.head.arrays().items()}
        for name, (n_out, n_in) in self.head.projections().items():
            shapes |= {f"{name}_weight": (n_out, n_in), f"{name}_bias": (n_out,)}
        if missing := [n for n in shapes if n not in self.arrays]:
            raise BundleError(f"head: {', '.join(missing)} missing; export the bundle again")
        if bad := [n for n in shapes if not np.isfinite(self.arrays[n]).all()]:
            raise BundleError(f"head: {', '.join(bad)} holds values that are NaN or infinite; export the bundle again")
        for name, shape in shapes.items():
            if self.arrays[name].shape != shape:
                raise BundleError(
                    f"head: {name} has shape {self.arrays[name].shape}, expected {shape}; export the bundle again"
                )

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the branches, in order."""
        return self.head.modalities

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it decides."""
        return self.head.outputs

    @property
    def decides(self) -> bool:
        """Whether it decides anything."""
        return bool(self.head.outputs)

    def steps(self, features: Mapping[str, np.ndarray], which: Sequence[str] | None = None) -> StepOutputs:
        """Logits per step and their weights."""
        wide = {m: features[m].astype(np.float64) for m in self.modalities}
        return self.head.run(NUMPY_OPS, self.arrays, self._project, wide, which)

    def _project(self, name: str, x: np.ndarray) -> np.ndarray:
        y: np.ndarray = x @ self.arrays[f"{name}_weight"].T + self.arrays[f"{name}_bias"]
        return y

    def __call__(self, features: Mapping[str, np.ndarray], which: Sequence[str] | None = None) -> HeadOutput:
        """Decide: feature spikes (N, F, T_m) per modality -> `HeadOutput`; ``which``: only these outputs."""
        n = len(next(iter(features.values())))
        size = getattr(self.head, "block_windows", max(1, n))
        parts = [
            self.steps({m: f[start : start + size] for m, f in features.items()}, which) for start in range(0, max(1, n), size)
        ]
        outputs = list(parts[0].logits)
        return HeadOutput(
            {u: np.concatenate([p.decision(u) for p in parts]) for u in outputs},
            {u: np.concatenate([p.alpha[u] for p in parts]) for u in outputs},
        )

    def fused(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Only the fused readout, (N, C)."""
        return self(features, (FUSED,)).logits[FUSED]

    def n_macs(self) -> int:
        """Multiply-accumulates of one fused decision (dense count)."""
        return sum(self.head.mac_parts().values())
