"""Any integer chain that the IR allows survives NIR unchanged; any positive scaling of a NIR network's units changes nothing."""

import tempfile
from pathlib import Path

import nir
import nir_nets
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from small_graphs import chain_of, weights

from taaf.export.ptq.float_reference import run_float
from taaf.export.targets.nir.file import save_nir
from taaf.export.targets.nir.output import integer_graphs, require_same
from taaf.export.targets.nir.read import from_nir, read_nir
from taaf.export.targets.nir.write import to_nir
from taaf.models.ir import Conv2d, Dense, Flatten, Graph, Input, Lif, Node, RecurrentDense

quick = settings(deadline=None, max_examples=40)


def _draw_lif(draw: st.DrawFn, name: str, n: int, rng: np.random.Generator) -> Lif:
    v_decay = draw(st.integers(0, 4096))
    i_decay = 4096 if v_decay == 0 else draw(st.sampled_from([4096, 4096, 1, 7, 2048, 4095]))
    bias = rng.integers(-4095, 4096, n).astype(np.int32) if draw(st.booleans()) else None
    if bias is not None and draw(st.booleans()):
        bias = np.zeros(n, np.int32)
    return Lif(name, i_decay, v_decay, draw(st.integers(1, 131_071)), bias)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Conv - LIF - flatten - dense or recurrent - LIF with every parameter over its whole range."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    stride, padding = draw(st.tuples(*[st.integers(1, 3)] * 2)), draw(st.tuples(*[st.integers(0, 2)] * 2))
    dilation, groups = draw(st.tuples(*[st.integers(1, 2)] * 2)), draw(st.sampled_from([1, 2]))
    conv = Conv2d("conv", weights(rng, 4, 2 // groups, 3, 2, limit=254), stride, padding, dilation, groups)
    nodes: list[Node] = [Input("in", (2, 7, 6)), conv, _draw_lif(draw, "one", 4, rng), Flatten("flat")]
    n = int(np.prod(conv.out_shape([(2, 7, 6)])))
    last: Dense = Dense("dense", weights(rng, 3, n, limit=254))
    if draw(st.booleans()):
        last = RecurrentDense("dense", last.weight, None, weights(rng, 3, 3, limit=254))
    return chain_of(*nodes, last, _draw_lif(draw, "two", 3, rng))


@quick
@given(graphs(), st.sampled_from([1e-3, 1e-4, 0.7e-5, 1.0, 3.0]))
def test_integer_round_trip(graph: Graph, dt: float) -> None:
    """Exact for every decay, threshold, bias (also of zeros), layer shape and time step."""
    with tempfile.TemporaryDirectory() as folder:
        save_nir(Path(folder) / "x.nir", to_nir({"net": graph}, dt))
        require_same({"net": graph}, integer_graphs(read_nir(Path(folder) / "x.nir")))


@quick
@given(st.integers(0, 1000), st.sampled_from([0.25, 0.5, 4.0, 1024.0]), st.sampled_from([0.125, 2.0, 64.0]))
def test_units_do_not_matter(seed: int, volts: float, seconds: float) -> None:
    """v_threshold and R times a power of two, tau and dt times another: the same spikes."""
    plain = nir_nets.chain((6,), nir.Linear(nir_nets.weights(seed, 5, 6)), nir_nets.lif(5))
    other = nir_nets.lif(5, r=volts, v_threshold=0.4 * volts, tau=4e-3 * seconds)
    scaled = nir_nets.chain((6,), plain.nodes["a"], other)
    x = nir_nets.spikes((6,), n=2, steps=20, seed=seed)
    one = run_float(from_nir(plain, "net", 1e-3).nets["net"], x)
    two = run_float(from_nir(scaled, "net", 1e-3 * seconds).nets["net"], x)
    np.testing.assert_array_equal(one.spikes["b"], two.spikes["b"])
