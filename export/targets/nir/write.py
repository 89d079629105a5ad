"""Integer graphs -> NIR, in chip units, so that reading it back gives the identical graph.

With dt in seconds (stored in the metadata of the graph), weights W and thresholds V as on the chip:

    tau = 4096 dt / v_decay, R = tau / dt, v_threshold = v_th_mant, v_leak = v_reset = 0     (LIF, i_decay 4096)
    R = 1 / dt, v_threshold = v_th_mant                                                       (IF,  v_decay 0)
    tau_syn = 4096 dt / i_decay, w_in = tau_syn / dt, v_leak = R bias                         (CubaLIF, i_decay < 4096)

A bias is that of an Affine or Conv2d, except for CubaLIF, whose current filter it must not pass. Any tool that integrates
NIR's equations with this dt gets the chip's network but for truncation (tz) and 24 bits. A join is two edges into one neuron.
"""

from collections.abc import Iterator
from typing import Any

import nir
import numpy as np

from taaf.models import ir
from taaf.models.errors import UnsupportedLayerError
from taaf.models.ir.stage import require_integer_stage

DT = 1e-3


def to_nir(graphs: dict[str, ir.Graph], dt: float = DT) -> nir.NIRGraph:
    """One NIR graph with every branch as its own part; with several, node names begin with ``<branch>.``.

    Raises
    ------
    GraphError
        If a graph is not of the integer stage.
    UnsupportedLayerError
        Naming the node that NIR cannot express.
    """
    nodes: dict[str, nir.NIRNode] = {}
    edges: list[tuple[str, str]] = []
    for branch, graph in graphs.items():
        require_integer_stage(graph)
        for lif in graph.lifs():
            _require_uniform(f"{branch}.{lif.name}", lif)
        prefix = f"{branch}." if len(graphs) > 1 else ""
        for position, (name, node) in enumerate(_nodes(graph, dt)):
            if "/" in name or name in ("", "."):
                raise UnsupportedLayerError(f"{branch}.{name}: a node of a NIR file cannot be called so; rename it")
            node.metadata["position"] = position
            nodes[prefix + name] = node
        edges += [(prefix + s, prefix + t) for s, t in _edges(graph)]
    return nir.NIRGraph(
        nodes, edges, {"dt": dt, "branches": " ".join(graphs), "reset": "hard", "written_by": "taaf"}, type_check=False
    )


def _require_uniform(where: str, lif: ir.Lif) -> None:
    if any(np.ndim(value) for value in (lif.i_decay, lif.v_decay, lif.v_th_mant)):
        raise UnsupportedLayerError(
            f"{where}: decays or thresholds per channel are not written as NIR; allowed one value per layer"
        )
    if lif.bias is not None and lif.bias.ndim > 1:
        raise UnsupportedLayerError(f"{where}: a bias per neuron of a map is not written as NIR; allowed one per channel")


def _nodes(graph: ir.Graph, dt: float) -> Iterator[tuple[str, nir.NIRNode]]:
    biases = {graph.synapses_of(lif.name)[0].name: lif for lif in graph.lifs() if lif.bias is not None}
    for node in graph.nodes.values():
        where = f"{graph.name}.{node.name}"
        if isinstance(node, ir.Input):
            yield node.name, nir.Input(np.array(node.shape))
        elif isinstance(node, ir.Flatten):
            (source,) = graph.sources(node.name)
            yield node.name, nir.Flatten({"input": np.array(graph.shapes[source])}, 0, -1)
        elif isinstance(node, ir.Conv2d | ir.Dense):
            lif = biases.get(node.name)
            yield node.name, _synapse(graph, node, lif)
            if isinstance(node, ir.RecurrentDense):
                if f"{node.name}_rec" in graph.nodes:
                    raise UnsupportedLayerError(f"{where}_rec: this name is needed for the recurrence; rename the node")
                yield f"{node.name}_rec", nir.Linear(node.weight_rec.astype(np.float64))
        elif isinstance(node, ir.Lif):
            yield node.name, _neurons(where, graph, node, dt)
        elif isinstance(node, ir.Sum):
            (target,) = graph.targets(node.name)
            if not isinstance(graph.nodes[target], ir.Lif):
                raise UnsupportedLayerError(f"{where}: feeds {target}; NIR adds currents at neurons only")
    if "output" in graph.nodes and not isinstance(graph.nodes["output"], ir.Input):
        raise UnsupportedLayerError(f"{graph.name}.output: this name is needed for NIR's Output; rename the node")
    yield "output", nir.Output(np.array(graph.shapes[graph.output]))


def _synapse(graph: ir.Graph, node: ir.Conv2d | ir.Dense, lif: ir.Lif | None) -> nir.NIRNode:
    """Weights as they are; ``lif``: the neurons whose bias goes here."""
    if isinstance(node, ir.Dense) and node.delay is not None and node.delay.any():
        raise UnsupportedLayerError(f"{graph.name}.{node.name}: delays are not written as NIR; allowed none")
    weight = node.weight.astype(np.float64)
    bias = np.zeros(len(weight))
    if lif is not None and lif.i_decay == 4096:
        assert lif.bias is not None
        bias = lif.bias.astype(np.float64)
    metadata: dict[str, Any] = {} if lif is None else {"has_bias": 1}
    if isinstance(node, ir.Conv2d):
        (source,) = graph.sources(node.name)
        how = (node.stride, node.padding, node.dilation, node.groups)
        return nir.Conv2d(graph.shapes[source][1:], weight, *how, bias, metadata=metadata)
    return nir.Linear(weight) if lif is None else nir.Affine(weight, bias, metadata=metadata)


def _neurons(where: str, graph: ir.Graph, lif: ir.Lif, dt: float) -> nir.NIRNode:
    shape = graph.shapes[lif.name]
    i_decay, v_decay, v_th_mant = int(lif.i_decay), int(lif.v_decay), int(lif.v_th_mant)

    def full(value: float) -> np.ndarray:
        return np.full(shape, value, np.float64)

    metadata: dict[str, Any] = {"v_th_mant": v_th_mant}
    (source,) = graph.sources(lif.name)
    if isinstance(graph.nodes[source], ir.Sum):
        metadata["sum"] = source
    theta = {"v_threshold": full(v_th_mant), "v_reset": full(0), "metadata": metadata}
    if v_decay == 0:
        if i_decay < 4096:
            raise UnsupportedLayerError(
                f"{where}: current memory (i_decay {i_decay}) without voltage leak (v_decay 0) has no NIR neuron; "
                "allowed v_decay from 1, or i_decay 4096"
            )
        return nir.IF(r=full(1 / dt), **theta)
    resistance = 4096 / v_decay
    if i_decay == 4096:
        return nir.LIF(tau=full(dt * resistance), r=full(resistance), v_leak=full(0), **theta)
    leak = full(0)
    if lif.bias is not None and lif.bias.any():
        leak += resistance * lif.bias.reshape(-1, *[1] * (len(shape) - 1))
        metadata["v_initial"] = 0.0
    w_in = 4096 / i_decay
    return nir.CubaLIF(
        tau_syn=full(dt * w_in), tau_mem=full(dt * resistance), r=full(resistance), v_leak=leak, w_in=full(w_in), **theta
    )


def _edges(graph: ir.Graph) -> Iterator[tuple[str, str]]:
    for source, target in graph.edges:
        if isinstance(graph.nodes[source], ir.Sum):
            continue
        node = graph.nodes[target]
        yield source, graph.targets(target)[0] if isinstance(node, ir.Sum) else target
        if isinstance(graph.nodes[source], ir.RecurrentDense):
            yield target, f"{source}_rec"
            yield f"{source}_rec", target
    yield graph.output, "output"
