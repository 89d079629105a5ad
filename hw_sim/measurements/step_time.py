"""Time of a step of a measured network: the busiest core and the barrier, with published cores per layer.

A layer's work is divided evenly over its cores and steps; all updates are charged as active. A spike goes as one message to
every core of a dense layer behind its own, and to one core of a convolution (at least). For chips without published times
(Loihi 2) the measured time is turned around: what one operation of the busiest core can have taken at most.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from taaf.hw_sim.mapper.chip_limits import load_limits
from taaf.hw_sim.mapper.mapped_cost import MAPPED_CONVENTIONS, barrier_ns, load_convention, phases_of
from taaf.hw_sim.measurements.records import Interval, Layer, Measurement, Run


@dataclass(frozen=True)
class StepTime:
    """``estimated_us`` (lowest, highest) of one convention, its ratio to the measured time, and the arithmetic."""

    convention: str
    estimated_us: Interval | None
    ratio: Interval | None
    arithmetic: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def step_times(m: Measurement, run: Run) -> Iterator[StepTime]:
    """Under every convention with times of the chip."""
    if run.step_us is None or m.unusable is not None or any(x.cores is None for x in m.layers):
        return
    names = [name for name in MAPPED_CONVENTIONS if load_convention(name)["chip"] == m.chip]
    for name in names:
        (low, _), (high, arithmetic) = (_busiest(m, run, name, i) for i in (0, 1))
        yield StepTime(name, (low, high), (low / run.step_us, high / run.step_us), arithmetic)
    if not names:
        yield StepTime(f"{m.chip}_implied", None, None, _implied(m, run))


def loads_per_core(m: Measurement, run: Run, number: int, end: int) -> dict[str, float]:
    """What a core of a layer does in a mean step, by the names of `phases_of`; ``end`` 0: at least, 1: at most."""
    layer = m.layers[number]
    cores, steps = layer.cores or 1, m.steps_of(run)
    behind = m.layers[number + 1] if number + 1 < len(m.layers) else None
    destinations = behind.cores or 1 if behind is not None and behind.kind == "dense" else 1
    fired = run.rate * layer.spikes_out[end] / steps / cores
    arriving = run.rate * layer.spikes_in[end] / steps
    synops = run.rate * layer.synops[end] / steps / cores
    return {
        "active": layer.neurons / cores, "inactive": 0.0, "fired": fired, "messages_out": fired * destinations,
        "messages_in": arriving if layer.kind == "dense" else arriving / cores,
        "synops_dense": synops if layer.kind == "dense" else 0.0, "synops_conv": synops if layer.kind == "conv" else 0.0,
    }  # fmt: skip


def _busiest(m: Measurement, run: Run, convention: str, end: int) -> tuple[float, str]:
    """Microseconds of a step, and how they come about."""
    data = load_convention(convention)
    tiles = -(-(m.cores_running or 1) // load_limits(m.chip).cores_per_tile)
    barrier = barrier_ns(data["step"], tiles)
    best: tuple[float, str] = (-1.0, "")
    for number, layer in enumerate(m.layers):
        loads = loads_per_core(m, run, number, end)
        for title, terms in phases_of(data):
            ns = sum(data["time_ns"][constant] * loads[quantity] for quantity, constant in terms.items())
            if ns > best[0]:
                best = (ns, f"{_where(layer)}{', ' + title if title else ''}: {_products(data, terms, loads)} = {ns:,.0f} ns")
    return (best[0] + barrier) / 1000, f"{best[1]}; + barrier {barrier:,.0f} ns over {tiles} routers"


def _products(data: dict[str, Any], terms: dict[str, str], loads: dict[str, float]) -> str:
    return " + ".join(
        f"{loads[quantity]:,.4g} {quantity.replace('_', ' ')} x {data['time_ns'][constant]:g} ns"
        for quantity, constant in terms.items()
        if data["time_ns"][constant] and loads[quantity]
    )


def _where(layer: Layer) -> str:
    return f"a core of {layer.name} (1 of {layer.cores})"


def _implied(m: Measurement, run: Run) -> str:
    """Upper bounds of one operation's time, if all of the step were spent on it in the busiest core."""
    ns = 1000 * (run.step_us or 0.0)
    parts = []
    for what, keys in (("SynOp", ("synops_conv", "synops_dense")), ("neuron update", ("active",))):
        loads = [sum(loads_per_core(m, run, i, 1)[k] for k in keys) for i in range(len(m.layers))]
        n = max(loads)
        layer = m.layers[loads.index(n)]
        parts.append(
            f"at most {ns / n:,.3g} ns per {what} ({n:,.4g} in {_where(layer)})" if n >= 1 else f"under 1 {what} a step"
        )
    return "no time per operation is published; measured / busiest core: " + "; ".join(parts)
