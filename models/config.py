"""What a network is: branches by name and a head, as stored in checkpoints and training configurations.

[branches.event]                 any number of branches, any names
network = "conv"                 a name of `taaf.models.networks`, or "module:function"
shape = [2, 34, 34]              of one time step of its input; left out: as the data set gives it
steps = 8
channels = 8                     the network's own settings

[head]
type = "taaf"                    a name of `taaf.models.heads`
classes = 10
fusion = "concat"                the head's own settings
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

from taaf.models.errors import ConfigError, TaafError, did_you_mean
from taaf.models.heads import find_head
from taaf.models.heads.base import Features, Head
from taaf.models.networks import find_network
from taaf.models.settings import Range, keywords, read_dataclass, read_settings
from taaf.models.wiring import Wiring

MAX_STEPS = 1024
MAX_SCALE = 64  # of an encoder: a current is then a multiple of the chip's own unit
MAX_INPUT = 1 << 24  # values of one time step
MODALITY = re.compile(r"[a-z][a-z0-9_]{0,31}")  # names of branches, which become names of files


@dataclass(frozen=True)
class NeuronConfig:
    """``[neuron]``: the surrogate derivative ``scale exp(-|v - 1| / width)`` of the neurons on the chip, v in thresholds."""

    surrogate_width: float = 0.5
    surrogate_scale: float = 1.0


@dataclass(frozen=True)
class InputSpec:
    """What a network takes of one modality.

    Attributes
    ----------
    shape : tuple of int
        Of one time step; empty: as the data set gives it.
    steps : int
        Time steps of a window; 0: as the data set gives it.
    scale : int
        Levels per unit of a real-valued input, a power of two up to 64 (32 covers -4..3.97, 8 covers -16..15.9); 0: spikes.
    """

    shape: tuple[int, ...] = ()
    steps: Annotated[int, Range(0, MAX_STEPS)] = 0
    scale: Annotated[int, Range(0, MAX_SCALE, power_of_two=True)] = 0


@dataclass(frozen=True)
class BranchConfig:
    """``[branches.NAME]``: input, network and the network's own settings."""

    network: str
    input: InputSpec
    options: Mapping[str, Any] = field(default_factory=dict)

    def wiring(self) -> Wiring:
        """The branch's wiring; raises `ConfigError` if its layers do not fit its input, or a function of one's own fails."""
        wire = find_network(self.network)
        try:
            return Wiring(self.input.shape, lambda x: wire(x, **self.options), real=self.input.scale > 0)
        except TaafError:
            raise
        except Exception as error:  # whatever the user's function does
            raise ConfigError(f"network {self.network[:80]}: {type(error).__name__}: {error}") from error

    @property
    def scale(self) -> int | None:
        """Levels per unit of a real-valued input; None for spikes."""
        return self.input.scale or None

    def to_dict(self) -> dict[str, Any]:
        return {"network": self.network, **asdict(self.input), **self.options, "shape": list(self.input.shape)}


@dataclass(frozen=True)
class HeadConfig:
    """``[head]``: its type, the number of classes, and the head's own settings."""

    type: str
    classes: int
    options: Any

    def to_dict(self) -> dict[str, Any]:
        return {"type": self.type, "classes": self.classes, **asdict(self.options)}


@dataclass(frozen=True)
class NetworkConfig:
    """The whole network. Equal configurations make equal networks.

    Examples
    --------
    >>> config = NetworkConfig.from_dict({"branches": {"event": {"network": "dense", "shape": [20], "steps": 5}},
    ...                                   "head": {"type": "taaf", "classes": 3}})
    >>> config.modalities, config.inputs["event"].steps
    (('event',), 5)
    """

    branches: Mapping[str, BranchConfig]
    head: HeadConfig
    neuron: NeuronConfig

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the branches, in order."""
        return tuple(self.branches)

    @property
    def inputs(self) -> dict[str, InputSpec]:
        """What each branch takes."""
        return {m: b.input for m, b in self.branches.items()}

    @property
    def window_steps(self) -> int:
        """Steps of a window: those of the longest branch."""
        return max(b.input.steps for b in self.branches.values())

    def build_head(self) -> Head:
        """The head on the branches' feature spikes; raises `ConfigError` if they do not fit together."""
        features = {}
        for m, b in self.branches.items():
            try:
                features[m] = Features(b.wiring().output.shape, b.input.steps)
            except ConfigError as error:
                raise ConfigError(f"branches.{m}: {error}") from error
        return find_head(self.head.type)(features, self.head.classes, self.head.options)

    def completed(self, found: Mapping[str, InputSpec]) -> "NetworkConfig":
        """With shapes and steps that were left out taken from what a data set gives."""
        branches = {}
        for m, b in self.branches.items():
            given = found.get(m, InputSpec())
            spec = replace(b.input, shape=b.input.shape or given.shape, steps=b.input.steps or given.steps)
            branches[m] = replace(b, input=spec)
        return replace(self, branches=branches)

    def check(self) -> "NetworkConfig":
        """This configuration, whose parts fit together; raises `ConfigError` otherwise."""
        for m, b in self.branches.items():
            if not b.input.shape or not b.input.steps:
                raise ConfigError(
                    f"branches.{m}: shape and steps of its input are needed; found {b.input.shape}, {b.input.steps}"
                )
        self.build_head()
        return self

    def to_dict(self) -> dict[str, Any]:
        branches = {m: b.to_dict() for m, b in self.branches.items()}
        return {"branches": branches, "head": self.head.to_dict(), "neuron": asdict(self.neuron)}

    @staticmethod
    def from_dict(values: Mapping[str, Any], where: str = "config") -> "NetworkConfig":
        """From tables ``branches``, ``head`` and ``neuron``; those left out are the reference model's.

        Raises
        ------
        ConfigError
            Naming the key that is unknown or holds what is not allowed, and the nearest that is.
        """
        branches = values.get("branches", REFERENCE["branches"])
        if not isinstance(branches, Mapping) or not branches:
            raise ConfigError(f"{where}: [branches.NAME]: expected one table per modality, at least one")
        found = {name: _branch(name, table, f"{where}: branches.{name}") for name, table in branches.items()}
        head = _head(values.get("head", REFERENCE["head"]), f"{where}: head")
        return NetworkConfig(found, head, read_dataclass(NeuronConfig, values.get("neuron", {}), f"{where}: neuron"))


def _branch(name: str, table: Any, where: str) -> BranchConfig:
    if not MODALITY.fullmatch(name):
        raise ConfigError(f"{where}: the name has to be up to 32 lower-case letters, digits and _, from a letter on")
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: found {type(table).__name__}, expected a table")
    network = table.get("network")
    if not isinstance(network, str):
        raise ConfigError(f'{where}.network: missing; name a network, e.g. "conv" or "module:function"')
    wire = find_network(network, f"{where}.network")
    own = keywords(InputSpec)
    if unknown := [k for k in table if k not in own and k != "network" and k not in keywords(wire)]:
        raise ConfigError(f"{where}.{unknown[0]}: unknown key; {did_you_mean(unknown[0], ['network', *own, *keywords(wire)])}")
    spec = read_dataclass(InputSpec, {k: v for k, v in table.items() if k in own}, where)
    size = 1
    for n in spec.shape:
        size *= n
    if len(spec.shape) not in (0, 1, 3) or size > MAX_INPUT:
        raise ConfigError(f"{where}.shape (={list(spec.shape)}): allowed [C, H, W] or [F], up to {MAX_INPUT} values")
    return BranchConfig(network, spec, read_settings(wire, {k: v for k, v in table.items() if k in keywords(wire)}, where))


def _head(table: Any, where: str) -> HeadConfig:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: found {type(table).__name__}, expected a table")
    kind, classes = table.get("type", "taaf"), table.get("classes", 10)
    options = find_head(kind, f"{where}.type").options_type
    if type(classes) is not int or problem_of(classes, 0):
        raise ConfigError(f"{where}.classes (={str(classes)[:40]!r}): {problem_of(classes, 0) or 'expected a whole number'}")
    told = {k: v for k, v in table.items() if k not in ("type", "classes")}
    return HeadConfig(kind, classes, read_dataclass(options, told, where))


def problem_of(value: Any, low: int) -> str | None:
    """Why ``value`` is no count from ``low`` on, or None."""
    return Range(low, 1 << 16).problem(value) if type(value) is int else "expected a whole number"


REFERENCE: dict[str, Any] = {
    "branches": {
        "event": {"network": "conv", "shape": [2, 34, 34], "steps": 8},
        "audio": {"network": "dense", "shape": [160], "steps": 12},
    },
    "head": {"type": "taaf", "classes": 10},
}
