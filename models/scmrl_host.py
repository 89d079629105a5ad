"""The host part of S-CMRL in NumPy float64, without torch, so that it can live inside a Lava process."""

from typing import Any

import numpy as np

from taaf.models.cross_modal import CrossModalOptions, cross_modal, divisor_bits, mac_parts, tokens_of
from taaf.models.errors import BundleError
from taaf.models.fusion import FUSIONS
from taaf.models.host_head import NUMPY_OPS, AlignedHead, HeadOutput, host_lif

_CHOICES = {"fusion": ("concat", "sum"), "cross_modal": ("none", "attention", "residual")}
_SIZES = ("classes", "token_channels", "attention_heads", "mlp_ratio")
_MAX_SIZE = 1 << 16
_BLOCK_VALUES = 1 << 24  # of the attention's products q k^T; bounds memory where tokens are many


class ScmrlHostHead(AlignedHead):
    """Head of S-CMRL (`taaf.models.cross_modal`). Callable on feature spikes.

    Parameters
    ----------
    arrays : dict
        ``align_<m>_weight``, ``align_<m>_bias``; ``<m>_<role>_weight`` and ``_bias`` of every spiking dense layer, on their
        grid; the classifier's arrays (`taaf.models.fusion`, "concat" or "sum").
    spec : dict
        ``type`` "scmrl", ``fusion``, ``classes``, ``token_channels`` (C), ``attention_heads``, ``mlp_ratio``, ``cross_modal``,
        ``residual_alpha``, ``tokens`` (n per modality) and ``modalities``.

    Raises
    ------
    BundleError
        If an array is missing, of the wrong shape, or not finite, or the specification is not understood.
    """

    def __init__(self, arrays: dict[str, np.ndarray], spec: dict[str, Any]) -> None:
        super().__init__(arrays, spec)
        for key, values in _CHOICES.items():
            if spec.get(key) not in values:
                raise BundleError(f"head: {key} {spec.get(key)!r} unknown; allowed {', '.join(values)}")
        told = spec.get("tokens")
        tokens = told if isinstance(told, dict) else {}
        sizes = {k: spec.get(k) for k in _SIZES} | {f"tokens.{m}": tokens.get(m) for m in self.modalities}
        for key, value in sizes.items():
            if type(value) is not int or not 1 <= value <= _MAX_SIZE:
                raise BundleError(f"head: {key} (={str(value)[:40]!r}) must be a whole number from 1 to {_MAX_SIZE}")
        alpha = spec.get("residual_alpha")
        if type(alpha) is not float or not 0 < alpha <= _MAX_SIZE or spec["token_channels"] % spec["attention_heads"]:
            raise BundleError(
                f"head: residual_alpha {str(alpha)[:40]!r} or attention_heads {spec['attention_heads']} not allowed"
            )
        keys = (*_CHOICES, *_SIZES, "residual_alpha")
        self.tokens = {m: int(tokens[m]) for m in self.modalities}
        self.spec = {"type": "scmrl", **{k: spec[k] for k in keys}, "tokens": self.tokens, "modalities": list(self.modalities)}
        s = self.spec
        self.options = CrossModalOptions(
            self.modalities, s["token_channels"], s["attention_heads"], s["mlp_ratio"], s["cross_modal"], alpha
        )
        self.fusion = FUSIONS[s["fusion"]]
        wanted: dict[str, tuple[int, ...]] = self.fusion.shapes(s["token_channels"], s["classes"])
        for name, shape in self.options.projections().items():
            wanted |= {f"{name}_weight": shape, f"{name}_bias": shape[:1]}
        self._check(wanted)

    def n_features(self, modality: str) -> int:
        return 2 * int(self.spec["token_channels"]) * self.tokens[modality]

    def _project(self, name: str, x: np.ndarray) -> np.ndarray:
        y: np.ndarray = x @ self.arrays[f"{name}_weight"].T + self.arrays[f"{name}_bias"]
        return y

    def _joint(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Fused logits per step, (N, T, classes), of a bounded number of windows at once."""
        products = self.options.heads * self.aligned_steps * max(self.tokens.values()) ** 2
        size = max(1, _BLOCK_VALUES // products)
        rows = (slice(start, start + size) for start in range(0, max(1, len(first)), size))
        return np.concatenate([self._block(first[r], second[r]) for r in rows])

    def _block(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        tokens = (tokens_of(x, self.options.channels) for x in (first, second))
        (one, _), (two, _) = cross_modal(self.options, host_lif, self._project, *tokens)
        logits: np.ndarray = self.fusion.outputs(NUMPY_OPS, self.arrays, one, two)[0]
        return logits

    def __call__(self, features: dict[str, np.ndarray]) -> HeadOutput:
        first, second = (self.align(m, features[m]) for m in self.modalities)
        silent = np.zeros_like(first), np.zeros_like(second)
        pairs = ((first, second), (first, silent[1]), (silent[0], second))
        logits = {u: self._joint(*pair) for u, pair in zip(self.outputs, pairs, strict=True)}
        alpha = {u: np.full(o.shape[:2], 1 / o.shape[1]) for u, o in logits.items()}
        return HeadOutput({u: (alpha[u][..., None] * o).sum(axis=1) for u, o in logits.items()}, alpha)

    def fused(self, features: dict[str, np.ndarray]) -> np.ndarray:
        logits = self._joint(*(self.align(m, features[m]) for m in self.modalities))
        readout: np.ndarray = (1 / logits.shape[1] * logits).sum(axis=1)
        return readout

    def mac_parts(self, steps_in: dict[str, int]) -> dict[str, int]:
        steps, (first, second) = self.aligned_steps, self.modalities
        align = sum(3 * steps * steps_in[m] * self.n_features(m) for m in self.modalities)
        parts = mac_parts(self.options, (self.tokens[first], self.tokens[second]), steps)
        readout = steps * self.fusion.n_macs(self.spec["token_channels"], self.spec["classes"])
        return {"alignment": align, **parts, "readout": readout}

    def stages(self) -> list[tuple[str, str]]:
        s = self.spec
        n = " and ".join(f"{n} {m}" for m, n in self.tokens.items())
        bits = "/".join(str(divisor_bits(k, self.aligned_steps)) for k in self.tokens.values())
        crossed = {"residual": f"x + {s['residual_alpha']:g} x_res", "attention": "x_res alone", "none": "none"}[
            s["cross_modal"]
        ]
        return [
            (f"cross-modal: {crossed}", f"{n} tokens, {s['attention_heads']} heads, CCSSA / 2^{bits}"),
            (f"MLP, readout: {s['fusion']}", f"ratio {s['mlp_ratio']}, mean over {self.aligned_steps} steps"),
        ]
