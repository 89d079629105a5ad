"""Cutting layers into cores, by hand: memory, axons, every limit once, places on the mesh, what would make it fit."""

import time
from dataclasses import replace

import numpy as np
import pytest
from resnet_graphs import resnet18_graph
from small_graphs import residual

from taaf.export.passes import CompileReport, to_chain
from taaf.hw_sim.connectivity import ConvGroup, DenseGroup
from taaf.hw_sim.mapper.chip_limits import CHIPS, ChipLimits, load_limits
from taaf.hw_sim.mapper.fit import fit
from taaf.hw_sim.mapper.mapping import map_graphs
from taaf.hw_sim.placement import place
from taaf.models.errors import ConfigError, GraphError
from taaf.models.ir import BatchNorm, Conv2d, Dense, Graph, Input, Lif, RecurrentDense

LOIHI1 = load_limits("loihi1")


def dense_net(n_in: int, *sizes: int) -> dict[str, Graph]:
    """Dense layers a, b, ... of all non-zero weights."""
    nodes, edges, before = [Input("input", (n_in,))], [], "input"
    for name, n in zip("abc", sizes, strict=False):
        nodes += [Dense(f"w{name}", np.full((n, n_in), 2, np.int32)), Lif(name)]
        edges += [(before, f"w{name}"), (f"w{name}", name)]
        before, n_in = name, n
    return {"net": Graph("net", nodes, edges)}


def test_list_of_synapses() -> None:
    """10 bits of header and 8 (with index 18) per synapse, in words of 64 bits, 64 synapses to a block.

    Seen failing: the header left out (1 word less for 64 weights without index).
    """
    assert LOIHI1.list_bits(0, index=False) == 0
    assert LOIHI1.list_bits(1, index=False) == 64
    assert LOIHI1.list_bits(7, index=False) == 128  # 66 bits
    assert LOIHI1.list_bits(64, index=False) == 576  # 522 bits
    assert LOIHI1.list_bits(65, index=True) == 1216 + 64  # 1162 bits, and 28
    assert load_limits("loihi2").list_bits(65, index=False) == 520


def test_memory_of_a_convolution() -> None:
    """3x3 on 4x4, padded: per axis the tap sets {0,1}, {0,1,2}, {1,2}, so lists of 4, 6 and 9 synapses.

    On Loihi 2 the kernel once. Seen failing: the sets of all tiles in every tile.
    """
    conv = Conv2d("c", np.full((1, 1, 3, 3), 2, np.int32), padding=(1, 1))
    group = ConvGroup(conv, "input", (1, 4, 4), (1, 4, 4))
    assert group.memory_bits(LOIHI1, (1, 4, 4)).tolist() == [[[4 * 128 + 4 * 128 + 192]]]
    # two rows of the four: input rows with the taps {1}, {0,1} (border), {1,2}, {2}: the upper tile lacks {0}
    halves = group.memory_bits(LOIHI1, (1, 2, 4)).ravel()
    rows, columns = [[0, 1], [1, 2], [2]], [[0, 1], [0, 1, 2], [1, 2]]
    assert halves.tolist() == [sum(int(LOIHI1.list_bits(len(r) * len(c), True)) for r in rows for c in columns)] * 2
    assert group.memory_bits(load_limits("loihi2"), (1, 4, 4)).tolist() == [[[72]]]


def test_strided_convolution_reads_only_what_it_needs() -> None:
    """1x1 with stride 2 reads every other pixel: 4 of 16 axons. Seen failing: bounding boxes for exact reads (9)."""
    group = ConvGroup(Conv2d("c", np.full((1, 1, 1, 1), 2, np.int32), (2, 2)), "input", (1, 4, 4), (1, 2, 2))
    assert group.in_axons((1, 2, 2)).tolist() == [[[4]]]
    assert group.in_axons((1, 1, 2)).ravel().tolist() == [2, 2]


def test_sparse_or_dense_list() -> None:
    """A row of 8 targets: dense 128 bits (74); with one of them set 64 bits (28)."""
    weight = np.zeros((8, 2), np.int32)
    weight[:, 0] = weight[3, 1] = 2
    group = DenseGroup("w", weight, "input", (2, 1, 1))
    assert group.memory_bits(LOIHI1, (8, 1, 1)).tolist() == [[[min(2 * 128, 192 + 64)]]]  # 8 with index: 154 -> 192


@pytest.mark.parametrize(
    ("limits", "limit", "layer", "found", "allowed"),
    [
        ({"synapse_bits": 639}, "synapse memory", "net.a", 10 * 64, 639),
        ({"in_axons": 9}, "input axons", "net.a", 10, 9),
        ({"out_axons": 1, "neurons": 2}, "output axons", "net.a", 4, 1),
    ],
)
def test_violations_name_limit_layer_found_and_allowed(
    limits: dict[str, int], limit: str, layer: str, found: int, allowed: int
) -> None:
    """What a single neuron exceeds. a: 10 inputs (lists of one word each), read by four cores
    of b (one neuron each, because the host reads it).

    Cores of the layer need no more than that neuron. Seen failing: the limit lifted without a record of it; the limit
    dropped instead of raised.
    """
    mapping = map_graphs(dense_net(10, 3, 4), replace(LOIHI1, **limits))
    (violation,) = (v for v in mapping.violations if v.layer == layer)
    assert (violation.limit, violation.found, violation.allowed) == (limit, found, allowed)
    assert not mapping.fits
    text = f"{layer}: {limit}: {found} on a core that holds a single neuron, allowed {allowed}"
    assert str(violation) == text
    assert mapping.layer(layer).binding == limit
    used = {"synapse memory": "synapse_bits", "input axons": "in_axons", "output axons": "out_axons"}[limit]
    assert max(getattr(core, used) for core in mapping.cores() if core.layer == layer) == found


def test_limit_of_neurons_and_of_chips() -> None:
    """Nine neurons, four to a core: three cores; one core to a chip: three chips, and 'chips' is the finding.

    Seen failing: the limit that helps least named as the binding one.
    """
    small = replace(LOIHI1, neurons=4, cores_per_chip=1, cores_per_tile=1, width=1, height=1)
    answer = fit(dense_net(10, 9), small, chips_allowed=2)
    row = answer.mapping.layer("net.a")
    assert (row.n_cores, row.tile, row.binding, row.without_binding) == (3, (3, 1, 1), "neurons", 1)
    assert answer.mapping.fits and not answer.fits
    (finding,) = answer.findings
    assert (finding.limit, finding.found, finding.allowed) == ("chips", 3, 2)
    assert "net.a" in str(finding)
    assert fit(dense_net(10, 9), small, chips_allowed=3).fits


def test_output_axons_bind_the_source() -> None:
    """Each of a's neurons is read by four cores of b: with 8 output axons, two neurons to a core.

    Seen failing: output axons left out of the search.
    """
    mapping = map_graphs(dense_net(1, 8, 8), replace(LOIHI1, neurons=8, synapse_bits=1024, out_axons=8))
    assert mapping.layer("net.b").n_cores == 1  # eight lists of eight: 128 bits each
    mapping = map_graphs(dense_net(1, 8, 8), replace(LOIHI1, neurons=2, out_axons=8))
    assert (mapping.layer("net.b").n_cores, mapping.layer("net.a").n_cores) == (4, 4)
    mapping = map_graphs(dense_net(1, 8, 8), replace(LOIHI1, neurons=2, out_axons=4))
    assert (mapping.layer("net.a").tile, mapping.layer("net.a").binding) == ((1, 1, 1), "output axons")


def test_recurrence_counts_its_own_cores() -> None:
    """A recurrent layer of six: 2 input axons and 6 of its own; cut in two, every neuron is read by both, and the host."""
    layer = RecurrentDense("w", np.full((6, 2), 2, np.int32), None, np.full((6, 6), 2, np.int32))
    graph = Graph("net", [Input("input", (2,)), layer, Lif("a")], [("input", "w"), ("w", "a")])
    mapping = map_graphs({"net": graph}, replace(LOIHI1, neurons=3))
    first, _ = mapping.cores()
    assert (first.in_axons, first.out_axons) == (8, 3 * (2 + 1))


def test_snake() -> None:
    """Two routers of one core in a row, two rows; four cores to a chip; the second chip lies to the east.

    Seen failing: every row eastwards.
    """
    found = place(6, replace(LOIHI1, cores_per_chip=4, cores_per_tile=1, width=2, height=2))
    assert list(zip(found.x.tolist(), found.y.tolist(), strict=True)) == [(0, 0), (1, 0), (1, 1), (0, 1), (2, 0), (3, 0)]
    assert (found.chip.tolist(), found.n_chips, found.n_tiles.tolist()) == ([0, 0, 0, 0, 1, 1], 2, [4, 2])
    shared = place(5, LOIHI1)
    assert (shared.slot.tolist(), shared.x.tolist()) == ([0, 1, 2, 3, 0], [0, 0, 0, 0, 1])


def test_proposals_are_mapped_and_fit() -> None:
    """A layer that needs too much memory: every proposal that says it fits does, the next larger factor does not.

    Seen failing: memory left out of what must fit.
    """
    chip = replace(LOIHI1, synapse_bits=20_000, cores_per_chip=4)
    answer = fit(dense_net(100, 64, 64), chip)
    assert not answer.fits and answer.mapping.fits
    found = {p.change: p for p in answer.proposals}
    assert str(found["as it is"]).startswith(f"as it is: with --chips {answer.mapping.n_chips} (")
    narrower = next(p for name, p in found.items() if name.startswith("all layers but the last"))
    from taaf.hw_sim.mapper.shrink import shrunk

    for factor, fits in ((narrower.factor, True), (narrower.factor + 1 / 8, False)):
        small = map_graphs({"net": shrunk(answer.mapping.graphs["net"], width=factor)}, chip)
        assert (small.n_chips == 1) is fits
    assert narrower.fits and narrower.n_chips == 1
    assert any("non-zero weights" in name for name in found)


def test_too_many_inputs_propose_a_narrower_source() -> None:
    """The layer before the one in violation is the one to narrow; 4,096 of 5,000 inputs are 6/8.

    Seen failing: bisection that keeps the last factor tried, not the largest that fits.
    """
    answer = fit(dense_net(3, 5000, 2), LOIHI1)
    (finding,) = answer.findings
    assert (finding.limit, finding.layer, finding.found) == ("input axons", "net.b", 5000)
    alone = next(p for p in answer.proposals if p.change.startswith("net.a alone"))
    assert (alone.fits, alone.factor) == (True, 6 / 8)


def test_proposals_keep_limits_where_chips_are_not_enough() -> None:
    """One neuron to a core, one core to a chip: 6/8 of the inputs keep the limits of b, on as many chips as a needs.

    Seen failing: proposals that only count chips.
    """
    answer = fit(dense_net(3, 40, 2), replace(LOIHI1, neurons=1, in_axons=32, cores_per_chip=1, cores_per_tile=1), 1)
    assert {f.limit for f in answer.findings} == {"input axons", "chips"}
    alone = next(p for p in answer.proposals if p.change.startswith("net.a alone"))
    assert (alone.factor, alone.keeps_limits, alone.fits, alone.n_chips) == (6 / 8, True, False, 32)
    assert "with --chips 32" in str(alone)


def test_strange_graphs_are_refused_in_one_line() -> None:
    """A float graph, and a chip nobody knows."""
    norm = BatchNorm("bn", *(np.ones(2, np.float32),) * 4)
    nodes = [Input("input", (3,)), Dense("w", np.ones((2, 3), np.float32)), norm, Lif("a")]
    graph = Graph("net", nodes, [("input", "w"), ("w", "bn"), ("bn", "a")])
    with pytest.raises(GraphError, match=r"net\.bn"):
        map_graphs({"net": graph}, "loihi1")
    with pytest.raises(ConfigError, match="loihi3"):
        map_graphs(dense_net(2, 2), "loihi3")


def test_every_constant_has_a_kind_and_a_source() -> None:
    """And Loihi 2 carries no energy, only what others measured."""
    for name in CHIPS:
        chip: ChipLimits = load_limits(name)
        assert {c["kind"] for c in chip.constants} <= {"documented", "reported", "assumed"}
        assert all(c["source"] and c["value"] for c in chip.constants)
    assert any("1.094 mJ" in a["text"] for a in load_limits("loihi2").anchors)


def test_two_resnets_in_seconds() -> None:
    """25 M weights, 5 M neurons, 224x224 and 257x188: cut and placed within ten seconds of CPU on either chip."""
    graphs = {"video": resnet18_graph("video", (3, 224, 224)), "audio": resnet18_graph("audio", (1, 257, 188), 1)}
    for chip in CHIPS:
        begun = time.process_time()
        mapping = map_graphs(graphs, chip)
        assert time.process_time() - begun < 10
        assert mapping.fits and mapping.n_chips > 1
        assert sum(row.n_neurons for row in mapping.layers) == sum(c.neurons for c in mapping.cores())


def test_other_forms_are_proposed() -> None:
    """A residual block on cores of 20 neurons: without its relays it needs fewer cores, and that is worked out, not claimed.

    Seen failing: the lowered graph mapped again instead of the other form.
    """
    joined = residual(np.random.default_rng(0))
    report = CompileReport()
    chain = to_chain(joined, report)
    small = replace(LOIHI1, neurons=20, cores_per_chip=1, cores_per_tile=1, width=1, height=1)
    cores = {name: map_graphs({"net": graph}, small).n_cores for name, graph in (("joined", joined), ("chain", chain))}
    assert report.relays and cores["joined"] < cores["chain"]
    answer = fit({"net": chain}, small, cores["joined"], {"without relays": {"net": joined}})
    found = next(p for p in answer.proposals if p.change == "without relays")
    assert (found.fits, found.n_cores) == (True, cores["joined"])
