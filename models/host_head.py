"""The host part in NumPy float64: time alignment, fusion, classifier and temporal attention.

It is what `taaf.models.head.host_forward` computes, without torch, so that it can live inside a Lava process.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from taaf.models.errors import BundleError
from taaf.models.fusion import FUSIONS, SPIKING_GRID, SPIKING_LIMIT, Ops, temporal_attention

MODALITIES = ("event", "audio")  # of bundles that do not name theirs
_TAU, _THRESHOLD = 0.5, 1.0


@dataclass(frozen=True)
class HeadOutput:
    """Keys "fused" and the two modalities.

    Attributes
    ----------
    logits : dict
        Readout ``sum_t alpha(t) O(t)``, each (N, C) float64.
    alpha : dict
        Temporal attention, each (N, T) float64, rows sum to 1.
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


def host_lif(current: np.ndarray) -> np.ndarray:
    """``v <- v / 2 + I(t)``; a spike and ``v <- 0`` where v > 1. Current and spikes are (N, T, F)."""
    out = np.zeros_like(current)
    voltage = np.zeros_like(current[:, 0])
    for step in range(current.shape[1]):
        voltage = _TAU * voltage + current[:, step]
        out[:, step] = voltage > _THRESHOLD
        voltage = voltage * (1 - out[:, step])
    return out


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


NUMPY_OPS = Ops(
    sigmoid=_sigmoid, zeros_like=np.zeros_like,
    concatenate=lambda xs: np.concatenate(xs, axis=-1), softmax=softmax,
    on_grid=lambda x: np.round(np.clip(x, -SPIKING_LIMIT, SPIKING_LIMIT) * SPIKING_GRID) / SPIKING_GRID, lif=host_lif,
)  # fmt: skip


class HostHead:
    """Callable on feature spikes.

    Parameters
    ----------
    arrays : dict
        ``align_<m>_weight`` (T_out, T_m, 3), ``align_<m>_bias`` (T_out,), ``query`` and ``key``, and the arrays of the
        fusion (`taaf.models.fusion`); all finite.
    spec : dict
        ``fusion`` (name), ``attention`` ("taaf": Eqs 5-7, or "uniform": 1/T), ``attention_on`` ("logits" or "features"),
        ``features`` (F) and ``classes`` (C); optionally ``modalities``, the names of the two branches in order.

    Raises
    ------
    BundleError
        If an array is missing, of the wrong shape, or not finite, or the specification is not understood.
    """

    def __init__(self, arrays: dict[str, np.ndarray], spec: dict[str, Any]) -> None:
        allowed: dict[str, tuple[str, ...]] = {
            "fusion": tuple(FUSIONS), "attention": ("taaf", "uniform"), "attention_on": ("logits", "features")
        }  # fmt: skip
        for key, values in allowed.items():
            if spec.get(key) not in values:
                raise BundleError(f"head: {key} {spec.get(key)!r} unknown; allowed {', '.join(values)}")
        for key in ("features", "classes"):
            if type(spec.get(key)) is not int or spec[key] < 1:
                raise BundleError(f"head: {key} (={spec.get(key)!r}) must be a whole number >= 1")
        first, second = spec.get("modalities", MODALITIES)
        self.modalities = (first, second)
        self.outputs = ("fused", first, second)
        self.spec = {key: spec[key] for key in (*allowed, "features", "classes")} | {"modalities": [first, second]}
        self.fusion = FUSIONS[spec["fusion"]]
        self.arrays = {k: np.asarray(v, np.float64) for k, v in arrays.items()}
        self._check()

    def _check(self) -> None:
        features, classes = self.spec["features"], self.spec["classes"]
        attended = classes if self.spec["attention_on"] == "logits" else 2 * features
        steps = len(np.atleast_1d(self.arrays.get(f"align_{self.modalities[0]}_bias", np.zeros(0))))
        wanted: dict[str, tuple[int | None, ...]] = {**self.fusion.shapes(features, classes)}
        wanted |= {"query": (attended, classes), "key": (attended, classes)}
        wanted |= {f"align_{m}_weight": (steps, None, 3) for m in self.modalities} | {
            f"align_{m}_bias": (steps,) for m in self.modalities
        }
        if missing := [n for n in wanted if n not in self.arrays]:
            raise BundleError(f"head: {', '.join(missing)} missing; export the bundle again")
        if bad := [n for n in wanted if not np.isfinite(self.arrays[n]).all()]:
            raise BundleError(f"head: {', '.join(bad)} holds values that are NaN or infinite; export the bundle again")
        for name, shape in wanted.items():
            found = self.arrays[name].shape
            if len(found) != len(shape) or any(w is not None and w != f for w, f in zip(shape, found, strict=True)):
                raise BundleError(f"head: {name} has shape {found}, expected {shape}; export the bundle again")

    def align(self, modality: str, features: np.ndarray) -> np.ndarray:
        """Time alignment: (N, F, T_m) spikes -> (N, T_out, F) spikes; Conv1d with time as channels, then LIF."""
        weight, bias = self.arrays[f"align_{modality}_weight"], self.arrays[f"align_{modality}_bias"]
        x = np.pad(features.astype(np.float64), ((0, 0), (1, 1), (0, 0)))
        n = features.shape[1]
        current = sum(np.einsum("oi,nfi->nof", weight[:, :, k], x[:, k : k + n]) for k in range(3)) + bias[:, None]
        return host_lif(current)

    def alpha(self, scores_from: np.ndarray) -> np.ndarray:
        """Temporal attention (Eqs 5-7): (N, T, D) -> (N, T)."""
        if self.spec["attention"] == "uniform":
            return np.full(scores_from.shape[:2], 1 / scores_from.shape[1])
        alpha: np.ndarray = temporal_attention(NUMPY_OPS, scores_from, self.arrays["query"], self.arrays["key"])
        return alpha

    def __call__(self, features: dict[str, np.ndarray]) -> HeadOutput:
        """Decide: feature spikes (N, F, T_m) per modality -> `HeadOutput`."""
        first, second = (self.align(m, features[m]) for m in self.modalities)
        logits = dict(zip(self.outputs, self.fusion.outputs(NUMPY_OPS, self.arrays, first, second), strict=True))
        attended = logits
        if self.spec["attention_on"] == "features":
            silent = np.zeros_like(first)
            pairs = ((first, second), (first, silent), (silent, second))
            attended = {u: np.concatenate(pair, axis=-1) for u, pair in zip(self.outputs, pairs, strict=True)}
        alpha = {u: self.alpha(x) for u, x in attended.items()}
        return HeadOutput({u: (alpha[u][..., None] * o).sum(axis=1) for u, o in logits.items()}, alpha)

    def fused(self, features: dict[str, np.ndarray]) -> np.ndarray:
        """Only the fused readout, (N, C)."""
        first, second = (self.align(m, features[m]) for m in self.modalities)
        logits = self.fusion.outputs(NUMPY_OPS, self.arrays, first, second)[0]
        attended = logits if self.spec["attention_on"] == "logits" else np.concatenate([first, second], axis=-1)
        readout: np.ndarray = (self.alpha(attended)[..., None] * logits).sum(axis=1)
        return readout

    def n_macs(self, steps_in: dict[str, int]) -> int:
        """Multiply-accumulates of one fused decision on the host (dense count: alignment, fusion, attention).

        Fusions that use a weight matrix once per step are counted by the sizes of their matrices; products of
        activations (gates, the q k^T v of cross attention) are not included.
        """
        features, classes = self.spec["features"], self.spec["classes"]
        steps = len(self.arrays[f"align_{self.modalities[0]}_bias"])
        align = sum(3 * steps * steps_in[m] * features for m in self.modalities)
        attend = steps * classes  # the readout
        if self.spec["attention"] == "taaf":
            attend += 2 * steps * self.arrays["query"].size + steps**2 * classes
        return align + steps * self.fusion.n_macs(features, classes) + attend
