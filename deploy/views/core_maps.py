"""Where a network would lie on Loihi 1 and 2, and what that costs by the counted spikes: plain data for the report."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from taaf.hw_sim.engine import Activity
from taaf.hw_sim.mapper.chip_limits import CHIPS
from taaf.hw_sim.mapper.mapped_cost import cost_of_totals
from taaf.hw_sim.mapper.mapping import Mapping as Mapped
from taaf.hw_sim.mapper.mapping import map_graphs
from taaf.hw_sim.mapper.placing import hop_weights, placed, traffic_between, travel
from taaf.hw_sim.mapper.traffic import Frame
from taaf.models.errors import ConfigError, TaafError
from taaf.models.ir import Graph

MAX_CORES = 40_000  # that are listed one by one
MAX_PLACED = 2_000  # that are placed by their traffic, in seconds; more stay along the snake


def core_maps(graphs: Mapping[str, Graph], activity: Mapping[str, Activity]) -> list[dict[str, Any]]:
    """One entry per chip: `Mapping.to_dict` with cores as [layer, chip, x, y, slot, neurons, highest utilisation], and costs.

    With ``activity``, cores are placed by the counted traffic (``travel``: before and after). A network that cannot be mapped
    has ``error`` instead. Costs exist for Loihi 1 only: nothing is published for Loihi 2.
    """
    return [_core_map(dict(graphs), activity, chip) for chip in CHIPS]


def _core_map(graphs: dict[str, Graph], activity: Mapping[str, Activity], chip: str) -> dict[str, Any]:
    try:
        mapping = map_graphs(graphs, chip)
    except TaafError as error:
        return {"chip": chip, "error": str(error)}
    travelled = None
    if activity:
        mapping, travelled = _placed(mapping, {b: activity[b].spikes for b in graphs})
    found = mapping.to_dict(cores=False)
    found["travel"] = travelled
    index = {row.layer: i for i, row in enumerate(mapping.layers)}
    found["cores"] = []
    if mapping.n_cores <= MAX_CORES:
        found["cores"] = [
            [index[c.layer], c.chip, c.x, c.y, c.slot, c.neurons, max(c.utilisation.values())] for c in mapping.cores()
        ]
    found["costs"] = []
    if activity:
        some = next(iter(activity.values()))
        spikes = {b: activity[b].spikes for b in graphs}
        try:
            costs = cost_of_totals(mapping, spikes, some.n_windows, some.n_steps)
        except ConfigError:  # no constants are published
            costs = []
        found["costs"] = [{k: v for k, v in c.to_dict().items() if k != "step_ns"} for c in costs]
    return found


def _placed(mapping: Mapped, spikes: Frame) -> tuple[Mapped, dict[str, Any] | None]:
    """Placed by the counted traffic, with what that changes: along the snake and placed."""
    if mapping.n_cores > MAX_PLACED:
        return mapping, None
    found, traffic, weights = placed(mapping, spikes), traffic_between(mapping, spikes), hop_weights(mapping.limits)
    both = {"snake": mapping.placement, "placed": found.placement}
    return found, {name: asdict(travel(placement, traffic, weights)) for name, placement in both.items()}
