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
from pathlib import Path
from typing import Any

import numpy as np
import tomli

from taaf.hw_sim.mapper.mapping import Mapping
from taaf.hw_sim.mapper.traffic import Frame, Loads, active_updates, count_loads
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


def load_convention(name: str) -> dict[str, Any]:
    """Constants of ``chips/mapped/<name>.toml``."""
    return tomli.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def cost_of_totals(mapping: Mapping, spikes: Frame, n_windows: int, n_steps: int) -> list[MappedCost]:
    """Every convention, from totals per neuron (``Activity.spikes`` of every graph).

    Raises
    ------
    ConfigError
        For a chip without a convention (Loihi 2).
    """
    conventions = _conventions(mapping)
    loads = count_loads(mapping, spikes, n_windows * n_steps)
    mean = _Step(0, {name: value / (n_windows * n_steps) for name, value in _quantities(loads).items()})
    latency_steps = n_steps + max(_phases(mapping)) + 1
    return [_cost(mapping, c, loads, n_windows, n_steps, [[mean] * latency_steps], counted=False) for c in conventions]


def cost_of_windows(mapping: Mapping, spikes: Frame, active: Frame | None = None) -> list[MappedCost]:
    """Every convention, exactly, from the spikes of every step (``Engine.run(..., keep_all=True)``, and the input).

    In a chip step a core updates its neurons with what it received in the step before, sends, and receives. So the i-th
    layer (from 0) serves the synapses of a window's step t in chip step t + i and updates its neurons in t + i + 1. The
    latency is that of one window alone, from its first input to its last output.

    Parameters
    ----------
    spikes : dict
        Graph -> input and every LIF -> (N, *shape, T), with the same N and T for all.
    active : dict, optional
        The same for every LIF: which updates are active, if not by the rule of `active_updates`.

    Raises
    ------
    ConfigError
        For a chip without a convention (Loihi 2).
    """
    conventions = _conventions(mapping)
    first = next(iter(next(iter(spikes.values())).values()))
    n_windows, n_steps = len(first), first.shape[-1]
    phases = _phases(mapping)
    per_core = np.repeat(phases, [row.n_cores for row in mapping.layers])
    silent = {g: {n: np.zeros(shape, np.uint8) for n, shape in graph.shapes.items()} for g, graph in mapping.graphs.items()}
    idle = _quantities(count_loads(mapping, silent, 1, silent))
    total = Loads.none(mapping.n_cores)
    windows: list[list[_Step]] = []
    for window in range(n_windows):
        steps = [_loads_of_step(mapping, spikes, active, window, t) for t in range(n_steps)]
        for name in vars(total):
            getattr(total, name)[:] += sum(getattr(s, name) for s in steps)
        found = {name: np.stack([_quantities(s)[name] for s in steps]) for name in idle}
        chip_steps = []
        for k in range(n_steps + max(phases) + 1):
            loads = {}
            for name in idle:
                own = k - per_core - (name not in _RECEIVING)  # the window's step that each core works on
                running = (own >= 0) & (own < n_steps)
                loads[name] = np.where(running, found[name][np.where(running, own, 0), np.arange(len(own))], idle[name])
            chip_steps.append(_Step(k, loads))
        windows.append(chip_steps)
    return [_cost(mapping, c, total, n_windows, n_steps, windows, counted=True) for c in conventions]


@dataclass(frozen=True)
class _Step:
    """What every core does in one chip step: quantity -> (cores,)."""

    number: int
    loads: dict[str, np.ndarray]


def _conventions(mapping: Mapping) -> list[str]:
    found = [name for name in MAPPED_CONVENTIONS if load_convention(name)["chip"] == mapping.limits.name]
    if not found:
        raise ConfigError(
            f"chip {mapping.limits.name!r}: no energy or time per operation is published for it, so none is estimated; "
            "allowed: loihi1"
        )
    return found


def _loads_of_step(mapping: Mapping, spikes: Frame, active: Frame | None, window: int, step: int) -> Loads:
    def frame(values: Frame) -> Frame:
        return {g: {n: v[window, ..., step] for n, v in layers.items()} for g, layers in values.items()}

    now = frame(spikes)
    if active is not None:
        return count_loads(mapping, now, 1, frame(active))
    found = {g: {f.name: active_updates(graph, f, now[g]) for f in graph.lifs()} for g, graph in mapping.graphs.items()}
    return count_loads(mapping, now, 1, found)


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


def _cost(
    mapping: Mapping, name: str, loads: Loads, n_windows: int, n_steps: int, windows: Sequence[Sequence[_Step]], counted: bool
) -> MappedCost:
    data = load_convention(name)
    quantities, pj = _quantities(loads), data["energy_pj"]
    components = []
    for title, (quantity, constant) in _PARTS.items():
        n = float(quantities[quantity].sum()) / n_windows
        components.append(Component(title, n, pj[constant], n * pj[constant] / 1000))
    timed = [_timed(mapping, data, step) for window in windows for step in window]
    steps_per_window = len(windows[0])
    latency = math.fsum(t.total_ns for t in timed) / len(windows)
    return MappedCost(
        convention=name, **{k: data[k] for k in ("title", "kind", "source", "excludes")},
        energy_nj=math.fsum(c.nj for c in components), components=tuple(components), active_counted=counted,
        steps=n_steps, latency_steps=steps_per_window, mean_step_ns=latency / steps_per_window, latency_ns=latency,
        step_ns=tuple(t.total_ns for t in timed[:steps_per_window]),
        per_step=counted, critical=max(timed, key=lambda t: t.total_ns),
        messages=loads.total("messages_out") / n_windows, chip_crossings=loads.total("crossings") / n_windows,
    )  # fmt: skip


def _timed(mapping: Mapping, data: dict[str, Any], step: _Step) -> CriticalStep:
    """Critical core plus barrier, with the arithmetic."""
    phases = [("sending", _SENDING), ("receiving", _RECEIVING)]
    if data["step"]["compose"] == "sum":
        phases = [("", {**_SENDING, **_RECEIVING})]
    worst: tuple[float, int, str, dict[str, str]] = (-1.0, 0, "", {})
    for title, terms in phases:
        time = sum(data["time_ns"][constant] * step.loads[quantity] for quantity, constant in terms.items())
        core = int(np.argmax(time))
        if time[core] > worst[0]:
            worst = (float(time[core]), core, title, terms)
    core_ns, core, title, terms = worst
    barrier = _barrier_ns(data["step"], int(mapping.placement.n_tiles.sum()))
    layer = next(row.layer for row in reversed(mapping.layers) if row.first_core <= core)
    products = [
        f"{step.loads[quantity][core]:,.4g} {quantity.replace('_', ' ')} x {data['time_ns'][constant]:g} ns"
        for quantity, constant in terms.items()
        if data["time_ns"][constant] and step.loads[quantity][core]
    ]
    arithmetic = (
        f"core {core} ({layer}){', ' + title if title else ''}: {' + '.join(products) or 'nothing'} = {core_ns:,.1f} ns; "
        f"+ barrier {barrier:,.1f} ns over {int(mapping.placement.n_tiles.sum())} routers"
    )
    return CriticalStep(step.number, core, layer, core_ns, barrier, core_ns + barrier, arithmetic)


def _barrier_ns(step: dict[str, Any], tiles: int) -> float:
    at, ns = step["barrier_tiles"], step["barrier_ns"]
    if step["barrier_between"] == "linear":
        return float(np.interp(tiles, at, ns))
    return float(ns[max(int(np.searchsorted(at, tiles, side="right")) - 1, 0)])
