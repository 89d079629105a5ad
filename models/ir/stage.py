"""What an integer-stage graph and its input must look like, so that every execution means the same by them."""

import numpy as np

from taaf.models.errors import GraphError
from taaf.models.ir import Concat, Conv2d, Dense, Flatten, Graph, Input, Lif, Node, Pool2d, RecurrentDense, Sum

_GIVES_SPIKES = (Input, Lif, Flatten, Concat, Pool2d)
_TAKES_SPIKES = (Conv2d, Dense, Flatten, Concat, Pool2d)
_STAGE = (Input, Conv2d, Dense, Flatten, Concat, Pool2d, Sum, Lif)


def require_integer_stage(graph: Graph) -> None:
    """Check that a graph is of the integer stage: integer values, and spikes and currents where they belong.

    Synapses, flattening, concatenation and max pooling take spikes (of the input or a LIF); sums and LIFs take currents (of
    synapses or sums), and every current goes to one place. Reference, engine and NetX would otherwise each do something else:
    NetX has no LIF without its own synapse, and a spike that is added to a current has no weight.

    Raises
    ------
    GraphError
        One line that lists every violation.
    """
    problems = [p for node in graph.nodes.values() for p in _node_problems(graph, node)]
    if problems:
        raise GraphError("; ".join(problems))


def _node_problems(graph: Graph, node: Node) -> list[str]:
    where = f"{graph.name}.{node.name}"
    if not isinstance(node, _STAGE) or (isinstance(node, Pool2d) and node.kind != "max"):
        return [f"{where}: {type(node).__name__} is not an integer-stage node; run the compiler first"]
    found = []
    for key in ("weight", "weight_rec", "delay", "bias", "i_decay", "v_decay", "v_th_mant"):
        value = getattr(node, key, None)
        if value is None:
            continue
        if not np.issubdtype(dtype := np.asarray(value).dtype, np.integer):
            found.append(f"{where}: {key} is {dtype}, not integers; run the compiler first")
        if key == "bias" and not isinstance(node, Lif):
            found.append(f"{where}: a bias belongs to the LIF that is fed; run the compiler first")
    for source in graph.sources(node.name):
        given = graph.nodes[source]
        if isinstance(node, _TAKES_SPIKES) != isinstance(given, _GIVES_SPIKES) and isinstance(given, _STAGE):
            between = "a LIF" if isinstance(node, _TAKES_SPIKES) else "a convolution or dense layer"
            kinds = f"{type(given).__name__} feeds {type(node).__name__}"
            found.append(f"{graph.name}.{source} -> {where}: {kinds}; put {between} between them")
    targets = graph.targets(node.name)
    if not isinstance(node, _GIVES_SPIKES) and len(targets) != 1:
        found.append(f"{where}: feeds {', '.join(targets) or 'nothing'}; must feed exactly one LIF")
    if isinstance(node, RecurrentDense) and not all(isinstance(graph.nodes[t], Lif) for t in targets):
        found.append(f"{where}: a recurrent layer must feed its LIF alone and directly")
    return found


def require_spikes(graph: Graph, spikes: np.ndarray, shape: tuple[int, ...]) -> None:
    """Check an input array of windows: its window shape, at least one time step, and nothing but zeros and ones.

    Parameters
    ----------
    spikes : numpy.ndarray
        Time is the last axis.
    shape : tuple of int
        ``spikes.shape`` without the axes of windows and time.

    Raises
    ------
    GraphError
        Naming the input.
    """
    where = f"{graph.name}.{graph.input.name}"
    if shape != graph.input.shape:
        raise GraphError(f"{where}: input {shape} != {graph.input.shape}")
    if spikes.shape[-1] == 0:
        raise GraphError(f"{where}: input has no time steps; a window has at least one")
    unsigned = spikes.dtype.kind in "bu"
    if (spikes.max(initial=0) > 1) if unsigned else ((spikes != 0) & (spikes != 1)).any():
        raise GraphError(
            f"{where}: input holds values other than 0 and 1 (up to {spikes.max()}); Lava runs any of them as one spike, "
            "so encode them as spikes first"
        )
