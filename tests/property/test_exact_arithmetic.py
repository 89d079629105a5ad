"""Properties of quantisation, the integer arithmetic, the NetX round trip and the counters."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from engines import run_engines
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_graphs import CASES, chain_of, random_spikes

from taaf.export.passes import CompileReport, fold_batch_norm, quantise
from taaf.export.targets.netx.read import read_netx
from taaf.export.targets.netx.write import write_netx
from taaf.hw_sim.counters import count, dense_macs
from taaf.hw_sim.reference import clip_voltage, run_reference, truncate_shift, wrap_current
from taaf.models.errors import UnsupportedLayerError
from taaf.models.ir import BatchNorm, Conv2d, Dense, Input, Lif

quick = settings(deadline=None, max_examples=60)
seeds = st.integers(0, 2**32 - 1)


@quick
@given(
    arrays(np.float32, (3, 4), elements=st.floats(-1.5, 1.5, width=32)),
    arrays(np.float32, 3, elements=st.floats(-20, 20, width=32)),
    st.sampled_from([16, 64, 128]),
)
def test_quantise(weight: np.ndarray, bias: np.ndarray, v_th: int) -> None:
    """Even integers within range, at most half a step (one unit) away; quantising the result again changes nothing."""
    graph = chain_of(Input("in", (4,)), Dense("d", weight, bias), Lif("l", v_th_mant=v_th))
    integer = quantise(graph, saturate=False, report=CompileReport())
    w, b = integer.nodes["d"].weight, integer.nodes["l"].bias  # type: ignore[attr-defined]
    assert (w % 2 == 0).all() and w.min() >= -256 and w.max() <= 254
    assert np.abs(w - weight.astype(np.float64) * v_th).max() <= 1 + 1e-3
    assert np.abs(b - bias.astype(np.float64) * v_th).max() <= 0.5 + 1e-3
    again = chain_of(Input("in", (4,)), Dense("d", (w / v_th).astype(np.float32)), Lif("l", v_th_mant=v_th))
    np.testing.assert_array_equal(quantise(again, False, CompileReport()).nodes["d"].weight, w)  # type: ignore[attr-defined]


@quick
@given(st.integers(-(2**40), 2**40), st.integers(0, 4096))
def test_decay_truncates_toward_zero(x: int, keep: int) -> None:
    """tz(x keep / 4096) against exact rational arithmetic."""
    product = (x % (1 << 24) - (1 << 23)) * keep
    expected = abs(product) // 4096 * (1 if product >= 0 else -1)
    assert truncate_shift(np.array([product]), 12)[0] == expected


@quick
@given(st.integers(-(2**24) + 1, 2**24 - 1))
def test_wrap_and_clip_stay_in_24_bits(u: int) -> None:
    """Wrapping keeps the value modulo 2^24, clipping keeps the nearest."""
    wrapped, clipped = int(wrap_current(np.array(u))), int(clip_voltage(np.array(u)))
    assert -(2**23) < wrapped <= 2**23 and (wrapped - u) % 2**24 == 0
    assert clipped == max(-(2**23) + 1, min(2**23 - 1, u))


@quick
@given(st.sampled_from(sorted(CASES)), seeds)
def test_netx_round_trip_and_engine(case: str, seed: int) -> None:
    """A written and re-read chain is the same graph, and runs the same on engine and reference."""
    rng = np.random.default_rng(seed)
    graph = CASES[case](rng)
    with tempfile.TemporaryDirectory() as folder:
        write_netx(graph, Path(folder) / "net.net")
        try:
            again = read_netx(Path(folder) / "net.net", "net")
        except UnsupportedLayerError as error:
            assert case.startswith("delay_") and "delays together with a bias" in str(error)
            return
    assert list(again.nodes) == list(graph.nodes) and again.shapes == graph.shapes and again.edges == graph.edges
    for name, node in graph.nodes.items():
        for key, value in vars(node).items():
            found = getattr(again.nodes[name], key)
            if key == "bias" and value is not None and not value.any():
                value = None  # noqa: PLW2901 (a zero bias is not written)
            np.testing.assert_array_equal(found, value, err_msg=f"{name}.{key}")
    spikes = random_spikes(rng, graph, n_windows=2, steps=5, rate=rng.uniform(0.05, 0.8))
    fast = run_engines(again, spikes).spikes
    for window, expected in enumerate(run_reference(graph, w).spikes for w in spikes):
        for lif in graph.lifs():
            np.testing.assert_array_equal(fast[lif.name][window], expected[lif.name])


@quick
@given(seeds, st.sampled_from([name for name in CASES if name.startswith(("conv", "dense", "depthwise"))]))
def test_synops_are_counted_as_by_hand(seed: int, case: str) -> None:
    """Effective SynOps: send every single spike alone through the synapses and count non-zero contributions."""
    rng = np.random.default_rng(seed)
    graph = CASES[case](rng)
    spikes = random_spikes(rng, graph, n_windows=2, steps=3)
    result = run_engines(graph, spikes)
    (found,) = count(graph, result.activity)
    node = graph.synapses_of("lif")[0]
    mask = torch.from_numpy((node.weight != 0).astype(np.float64))
    effective = 0
    for index in np.argwhere(spikes):
        one = torch.zeros(1, *graph.input.shape, dtype=torch.float64)
        one[(0, *index[1:-1])] = 1
        if isinstance(node, Conv2d):
            hit = torch.nn.functional.conv2d(one, mask, None, node.stride, node.padding, node.dilation, node.groups)
        else:
            hit = one @ mask.T
        effective += int(hit.sum())
    if case == "dense_recurrent":
        out = result.spikes["lif"].sum(axis=(0, 2))
        effective += int((out * (node.weight_rec != 0).sum(0)).sum())  # type: ignore[attr-defined]
    assert found.effective_synops == effective
    assert found.dense_synops == dense_macs(graph) * 2 * 3
    assert found.neuron_updates == found.n_neurons * 2 * 3
    assert found.spikes_out == result.spikes["lif"].sum() and found.spikes_in == spikes.sum()


@quick
@given(seeds)
def test_fold_batch_norm_is_the_same_function(seed: int) -> None:
    """Folded convolution = convolution followed by batch norm, in float64, to float32 rounding."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(3, 2, 3, 3)).astype(np.float32)
    gain, offset, mean = (rng.normal(size=3).astype(np.float32) for _ in range(3))
    var = rng.uniform(0.1, 3, 3).astype(np.float32)
    graph = chain_of(Input("in", (2, 5, 5)), Conv2d("c", weight), BatchNorm("bn", gain, offset, mean, var), Lif("l"))
    folded = fold_batch_norm(graph)
    assert list(folded.nodes) == ["in", "c", "l"]
    x = torch.from_numpy(rng.normal(size=(4, 2, 5, 5)))
    y = torch.nn.functional.conv2d(x, torch.from_numpy(weight.astype(np.float64))).numpy()

    def per_channel(a: np.ndarray) -> np.ndarray:
        return a.astype(np.float64).reshape(1, 3, 1, 1)

    expected = per_channel(gain) * (y - per_channel(mean)) / np.sqrt(per_channel(var) + 1e-5) + per_channel(offset)
    node = folded.nodes["c"]
    w, b = (torch.from_numpy(np.asarray(a, np.float64)) for a in (node.weight, node.bias))  # type: ignore[attr-defined]
    np.testing.assert_allclose(torch.nn.functional.conv2d(x, w, b).numpy(), expected, atol=1e-5)
