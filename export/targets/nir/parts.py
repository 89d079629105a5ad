"""The structure of a NIR graph: nested graphs inlined, connected parts, and the readout that belongs to the host.

Exporters nest recurrent layers (snnTorch's RLeaky is a graph of Input, LIF, Linear and Output inside the graph), put several
networks side by side, and end in layers that do not spike. A chip sends spikes, so what comes after the last spiking
population, e.g. Linear and LI, is computed by the host: see `HostReadout`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import nir
import numpy as np

from taaf.export.targets.nir.neurons import NEURONS, array
from taaf.models.errors import UnsupportedLayerError

Edges = list[tuple[str, str]]
_READOUT = (nir.Linear, nir.Affine, nir.Scale, nir.Flatten, nir.LI, nir.CubaLI)
_ON_THE_HOST = (
    "the layers after the last spiking neurons are the host's: allowed there "
    f"{', '.join(k.__name__ for k in _READOUT)}, in a chain"
)


def inlined(graph: nir.NIRGraph, name: str) -> tuple[dict[str, nir.NIRNode], Edges]:
    """Nodes and edges with every nested graph taken apart; its nodes are called ``<graph>.<node>``."""
    nodes: dict[str, nir.NIRNode] = dict(graph.nodes)
    edges: Edges = list(graph.edges)
    while nested := next((n for n, node in nodes.items() if isinstance(node, nir.NIRGraph)), None):
        inner = nodes.pop(nested)
        ends = [[n for n, node in inner.nodes.items() if isinstance(node, kind)] for kind in (nir.Input, nir.Output)]
        if [len(e) for e in ends] != [1, 1]:
            raise UnsupportedLayerError(
                f"{name}.{nested}: a nested graph with {len(ends[0])} inputs and {len(ends[1])} outputs; allowed one each"
            )
        (first,), (last,) = ends
        for n, node in inner.nodes.items():
            if n not in (first, last):
                if f"{nested}.{n}" in nodes:
                    raise UnsupportedLayerError(f"{name}.{nested}.{n}: two nodes are called so; rename one")
                nodes[f"{nested}.{n}"] = node
        into = [t for s, t in inner.edges if s == first]
        out = [s for s, t in inner.edges if t == last]
        if last in into or not into or not out:
            raise UnsupportedLayerError(f"{name}.{nested}: a nested graph whose input or output is not connected")
        inside = [(f"{nested}.{s}", f"{nested}.{t}") for s, t in inner.edges if s != first and t != last]
        before = [(s, f"{nested}.{i}") for s, t in edges if t == nested for i in into]
        after = [(f"{nested}.{o}", t) for s, t in edges if s == nested for o in out]
        edges = [e for e in edges if nested not in e] + before + inside + after
    return nodes, edges


def components(nodes: Iterable[str], edges: Edges) -> list[list[str]]:
    """Names of the nodes of each connected part, parts in the order of their first edge."""
    part = {name: {name} for name in nodes}
    for source, target in edges:
        for end in (source, target):
            if end not in part:
                raise UnsupportedLayerError(f"edge {source} -> {target} names unknown node {end!r}")
        if part[source] is not part[target]:
            merged = part[source] | part[target]
            part.update(dict.fromkeys(merged, merged))
    order = [*(s for s, _ in edges), *part]
    return [sorted(p) for p in {id(part[n]): part[n] for n in order}.values()]


@dataclass(frozen=True)
class HostReadout:
    """Layers after the last spiking population: they do not spike, so the host computes them, in float64.

    ``LI`` integrates as the neurons do, without threshold: v <- v + k_m ((v_leak - v) + R I), from v_leak.

    Attributes
    ----------
    layers : tuple of (str, nir.NIRNode)
        In the order of the data.
    dt : float
        Time step in seconds.
    """

    layers: tuple[tuple[str, nir.NIRNode], ...] = field(repr=False)
    dt: float

    def run(self, spikes: np.ndarray) -> np.ndarray:
        """Spikes of the backbone (N, *shape, T) -> values (N, K, T)."""
        x = spikes.astype(np.float64)
        for _, node in self.layers:
            if isinstance(node, nir.Flatten):
                x = x.reshape(len(x), -1, x.shape[-1])
            elif isinstance(node, nir.Scale):
                x = x * np.atleast_1d(array(node.scale)).reshape(-1, *[1] * (x.ndim - 2))
            elif isinstance(node, nir.LI | nir.CubaLI):
                x = self._integrate(node, x)
            else:
                x = np.einsum("of,nft->not", array(node.weight), x)
                x = x if getattr(node, "bias", None) is None else x + array(node.bias)[:, None]
        return x

    def _integrate(self, node: Any, x: np.ndarray) -> np.ndarray:
        leak, r = _row(node.v_leak), _row(node.r)
        k_m = self.dt / _row(node.tau if isinstance(node, nir.LI) else node.tau_mem)
        current, v, out = np.zeros(x.shape[:-1]), np.zeros(x.shape[:-1]) + leak, np.empty_like(x)
        for step in range(x.shape[-1]):
            arriving = x[..., step]
            if isinstance(node, nir.CubaLI):
                current = current + self.dt / _row(node.tau_syn) * (-current + _row(node.w_in) * arriving)
                arriving = current
            v = v + k_m * ((leak - v) + r * arriving)
            out[..., step] = v
        return out

    def as_nir(self, shape: tuple[int, ...]) -> nir.NIRGraph:
        """A graph of its own (Input of the backbone's shape, the layers, Output), with ``dt`` in its metadata."""
        nodes: dict[str, nir.NIRNode] = {"input": nir.Input(np.array(shape))}
        width = int(np.prod(shape))
        for name, node in self.layers:
            width = len(node.weight) if hasattr(node, "weight") else width
            nodes[name] = _full(node, shape, width)
        names = [*nodes, "output"]
        nodes["output"] = nir.Output(np.array([width]))
        return nir.NIRGraph(nodes, list(pairwise(names)), {"dt": self.dt}, type_check=False)


def _row(value: Any) -> np.ndarray:
    """A parameter of flat neurons, such that it broadcasts over (N, K)."""
    return array(value).reshape(-1)


def _full(node: Any, shape: tuple[int, ...], width: int) -> nir.NIRNode:
    """The layer with plain arrays, one value per neuron (a file cannot compress single numbers)."""
    if isinstance(node, nir.Flatten):
        return nir.Flatten({"input": np.array(shape)}, 0, -1)
    if isinstance(node, nir.Linear | nir.Affine):
        return (
            nir.Linear(array(node.weight)) if isinstance(node, nir.Linear) else nir.Affine(array(node.weight), array(node.bias))
        )
    if isinstance(node, nir.Scale):
        return nir.Scale(np.atleast_1d(array(node.scale)))
    keys = ("tau", "r", "v_leak") if isinstance(node, nir.LI) else ("tau_syn", "tau_mem", "r", "v_leak", "w_in")
    return type(node)(**{k: np.broadcast_to(_row(getattr(node, k)), (width,)).copy() for k in keys})


def split_readout(
    nodes: dict[str, nir.NIRNode], edges: Edges, name: str, dt: float
) -> tuple[dict[str, nir.NIRNode], Edges, HostReadout | None]:
    """Cut what comes after the last spiking population; a bare Flatten there is left out without a word.

    Raises
    ------
    UnsupportedLayerError
        Naming the layer there that the host cannot compute.
    """
    outputs = [n for n, node in nodes.items() if isinstance(node, nir.Output)]
    if len(outputs) != 1 or not any(isinstance(n, NEURONS) for n in nodes.values()):
        return nodes, edges, None
    tail: list[str] = []
    sources = [s for s, t in edges if t == outputs[0]]
    while len(sources) == 1 and not isinstance(nodes[sources[0]], (*NEURONS, nir.Input)) and sources[0] not in tail:
        tail.insert(0, sources[0])
        sources = [s for s, t in edges if t == sources[0]]
    if not tail:
        return nodes, edges, None
    wrong = next((n for n in tail if not isinstance(nodes[n], _READOUT)), None)
    if len(sources) != 1 or not isinstance(nodes[sources[0]], NEURONS):
        raise UnsupportedLayerError(f"{name}.{tail[0]}: fed by {', '.join(sources) or 'nothing'}; {_ON_THE_HOST}")
    if wrong is not None:
        raise UnsupportedLayerError(f"{name}.{wrong}: {type(nodes[wrong]).__name__} at the end; {_ON_THE_HOST}")
    branching = [n for n in tail if sum(s == n for s, _ in edges) != 1]
    if branching:
        raise UnsupportedLayerError(f"{name}.{branching[0]}: feeds several layers; {_ON_THE_HOST}")
    kept = {n: node for n, node in nodes.items() if n not in tail}
    left = [e for e in edges if not set(e) & set(tail)] + [(sources[0], outputs[0])]
    layers = tuple((n, nodes[n]) for n in tail)
    return kept, left, None if all(isinstance(n, nir.Flatten) for _, n in layers) else HostReadout(layers, dt)
