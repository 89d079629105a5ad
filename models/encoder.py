"""The encoder of a real-valued input: a convolution and its LIF on the host, in integers, so that its spikes are the same
everywhere. They are the input of the chip.

    x_q(t) = clip(round(x(t) S), -128, 127)
    u(t) = 64 / S  sum W x_q(t)
    v(t) = tz(v(t-1) (4096 - v_decay) / 4096) + u(t) + 64 bias;   s(t) = v(t) > 64 v_th_mant;   v(t) = 0 where s(t)

with tz = truncation toward zero and W even integers, as on the chip; S, a power of two up to 64, is the number of input
levels per unit. Where the bound ``128 sum |W| < 2^24`` holds, float32 sums are exact in any order; float64 otherwise.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from taaf.models.errors import BundleError

LEVELS = (-128, 127)
MAX_WEIGHTS = 1 << 24
MAX_FIELD = 127  # kernel, stride and padding, as on the chip
MAX_INPUT = 1 << 24  # values of one time step
_FIELDS = {
    "scale": (1, 64), "stride": (1, MAX_FIELD), "padding": (0, MAX_FIELD), "v_decay": (0, 4096), "v_th_mant": (1, 131_071)
}  # fmt: skip
_WEIGHT_RANGE, _BIAS_LIMIT = (-256, 254), 4096
_BLOCK_BYTES = 1 << 26  # of unfolded patches; bounds memory


def to_levels(x: np.ndarray, scale: int) -> np.ndarray:
    """Real values -> int8 input levels of the same shape: round(x S), clipped to -128..127."""
    levels: np.ndarray = np.clip(np.rint(x.astype(np.float32) * np.float32(scale)), *LEVELS).astype(np.int8)
    return levels


@dataclass(frozen=True, eq=False)
class HostEncoder:
    """Input levels (N, C, H, W, T) -> spikes (N, C', H', W', T).

    Attributes
    ----------
    weight : numpy.ndarray
        (C', C, kH, kW) integers in [-256, 254].
    bias : numpy.ndarray
        (C',) integers.
    input_shape : tuple of int
        (C, H, W).
    scale : int
        Input levels per unit.
    stride, padding : int
        Of the convolution, the same in both directions.
    v_decay, v_th_mant : int
        Of the LIF; it has no current memory.

    Raises
    ------
    BundleError
        If a value is outside its limits.
    """

    weight: np.ndarray
    bias: np.ndarray
    input_shape: tuple[int, int, int]
    scale: int
    stride: int
    padding: int
    v_decay: int
    v_th_mant: int

    def __post_init__(self) -> None:
        if problem := self._array_problem() or self._field_problem() or self._value_problem():
            raise BundleError(f"encoder: {problem}; export the bundle again")

    def _array_problem(self) -> str | None:
        w, shape = self.weight, self.input_shape
        if len(shape) != 3 or any(type(n) is not int or not 1 <= n <= MAX_INPUT for n in shape) or math.prod(shape) > MAX_INPUT:
            return f"input shape {shape}; allowed (C, H, W) of up to {MAX_INPUT} values"
        if w.ndim != 4 or not 0 < w.size <= MAX_WEIGHTS or w.dtype.kind != "i" or w.shape[1] != shape[0]:
            return f"weights {w.dtype} {w.shape}; allowed integers (C', {shape[0]}, kH, kW), up to {MAX_WEIGHTS}"
        if self.bias.shape != w.shape[:1] or self.bias.dtype.kind != "i":
            return f"bias {self.bias.dtype} {self.bias.shape}; allowed integers {w.shape[:1]}"
        return None

    def _field_problem(self) -> str | None:
        for key, (low, high) in _FIELDS.items():
            value = getattr(self, key)
            if type(value) is not int or not low <= value <= high:
                return f"{key} {value!r}; allowed {low}..{high}"
        if self.scale & (self.scale - 1):
            return f"scale {self.scale}; allowed powers of two"
        if max(self.weight.shape[2:]) > MAX_FIELD or min(self.map_shape) < 1:
            return f"kernel {self.weight.shape[2:]} on an input {self.input_shape}"
        return None

    def _value_problem(self) -> str | None:
        w, bias = self.weight, int(np.abs(self.bias.astype(np.int64)).max())
        if w.min() < _WEIGHT_RANGE[0] or w.max() > _WEIGHT_RANGE[1] or (w % 2).any() or bias > _BIAS_LIMIT:
            return f"weights {w.min()}..{w.max()} (allowed even ones in {_WEIGHT_RANGE}), bias up to {bias}"
        return None

    @property
    def peak(self) -> int:
        """Largest |u + 64 bias| of a step; training, in float32, holds v exactly below 2^24, this module always."""
        bias = int(np.abs(self.bias.astype(np.int64)).max())
        return 64 // self.scale * self._highest_sum() + 64 * bias

    def _highest_sum(self) -> int:
        """Largest |sum W x_q| of any output."""
        return -LEVELS[0] * int(np.abs(self.weight.astype(np.int64)).sum(axis=(1, 2, 3)).max())

    @property
    def map_shape(self) -> tuple[int, int]:
        """(H', W')."""
        height, width = (
            (n + 2 * self.padding - k) // self.stride + 1
            for n, k in zip(self.input_shape[1:], self.weight.shape[2:], strict=True)
        )
        return height, width

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(C', H', W')."""
        return (len(self.weight), *self.map_shape)

    @property
    def n_macs(self) -> int:
        """Multiply-accumulates of one time step (dense count, padding included)."""
        return int(self.weight.size * np.prod(self.map_shape))

    def __call__(self, levels: np.ndarray) -> np.ndarray:
        """Input levels int8 (N, C, H, W, T) (`to_levels`) -> spikes uint8 (N, C', H', W', T)."""
        if levels.ndim != 5 or levels.shape[1:4] != self.input_shape or levels.dtype != np.int8:
            wanted = ", ".join(map(str, self.input_shape))
            raise BundleError(f"encoder: input {levels.dtype} {levels.shape}; allowed int8 (N, {wanted}, T)")
        out = np.zeros((len(levels), levels.shape[-1], *self.output_shape), np.uint8)
        for window, spikes in zip(levels, out, strict=True):
            self._window(window, spikes)
        return np.moveaxis(out, 1, -1)

    def _window(self, levels: np.ndarray, spikes: np.ndarray) -> None:
        v = np.zeros(self.output_shape, np.int64)
        bias = 64 * self.bias.astype(np.int64)[:, None, None]
        drive, before = np.zeros(0, np.int64), None
        for step in range(levels.shape[-1]):
            frame = levels[..., step]
            if before is None or not np.array_equal(frame, before):  # a spectrogram is the same at every step
                drive, before = 64 // self.scale * self._sums(frame), frame
            v = np.sign(v) * (np.abs(v) * (4096 - self.v_decay) >> 12) + drive + bias
            fired = v > 64 * self.v_th_mant
            v[fired] = 0
            spikes[step] = fired

    def _sums(self, frame: np.ndarray) -> np.ndarray:
        """sum W x_q for one time step, exact: (C, H, W) -> int64 (C', H', W')."""
        dtype = np.float32 if self._highest_sum() < 1 << 24 else np.float64
        kernel = self.weight.shape[2:]
        padded = np.pad(frame.astype(dtype), ((0, 0), (self.padding,) * 2, (self.padding,) * 2))
        patches = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2))[:, :: self.stride, :: self.stride]  # type: ignore[call-overload]
        patches = patches.transpose(1, 2, 0, 3, 4)  # (H', W', C, kH, kW)
        weight = self.weight.reshape(len(self.weight), -1).astype(dtype)
        height, width = self.map_shape
        out = np.empty((height, width, len(weight)), np.int64)
        rows = max(1, _BLOCK_BYTES // (width * weight.shape[1] * np.dtype(dtype).itemsize))
        for row in range(0, height, rows):
            block = patches[row : row + rows]
            out[row : row + rows] = block.reshape(*block.shape[:2], -1) @ weight.T
        return out.transpose(2, 0, 1)

    def arrays(self) -> dict[str, np.ndarray]:
        """What the bundle stores as plain arrays."""
        return {"weight": self.weight.astype(np.int16), "bias": self.bias.astype(np.int16)}

    def spec(self) -> dict[str, Any]:
        """What the bundle's manifest says beside the arrays."""
        return {"input_shape": list(self.input_shape), **{k: getattr(self, k) for k in _FIELDS}}

    @staticmethod
    def from_bundle(arrays: dict[str, np.ndarray], spec: dict[str, Any]) -> "HostEncoder":
        """Inverse of `arrays` and `spec`, of values that nobody vouches for."""
        shape = spec.get("input_shape")
        if {"weight", "bias"} - arrays.keys() or not isinstance(shape, list):
            raise BundleError("encoder: weight, bias or input_shape missing; export the bundle again")
        return HostEncoder(arrays["weight"], arrays["bias"], tuple(shape), **{k: spec.get(k) for k in _FIELDS})  # type: ignore[arg-type]
