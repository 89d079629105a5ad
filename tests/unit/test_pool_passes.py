"""Pools that vanish into the weights around them: equal to pooling by torch, exactly, or refused by name."""

from itertools import product

import numpy as np
import pytest
import torch
from engines import run_engines
from small_graphs import chain_of, random_spikes
from torch.nn import functional

from taaf.export.passes import CompileReport, compile_graph, fold_batch_norm, fold_pool, or_pool
from taaf.hw_sim.reference import run_reference
from taaf.models.errors import UnsupportedLayerError
from taaf.models.ir import BatchNorm, Concat, Conv2d, Dense, Flatten, Graph, Input, Lif, Node, Pool2d, Sum


def _dyadic(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.integers(-8, 9, shape) / 16).astype(np.float32)


def _current(nodes: list[Node], x: torch.Tensor) -> torch.Tensor:
    """What nodes behind the input make of (N, C, H, W), by torch in float64."""
    for node in nodes:
        if isinstance(node, Pool2d):
            x = functional.avg_pool2d(x, node.kernel, node.step, node.padding)
            x = x * (node.kernel[0] * node.kernel[1] if node.kind == "sum" else 1)
        elif isinstance(node, Conv2d):
            bias = None if node.bias is None else torch.from_numpy(node.bias).double()
            weight = torch.from_numpy(node.weight).double()
            x = functional.conv2d(x, weight, bias, node.stride, node.padding, node.dilation, node.groups)
        elif isinstance(node, Dense):
            x = functional.linear(x, torch.from_numpy(node.weight).double())
        elif isinstance(node, Flatten):
            x = x.flatten(1)
    return x


def _same(before: Graph, folded: Graph, size: tuple[int, ...]) -> None:
    x = torch.from_numpy((np.random.default_rng(1).random((3, *size)) < 0.5).astype(np.float64))
    assert not any(isinstance(n, Pool2d) for n in folded.nodes.values())
    assert torch.equal(_current(list(before.nodes.values()), x), _current(list(folded.nodes.values()), x))


GEOMETRY = list(
    product(
        [(16, 12), (11, 13)],
        [((2, 2), None, (0, 0)), ((4, 2), (2, 2), (1, 0)), ((4, 2), (2, 1), (0, 1)), ((2, 2), (3, 2), (0, 0))],
        [((3, 3), (1, 1), (1, 1), (1, 1)), ((3, 1), (2, 1), (0, 0), (1, 2)), ((2, 2), (1, 2), (0, 1), (2, 1))],
    )
)


@pytest.mark.parametrize("kind", ["sum", "average"])
def test_conv_of_pooled_spikes(kind: str) -> None:
    """Strides, paddings and dilations of both; what is refused would differ at the border.

    Seen failing: without the padding of the pool, and (for what is refused) without the refusal.
    """
    rng, refused = np.random.default_rng(0), 0
    for size, (k, m, p), (kernel, stride, padding, dilation) in GEOMETRY:
        conv = Conv2d("conv", _dyadic(rng, 4, 1, *kernel), stride, padding, dilation, 2)
        graph = chain_of(Input("input", (2, *size)), Pool2d("pool", kind, k, m, p), conv)
        try:
            _same(graph, fold_pool(graph), (2, *size))
        except UnsupportedLayerError as error:
            assert "net.pool" in str(error) and "conv, which pads the pooled map" in str(error)
            refused += 1
    assert 0 < refused < len(GEOMETRY) / 2


@pytest.mark.parametrize("kind", ["sum", "average"])
@pytest.mark.parametrize("pool", [((2, 2), None, (0, 0)), ((4, 2), (2, 1), (1, 1))])
def test_dense_of_pooled_spikes_and_pooled_currents(kind: str, pool: tuple) -> None:
    rng = np.random.default_rng(0)
    graph = chain_of(Input("input", (2, 7, 6)), Pool2d("pool", kind, *pool), Flatten("flat"))
    dense = Dense("dense", _dyadic(rng, 3, *graph.shapes["flat"]))
    graph = chain_of(*graph.nodes.values(), dense)
    _same(graph, fold_pool(graph), (2, 7, 6))
    conv = Conv2d("conv", _dyadic(rng, 4, 1, 3, 2), (2, 1), (1, 1), (1, 2), 2, _dyadic(rng, 4))
    graph = chain_of(Input("input", (2, 9, 9)), conv, Pool2d("pool", kind, *pool[:2]))
    _same(graph, fold_pool(graph), (2, 9, 9))


def test_norms_around_pools() -> None:
    """conv - norm - pool - LIF and conv - pool - norm - LIF; a norm behind a sum of two convolutions."""
    rng, one, zero = np.random.default_rng(0), np.ones(2, np.float32), np.zeros(2, np.float32)
    norm = BatchNorm("norm", 2 * one, np.array([0.5, -0.5], np.float32), zero, one, 0.0)
    conv, pool, lif = Conv2d("conv", _dyadic(rng, 2, 1, 2, 2)), Pool2d("pool", "average", (2, 2)), Lif("lif")
    found = []
    for middle in ([norm, pool], [pool, norm]):
        _, chain = compile_graph(chain_of(Input("input", (1, 7, 7)), conv, *middle, lif), False, CompileReport())
        found.append((chain.nodes["conv"].weight, chain.nodes["lif"].bias))  # type: ignore[attr-defined]
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True)) and found[0][1].tolist() == [32, -32]
    again = Conv2d("again", _dyadic(rng, 2, 1, 2, 2), bias=one)
    edges = [("input", "conv"), ("input", "again"), ("conv", "sum"), ("again", "sum"), ("sum", "norm"), ("norm", "lif")]
    graph = fold_batch_norm(Graph("net", [Input("input", (1, 4, 4)), conv, again, Sum("sum"), norm, lif], edges))
    first, second = graph.nodes["conv"], graph.nodes["again"]
    assert np.array_equal(first.weight, 2 * conv.weight) and np.array_equal(second.weight, 2 * again.weight)  # type: ignore[attr-defined]
    assert (first.bias + second.bias).tolist() == [2.5, 1.5]  # type: ignore[attr-defined]


def test_or_pool_makes_neurons_above_threshold() -> None:
    """The integers of a patch stem's pooling, and the OR of the spikes, beside another reader and as output."""
    lif = Lif("lif", v_th_mant=30)
    nodes = [Input("input", (2, 7, 8)), Conv2d("conv", np.full((2, 2, 1, 1), 20, np.int32)), lif]
    nodes += [Pool2d("pool1", "max", (3, 3), (2, 2), (1, 1)), Pool2d("pool2", "max", (3, 3), (2, 2), (1, 1)), Concat("both")]
    edges = [("input", "conv"), ("conv", "lif"), ("lif", "pool1"), ("lif", "pool2"), ("pool1", "both"), ("pool2", "both")]
    graph = Graph("net", nodes, edges)
    pooled = or_pool(graph)
    conv, neurons = pooled.nodes["pool1"], pooled.nodes["pool1_lif"]
    assert isinstance(conv, Conv2d) and isinstance(neurons, Lif) and (conv.weight == 254).all()
    assert (conv.weight.shape, conv.stride, conv.padding, conv.groups) == ((2, 1, 3, 3), (2, 2), (1, 1), 2)
    assert (neurons.i_decay, neurons.v_decay, neurons.v_th_mant, neurons.bias) == (4096, 2048, 128, None)
    spikes = random_spikes(np.random.default_rng(0), graph, 3, 8)
    for window, found in zip(spikes, run_engines(pooled, spikes, False).spikes["both"], strict=True):
        np.testing.assert_array_equal(found, run_reference(graph, window).spikes["both"])


def test_pool_that_is_shared() -> None:
    """One pool in front of two convolutions and a dense layer is folded into each."""
    rng = np.random.default_rng(0)
    nodes = [Input("input", (1, 6, 6)), Pool2d("pool", "sum", (2, 2)), Conv2d("a", _dyadic(rng, 2, 1, 3, 3), padding=(1, 1))]
    nodes += [
        Conv2d("b", _dyadic(rng, 2, 1, 1, 1)),
        Sum("sum"),
        Lif("lif"),
        Flatten("flat"),
        Dense("d", _dyadic(rng, 3, 9)),
        Lif("m"),
    ]
    edges = [("input", "pool"), ("pool", "a"), ("pool", "b"), ("a", "sum"), ("b", "sum"), ("sum", "lif"), ("pool", "flat")]
    nodes, edges = (
        [*nodes, Flatten("g"), Concat("out")],
        [*edges, ("flat", "d"), ("d", "m"), ("lif", "g"), ("g", "out"), ("m", "out")],
    )
    integer, chain = compile_graph(Graph("net", nodes, edges), False, CompileReport())
    assert integer.nodes["a"].weight.shape == (2, 1, 6, 6) and integer.nodes["d"].weight.shape == (3, 36)  # type: ignore[attr-defined]
    spikes = random_spikes(rng, integer, 2, 5)
    for window, found in zip(spikes, run_engines(chain, spikes, False).spikes["out"], strict=True):
        np.testing.assert_array_equal(found, run_reference(integer, window).spikes["out"])
