"""Batch norms vanish into the weights before them."""

from dataclasses import replace

import numpy as np

from taaf.models.errors import UnsupportedLayerError
from taaf.models.ir import BatchNorm, Conv2d, Dense, Graph, Node, Pool2d, RecurrentDense, Sum


def fold_batch_norm(graph: Graph) -> Graph:
    """W <- W g / sqrt(var + eps), b <- offset - mean g / sqrt(var + eps) (+ b g / sqrt(...)), in the norm's precision.

    The factor itself is taken in float64 and rounded once, as training does (`taaf.models.qat.QatSynapse.fold_scale`). A norm
    behind a sum scales all its synapse groups, and its offset goes to the first. Norms behind sum or average pooling wait until
    that is folded (`taaf.export.passes.pool`).

    Raises
    ------
    UnsupportedLayerError
        Naming a norm that does not follow synapses which feed nothing else.
    """
    replaced: dict[str, Node | None] = {}
    rewire: dict[str, str] = {}
    for norm in graph.nodes.values():
        if not isinstance(norm, BatchNorm):
            continue
        (source,) = graph.sources(norm.name)
        given = graph.nodes[source]
        if isinstance(given, Pool2d) and given.kind != "max":
            continue
        synapses = graph.sources(source) if isinstance(given, Sum) else [source]
        alone = graph.targets(source) == [norm.name] and all(len(graph.targets(s)) == 1 for s in synapses)
        if not alone or not all(isinstance(graph.nodes[s], Conv2d | Dense) and s not in replaced for s in synapses):
            raise UnsupportedLayerError(
                f"{graph.name}.{norm.name}: batch norm after {type(given).__name__} cannot be folded; "
                "allowed directly after a convolution or dense layer that feeds nothing else, or after a sum of such"
            )
        sigma = np.sqrt(norm.var.astype(np.float64) + norm.eps)
        scale = (norm.gain / sigma).astype(norm.gain.dtype)
        offset: np.ndarray | None = norm.offset - norm.mean * scale
        for name in synapses:
            replaced[name], offset = _scaled(graph.nodes[name], scale, offset), None  # type: ignore[arg-type]
        replaced[norm.name], rewire[norm.name] = None, source
    return graph.rebuilt(replaced, rewire)


def _scaled(synapse: Conv2d | Dense, scale: np.ndarray, offset: np.ndarray | None) -> Conv2d | Dense:
    bias = offset
    if synapse.bias is not None:
        own = synapse.bias * scale
        bias = own if bias is None else bias + own
    weight = synapse.weight * scale.reshape(-1, *[1] * (synapse.weight.ndim - 1))
    if isinstance(synapse, RecurrentDense):
        return replace(synapse, weight=weight, weight_rec=synapse.weight_rec * scale[:, None], bias=bias)
    return replace(synapse, weight=weight, bias=bias)
