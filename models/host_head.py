"""The host part in NumPy float64: time alignment, concatenation fusion, classifier and temporal attention.

It is what `taaf.models.taaf.host_forward` computes, without torch, so that it can live inside a Lava process.
"""

from dataclasses import dataclass

import numpy as np

from taaf.models.errors import BundleError

MODALITIES = ("event", "audio")
OUTPUTS = ("fused", "event", "audio")
_TAU, _THRESHOLD = 0.5, 1.0


@dataclass(frozen=True)
class HeadOutput:
    """Keys "fused", "event", "audio".

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


class HostHead:
    """Callable on feature spikes.

    Parameters
    ----------
    arrays : dict
        ``align_<m>_weight`` (T_out, T_m, 3), ``align_<m>_bias`` (T_out,), ``classifier_weight`` (C, 2 F),
        ``classifier_bias`` (C,), ``query`` and ``key`` (C, C); all finite.
    attention : {"taaf", "uniform"}
        Eqs 5-7, or 1/T.

    Raises
    ------
    BundleError
        If an array is missing, of the wrong shape, or not finite.
    """

    def __init__(self, arrays: dict[str, np.ndarray], attention: str) -> None:
        self.attention = attention
        self.arrays = {k: np.asarray(v, np.float64) for k, v in arrays.items()}
        self._check()

    def _check(self) -> None:
        names = [f"align_{m}_{p}" for m in MODALITIES for p in ("weight", "bias")]
        names += ["classifier_weight", "classifier_bias", "query", "key"]
        if missing := [n for n in names if n not in self.arrays]:
            raise BundleError(f"head: {', '.join(missing)} missing; export the bundle again")
        if bad := [n for n in names if not np.isfinite(self.arrays[n]).all()]:
            raise BundleError(f"head: {', '.join(bad)} holds values that are NaN or infinite; export the bundle again")
        classes = len(self.arrays["classifier_bias"])
        steps = len(self.arrays["align_event_bias"])
        wanted: dict[str, tuple[int | None, ...]] = {
            "classifier_weight": (classes, None),
            "query": (classes,) * 2,
            "key": (classes,) * 2,
        }
        wanted |= {f"align_{m}_weight": (steps, None, 3) for m in MODALITIES} | {"align_audio_bias": (steps,)}
        for name, shape in wanted.items():
            found = self.arrays[name].shape
            if len(found) != len(shape) or any(w is not None and w != f for w, f in zip(shape, found, strict=True)):
                raise BundleError(f"head: {name} has shape {found}, expected {shape}; export the bundle again")
        if self.attention not in ("taaf", "uniform"):
            raise BundleError(f"head: attention {self.attention!r} unknown; allowed taaf, uniform")

    def align(self, modality: str, features: np.ndarray) -> np.ndarray:
        """Time alignment: (N, F, T_m) spikes -> (N, T_out, F) spikes; Conv1d with time as channels, then LIF."""
        weight, bias = self.arrays[f"align_{modality}_weight"], self.arrays[f"align_{modality}_bias"]
        x = np.pad(features.astype(np.float64), ((0, 0), (1, 1), (0, 0)))
        n = features.shape[1]
        current = sum(np.einsum("oi,nfi->nof", weight[:, :, k], x[:, k : k + n]) for k in range(3)) + bias[:, None]
        out = np.zeros_like(current)
        voltage = np.zeros_like(current[:, 0])
        for step in range(current.shape[1]):
            voltage = _TAU * voltage + current[:, step]
            out[:, step] = voltage > _THRESHOLD
            voltage = voltage * (1 - out[:, step])
        return out

    def alpha(self, logits: np.ndarray) -> np.ndarray:
        """Temporal attention (Eqs 5-7): (N, T, C) -> (N, T)."""
        if self.attention == "uniform":
            return np.full(logits.shape[:2], 1 / logits.shape[1])
        query, key = logits @ self.arrays["query"], logits @ self.arrays["key"]
        return softmax(query @ key.transpose(0, 2, 1) / np.sqrt(logits.shape[-1])).mean(axis=1)

    def __call__(self, features: dict[str, np.ndarray]) -> HeadOutput:
        """Decide: feature spikes (N, F, T_m) per modality -> `HeadOutput`."""
        weight, bias = self.arrays["classifier_weight"], self.arrays["classifier_bias"]
        aligned = {m: self.align(m, features[m]) for m in MODALITIES}
        half = aligned["event"].shape[-1]
        part = {"event": aligned["event"] @ weight[:, :half].T, "audio": aligned["audio"] @ weight[:, half:].T}
        logits = {"fused": part["event"] + part["audio"] + bias, **{m: part[m] + bias / 2 for m in MODALITIES}}
        alpha = {u: self.alpha(o) for u, o in logits.items()}
        return HeadOutput({u: (alpha[u][..., None] * o).sum(axis=1) for u, o in logits.items()}, alpha)

    def n_macs(self, n_features: int, steps_in: dict[str, int]) -> int:
        """Multiply-accumulates of one decision on the host (dense count: alignment, classifier, attention)."""
        steps, classes = len(self.arrays["align_event_bias"]), len(self.arrays["classifier_bias"])
        align = sum(3 * steps * steps_in[m] * n_features for m in MODALITIES)
        classify = 2 * n_features * classes * steps
        attend = 2 * steps * classes**2 + steps**2 * classes + steps * classes if self.attention == "taaf" else 0
        return align + classify + attend
