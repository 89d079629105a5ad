"""Placement by counted traffic: costs by hand, curves, swaps against brute force and scipy, and what stays as it is."""

from dataclasses import replace
from itertools import pairwise, permutations

import numpy as np
import pytest
from scipy.optimize import quadratic_assignment

from taaf.hw_sim.mapper import placing
from taaf.hw_sim.mapper.chip_limits import load_limits
from taaf.hw_sim.mapper.mapping import Mapping, map_graphs
from taaf.hw_sim.mapper.placing import Traffic, along_hilbert, hop_weights, placed, traffic_between, travel
from taaf.hw_sim.mapper.traffic import count_loads
from taaf.hw_sim.placement import Placement
from taaf.models.ir import Dense, Graph, Input, Lif, Node

LOIHI1 = load_limits("loihi1")
GRID = replace(LOIHI1, cores_per_tile=1, cores_per_chip=16, width=4, height=4)


def _spikes(mapping: Mapping, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return {g: {n: rng.integers(0, 50, s) for n, s in graph.shapes.items()} for g, graph in mapping.graphs.items()}


def _mapping(n_in: int, *sizes: int) -> Mapping:
    """Dense layers, four neurons to a core."""
    nodes: list[Node] = [Input("input", (n_in,))]
    for i, n in enumerate(sizes):
        nodes += [Dense(f"w{i}", np.full((n, n_in), 2, np.int32)), Lif(f"l{i}")]
        n_in = n
    edges = [(a.name, b.name) for a, b in pairwise(nodes)]
    return map_graphs({"net": Graph("net", nodes, edges)}, replace(GRID, neurons=4))


def _dense(traffic: Traffic) -> np.ndarray:
    n = len(traffic.start) - 1
    found = np.zeros((n, n))
    for core in range(n):
        partner, messages = traffic.of(core)
        found[core, partner] = messages
    return found


def _cost(where: Placement, flow: np.ndarray, weights: tuple[float, float]) -> float:
    """Float64, pair by pair."""
    n = len(flow)
    return sum(
        flow[i, j] * (weights[0] * abs(int(where.x[i] - where.x[j])) + weights[1] * abs(int(where.y[i] - where.y[j])))
        for i in range(n)
        for j in range(i)
    )


def test_traffic_and_travel_are_those_of_the_loads() -> None:
    """Messages of all pairs and their hops add up to what is counted per core; cost as the sum over pairs."""
    mapping = _mapping(8, 16, 12, 8)
    spikes = _spikes(mapping)
    traffic, weights = traffic_between(mapping, spikes), (3.0, 4.0)
    flow, loads = _dense(traffic), count_loads(mapping, spikes, 1)
    np.testing.assert_array_equal(flow, flow.T)
    found = travel(mapping.placement, traffic, weights)
    assert flow.sum() / 2 == loads.total("messages_out")
    assert found.hops == loads.total("hops_ew") + loads.total("hops_ns") > 0
    assert found.cost == pytest.approx(3 * loads.total("hops_ew") + 4 * loads.total("hops_ns"))
    assert found.cost == pytest.approx(_cost(mapping.placement, flow, weights))
    assert found.crossings == loads.total("crossings") == 0


@pytest.mark.parametrize("side", [1, 2, 4, 8, 16])
def test_hilbert_curve(side: int) -> None:
    """Every router once, each step to a neighbour."""
    where = along_hilbert(side * side, replace(GRID, cores_per_chip=side * side, width=side, height=side))
    assert len({*zip(where.x.tolist(), where.y.tolist(), strict=True)}) == side * side
    assert (np.abs(np.diff(where.x)) + np.abs(np.diff(where.y)) == 1).all()


def test_hilbert_curve_of_chips() -> None:
    """8 x 4 routers of four cores: a chip is full before the next, and a router before the next."""
    where = along_hilbert(130, LOIHI1)
    assert np.bincount(where.chip).tolist() == [128, 2] and where.n_tiles.tolist() == [32, 1]
    assert (where.slot[:8] == [0, 1, 2, 3] * 2).all() and where.x.max() < 16 and where.y.max() < 4


def test_the_best_of_all_exchanges() -> None:
    """Six cores: after the search no exchange of two makes it cheaper, and it is within 10 % of the best of all orders."""
    mapping = _mapping(4, 8, 8, 8)
    spikes, weights = _spikes(mapping, 3), hop_weights(mapping.limits)
    flow = _dense(traffic_between(mapping, spikes))
    found = placed(mapping, spikes).placement
    cost = _cost(found, flow, weights)

    def moved(order: tuple[int, ...]) -> float:
        at = list(order)
        return _cost(replace(found, x=found.x[at], y=found.y[at]), flow, weights)

    assert len(flow) == 6
    everything = {order: moved(order) for order in permutations(range(6))}
    swapped = [c for order, c in everything.items() if sum(a != b for a, b in zip(order, range(6), strict=True)) == 2]
    assert cost <= min(swapped) + 1e-6 and cost <= 1.1 * min(everything.values())


@pytest.mark.parametrize("seed", range(3))
def test_as_good_as_scipys_search(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen cores with random traffic: no dearer than 1.05 times scipy's 2-opt; also with few places tried per core."""
    rng = np.random.default_rng(seed)
    flow = np.triu(rng.integers(0, 100, (16, 16)) * (rng.random((16, 16)) < 0.3), 1)
    flow = (flow + flow.T).astype(np.float64)
    start = np.concatenate([[0], np.cumsum((flow > 0).sum(1))])
    traffic = Traffic(start, np.nonzero(flow)[1], flow[flow > 0])
    where, weights = along_hilbert(16, GRID), (3.0, 4.0)
    far = 3 * np.abs(where.x[:, None] - where.x) + 4 * np.abs(where.y[:, None] - where.y)
    scipys = quadratic_assignment(flow, far, method="2opt", options={"rng": np.random.default_rng(0)}).fun / 2
    found = travel(placing._Swaps(where, traffic, weights).run(20), traffic, weights).cost
    assert found <= 1.05 * scipys and found < travel(where, traffic, weights).cost
    monkeypatch.setattr(placing, "ALL_PLACES", 8)
    monkeypatch.setattr(placing, "NEAR", 8)
    near = placing._Swaps(where, traffic, weights).run(20)
    assert sorted(zip(near.x, near.y, strict=True)) == sorted(zip(where.x, where.y, strict=True))
    assert travel(near, traffic, weights).cost <= 1.15 * scipys


def test_only_places_change() -> None:
    """The same cores, routers and chips; a placement is never dearer than the snake, whatever the rounds."""
    mapping = _mapping(16, 40, 40, 16)
    spikes, weights = _spikes(mapping), hop_weights(mapping.limits)
    traffic = traffic_between(mapping, spikes)
    costs = []
    for rounds in (0, 1, 8):
        found = placed(mapping, spikes, rounds)
        assert found.layers == mapping.layers and found.n_chips == mapping.n_chips
        assert found.placement.n_tiles.tolist() == mapping.placement.n_tiles.tolist()
        costs.append(travel(found.placement, traffic, weights).cost)
    snake = travel(mapping.placement, traffic, weights).cost
    assert snake >= costs[0] >= costs[1] >= costs[2] and costs[2] < snake
    again = placed(mapping, spikes).placement
    np.testing.assert_array_equal(again.x, found.placement.x)


def test_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With next to no work allowed only the most talkative cores are tried; with none at all nothing moves."""
    mapping = _mapping(16, 40, 40, 16)
    spikes, weights = _spikes(mapping), hop_weights(mapping.limits)
    traffic = traffic_between(mapping, spikes)
    costs = []
    for work in (0, 2_000, 10**9):
        monkeypatch.setattr(placing, "MOST_WORK", work)
        costs.append(travel(placed(mapping, spikes).placement, traffic, weights).cost)
    assert costs[0] == travel(placed(mapping, spikes, 0).placement, traffic, weights).cost > costs[1] > costs[2]


def test_weights_of_hops() -> None:
    """Davies 2018 for Loihi 1; hops count alike where nothing is published."""
    assert hop_weights(LOIHI1) == (3.0, 4.0) and hop_weights(load_limits("loihi2")) == (1.0, 1.0)


def test_nothing_to_say() -> None:
    """Silent cores, and a single one."""
    for mapping in (_mapping(4, 8, 8), _mapping(4, 4)):  # four cores, one core
        silent = {g: {n: np.zeros(s, int) for n, s in graph.shapes.items()} for g, graph in mapping.graphs.items()}
        found = placed(mapping, silent)
        assert travel(found.placement, traffic_between(mapping, silent), (1.0, 1.0)).cost == 0
