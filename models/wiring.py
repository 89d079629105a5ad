"""A network's wiring, written once: what is trained, what is compiled and what is counted are readings of it.

    stem  = x.conv("stem", 8, 3, stride=2).lif("stem_lif", v_th=64)
    inner = stem.conv("block1", 16, 3, stride=2).lif("block1_lif")
    outer = (inner.conv("block2", 16, 3) + stem.conv("shortcut", 16, 1, stride=2)).lif("block2_lif")
    outer.flatten().dense("readout", 128).lif("readout_lif")

`Spikes` go into synapses, synapses give a `Current`, currents are added and end in neurons: a wiring that mixes them is not
well typed. The threshold is said once, at the neurons. Of a real-valued input the first synapse and its neurons are the
encoder on the host (`taaf.models.encoder`); everything behind it is on the chip.

Shapes are (C, H, W) or (F,), without batch and time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from taaf.models.errors import ConfigError
from taaf.models.lif import LifParameters
from taaf.models.settings import MAX_SIZE, Range

Shape = tuple[int, ...]
V_TH = 128  # below the weight of a relay, which must fire at once
_COUNT = Range(1, MAX_SIZE)


@dataclass(frozen=True)
class Operation:
    """One step of a wiring: what it reads, and the shape it gives."""

    name: str
    sources: tuple[str, ...]
    shape: Shape


@dataclass(frozen=True)
class Entry(Operation):
    """The input."""


@dataclass(frozen=True)
class Convolution(Operation):
    """Square odd kernel, padding ``kernel // 2``, batch norm of initial gain ``gain``."""

    kernel: int
    stride: int
    gain: float


@dataclass(frozen=True)
class FullyConnected(Operation):
    """With batch norm; ``over_map``: the same weights at every position of a map, summed."""

    gain: float
    over_map: bool = False


@dataclass(frozen=True)
class Recurrence(Operation):
    """Fully connected with batch norm, and from the fed neurons' own spikes of the step before, without."""

    gain: float


@dataclass(frozen=True)
class Identity(Operation):
    """One threshold of current per spike."""


@dataclass(frozen=True)
class Addition(Operation):
    """Sum of currents."""


@dataclass(frozen=True)
class Neurons(Operation):
    """A LIF population."""

    parameters: LifParameters


@dataclass(frozen=True)
class Flattening(Operation):
    """(C, H, W) -> (C H W,)."""


@dataclass(frozen=True)
class MaxPool(Operation):
    """OR of spikes."""

    kernel: int
    stride: int
    padding: int


@dataclass(frozen=True)
class Beside(Operation):
    """Spikes beside each other, channel by channel."""


AnyOperation = TypeVar("AnyOperation", bound=Operation)


class Wiring:
    """The operations in the order in which they were wired.

    Parameters
    ----------
    shape : tuple of int
        Of the input, (C, H, W) or (F,).
    wire : callable
        Takes the input `Spikes` and returns the spikes that leave the network.
    real : bool
        The input holds real numbers: its first synapse and neurons are the encoder on the host.

    Raises
    ------
    ConfigError
        If a layer does not fit what it reads, or two have one name.

    Examples
    --------
    >>> w = Wiring((2, 8, 8), lambda x: x.conv("a", 4, 3).lif("a_lif").flatten().dense("b", 5).lif("b_lif"))
    >>> w.output.shape
    (5,)
    """

    def __init__(self, shape: Shape, wire: "Callable[[Spikes], Spikes]", real: bool = False) -> None:
        self.operations: dict[str, Operation] = {}
        self.real = real
        found = wire(Spikes(self, self.add(Entry("input", (), shape))))
        if not isinstance(found, Spikes):
            raise ConfigError(f"the network's function returned {type(found).__name__}; it must return spikes (of .lif(...))")
        self.output = self.operations[found.name]
        if self.output is not list(self.operations.values())[-1]:
            raise ConfigError(f"the network returns {found.name}, but {list(self.operations)[-1]} was wired after it")
        for o in self.operations.values():
            if isinstance(o, Recurrence) and not [type(r) for r in self.readers(o.name)] == [Neurons]:
                raise ConfigError(f"{o.name}: a recurrent current goes straight into one .lif(...), with nothing added to it")
        if real and (self.boundary == "input" or not isinstance(self.operations[self.first_synapse], Convolution)):
            raise ConfigError(
                "real numbers at the input: the first layer must be one convolution with its neurons (the encoder)"
            )

    def add(self, operation: AnyOperation) -> AnyOperation:
        """Append an operation; its name must be new."""
        if operation.name in self.operations:
            raise ConfigError(f"{operation.name}: two layers have this name")
        self.operations[operation.name] = operation
        return operation

    def readers(self, name: str) -> list[Operation]:
        """Operations that read ``name``."""
        return [o for o in self.operations.values() if name in o.sources]

    def fed(self, name: str) -> Neurons:
        """The neurons in which a synapse's current ends."""
        operation = self.operations[name]
        while not isinstance(operation, Neurons):
            readers = self.readers(operation.name)
            if len(readers) != 1:
                raise ConfigError(f"{operation.name}: its current goes to {len(readers)} places; it must end in one .lif(...)")
            operation = readers[0]
        return operation

    def currents(self, neurons: Neurons) -> list[Operation]:
        """Synapses and sums whose current ends in a population, in order."""
        found, todo = set(), list(neurons.sources)
        while todo:
            operation = self.operations[todo.pop()]
            found.add(operation.name)
            todo += operation.sources if isinstance(operation, Addition) else ()
        return [o for o in self.operations.values() if o.name in found]

    @property
    def first_synapse(self) -> str:
        """Name of the operation that reads the input."""
        return self.readers("input")[0].name

    @property
    def boundary(self) -> str:
        """Whose spikes are the chip's input: the wiring's input, or the encoder's neurons."""
        readers = self.readers("input")
        if not self.real or len(readers) != 1:
            return "input"
        neurons = self.readers(readers[0].name)
        return neurons[0].name if len(neurons) == 1 and isinstance(neurons[0], Neurons) else "input"

    @property
    def on_chip(self) -> list[Operation]:
        """Operations behind `boundary`, in order."""
        host = {"input", self.boundary, *((self.first_synapse,) if self.real else ())}
        return [o for o in self.operations.values() if o.name not in host]


@dataclass(frozen=True)
class _Value:
    wiring: Wiring
    operation: Operation

    @property
    def name(self) -> str:
        return self.operation.name

    @property
    def shape(self) -> Shape:
        return self.operation.shape

    def _map(self, name: str) -> Shape:
        if len(self.shape) != 3:
            raise ConfigError(f"{name}: reads {self.name} of shape {self.shape}; allowed (C, H, W)")
        return self.shape

    def _current(self, operation: Operation) -> "Current":
        return Current(self.wiring, self.wiring.add(operation))

    def _spikes(self, operation: Operation) -> "Spikes":
        return Spikes(self.wiring, self.wiring.add(operation))


def _require(name: str, ranges: Range = _COUNT, **values: int) -> None:
    """Raise `ConfigError` for a value outside its range; a network of one's own may say anything."""
    for key, value in values.items():
        problem = ranges.problem(value) if type(value) is int else f"expected a whole number, found {type(value).__name__}"
        if problem:
            raise ConfigError(f"{name}: {key} (={str(value)[:40]}): {problem}")


def _sides(name: str, shape: Shape, kernel: int, stride: int, padding: int) -> Shape:
    found = tuple((n + 2 * padding - kernel) // stride + 1 for n in shape[1:])
    if min(found) < 1:
        raise ConfigError(f"{name}: a {kernel}x{kernel} window is larger than the padded map {shape}")
    return found


class Spikes(_Value):
    """Binary values on their way (or, of a real-valued input, the levels of its encoder)."""

    def conv(self, name: str, channels: int, kernel: int, stride: int = 1, gain: float = 1.0) -> "Current":
        """Convolution: square odd kernel, padding ``kernel // 2``, batch norm; (C, H, W) -> (channels, H', W')."""
        _require(name, channels=channels, kernel=kernel, stride=stride)
        if kernel % 2 == 0:
            raise ConfigError(f"{name}: kernel (={kernel}) must be odd")
        sides = _sides(name, self._map(name), kernel, stride, kernel // 2)
        return self._current(Convolution(name, (self.name,), (channels, *sides), kernel, stride, gain))

    def dense(self, name: str, features: int, gain: float = 1.0) -> "Current":
        """Fully connected with batch norm; (F,) -> (features,)."""
        _require(name, features=features)
        if len(self.shape) != 1:
            raise ConfigError(f"{name}: reads {self.name} of shape {self.shape}; flatten() it first, or dense_over_map()")
        return self._current(FullyConnected(name, (self.name,), (features,), gain))

    def dense_over_map(self, name: str, features: int, gain: float = 1.0) -> "Current":
        """The same fully connected weights at every position, summed; (C, H, W) -> (features,)."""
        _require(name, features=features)
        self._map(name)
        return self._current(FullyConnected(name, (self.name,), (features,), gain, over_map=True))

    def recurrent(self, name: str, features: int, gain: float = 1.0) -> "Current":
        """`dense`, plus synapses from the fed neurons' own spikes one step before; must go straight into ``.lif(...)``."""
        _require(name, features=features)
        if len(self.shape) != 1:
            raise ConfigError(f"{name}: reads {self.name} of shape {self.shape}; flatten() it first")
        return self._current(Recurrence(name, (self.name,), (features,), gain))

    def through(self, name: str) -> "Current":
        """One threshold per spike: the identity shortcut of a residual block."""
        return self._current(Identity(name, (self.name,), self.shape))

    def max_pool(self, name: str, kernel: int = 3, stride: int = 2, padding: int = 1) -> "Spikes":
        """The maximum of spikes: their OR."""
        _require(name, kernel=kernel, stride=stride)
        _require(name, Range(0, kernel // 2), padding=padding)
        sides = _sides(name, self._map(name), kernel, stride, padding)
        return self._spikes(MaxPool(name, (self.name,), (self.shape[0], *sides), kernel, stride, padding))

    def beside(self, other: "Spikes", name: str) -> "Spikes":
        """Own channels, then those of ``other``."""
        if self.shape[1:] != other.shape[1:]:
            raise ConfigError(f"{name}: {self.shape} and {other.shape} do not lie beside each other")
        shape = (self.shape[0] + other.shape[0], *self.shape[1:])
        return self._spikes(Beside(name, (self.name, other.name), shape))

    def flatten(self, name: str = "flatten") -> "Spikes":
        """(C, H, W) -> (C H W,), C order; what is flat stays."""
        if len(self.shape) == 1:
            return self
        return self._spikes(Flattening(name, (self.name,), (math.prod(self.shape),)))


class Current(_Value):
    """Sum of synaptic currents on its way to its neurons."""

    def __add__(self, other: "Current") -> "Current":
        if not isinstance(other, Current):
            return NotImplemented
        if self.shape != other.shape:
            raise ConfigError(f"{self.name} + {other.name}: {self.shape} != {other.shape}")
        return self._current(Addition(f"{self.name}_{other.name}", (self.name, other.name), self.shape))

    def lif(self, name: str, v_th: int = V_TH, v_decay: int = 2048, i_decay: int = 4096) -> Spikes:
        """LIF neurons with a hard reset (`taaf.models.slayer_lif`): threshold mantissa, a power of two, and decays of 4096."""
        _require(name, Range(1, MAX_SIZE, power_of_two=True), v_th=v_th)
        _require(name, Range(0, 4096), v_decay=v_decay)
        _require(name, Range(1, 4096), i_decay=i_decay)
        return self._spikes(Neurons(name, (self.name,), self.shape, LifParameters(i_decay, v_decay, v_th)))
