"""Messages, hops, energy and time of small mapped networks, worked out by hand."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from taaf.hw_sim.mapper.chip_limits import load_limits
from taaf.hw_sim.mapper.mapped_cost import MAPPED_CONVENTIONS, cost_of_totals, cost_of_windows, load_convention
from taaf.hw_sim.mapper.mapping import Mapping, map_graphs
from taaf.hw_sim.mapper.traffic import active_updates, count_loads, loads_of_frames
from taaf.hw_sim.reference import convolve
from taaf.models.errors import ConfigError, GraphError
from taaf.models.ir import Conv2d, Dense, Graph, Input, Lif

# input 2 -> a: 4 neurons on two cores -> b: 2 neurons on one; one weight of b is zero
WEIGHT_B = np.array([[2, 2, 2, 2], [2, 2, 2, 0]], np.int32)
GRAPH = Graph(
    "net",
    [
        Input("input", (2,)), Dense("wa", np.full((4, 2), 2, np.int32)), Lif("a"), Dense("wb", WEIGHT_B),
        Lif("b", bias=np.array([0, 5], np.int32)),
    ],
    [("input", "wa"), ("wa", "a"), ("a", "wb"), ("wb", "b")],
)  # fmt: skip
SPIKES = {"input": np.array([1, 2]), "a": np.array([3, 1, 2, 0]), "b": np.array([1, 0])}


def mapped(**mesh: int) -> Mapping:
    """Two neurons to a core, one core to a router: a on cores 0 and 1, b on core 2."""
    found = map_graphs({"net": GRAPH}, replace(load_limits("loihi1"), neurons=2, cores_per_tile=1, **mesh))
    assert [row.n_cores for row in found.layers] == [2, 1]
    return found


def test_loads_by_hand() -> None:
    """a's first core sends 3 + 1 spikes two routers east, its second 2 spikes one router.

    Seen failing: messages counted once per synapse; hops of the receiver's position alone.
    """
    loads = count_loads(mapped(), {"net": SPIKES}, steps=4)
    assert loads.messages_out.tolist() == [4, 2, 0]
    assert loads.messages_in.tolist() == [3, 3, 6]  # every input spike to both cores of a
    assert loads.hops_ew.tolist() == [4 * 2, 2 * 1, 0]
    assert loads.hops_ns.tolist() == [0, 0, 0]
    assert loads.crossings.sum() == 0
    assert loads.synops_dense.tolist() == [2 * 3, 2 * 3, 6 + 6]  # the zero weight's source did not spike
    assert loads.fired.tolist() == [4, 2, 1]
    assert loads.updates.tolist() == [8, 8, 8]


def test_hops_north_and_chips() -> None:
    """The same cores one above the other; then two cores to a chip, so that b lies on the second, to the east."""
    upright = count_loads(mapped(width=1), {"net": SPIKES}, steps=4)
    assert (upright.hops_ew.sum(), upright.hops_ns.tolist()) == (0, [8, 2, 0])
    split = mapped(width=2, height=1, cores_per_chip=2)
    loads = count_loads(split, {"net": SPIKES}, steps=4)
    assert (split.n_chips, loads.crossings.tolist(), loads.hops_ew.tolist()) == (2, [4, 2, 0], [8, 2, 0])


def test_energy_by_hand() -> None:
    """Totals of two windows of two steps, all updates active: every component times its constant."""
    found = {c.convention: c for c in cost_of_totals(mapped(), {"net": SPIKES}, n_windows=2, n_steps=2)}
    assert set(found) == set(MAPPED_CONVENTIONS)
    davies = 24 * 23.6 + 24 * 81 + 6 * 1.7 + 10 * 3.0
    assert found["loihi1_davies2018"].energy_nj == pytest.approx(davies / 2 / 1000)
    sanafe = 24 * 35.5 + 24 * (51.2 + 21.6) + 7 * 69.3 + 6 * 111 + 10 * 3.0
    assert found["loihi1_sanafe"].energy_nj == pytest.approx(sanafe / 2 / 1000)
    assert not found["loihi1_sanafe"].active_counted and not found["loihi1_sanafe"].per_step
    for cost in found.values():
        assert sum(c.nj for c in cost.components) == pytest.approx(cost.energy_nj)
        assert cost.latency_steps == 2 + 2


def step_by_step() -> dict[str, dict[str, np.ndarray]]:
    """One window of two steps: inputs 1 and 2 in the first; a's first three neurons in the second; b never."""
    spikes = {"input": np.zeros((1, 2, 2), np.uint8), "a": np.zeros((1, 4, 2), np.uint8), "b": np.zeros((1, 2, 2), np.uint8)}
    spikes["input"][0, :, 0] = 1
    spikes["a"][0, :3, 1] = 1
    return {"net": spikes}


def test_times_by_hand() -> None:
    """Davies: updates, messages and synapses of a core add up; the barrier over three routers lies between 113 and 465 ns.

    Step 0: a's cores serve 2 x 2 synapses. Step 1: they update two active neurons each. Step 2: a's second window step
    (three spikes) is updated, inactive, sent, and b's core serves 3 + 3 synapses. Step 3: b updates, one neuron has events
    and both would without; all others rest. Seen failing: updates in the same step as their messages.
    """
    cost = next(c for c in cost_of_windows(mapped(), step_by_step()) if c.convention == "loihi1_davies2018")
    barrier = 113 + (465 - 113) * 2 / 31
    idle = 2 * 5.3
    bias = 8.4 + 5.3  # b's neuron with a bias is active in its own steps
    expected = [
        max(4 * 3.5 + idle, idle), max(2 * 8.4, idle), max(idle + 2 * 2.1, idle, 6 * 3.5 + bias), max(idle, 2 * 8.4),
    ]  # fmt: skip
    assert [s - barrier for s in cost.step_ns] == pytest.approx(expected)
    assert cost.latency_ns == pytest.approx(sum(expected) + 4 * barrier)
    assert cost.critical.step == int(np.argmax(expected))
    assert "6 synops dense x 3.5 ns" in cost.critical.arithmetic and "3 routers" in cost.critical.arithmetic
    active = next(c for c in cost.components if c.name == "neuron updates, active")
    assert active.count == 4 + 1 + 2  # a in its first step; b's bias in its first, both of b in its second


def test_times_of_the_other_convention() -> None:
    """SANA-FE: the slower of sending and receiving, over all cores; three routers wait as long as two do, 1,000 ns."""
    cost = next(c for c in cost_of_windows(mapped(), step_by_step()) if c.convention == "loihi1_sanafe")
    idle, bias = 2 * 6.0, 6.0 + 9.7
    send = [idle, 2 * 9.7, max(idle + 2 * (30 + 5.1), bias), 2 * 9.7]
    receive = [2 * 16 + 4 * 3.8, 0, 3 * 16 + 6 * 3.8, 0]
    assert [s - 1000 for s in cost.step_ns] == pytest.approx([max(pair) for pair in zip(send, receive, strict=True)])


def test_active() -> None:
    """A neuron with an event or a bias; not one whose only spiking source has a zero weight."""
    a = {"a": np.array([0, 0, 0, 1])}
    lif = GRAPH.lifs()[1]
    assert active_updates(GRAPH, lif, a).tolist() == [True, True]  # by event, by bias
    without = GRAPH.rebuilt({"b": Lif("b")})
    assert active_updates(without, without.lifs()[1], a).tolist() == [True, False]


def test_no_energy_for_loihi_2_and_none_without_spikes() -> None:
    """Refused in one line each."""
    with pytest.raises(ConfigError, match="loihi2.*no energy"):
        cost_of_totals(map_graphs({"net": GRAPH}, "loihi2"), {"net": SPIKES}, 1, 1)
    with pytest.raises(GraphError, match="no spikes of a"):
        count_loads(mapped(), {"net": {k: v for k, v in SPIKES.items() if k != "a"}}, 1)


def test_constants_have_their_provenance() -> None:
    """Kind, source, what is left out; the energies agree with the unmapped conventions."""
    for name in MAPPED_CONVENTIONS:
        data = load_convention(name)
        assert all(data[key] for key in ("title", "kind", "source", "excludes"))
        assert data["chip"] == "loihi1"
        assert "static" in data["excludes"]


def test_all_steps_at_once_are_the_steps_one_by_one() -> None:
    """Loads are linear in spikes: every field of every step, and what is active; convolutions strided, padded and grouped.

    Seen failing: with the taps of rows and columns exchanged.
    """
    rng = np.random.default_rng(0)
    nodes = [
        Input("input", (4, 7, 6)), Conv2d("ca", 2 * rng.integers(-1, 2, (6, 2, 3, 2)), (2, 1), (1, 1), groups=2), Lif("a"),
        Conv2d("cb", 2 * rng.integers(-1, 2, (5, 6, 1, 3)), padding=(0, 2), dilation=(1, 2)), Lif("b", bias=np.array([0, 1, 0, 0, 2])),
    ]  # fmt: skip
    graph = Graph("net", nodes, [(one.name, other.name) for one, other in pairwise(nodes)])
    mapping = map_graphs({"net": graph}, replace(load_limits("loihi1"), neurons=20))
    steps = {n: rng.random((*graph.shapes[n], 6)) < 0.3 for n in ("input", "a", "b")}
    active = {lif.name: active_updates(graph, lif, steps) for lif in graph.lifs()}
    found = loads_of_frames(mapping, {"net": steps}, 1, {"net": active})
    for t in range(6):
        now = {n: s[..., t] for n, s in steps.items()}
        alone = {lif.name: active_updates(graph, lif, now) for lif in graph.lifs()}
        for lif in graph.lifs():
            np.testing.assert_array_equal(active[lif.name][..., t], alone[lif.name])
            synapse = graph.synapses_of(lif.name)[0]
            (source,) = graph.sources(synapse.name)
            reached = convolve(replace(synapse, weight=(synapse.weight != 0).astype(np.int64)), now[source].astype(np.int64))
            bias = np.zeros(1, bool) if lif.bias is None else lif.bias.astype(bool)
            np.testing.assert_array_equal(alone[lif.name], (reached > 0) | bias[:, None, None])
            row = mapping.layer(f"net.{lif.name}")
            assert found.synops_conv[row.first_core : row.first_core + row.n_cores, t].sum() == reached.sum()
        for name, value in vars(count_loads(mapping, {"net": now}, 1, {"net": alone})).items():
            np.testing.assert_array_equal(getattr(found, name)[:, t], value, name)


def test_one_convention_if_asked() -> None:
    """The same as among all; a convention of another chip is refused."""
    for cost in cost_of_windows(mapped(), step_by_step()):
        assert cost_of_windows(mapped(), step_by_step(), conventions=[cost.convention]) == [cost]
    with pytest.raises(ConfigError, match="convention 'cmos45_fp32': not one of loihi1; allowed: loihi1_davies2018"):
        cost_of_windows(mapped(), step_by_step(), conventions=["cmos45_fp32"])
