"""Energy per component, step time and latency of a mapped network, from counted spikes and cited constants.

    energy = sum over components of (operations x energy per operation)
    step   = (time of the critical core) + (barrier over the routers in use)

How a core's times add up is part of the convention (``chips/mapped/*.toml``): "sum", one thing after the other, or "max",
the slower of sending (updates, spikes, messages out) and receiving (messages in, synapses), each over all cores. There is
no convention for Loihi 2: no official energy or time per operation exists for it.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tomli

from taaf.hw_sim.mapper.mapping import Mapping
from taaf.hw_sim.mapper.traffic import Frame, Loads, active_updates, count_loads, loads_of_frames
from taaf.models.errors import ConfigError
from taaf.models.ir import Lif

MAPPED_CONVENTIONS = ("loihi1_davies2018", "loihi1_sanafe")
_FOLDER = Path(__file__).parents[1] / "chips" / "mapped"
_SENDING = {"active": "update_active", "inactive": "update_inactive", "fired": "fired", "messages_out": "message_out"}
_RECEIVING = {"messages_in": "message_in", "synops_dense": "synop_dense", "synops_conv": "synop_conv"}
_PARTS = {  # component -> (attribute of Loads, constant)
    "synapses, dense": ("synops_dense", "synop_dense"),
    "synapses, convolution": ("synops_conv", "synop_conv"),
    "neuron updates, active": ("active", "update_active"),
    "neuron updates, inactive": ("inactive", "update_inactive"),
    "spikes": ("fired", "fired"),
    "messages": ("messages_out", "message"),
    "hops east-west": ("hops_ew", "hop_ew"),
    "hops north-south": ("hops_ns", "hop_ns"),
}


@dataclass(frozen=True)
class Component:
    """``count`` operations of ``pj`` picojoule each, per window, are ``nj`` nanojoule."""

    name: str
    count: float
    pj: float
    nj: float


@dataclass(frozen=True)
class CriticalStep:
    """The longest time step: which cores decide it, and how (``arithmetic``)."""

    step: int
    core: int
    layer: str
    core_ns: float
    barrier_ns: float
    total_ns: float
    arithmetic: str


@dataclass(frozen=True)
class MappedCost:
    """Cost of one window (mean over those given) under one convention.

    Attributes
    ----------
    components : tuple of Component
        Their sum is ``energy_nj``. Static power is not known for this chip and not part of it.
    active_counted : bool
        Whether active updates were counted; otherwise all updates are charged as active, an upper bound.
    steps, latency_steps : int
        Steps of a window, and until its last output: ``steps`` + layers of the deepest graph.
    mean_step_ns, latency_ns : float
        Mean step over ``latency_steps`` and their sum. Without spikes per step (totals only) the mean load of a step
        stands for every one of them, those in which the pipeline fills and empties included.
    step_ns : tuple of float
        Time of every chip step of the first window.
    per_step : bool
        Whether spikes per step were given.
    """

    convention: str
    title: str
    kind: str
    source: str
    excludes: str
    energy_nj: float
    components: tuple[Component, ...]
    active_counted: bool
    steps: int
    latency_steps: int
    mean_step_ns: float
    latency_ns: float
    step_ns: tuple[float, ...]
    per_step: bool
    critical: CriticalStep
    messages: float
    chip_crossings: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@lru_cache
def load_convention(name: str) -> dict[str, Any]:
    """Constants of ``chips/mapped/<name>.toml``; not to be changed."""
    return tomli.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def cost_of_totals(
    mapping: Mapping, spikes: Frame, n_windows: int, n_steps: int, conventions: Sequence[str] | None = None
) -> list[MappedCost]:
    """Every convention (or some), from totals per neuron (``Activity.spikes`` of every graph).

    Raises
    ------
    ConfigError
        For a chip without a convention (Loihi 2), or a convention of another chip.
    """
    names = _conventions(mapping, conventions)
    loads = count_loads(mapping, spikes, n_windows * n_steps)
    mean = {name: value[None] / (n_windows * n_steps) for name, value in _quantities(loads).items()}
    latency_steps = n_steps + max(_phases(mapping)) + 1
    return [_cost(mapping, c, loads, n_windows, n_steps, _Steps(mean, latency_steps), counted=False) for c in names]


def cost_of_windows(
    mapping: Mapping, spikes: Frame, active: Frame | None = None, conventions: Sequence[str] | None = None
) -> list[MappedCost]:
    """Every convention (or some), exactly, from the spikes of every step (``Engine.run(..., keep_all=True)``, and the input).

    In a chip step a core updates its neurons with what it received in the step before, sends, and receives. So the i-th
    layer (from 0) serves the synapses of a window's step t in chip step t + i and updates its neurons in t + i + 1. The
    latency is that of one window alone, from its first input to its last output.

    Parameters
    ----------
    spikes : dict
        Graph -> input and every LIF -> (N, *shape, T), with the same N and T for all.
    active : dict, optional
        The same for every LIF: which updates are active, if not by the rule of `active_updates`.
    conventions : sequence of str, optional
        Of `MAPPED_CONVENTIONS`; by default all of the chip.

    Raises
    ------
    ConfigError
        For a chip without a convention (Loihi 2), or a convention of another chip.
    """
    names = _conventions(mapping, conventions)
    first = next(iter(next(iter(spikes.values())).values()))
    n_windows, n_steps = len(first), first.shape[-1]
    phases = _phases(mapping)
    per_core = np.repeat(phases, [row.n_cores for row in mapping.layers])
    silent = {g: {n: np.zeros(shape, np.uint8) for n, shape in graph.shapes.items()} for g, graph in mapping.graphs.items()}
    idle = _quantities(count_loads(mapping, silent, 1, silent))
    steps = np.arange(n_steps + max(phases) + 1)[:, None]
    total = Loads.none(mapping.n_cores)
    found: dict[str, list[np.ndarray]] = {name: [] for name in idle}
    for window in range(n_windows):
        loads = _loads_of_window(mapping, spikes, active, window)
        for name in vars(total):
            getattr(total, name)[:] += getattr(loads, name).sum(1)
        for name, values in _quantities(loads).items():
            own = steps - per_core - (name not in _RECEIVING)  # the window's step that each core works on, per chip step
            running = (own >= 0) & (own < n_steps)
            found[name].append(np.where(running, values[np.arange(len(per_core)), np.where(running, own, 0)], idle[name]))
    timed = _Steps({name: np.concatenate(rows) for name, rows in found.items()}, len(steps))
    return [_cost(mapping, c, total, n_windows, n_steps, timed, counted=True) for c in names]


@dataclass(frozen=True)
class _Steps:
    """What every core does in every chip step of all windows: quantity -> (chip steps, cores); one row may stand for all."""

    loads: dict[str, np.ndarray]
    per_window: int


def _conventions(mapping: Mapping, wanted: Sequence[str] | None) -> list[str]:
    found = [name for name in MAPPED_CONVENTIONS if load_convention(name)["chip"] == mapping.limits.name]
    if not found:
        raise ConfigError(
            f"chip {mapping.limits.name!r}: no energy or time per operation is published for it, so none is estimated; "
            "allowed: loihi1"
        )
    if other := [name for name in wanted or () if name not in found]:
        raise ConfigError(f"convention {other[0]!r}: not one of {mapping.limits.name}; allowed: {', '.join(found)}")
    return found if wanted is None else list(wanted)


def _loads_of_window(mapping: Mapping, spikes: Frame, active: Frame | None, window: int) -> Loads:
    now = {g: {n: v[window] for n, v in layers.items()} for g, layers in spikes.items()}
    if active is None:
        found = {g: {f.name: active_updates(graph, f, now[g]) for f in graph.lifs()} for g, graph in mapping.graphs.items()}
    else:
        found = {g: {n: v[window] for n, v in layers.items()} for g, layers in active.items()}
    return loads_of_frames(mapping, now, 1, found)


def _quantities(loads: Loads) -> dict[str, np.ndarray]:
    return {**vars(loads), "inactive": loads.updates - loads.active}


def _phases(mapping: Mapping) -> list[int]:
    """Per row of the mapping: how many chip steps after the first layer of its graph it works on the same window's step."""
    phases = []
    for graph in mapping.graphs.values():
        depth: dict[str, int] = {}
        for name in graph.nodes:
            before = max((depth[s] for s in graph.sources(name)), default=-1)
            depth[name] = before + isinstance(graph.nodes[name], Lif)
        phases += [depth[lif.name] for lif in graph.lifs()]
    return phases


def _cost(mapping: Mapping, name: str, loads: Loads, n_windows: int, n_steps: int, steps: _Steps, counted: bool) -> MappedCost:
    data = load_convention(name)
    quantities, pj = _quantities(loads), data["energy_pj"]
    components = []
    for title, (quantity, constant) in _PARTS.items():
        n = float(quantities[quantity].sum()) / n_windows
        components.append(Component(title, n, pj[constant], n * pj[constant] / 1000))
    phases = phases_of(data)
    times = [sum(data["time_ns"][c] * steps.loads[quantity] for quantity, c in terms.items()) for _, terms in phases]
    slowest = np.stack([time.max(1) for time in times])  # (phases, chip steps)
    barrier = barrier_ns(data["step"], int(mapping.placement.n_tiles.sum()))
    step_ns = (slowest.max(0) + barrier).tolist()
    if not counted:
        step_ns *= steps.per_window
    worst = int(np.argmax(step_ns))
    row = worst if counted else 0
    phase = int(np.argmax(slowest[:, row]))
    core = int(np.argmax(times[phase][row]))
    latency = math.fsum(step_ns) / (len(step_ns) // steps.per_window)
    return MappedCost(
        convention=name, **{k: data[k] for k in ("title", "kind", "source", "excludes")},
        energy_nj=math.fsum(c.nj for c in components), components=tuple(components), active_counted=counted,
        steps=n_steps, latency_steps=steps.per_window, mean_step_ns=latency / steps.per_window, latency_ns=latency,
        step_ns=tuple(step_ns[: steps.per_window]), per_step=counted,
        critical=_critical(mapping, data, steps, worst % steps.per_window if counted else 0, row, core, *phases[phase]),
        messages=loads.total("messages_out") / n_windows, chip_crossings=loads.total("crossings") / n_windows,
    )  # fmt: skip


def _critical(
    mapping: Mapping, data: dict[str, Any], steps: _Steps, number: int, row: int, core: int, title: str, terms: dict[str, str]
) -> CriticalStep:
    """The core that decides the longest step, and the barrier, with the arithmetic."""
    loads = {quantity: steps.loads[quantity][row, core] for quantity in terms}
    core_ns = float(sum(data["time_ns"][constant] * loads[quantity] for quantity, constant in terms.items()))
    tiles = int(mapping.placement.n_tiles.sum())
    barrier = barrier_ns(data["step"], tiles)
    layer = next(row.layer for row in reversed(mapping.layers) if row.first_core <= core)
    products = [
        f"{loads[quantity]:,.4g} {quantity.replace('_', ' ')} x {data['time_ns'][constant]:g} ns"
        for quantity, constant in terms.items()
        if data["time_ns"][constant] and loads[quantity]
    ]
    arithmetic = (
        f"core {core} ({layer}){', ' + title if title else ''}: {' + '.join(products) or 'nothing'} = {core_ns:,.1f} ns; "
        f"+ barrier {barrier:,.1f} ns over {tiles} routers"
    )
    return CriticalStep(number, core, layer, core_ns, barrier, core_ns + barrier, arithmetic)


def phases_of(data: dict[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """What a core does in a step: title -> quantity -> constant. The longest phase of all cores decides."""
    if data["step"]["compose"] == "sum":
        return [("", {**_SENDING, **_RECEIVING})]
    return [("sending", _SENDING), ("receiving", _RECEIVING)]


def barrier_ns(step: dict[str, Any], tiles: int) -> float:
    """Synchronisation of all cores behind ``tiles`` routers."""
    at, ns = step["barrier_tiles"], step["barrier_ns"]
    if step["barrier_between"] == "linear":
        return float(np.interp(tiles, at, ns))
    return float(ns[max(int(np.searchsorted(at, tiles, side="right")) - 1, 0)])
