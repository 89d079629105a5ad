"""NetX HDF5: writes an integer chain as a file that stock lava-dl loads (`taaf.export.targets.netx.read` reads it).

Layer 0 is an ``input`` layer without neurons: it only tells the loader the input shape.
"""

import io
from pathlib import Path

import h5py
import numpy as np

from taaf.export.targets.netx.read import DELAYS_OF_ARRIVALS, read_netx
from taaf.models.errors import GraphError
from taaf.models.ir import Conv2d, Dense, Flatten, Graph, Input, Lif, RecurrentDense, chain
from taaf.models.ir.stage import require_integer_stage

__all__ = ["read_netx", "write_netx"]

_PAIRS = ("stride", "padding", "dilation")


def write_netx(graph: Graph, path: Path) -> None:
    """Write a checked integer chain (see `taaf.export.limits.check_limits`).

    Flattening what is flat already is left out: NetX fails on it, and it does nothing.

    Raises
    ------
    GraphError
        If the graph is not a chain of the integer stage that ends in a LIF.
    """
    nodes = chain(graph)
    require_integer_stage(graph)
    if graph.output != nodes[-1].name:
        raise GraphError(f"{graph.name}: ends in {nodes[-1].name}, its spikes leave at {graph.output}")
    buffer = io.BytesIO()  # on a full disk h5py could not even close the file
    with h5py.File(buffer, "w", libver="latest") as file:
        layers = file.create_group("layer")
        index = 0
        for position, node in enumerate(nodes):
            if isinstance(node, Lif):
                continue  # written with its synapse
            if isinstance(node, Flatten) and len(graph.shapes[nodes[position - 1].name]) == 1:
                continue
            layer = layers.create_group(str(index))
            index += 1
            layer.attrs["name"] = node.name
            if isinstance(node, Input):
                layer["type"], layer["shape"] = np.bytes_("input"), np.array(node.shape)
            elif isinstance(node, Flatten):
                layer["type"] = np.bytes_("flatten")
            else:
                lif = nodes[position + 1]
                if not (isinstance(node, Conv2d | Dense) and isinstance(lif, Lif)):
                    raise GraphError(f"{graph.name}.{node.name}: {type(node).__name__} is not a layer of NetX")
                _write_layer(layer, node, lif, graph.shapes[lif.name])
    path.write_bytes(buffer.getvalue())


def _write_layer(layer: h5py.Group, node: Conv2d | Dense, lif: Lif, shape: tuple[int, ...]) -> None:
    layer["shape"] = np.array(shape)
    layer["weight"] = node.weight.astype(np.float32)
    if isinstance(node, Conv2d):
        layer["type"] = np.bytes_("conv")
        layer["inChannels"], layer["outChannels"] = node.weight.shape[1] * node.groups, node.weight.shape[0]
        layer["kernelSize"], layer["groups"] = np.array(node.weight.shape[2:]), node.groups
        for key in _PAIRS:
            layer[key] = np.array(getattr(node, key))
    elif isinstance(node, RecurrentDense):
        layer["type"] = np.bytes_("dense_rec")
        layer["weight_rec"] = node.weight_rec.astype(np.float32)
    else:
        layer["type"] = np.bytes_("dense")
        if node.delay is not None:
            layer["delay"] = _netx_delay(node.delay, node.weight.shape)
            layer["delay"].attrs["of"] = DELAYS_OF_ARRIVALS
    if lif.bias is not None and lif.bias.any():
        per_neuron = lif.bias.ndim == 3  # NetX takes it as (W, H, C)
        layer["bias"] = (lif.bias.transpose(2, 1, 0) if per_neuron else lif.bias).astype(np.float32)
    neuron = layer.create_group("neuron")
    neuron.attrs["name"] = lif.name
    neuron["type"] = np.bytes_("CUBA")
    neuron["iDecay"], neuron["vDecay"], neuron["vThMant"] = lif.i_decay, lif.v_decay, lif.v_th_mant
    neuron["refDelay"], neuron["gradedSpike"] = 1, False


def _netx_delay(delay: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The form NetX spreads back: one for all, one axis (taken as targets if it could be both), or the matrix."""
    if delay.size == 1:
        return delay.reshape(())
    if delay.shape == (shape[0], 1) or (delay.shape == (1, shape[1]) and shape[0] != shape[1]):
        return delay.reshape(-1)
    return np.broadcast_to(delay, shape)
