"""The nodes of a graph: input, synapses, neurons, and what the compiler removes. Meaning: `taaf.models.ir.graph`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

Shape = tuple[int, ...]
PerChannel = int | np.ndarray  # one value for all neurons, or (C,) one per channel (per neuron of a flat layer)
MAX_DELAY = 62  # steps; what NetX keeps, it clamps larger ones


def spread(value: PerChannel, shape: Shape) -> np.ndarray:
    """``value`` as int64, such that it broadcasts over neurons of ``shape`` (C, H, W) or (F,)."""
    array = np.asarray(value, np.int64)
    return array.reshape(-1, *[1] * (len(shape) - 1)) if array.ndim == 1 else array


@dataclass(frozen=True, eq=False)
class Node:
    """Anything with a name, unique in its graph."""

    name: str

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output for these input shapes; raises `ValueError` with the reason if they do not fit."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Input(Node):
    """Binary spikes from the host, shape (C, H, W) or (F,)."""

    shape: Shape

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        return self.shape


@dataclass(frozen=True, eq=False)
class Conv2d(Node):
    """2-D cross-correlation; weight (C', C / groups, kH, kW); pairs are (height, width)."""

    weight: np.ndarray
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: np.ndarray | None = None  # float stage only

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        (shape,) = inputs
        if len(shape) != 3:
            raise ValueError(f"a convolution takes (C, H, W), found {shape}")
        if self.weight.ndim != 4 or self.weight.size == 0:
            raise ValueError(f"weight {self.weight.shape} is not (C', C / groups, kH, kW)")
        if min(*self.stride, *self.dilation, self.groups) < 1 or min(self.padding) < 0:
            given = f"stride {self.stride}, dilation {self.dilation}, groups {self.groups}, padding {self.padding}"
            raise ValueError(f"{given}: allowed from 1 (padding from 0)")
        c_out, c_in, *kernel = self.weight.shape
        if shape[0] != c_in * self.groups or c_out % self.groups:
            raise ValueError(f"{shape[0]} channels arrive, the weight takes {c_in} x {self.groups} groups")
        size = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(shape[1:], self.padding, self.dilation, kernel, self.stride, strict=True)
        ]
        if min(size) < 1:
            raise ValueError(f"kernel {tuple(kernel)} is larger than the padded input {shape}")
        return (c_out, *size)


@dataclass(frozen=True, eq=False)
class Dense(Node):
    """Fully connected; weight (F', F).

    Attributes
    ----------
    delay : numpy.ndarray or None
        Further steps a spike takes through each synapse, 0..62: ``a_i(t) = sum_j W_ij s_j(t - delay_ij)``. An integer
        array that broadcasts to (F', F): (F', 1) delays what arrives at a target (what NetX does with slayer's axonal
        delays), (1, F) what leaves a source.
    """

    weight: np.ndarray
    bias: np.ndarray | None = None  # float stage only
    delay: np.ndarray | None = field(default=None, kw_only=True)

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        (shape,) = inputs
        if self.weight.ndim != 2 or self.weight.size == 0:
            raise ValueError(f"weight {self.weight.shape} is not (F', F)")
        if self.delay is not None:
            axes = zip(self.delay.shape, self.weight.shape, strict=False)
            if self.delay.ndim != 2 or any(d not in (1, n) for d, n in axes):
                raise ValueError(f"delay {self.delay.shape} does not broadcast to {self.weight.shape}")
            if self.delay.min() < 0 or self.delay.max() > MAX_DELAY:
                raise ValueError(f"delays of {self.delay.min()}..{self.delay.max()} steps; allowed 0..{MAX_DELAY}")
        if len(shape) != 1 or shape[0] != self.weight.shape[1]:
            raise ValueError(f"{shape} != ({self.weight.shape[1]},)")
        return (self.weight.shape[0],)


@dataclass(frozen=True, eq=False)
class RecurrentDense(Dense):
    """Fully connected, plus ``weight_rec`` (F', F') from the fed LIF's own spikes of the step before."""

    weight_rec: np.ndarray = None  # type: ignore[assignment]

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        (n,) = super().out_shape(inputs)
        if self.delay is not None:
            raise ValueError("a recurrent layer with delays; NetX loses the scale of its weights, so there are none")
        if self.weight_rec.shape != (n, n):
            raise ValueError(f"weight_rec {self.weight_rec.shape} != {(n, n)}")
        return (n,)


@dataclass(frozen=True, eq=False)
class BatchNorm(Node):
    """Per-channel y = gain (x - mean) / sqrt(var + eps) + offset; float stage only."""

    gain: np.ndarray
    offset: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    eps: float = 1e-5

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        (shape,) = inputs
        if shape[0] != len(self.gain):
            raise ValueError(f"{shape[0]} channels != {len(self.gain)}")
        return shape


@dataclass(frozen=True, eq=False)
class Pool2d(Node):
    """Pooling over windows of ``kernel``, every ``stride`` (None: the kernel), of a map padded with silence.

    ``kind`` "max" takes spikes and gives spikes, their OR: it may stand in an integer graph. "sum" and "average" take spikes
    and give a current; they belong to the float stage.
    """

    kind: str
    kernel: tuple[int, int]
    stride: tuple[int, int] | None = None
    padding: tuple[int, int] = (0, 0)

    @property
    def step(self) -> tuple[int, int]:
        """The stride, also where it is the kernel's size."""
        return self.stride or self.kernel

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        (shape,) = inputs
        if len(shape) != 3:
            raise ValueError(f"pooling takes (C, H, W), found {shape}")
        if min(*self.kernel, *self.step) < 1 or any(
            not 0 <= p <= k // 2 for p, k in zip(self.padding, self.kernel, strict=True)
        ):
            raise ValueError(
                f"pooling with kernel {self.kernel}, stride {self.step}, padding {self.padding} (up to half a kernel)"
            )
        size = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(shape[1:], self.padding, self.kernel, self.step, strict=True)]
        if min(size) < 1:
            raise ValueError(f"pooling window {self.kernel} is larger than the padded input {shape}")
        return (shape[0], *size)


@dataclass(frozen=True, eq=False)
class Concat(Node):
    """Spikes beside each other along the channels: (C1, H, W), (C2, H, W), ... -> (C1 + C2 + ..., H, W); flat ones likewise."""

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        if len({shape[1:] for shape in inputs}) != 1:
            raise ValueError(" and ".join(map(str, inputs)) + " do not lie beside each other")
        return (sum(shape[0] for shape in inputs), *inputs[0][1:])


@dataclass(frozen=True, eq=False)
class Sum(Node):
    """Elementwise sum of synaptic currents (the join of a residual block)."""

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        if len(set(inputs)) != 1:
            raise ValueError(" != ".join(map(str, inputs)))
        return inputs[0]


@dataclass(frozen=True, eq=False)
class Flatten(Node):
    """(C, H, W) -> (C H W,), C order."""

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (int(np.prod(inputs[0])),)


@dataclass(frozen=True, eq=False)
class Lif(Node):
    """Leaky integrate-and-fire neurons, hard reset; integers as on the chip.

    Attributes
    ----------
    i_decay, v_decay : int or numpy.ndarray
        1..4096 and 0..4096; 4096 forgets everything in one step. One for all neurons or one per channel.
    v_th_mant : int or numpy.ndarray
        1..131071; threshold is ``64 v_th_mant``. One for all neurons or one per channel.
    bias : numpy.ndarray or None
        Bias mantissa per channel (or neuron of a flat layer), or per neuron in the layer's shape, -4096..4095; added to v
        as ``64 bias`` every step.
    """

    i_decay: PerChannel = 4096
    v_decay: PerChannel = 2048
    v_th_mant: PerChannel = 64
    bias: np.ndarray | None = None

    def out_shape(self, inputs: Sequence[Shape]) -> Shape:
        (shape,) = inputs
        if self.bias is not None and self.bias.shape not in ((shape[0],), shape):
            raise ValueError(f"bias {self.bias.shape} != ({shape[0]},)")
        for name in ("i_decay", "v_decay", "v_th_mant"):
            found = np.shape(getattr(self, name))
            if found not in ((), (shape[0],)):
                raise ValueError(f"{name} {found} is neither one value nor ({shape[0]},)")
        return shape
