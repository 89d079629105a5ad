"""What Lava changes silently is refused by name, and what lies next to it is exact: sign modes, 8-bit fields, recurrence."""

import numpy as np
import pytest
from engines import run_engines
from on_lava import run_on_lava
from small_graphs import chain_of, random_spikes, weights

from taaf.deploy.lava.runtime import require_lava
from taaf.export.limits import check_limits
from taaf.export.passes import CompileReport, compile_graph, merge_groups
from taaf.hw_sim.counters import count
from taaf.hw_sim.reference import run_reference
from taaf.models.errors import LimitExceededError
from taaf.models.ir import Conv2d, Dense, Graph, Input, Lif, Pool2d, RecurrentDense


def _lava_errors(graph: Graph, n_windows: int = 2, steps: int = 9, rate: float = 0.5) -> int:
    """Spikes of Lava that differ from the reference; engine and reference agree and the layers are not silent."""
    spikes = random_spikes(np.random.default_rng(7), graph, n_windows, steps, rate)
    traces = [run_reference(graph, window).spikes for window in spikes]
    fast, lava = run_engines(graph, spikes).spikes, run_on_lava(graph, spikes)
    wrong = 0
    for lif in graph.lifs():
        exact = np.stack([t[lif.name] for t in traces])
        assert exact.any(), f"{lif.name} is silent: the case tests nothing"
        np.testing.assert_array_equal(fast[lif.name], exact)
        wrong += int((lava[lif.name] != exact).sum())
    return wrong


def _dense(rows: list[list[int]]) -> Graph:
    """A bias lifts inhibited neurons to where every single unit of weight decides."""
    weight = np.array(rows, np.int32)
    bias = -np.minimum(weight, 0).sum(1) + 1
    half = int(np.abs(weight).sum(1).max()) // 2
    return chain_of(Input("in", (weight.shape[1],)), Dense("d", weight), Lif("l", 4096, 4096, max(1, half), bias))


@pytest.mark.parametrize("rows", [[[-2, -2, -2]], [[-256, -256, -256]], [[-256, 0, 0]], [[-128, 0, 0]]])
def test_inhibitory_powers_of_two_are_refused(rows: list[list[int]]) -> None:
    """Without a positive weight Lava clips -256 (after its shift) to -255 and cuts the low bits."""
    with pytest.raises(LimitExceededError, match=r"net\.d: smallest weight -\d+ in a matrix without positive weights"):
        check_limits(_dense(rows))


@pytest.mark.needs_lava
def test_lava_still_changes_inhibitory_powers_of_two() -> None:
    """The reason for the refusal; where this fails, the refusal can go."""
    assert _lava_errors(_dense([[-256, -256, -256]])) > 0


@pytest.mark.parametrize(
    "rows",
    [
        [[2, 2, 2]], [[254, 254, 254]], [[-254, -254, -254]], [[-6, -6, -6]], [[-256, 2, 0]], [[-256, 254, 2]], [[-2, 254, 2]],
        [[0, 0, 2]], [[2, -2, 0]], [[128, -128, 64]], [[64, -128, 2]], [[126, -2, 4]], [[128, 64, 2]], [[-130, -128, 0]],
    ],
)  # fmt: skip
@pytest.mark.needs_lava
def test_sign_modes_that_are_exact(rows: list[list[int]]) -> None:
    """All-positive, all-negative, equal, tiny and extreme weights, in the order and shift Lava chooses for them."""
    graph = _dense(rows)
    check_limits(graph)
    assert _lava_errors(graph) == 0


@pytest.mark.needs_lava
def test_sign_mode_rule_is_exactly_what_lava_does() -> None:
    """Thousands of small matrices through NetX's and Lava's own quantisers: refused = changed."""
    require_lava()
    require_lava()
    from lava.lib.dl.netx.utils import optimize_weight_bits
    from lava.utils.weightutils import clip_weights, determine_sign_mode, truncate_weights

    rng = np.random.default_rng(0)
    levels = np.array([-256, -254, -130, -128, -126, -64, -62, -4, -2, 0, 2, 4, 62, 64, 66, 126, 128, 130, 254], np.int32)
    outcomes = {True: 0, False: 0}
    for _ in range(4000):
        parts = [rng.choice(rng.choice(levels, rng.integers(1, 4)), (2, 2)) for _ in range(rng.integers(1, 3))]
        if not np.any(parts):
            continue
        with np.errstate(divide="ignore"):
            shifted, bits, exponent, _ = optimize_weight_bits(np.hstack(parts))
        exact = True
        for part, own in zip(parts, np.split(shifted, len(parts), axis=1), strict=True):
            mode = determine_sign_mode(own)
            loaded = truncate_weights(clip_weights(own, mode, num_bits=8), mode, bits)
            exact &= bool((loaded == part * 2**-exponent).all())
        layer = Dense("d", parts[0]) if len(parts) == 1 else RecurrentDense("d", parts[0], None, parts[1])
        try:
            check_limits(chain_of(Input("in", (2,)), layer, Lif("l")), pipelined=False)
            accepted = True
        except LimitExceededError as error:
            assert "without positive weights" in str(error)
            accepted = False
        assert accepted == exact, parts
        outcomes[exact] += 1
    assert min(outcomes.values()) > 300


@pytest.mark.needs_lava
def test_zero_weights() -> None:
    """NetX cannot load an all-zero dense layer; a convolution or one zero half of a recurrent layer is exact."""
    zero = np.zeros((2, 2), np.int32)
    with pytest.raises(LimitExceededError, match=r"net\.d: all weights are zero"):
        check_limits(chain_of(Input("in", (2,)), RecurrentDense("d", zero, None, zero), Lif("l")), pipelined=False)
    graph = chain_of(Input("in", (2,)), RecurrentDense("d", zero + 40, None, zero), Lif("l"))
    check_limits(graph, pipelined=False)
    assert _lava_errors(graph, n_windows=1) == 0
    bias = np.array([40, 50], np.int32)
    graph = chain_of(Input("in", (1, 3, 3)), Conv2d("c", np.zeros((2, 1, 3, 3), np.int32)), Lif("l", bias=bias))
    check_limits(graph)
    assert _lava_errors(graph) == 0


def _line(kernel: int, size: int, **how: int) -> Graph:
    weight = np.full((2, 1, 1, kernel), 12, np.int32)
    pairs = {key: (1 if key != "padding" else 0, value) for key, value in how.items()}
    return chain_of(Input("in", (1, 1, size)), Conv2d("c", weight, **pairs), Lif("l", v_th_mant=20))


@pytest.mark.parametrize(
    ("graph", "found"),
    [
        (_line(128, 200), r"kernel \(1, 128\)"),
        (_line(3, 400, stride=128), r"stride \(1, 128\)"),
        (_line(3, 10, padding=128), r"padding \(0, 128\)"),
        (_line(3, 300, dilation=128), r"dilation \(1, 128\)"),
    ],
)
def test_fields_beyond_8_bits_are_refused(graph: Graph, found: str) -> None:
    """Lava's Conv wraps them to negative numbers and fails, or runs something else."""
    with pytest.raises(LimitExceededError, match=rf"net\.c: {found} \(allowed up to 127"):
        check_limits(graph)


@pytest.mark.needs_lava
def test_largest_8_bit_fields_are_exact() -> None:
    """127 in every field at once."""
    weight = np.full((2, 1, 1, 127), 6, np.int32)
    conv = Conv2d("c", weight, stride=(1, 127), padding=(0, 127), dilation=(1, 2))
    graph = chain_of(Input("in", (1, 1, 130)), conv, Lif("l", v_th_mant=20))
    check_limits(graph)
    assert _lava_errors(graph) == 0


@pytest.mark.parametrize("bias", [64, 65])
@pytest.mark.needs_lava
def test_recurrent_layer_that_fires_before_its_window(bias: int) -> None:
    """A bias above the threshold makes a spike while the pipeline fills, and the recurrence carries it into the window."""
    layer = RecurrentDense("d", np.full((3, 3), 10, np.int32), None, np.full((3, 3), -60, np.int32))
    graph = chain_of(Input("in", (3,)), layer, Lif("l", v_th_mant=64, bias=np.full(3, bias, np.int32)))
    if bias > 64:
        with pytest.raises(LimitExceededError, match=r"net\.d: a bias of 65 in l can make spikes .*\(allowed 64\)"):
            check_limits(graph, pipelined=False)
    else:
        check_limits(graph, pipelined=False)
    assert (_lava_errors(graph, n_windows=1) > 0) == (bias > 64)


@pytest.mark.parametrize(
    ("first", "own", "found"), [(64, 32, ""), (65, 0, "65 in m.*allowed 64"), (0, 33, "33 in l.*allowed 32")]
)
@pytest.mark.needs_lava
def test_recurrent_layer_behind_biased_layers(first: int, own: int, found: str) -> None:
    """Deeper layers run longer before their window: the second one two steps, so half its threshold is allowed."""
    nodes = [
        Input("in", (3,)), Dense("a", np.full((3, 3), 30, np.int32)), Lif("m", bias=np.full(3, first, np.int32)),
        RecurrentDense("d", np.full((3, 3), 30, np.int32), None, np.full((3, 3), -60, np.int32)),
        Lif("l", v_decay=0, bias=np.full(3, own, np.int32)),
    ]  # fmt: skip
    graph = chain_of(*nodes)
    if found:
        with pytest.raises(LimitExceededError, match=rf"net\.d: a bias of {found}"):
            check_limits(graph, pipelined=False, state=False)
    else:
        check_limits(graph, pipelined=False, state=False)
    assert (_lava_errors(graph, n_windows=1) > 0) == bool(found)


@pytest.mark.parametrize(("groups", "becomes"), [(128, 64), (254, 127), (131, 1)])
@pytest.mark.needs_lava
def test_many_groups_are_merged(groups: int, becomes: int) -> None:
    """Pooling over 128 channels and more: refused as it is, exact after `merge_groups` on engine, reference and Lava."""
    rng = np.random.default_rng(groups)
    conv = Conv2d("c", weights(rng, groups, 1, 2, 2), groups=groups)
    before = chain_of(Input("in", (groups, 2, 3)), conv, Lif("l", v_th_mant=20))
    with pytest.raises(LimitExceededError, match=rf"net\.c: {groups} groups \(allowed up to 127"):
        check_limits(before)
    report = CompileReport()
    after = merge_groups(before, report)
    assert after.nodes["c"].groups == becomes and str(becomes) in report.lines[0]  # type: ignore[attr-defined]
    check_limits(after)
    spikes = random_spikes(rng, before, n_windows=2, steps=5)
    old, new = run_engines(before, spikes, False), run_engines(after, spikes, False)
    np.testing.assert_array_equal(new.spikes["l"], old.spikes["l"])
    assert count(before, old.activity)[0].effective_synops == count(after, new.activity)[0].effective_synops
    assert _lava_errors(after, n_windows=1, steps=4) == 0


def test_wide_average_pooling_compiles() -> None:
    """The compiler merges groups by itself and leaves narrower convolutions as they are."""
    for channels, groups in ((127, 127), (200, 100)):
        graph = chain_of(Input("in", (channels, 4, 4)), Pool2d("pool", "average", (2, 2)), Lif("lif"))
        chain = compile_graph(graph, saturate=False, report=CompileReport())[1]
        check_limits(chain)
        assert chain.nodes["pool"].groups == groups  # type: ignore[attr-defined]
