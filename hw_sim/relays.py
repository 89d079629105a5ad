"""Relay channels, undone: the form in which our own engine runs a lowered network.

A chain of NetX layers carries the input of a residual block beside its inner spikes, in relay neurons that fire whenever
their one source does (`taaf.export.passes.chain`). The engine needs no such neurons: two synapse groups may end in
one LIF. This module finds relays by what they compute, not by name, so that it works on any chain:

    relay: one synapse, at the kernel tap that reads pixel (y s, x s), of a weight above the threshold; no bias, no current
    memory. Its v is then 0 or above the threshold, so s_relay(t) = s_source(t)[::s, ::s].

The spikes of relays are put back afterwards: results and counts are those of the chain.
"""

from dataclasses import dataclass, replace

import numpy as np

from taaf.models.ir import Conv2d, Graph, Lif, Node, Sum
from taaf.models.ir.nodes import PerChannel


@dataclass(frozen=True, eq=False)
class Relays:
    """The last channels of a LIF, which repeat spikes of ``source``: its channels ``read`` at every ``stride``-th pixel."""

    source: str
    read: np.ndarray
    stride: tuple[int, int]

    def of(self, values: np.ndarray) -> np.ndarray:
        """What the relays make of the source's values, channels third from the end: (..., C, H, W)."""
        return values[..., self.read, :: self.stride[0], :: self.stride[1]]


def without_relays(graph: Graph) -> tuple[Graph, dict[str, Relays]]:
    """An integer graph of the same spikes without relays, and LIF -> the relays that are missing at its end.

    Of relays that repeat relays, every second layer is undone; the others run as neurons, as do relays that are read beside the
    middle of a kernel.
    """
    found: dict[str, Relays] = {}
    for name in [lif.name for lif in graph.lifs()]:
        lif = graph.nodes[name]
        assert isinstance(lif, Lif)
        if (relays := _relays_of(graph, lif)) is not None:
            graph, found[name] = _raised(graph, name, relays), relays
    return graph, found


def _relays_of(graph: Graph, lif: Lif) -> Relays | None:
    (given,) = graph.sources(lif.name)
    first, targets = graph.nodes[given], graph.targets(lif.name)
    main = graph.nodes[targets[0]] if len(targets) == 1 else None
    if not (
        isinstance(first, Conv2d) and isinstance(main, Conv2d) and isinstance(graph.nodes[graph.targets(main.name)[0]], Lif)
    ):
        return None
    if first.groups != 1 or main.groups != 1 or main.stride != (1, 1) or not (_same(first) and _same(main)):
        return None
    n = _n_relays(first, lif)
    if n == 0 or _off_centre(main.weight[:, -n:]).any():
        return None
    return Relays(graph.sources(given)[0], _centre(first.weight[-n:]).argmax(axis=1), first.stride)


def _n_relays(first: Conv2d, lif: Lif) -> int:
    """How many channels at the end of a LIF are relays; the first channel never counts."""
    channels = len(first.weight)
    bias = np.zeros(channels) if lif.bias is None else np.abs(lif.bias).reshape(channels, -1).max(axis=1)
    thresholds, decays = (np.broadcast_to(x, channels) for x in (lif.v_th_mant, lif.i_decay))
    centre = _centre(first.weight)
    single = (np.count_nonzero(centre, axis=1) == 1) & ~_off_centre(first.weight).reshape(channels, -1).any(axis=1)
    is_relay = single & (centre.max(axis=1) > thresholds) & (decays == 4096) & (bias == 0)
    is_relay[0] = False
    return int(is_relay[::-1].argmin())


def _same(conv: Conv2d) -> bool:
    """Odd kernel, and padding that keeps its middle on the pixel."""
    fields = zip(conv.weight.shape[2:], conv.padding, conv.dilation, strict=True)
    return all(k % 2 == 1 and p == d * (k // 2) for k, p, d in fields)


def _centre(weight: np.ndarray) -> np.ndarray:
    middle: np.ndarray = weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2]
    return middle


def _off_centre(weight: np.ndarray) -> np.ndarray:
    """Non-zero weights at other taps than the middle."""
    rest = weight != 0
    rest[:, :, weight.shape[2] // 2, weight.shape[3] // 2] = False
    return rest


def _raised(graph: Graph, name: str, relays: Relays) -> Graph:
    lif = graph.nodes[name]
    assert isinstance(lif, Lif)
    (given,), (target,) = graph.sources(name), graph.targets(name)
    first, main = graph.nodes[given], graph.nodes[target]
    assert isinstance(first, Conv2d) and isinstance(main, Conv2d)
    own = len(first.weight) - len(relays.read)
    around = np.zeros((first.weight.shape[1], len(main.weight)), main.weight.dtype)
    np.add.at(around, relays.read, _centre(main.weight[:, own:]).T)
    shortcut, join = Conv2d(f"{target} shortcut", around.T[:, :, None, None], relays.stride), Sum(f"{target} join")
    (fed,) = graph.targets(target)
    replaced: dict[str, Node] = {
        given: replace(first, weight=first.weight[:own]),
        target: replace(main, weight=main.weight[:, :own]),
        name: Lif(
            name, _first(lif.i_decay, own), _first(lif.v_decay, own), _first(lif.v_th_mant, own),
            None if lif.bias is None else lif.bias[:own],
        ),
    }  # fmt: skip
    nodes: list[Node] = []
    for node in graph.nodes.values():
        nodes += [shortcut, join, node] if node.name == fed else [replaced.get(node.name, node)]
    edges = [(join.name if s == target else s, t) for s, t in graph.edges]
    edges += [(relays.source, shortcut.name), (target, join.name), (shortcut.name, join.name)]
    return Graph(graph.name, nodes, edges)


def _first(value: PerChannel, own: int) -> PerChannel:
    return value[:own] if isinstance(value, np.ndarray) and value.ndim == 1 else value
