"""One published measurement: a network on a chip, what it had to do, and the energies and times that were measured.

What was to be done is said per layer and per inference, as a number or as an interval [lowest, highest]:

- "counted": by our engine, from weights and input spikes that are public;
- "derived": from the published architecture and rates, with the arithmetic shown;
- "bounded": the architecture is published, the spikes are not.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import tomli

from taaf.hw_sim.measurements import measurement_names
from taaf.models.errors import ConfigError

Interval = tuple[float, float]
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Layer:
    """A population with its incoming synapses.

    Attributes
    ----------
    kind : str
        Format of its synapses.
    spikes_in, spikes_out, synops : (float, float)
        Lowest and highest per inference; equal where they are known.
    cores : int or None
        Published cores; None if they are not.
    """

    name: str
    kind: Literal["conv", "dense"]
    neurons: int
    spikes_in: Interval
    spikes_out: Interval
    synops: Interval
    cores: int | None = None


@dataclass(frozen=True)
class Run:
    """Measured figures of one run, per inference.

    Attributes
    ----------
    dynamic_uj, total_uj : float or None
        Over static (or idle) power, and with it.
    step_us : float or None
        Time of one time step.
    steps : int or None
        Where they differ from those of the measurement.
    rate : float
        Factor on spikes and SynOps of the layers.
    """

    name: str
    conditions: str
    dynamic_uj: float | None = None
    total_uj: float | None = None
    step_us: float | None = None
    steps: int | None = None
    rate: float = 1.0

    @property
    def measured_uj(self) -> tuple[str, float] | None:
        """What an estimate without static power is compared with: the dynamic energy, else the total."""
        for kind, value in (("dynamic", self.dynamic_uj), ("total", self.total_uj)):
            if value is not None:
                return kind, value
        return None


@dataclass(frozen=True)
class Measurement:
    """A network on a chip, and its runs.

    Attributes
    ----------
    steps : int
        Time steps per inference.
    cores_running : int or None
        Cores in use on a chip, copies of the network included; they decide the barrier.
    secondary : str or None
        Who quotes the figures, where the paper itself was not read.
    unusable : str or None
        Why nothing can be derived from it.
    role : str
        "operations", or "step" for a network so small that it measures what a step costs.
    """

    key: str
    title: str
    chip: str
    network: str
    input: str
    source: str
    steps: int
    method: Literal["counted", "derived", "bounded"]
    how: str
    layers: tuple[Layer, ...]
    runs: tuple[Run, ...]
    cores_running: int | None = None
    secondary: str | None = None
    unusable: str | None = None
    role: Literal["operations", "step"] = "operations"

    def steps_of(self, run: Run) -> int:
        return run.steps or self.steps

    def quantities(self, run: Run) -> tuple[dict[str, float], dict[str, float]]:
        """Lowest and highest operations per inference, by the names that energy conventions refer to."""
        low, high = ({
            "effective_synops": run.rate * sum(x.synops[i] for x in self.layers),
            "effective_synops_conv": run.rate * sum(x.synops[i] for x in self.layers if x.kind == "conv"),
            "effective_synops_dense": run.rate * sum(x.synops[i] for x in self.layers if x.kind == "dense"),
            "neuron_updates": float(self.steps_of(run) * sum(x.neurons for x in self.layers)),
            "spikes": run.rate * sum(x.spikes_out[i] for x in self.layers),
        } for i in (0, 1))  # fmt: skip
        return low, high


@lru_cache
def load_measurement(name: str) -> Measurement:
    """Read ``<name>.toml``; raises `ConfigError` for an unknown one."""
    if name not in measurement_names():
        raise ConfigError(f"measurement {name!r}: unknown; allowed: {', '.join(measurement_names())}")
    data = tomli.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    layers = tuple(Layer(**{k: _interval(v) if k in _INTERVALS else v for k, v in x.items()}) for x in data.pop("layer"))
    return Measurement(key=name, layers=layers, runs=tuple(Run(**x) for x in data.pop("run")), **data)


_INTERVALS = ("spikes_in", "spikes_out", "synops")


def _interval(value: Any) -> Interval:
    low, high = value if isinstance(value, list) else (value, value)
    return float(low), float(high)


def load_measurements(chip: str | None = None) -> list[Measurement]:
    """All measurements, or those of one chip."""
    found = [load_measurement(name) for name in measurement_names()]
    return [m for m in found if chip in (None, m.chip)]
