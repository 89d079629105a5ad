"""Post-training quantisation: the choice of thresholds, and a deviation report whose numbers are worked out again."""

import nir
import nir_nets
import numpy as np
import pytest
from nir_nets import chain, lif, weights

from taaf.export.passes import CompileReport, quantise
from taaf.export.ptq.calibrate import calibrate, measure, quantised
from taaf.export.ptq.float_reference import run_float
from taaf.export.targets.nir.graph import FloatNet
from taaf.export.targets.nir.read import from_nir
from taaf.hw_sim.reference import run_reference
from taaf.models.ir import Dense, Graph, Lif


def _net(graph: nir.NIRGraph) -> FloatNet:
    return from_nir(graph, "net", 1e-3).nets["net"]


def _lif(graph: Graph, name: str) -> Lif:
    node = graph.nodes[name]
    assert isinstance(node, Lif)
    return node


def test_a_representable_network_is_represented_exactly() -> None:
    """Weights that are even integers over 64 thresholds: V = 64 (or as good) with no error, found without metadata."""
    mantissas = 2 * np.random.default_rng(0).integers(-100, 127, (8, 12))
    graph = chain((12,), nir.Linear(mantissas.astype(float)), lif(8, r=4.0, v_threshold=64.0))
    net, choices, _ = calibrate(_net(graph), nir_nets.spikes((12,)))
    assert choices[0].rms_weight_error < 1e-15 and choices[0].rms_drive_error < 1e-15 and choices[0].n_clipped == 0
    v_th = _lif(net.graph, "b").v_th_mant
    dense = quantise(net.graph, False, CompileReport()).nodes["a"]
    assert isinstance(dense, Dense)
    np.testing.assert_array_equal(dense.weight * 64, mantissas * v_th)


@pytest.mark.parametrize("seed", range(4))
def test_choice_is_good(seed: int) -> None:
    """No V of the whole range of the same size has a drive error far below the chosen one's."""
    net = _net(nir_nets.small(seed))
    x = nir_nets.spikes((12,))
    _, choices, trace = calibrate(net, x)
    dense = net.graph.nodes["a"]
    assert isinstance(dense, Dense) and dense.bias is not None
    spikes = trace.spikes["input"][:4].astype(float)

    def error(v_th: int) -> float:
        weight = quantised(dense.weight, v_th) / v_th - dense.weight
        bias = np.rint(dense.bias * v_th) / v_th - dense.bias
        return float(np.sqrt(np.mean((np.einsum("of,nft->not", weight, spikes) + bias[:, None]) ** 2)))

    assert choices[0].rms_drive_error == pytest.approx(error(choices[0].v_th_mant), rel=1e-9)
    assert choices[0].rms_drive_error <= 1.7 * min(error(v) for v in range(8, 4 * choices[0].v_th_mant))


def test_outliers_are_clipped_where_that_is_better() -> None:
    """One huge weight that never receives a spike must not cost the others their resolution; it is counted."""
    weight = weights(0, 400, 300, scale=0.05)
    weight[0, 0] = 1.0
    x = nir_nets.spikes((300,), n=2, steps=8)
    x[:, 0] = 0
    _, (choice,), _ = calibrate(_net(chain((300,), nir.Linear(weight), lif(400))), x)
    level = (_net(chain((300,), nir.Linear(weight), lif(400))).graph.nodes["a"].weight * choice.v_th_mant) / 2  # type: ignore[attr-defined]
    assert choice.n_clipped == ((level > 127.5) | (level < -128.5)).sum()
    assert choice.v_th_mant <= 131_071


def test_state_and_bias_cap_the_threshold() -> None:
    """Tiny weights would allow a V that the 24-bit state or the 13-bit bias cannot hold."""
    bias = chain((4,), nir.Affine(1e-4 * weights(0, 3, 4), np.full(3, 2.0)), lif(3))
    net, _, _ = calibrate(_net(bias), nir_nets.spikes((4,)))
    assert _lif(net.graph, "b").v_th_mant * 2.0 / 4 / 0.4 <= 4095
    deep = chain((4,), nir.Linear(np.full((3, 4), -0.05)), nir.IF(np.full(3, 1e3), np.full(3, 1.0)))
    deep.nodes["a"].weight[0, 0] = 0.02
    net, _, trace = calibrate(_net(deep), nir_nets.spikes((4,), steps=400))
    assert trace.peak["b"] > 10
    assert 64 * _lif(net.graph, "b").v_th_mant * trace.peak["b"] < 1 << 22


def test_deviation_report_recomputed() -> None:
    """Counts, fractions, decisions and accuracy from the reference (not the engine) and plain loops."""
    graph = chain(
        (12,), nir.Linear(weights(1, 40, 12)), lif(40, tau=7e-3), nir.Linear(weights(2, 5, 40, scale=0.15)), lif(5, tau=9e-3)
    )
    net, x = _net(graph), nir_nets.spikes((12,), n=12, steps=40)
    labels = np.random.default_rng(1).integers(0, 5, 12)
    calibrated, _, trace = calibrate(net, x)
    integer = quantise(calibrated.graph, True, CompileReport())
    found = measure(integer, trace, x, labels)
    floats = run_float(net, x).spikes
    exact = [run_reference(integer, window).spikes for window in x]
    assert [line["layer"] for line in found["layers"]] == ["net.b", "net.d"]
    for line, name, n in zip(found["layers"], "bd", (40, 5), strict=True):
        ours = np.stack([e[name] for e in exact])
        assert line["n_neurons"] == n
        assert (line["float_spikes"], line["integer_spikes"]) == (floats[name].sum(), ours.sum())
        assert line["differing"] == (ours != floats[name]).sum()
        assert line["differing_fraction"] == pytest.approx(line["differing"] / (12 * n * 40))
    assert 0 < found["layers"][0]["differing"] < 0.05 * 12 * 40 * 40  # there is a deviation, and it is small
    a, b = floats["d"].sum(-1, dtype=int), np.stack([e["d"] for e in exact]).sum(-1, dtype=int)
    output = found["output"]
    assert output["mean_count_difference"] == pytest.approx(np.abs(a - b).mean())
    assert output["max_count_difference"] == np.abs(a - b).max()
    assert (output["mean_count_float"], output["mean_count_integer"]) == (pytest.approx(a.mean()), pytest.approx(b.mean()))
    assert output["same_decision_percent"] == pytest.approx(
        100 * np.mean([np.argmax(i) == np.argmax(j) for i, j in zip(a, b, strict=True)])
    )
    assert found["accuracy"]["float"] == pytest.approx(
        100 * np.mean([np.argmax(i) == k for i, k in zip(a, labels, strict=True)])
    )
    assert found["accuracy"]["integer"] == pytest.approx(
        100 * np.mean([np.argmax(i) == k for i, k in zip(b, labels, strict=True)])
    )


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The float run in blocks of one window equals the run of all at once."""
    from taaf.export.ptq import float_reference

    net, x = _net(nir_nets.small()), nir_nets.spikes((12,))
    whole = run_float(net, x)
    monkeypatch.setattr(float_reference, "_BLOCK_BYTES", 1)
    parts = run_float(net, x)
    assert parts.peak == whole.peak
    for name, value in whole.spikes.items():
        np.testing.assert_array_equal(parts.spikes[name], value)
