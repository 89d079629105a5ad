"""Small random integer chains, one per layer type, and random spikes for them."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from taaf.export.passes import CompileReport, fold_batch_norm, fold_pool, quantise, to_chain
from taaf.models.ir import BatchNorm, Conv2d, Dense, Flatten, Graph, Input, Lif, Node, Pool2d, RecurrentDense, Sum


def weights(rng: np.random.Generator, *shape: int, limit: int = 60) -> np.ndarray:
    """Even integers, about a third of them zero."""
    return (2 * rng.integers(-limit // 2, limit // 2 + 1, shape) * (rng.random(shape) < 0.7)).astype(np.int32)


def chain_of(*nodes: Node) -> Graph:
    """A graph of consecutive nodes, named "net"."""
    return Graph("net", nodes, [(a.name, b.name) for a, b in pairwise(nodes)])


def _bias(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(-20, 30, n).astype(np.int32)


def _conv(shape: tuple[int, int, int], weight_shape: tuple[int, ...], **how: object) -> Callable[[np.random.Generator], Graph]:
    def build(rng: np.random.Generator) -> Graph:
        conv = Conv2d("conv", weights(rng, *weight_shape), **how)  # type: ignore[arg-type]
        return chain_of(Input("input", shape), conv, Lif("lif", v_th_mant=64, bias=_bias(rng, weight_shape[0])))

    return build


def _dense(rng: np.random.Generator) -> Graph:
    return chain_of(Input("input", (20,)), Dense("dense", weights(rng, 12, 20)), Lif("lif", bias=_bias(rng, 12)))


def _recurrent(rng: np.random.Generator) -> Graph:
    layer = RecurrentDense("dense", weights(rng, 12, 20), None, weights(rng, 12, 12))
    return chain_of(Input("input", (20,)), layer, Lif("lif", bias=_bias(rng, 12)))


def _current_memory(rng: np.random.Generator) -> Graph:
    lif = Lif("lif", i_decay=1023, v_decay=377, v_th_mant=300, bias=_bias(rng, 12))
    return chain_of(Input("input", (20,)), Dense("dense", weights(rng, 12, 20)), lif)


def _delay(*shape: int, behind: bool = False) -> Callable[[np.random.Generator], Graph]:
    """A delayed dense layer, alone (biased: NetX lets the bias act at once) or between two others."""

    def build(rng: np.random.Generator) -> Graph:
        delay = rng.integers(0, 12, shape).astype(np.int32)  # some beyond the windows of nine steps
        delay.flat[0] = 1
        late, bias = Dense("late", weights(rng, 12, 20), delay=delay), _bias(rng, 12)
        if not behind:
            return chain_of(Input("input", (20,)), late, Lif("lif", v_decay=500, bias=bias))
        nodes: list[Node] = [Input("input", (15,)), Dense("dense", weights(rng, 20, 15)), Lif("lif", bias=_bias(rng, 20)), late]
        nodes += [Lif("lif2", i_decay=2048, v_decay=500), Dense("last", weights(rng, 6, 12)), Lif("lif3", v_decay=300)]
        return chain_of(*nodes)

    return build


def _per_channel(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    lows, highs = {"i_decay": 300, "v_decay": 0, "v_th_mant": 40}, {"i_decay": 4097, "v_decay": 4097, "v_th_mant": 200}
    return {k: rng.integers(lows[k], highs[k], n).astype(np.int32) for k in lows}


def _decays_conv(rng: np.random.Generator) -> Graph:
    lif = Lif("lif", **_per_channel(rng, 4), bias=_bias(rng, 4))
    return chain_of(Input("input", (2, 6, 5)), Conv2d("conv", weights(rng, 4, 2, 3, 3), padding=(1, 1)), lif)


def _decays_dense(rng: np.random.Generator) -> Graph:
    return chain_of(Input("input", (20,)), Dense("dense", weights(rng, 12, 20)), Lif("lif", **_per_channel(rng, 12)))


def _leaks_of_two_powers(rng: np.random.Generator) -> Graph:
    lif = Lif("lif", v_decay=np.array([4096, 2048, 3072], np.int32), v_th_mant=np.array([30, 60, 90]))
    return chain_of(Input("input", (2, 6, 5)), Conv2d("conv", weights(rng, 3, 2, 3, 3), padding=(1, 1)), lif)


def _bias_per_neuron(rng: np.random.Generator) -> Graph:
    bias = rng.integers(-20, 40, (3, 4, 5)).astype(np.int32)
    return chain_of(Input("input", (2, 6, 7)), Conv2d("conv", weights(rng, 3, 2, 3, 3)), Lif("lif", bias=bias))


def _flatten(rng: np.random.Generator) -> Graph:
    return chain_of(
        Input("input", (2, 5, 4)),
        Conv2d("conv", weights(rng, 3, 2, 3, 3), padding=(1, 1)),
        Lif("lif", bias=_bias(rng, 3)),
        Flatten("flatten"),
        Dense("dense", weights(rng, 7, 60, limit=30)),
        Lif("lif2", bias=_bias(rng, 7)),
    )


def _flatten_first(rng: np.random.Generator) -> Graph:
    dense = Dense("dense", weights(rng, 7, 24))
    return chain_of(Input("input", (2, 3, 4)), Flatten("flatten"), dense, Lif("lif", bias=_bias(rng, 7)))


def _single_neurons(rng: np.random.Generator) -> Graph:
    conv = Conv2d("conv", np.array([[[[2 * rng.integers(20, 40)]]]], np.int32))
    nodes: list[Node] = [Input("input", (1, 1, 1)), conv, Lif("lif", bias=np.array([7], np.int32)), Flatten("flatten")]
    return chain_of(*nodes, Dense("dense", np.array([[80]], np.int32)), Lif("lif2", bias=np.array([-3], np.int32)))


def _deep(rng: np.random.Generator) -> Graph:
    return chain_of(
        Input("input", (2, 8, 6)),
        Conv2d("conv1", weights(rng, 4, 2, 3, 3), padding=(1, 1)),
        Lif("lif1", bias=_bias(rng, 4)),
        Conv2d("conv2", weights(rng, 4, 4, 3, 3), (2, 2), (1, 1)),
        Lif("lif2", v_decay=1000, bias=_bias(rng, 4)),
        Conv2d("conv3", weights(rng, 3, 4, 3, 3), padding=(1, 1)),
        Lif("lif3", v_th_mant=90, bias=_bias(rng, 3)),
    )


def _pool(kind: str) -> Callable[[np.random.Generator], Graph]:
    def build(rng: np.random.Generator) -> Graph:
        graph = chain_of(Input("input", (3, 6, 8)), Pool2d("pool", kind, (2, 2)), Lif("lif", v_th_mant=64))
        return quantise(fold_pool(graph), saturate=False, report=CompileReport())

    return build


def residual(rng: np.random.Generator, stride: int = 2) -> Graph:
    """Unlowered integer residual block with batch norm folded, biases everywhere and an unread input channel."""

    def draw(scale: float, *shape: int) -> np.ndarray:  # clipped so that folding (gain up to 1.7) stays below 254 / 128
        return rng.normal(0, scale, shape).clip(-1.1, 1.1).astype(np.float32)

    shortcut = draw(0.5, 4, 3, 1, 1)
    shortcut[:, 1] = 0
    nodes: list[Node] = [Input("input", (2, 7, 7))]
    nodes += [
        Conv2d("stem", draw(0.5, 3, 2, 3, 3), padding=(1, 1)),
        _norm(rng, "bn0", 3),
        Lif("x"),
    ]
    nodes += [Conv2d("a", draw(0.5, 5, 3, 3, 3), (stride,) * 2, (1, 1)), _norm(rng, "bn1", 5)]
    nodes += [Lif("h", v_th_mant=128)]
    nodes += [Conv2d("b", draw(0.3, 4, 5, 3, 3), padding=(1, 1)), _norm(rng, "bn2", 4)]
    nodes += [Conv2d("s", shortcut, (stride,) * 2), _norm(rng, "bn3", 4), Sum("join"), Lif("y", v_th_mant=128)]
    line = ["input", "stem", "bn0", "x", "a", "bn1", "h", "b", "bn2", "join", "y"]
    edges = [*pairwise(line), ("x", "s"), ("s", "bn3"), ("bn3", "join")]
    return quantise(fold_batch_norm(Graph("net", nodes, edges)), saturate=False, report=CompileReport())


def _norm(rng: np.random.Generator, name: str, n: int) -> BatchNorm:
    def draw(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, n).astype(np.float32)

    return BatchNorm(name, draw(0.5, 1.2), draw(-0.1, 0.4), draw(-0.2, 0.2), draw(0.5, 1.5))


def _lowered(stride: int) -> Callable[[np.random.Generator], Graph]:
    return lambda rng: to_chain(residual(rng, stride), CompileReport())


CASES: dict[str, Callable[[np.random.Generator], Graph]] = {
    "conv": _conv((2, 6, 6), (4, 2, 3, 3), padding=(1, 1)),
    "conv_stride": _conv((2, 9, 9), (4, 2, 3, 3), stride=(2, 2), padding=(1, 1)),
    "conv_asymmetric": _conv((2, 9, 6), (3, 2, 3, 2), stride=(2, 1), padding=(1, 0)),
    "conv_grouped": _conv((4, 6, 6), (6, 2, 3, 3), padding=(1, 1), groups=2),
    "conv_dilated": _conv((2, 9, 8), (3, 2, 3, 3), padding=(2, 2), dilation=(2, 2)),
    "dense": _dense,
    "dense_recurrent": _recurrent,
    "current_memory": _current_memory,
    "decays_per_channel_conv": _decays_conv,
    "decays_per_channel_dense": _decays_dense,
    "leaks_per_channel": _leaks_of_two_powers,
    "bias_per_neuron": _bias_per_neuron,
    "delay_targets": _delay(12, 1),
    "delay_sources": _delay(1, 20),
    "delay_synapses": _delay(12, 20),
    "delay_one": _delay(1, 1),
    "delay_behind": _delay(12, 1, behind=True),
    "delay_behind_synapses": _delay(12, 20, behind=True),
    "conv_rest": _conv((2, 8, 9), (4, 1, 2, 3), stride=(3, 4), groups=2),
    "conv_mixed_pairs": _conv((4, 11, 7), (6, 2, 3, 2), stride=(3, 2), padding=(2, 1), dilation=(2, 3), groups=2),
    "depthwise": _conv((5, 4, 6), (5, 1, 3, 3), padding=(1, 1), groups=5),
    "flatten": _flatten,
    "flatten_first": _flatten_first,
    "single_neurons": _single_neurons,
    "deep_biased": _deep,
    "pool_sum": _pool("sum"),
    "pool_average": _pool("average"),
    "residual": _lowered(1),
    "residual_stride": _lowered(2),
}

ONE_WINDOW = {"dense_recurrent", *(name for name in CASES if name.startswith("delay"))}  # what no reset clears


def random_spikes(rng: np.random.Generator, graph: Graph, n_windows: int, steps: int, rate: float = 0.35) -> np.ndarray:
    """(N, *shape, T) uint8."""
    return (rng.random((n_windows, *graph.input.shape, steps)) < rate).astype(np.uint8)
