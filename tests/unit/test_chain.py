"""What has no place in a chain is refused by name, what has no common map is unrolled; names and costs of layers."""

from collections.abc import Callable

import numpy as np
import pytest
from engines import run_engines
from joined_graphs import Wired
from small_graphs import chain_of, random_spikes, residual

from taaf.export.passes import PASSES, CompileReport, How, compile_graph, flat, stages, to_chain
from taaf.hw_sim.reference import run_reference
from taaf.models.errors import GraphError, UnsupportedLayerError
from taaf.models.ir import BatchNorm, Concat, Conv2d, Dense, Graph, Input, Lif, Pool2d, RecurrentDense
from taaf.models.ir.stage import require_integer_stage


def _wired(build: Callable[[Wired], object], *shape: int) -> Graph:
    wired = Wired(np.random.default_rng(0), shape)
    build(wired)
    return wired.graph()


def _paces(w: Wired, end: bool = False) -> None:
    """Two convolutions make maps of one size, every second pixel of one and the middle of another."""
    x = w.lif("x", w.conv("stem", "input", 2))
    h = w.lif("h", w.conv("a", x, 2, 3, 2))
    y = w.lif("y", w.conv("b", h, 2), w.conv("s", x, 2, 5, padding=(0, 0)))
    if not end:
        w.lif("z", w.dense("read", y, 3))


def _twice(w: Wired) -> None:
    x = w.lif("x", w.conv("stem", "input", 1))
    weight = np.full((1, 1, 1, 1), 200, np.int32)
    w.lif("y", w.add(Conv2d("a", weight), x), w.add(Conv2d("b", weight), x))


def _two_delays(w: Wired) -> None:
    weight = np.full((2, 3), 20, np.int32)
    first = w.add(Dense("a", weight, delay=np.array([[1]], np.int32)), "input")
    w.lif("y", first, w.add(Dense("b", weight), "input"))


def _delay_beside_recurrence(w: Wired) -> None:
    weight = np.full((2, 3), 20, np.int32)
    a = w.lif("a", w.add(Dense("late", weight, delay=np.array([[1]], np.int32)), "input"))
    b = w.lif("b", w.add(RecurrentDense("rec", weight, None, weight[:, :2]), "input"))
    w.lif("y", w.dense("read", w.add(Concat("both"), a, b), 2))


@pytest.mark.parametrize(
    ("build", "shape", "mention"),
    [
        (lambda w: _paces(w, end=True), (1, 8, 8), r"net\.y: gives maps, .* y reads maps of different pixel distances"),
        (_twice, (1, 2, 2), r"net\.y: a, b read the same spikes, and their weights add up to 400\.\.400 \(allowed -256"),
        (_two_delays, (3,), r"net\.y: reads input with two delays at one synapse"),
        (_delay_beside_recurrence, (3,), r"net\.late: a recurrent population and delays in one layer"),
        (
            lambda w: w.add(Pool2d("p", "max", (2, 2)), w.lif("x", w.conv("c", "input", 1))),
            (1, 4, 4),
            r"net\.p: .*or_pool first",
        ),
    ],
)
def test_refusals(build: Callable[[Wired], object], shape: tuple[int, ...], mention: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=mention):
        to_chain(_wired(build, *shape), CompileReport())


def test_unrolled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of different strides meet: from there on neurons of dense layers, the same spikes; too many are refused."""
    graph, report = _wired(_paces, 1, 8, 8), CompileReport()
    chain = to_chain(graph, report)
    assert [type(n).__name__ for n in chain.nodes.values()][-5:] == ["Flatten", "Dense", "Lif", "Dense", "Lif"]
    assert any(line.startswith("chain: net.y: unrolled, because y reads maps of different") for line in report.lines)
    spikes = random_spikes(np.random.default_rng(0), graph, 3, 6)
    found = run_engines(chain, spikes).spikes
    before = [run_reference(graph, window).spikes for window in spikes]
    for lif, exact in report.expected(chain, {n: np.stack([t[n] for t in before]) for n in before[0]}).items():
        assert exact.any()
        np.testing.assert_array_equal(found[lif], exact)
    monkeypatch.setattr(flat, "UNROLLED_MAX", 1000)
    with pytest.raises(UnsupportedLayerError, match=r"net\.b: y in one dense layer of 32 x 160 weights \(allowed 1000\)"):
        to_chain(graph, CompileReport())


def test_names_and_costs() -> None:
    """A layer has the name of its population, its synapse that of the longest path; the last one that of the output."""
    report = CompileReport()
    chain = to_chain(residual(np.random.default_rng(0), 2), report)
    assert list(chain.nodes) == ["input", "stem", "x", "a", "h", "b", "y"] and report.relays == {"net.h": 2}
    assert report.lines == ["relays: net.h: 2 relay channels of x (+32 neurons, +32 axons)"]
    own, relays = report.layers["net.h"]
    assert (own.population, own.relays, len(own.members)) == ("h", False, 5)
    assert (relays.population, relays.members.tolist(), relays.factor, relays.first) == ("x", [0, 2], (2, 2), 5)


def test_neurons_that_are_no_relays() -> None:
    """Current memory, or a threshold above a relay's weight, stays with the layer's own channels."""
    graph = residual(np.random.default_rng(0), 1)
    changed = Lif("h", 3000, 100, 600, graph.nodes["h"].bias)  # type: ignore[attr-defined]
    lif = to_chain(graph.rebuilt({"h": changed}), CompileReport()).nodes["h"]
    assert isinstance(lif, Lif) and lif.bias is not None
    assert lif.i_decay.tolist() == [3000] * 5 + [4096] * 2 and lif.v_th_mant.tolist() == [600] * 5 + [128] * 2  # type: ignore[union-attr]
    assert lif.v_decay == 100 and lif.bias[5:].tolist() == [0, 0]


def test_stages() -> None:
    """Every pass by name, in order: the stage of the graph behind it, and at the end what the compiler gives."""
    weight = np.ones((1, 1, 2, 2), np.float32)
    nodes = [Input("input", (1, 6, 6)), Conv2d("a", weight), BatchNorm("bn", *np.ones((4, 1), np.float32)), Lif("a_lif")]
    nodes += [Pool2d("sum", "sum", (1, 1)), Conv2d("b", weight), Lif("b_lif"), Pool2d("or", "max", (2, 2))]
    graph = chain_of(*nodes)
    behind = dict(stages(graph, How(False, CompileReport())))
    assert list(behind) == [p.name for p in PASSES] and all(p.does for p in PASSES)
    assert "bn" not in behind["norm"].nodes and "sum" in behind["norm"].nodes and "sum" not in behind["pool"].nodes
    with pytest.raises(GraphError, match="not integers"):
        require_integer_stage(behind["norms"])
    require_integer_stage(behind["quantise"])
    assert "or_lif" not in behind["quantise"].nodes and behind["or_pool"].output == "or_lif"
    integer, chain = compile_graph(graph, False, CompileReport())
    assert (list(integer.nodes), list(chain.nodes)) == (list(behind["or_pool"].nodes), list(behind["groups"].nodes))
