"""NetX HDF5: writes an integer chain as a file that stock lava-dl loads, and reads it back.

Layer 0 is an ``input`` layer without neurons: it only tells the loader the input shape. Keys and quirks: LAVA.md.
"""

import itertools
import re
from pathlib import Path

import h5py
import numpy as np

from taaf.models import hdf5
from taaf.models.errors import BundleError, TaafError, UnsupportedLayerError
from taaf.models.ir import Conv2d, Dense, Flatten, Graph, Input, Lif, Node, RecurrentDense, chain
from taaf.models.stage import require_integer_stage

MAX_LAYERS = 1000
_NAME = re.compile(r"[\w][\w .:/-]{0,99}")
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
    assert graph.output == nodes[-1].name
    with h5py.File(path, "w", libver="latest") as file:
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
                assert isinstance(node, Conv2d | Dense) and isinstance(lif, Lif)
                _write_layer(layer, node, lif, graph.shapes[lif.name])


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
    if lif.bias is not None and lif.bias.any():
        layer["bias"] = lif.bias.astype(np.float32)
    neuron = layer.create_group("neuron")
    neuron.attrs["name"] = lif.name
    neuron["type"] = np.bytes_("CUBA")
    neuron["iDecay"], neuron["vDecay"], neuron["vThMant"] = lif.i_decay, lif.v_decay, lif.v_th_mant
    neuron["refDelay"], neuron["gradedSpike"] = 1, False


def read_netx(path: Path, name: str) -> Graph:
    """Read a file written by `write_netx` as an integer graph.

    Raises
    ------
    BundleError
        If the file is missing, truncated or not of this form.
    UnsupportedLayerError
        If it holds a layer that taaf does not run exactly, naming it.
    """
    try:
        with h5py.File(path, "r") as file:
            layers = hdf5.member(file, "layer", h5py.Group)
            if len(layers) > MAX_LAYERS:
                raise ValueError(f"{len(layers)} layers, at most {MAX_LAYERS} are read")
            found = [(hdf5.member(layers, str(i), h5py.Group), f"{name}.layer/{i}") for i in range(len(layers))]
            nodes = [n for layer, where in found for n in _read_layer(layer, where)]
    except TaafError:
        raise
    except Exception as error:  # h5py raises many kinds on damaged files
        raise BundleError(f"{path}: not a readable NetX file ({type(error).__name__}: {error})") from error
    if not nodes or not isinstance(nodes[0], Input):
        raise BundleError(f"{path}: the first layer must be an input layer with a shape")
    return Graph(name, nodes, [(a.name, b.name) for a, b in itertools.pairwise(nodes)])


def _integers(group: h5py.Group, key: str) -> np.ndarray:
    values = np.asarray(hdf5.read(group, key), np.float64)
    if not np.isfinite(values).all() or (values != np.rint(values)).any() or (np.abs(values) >= 1 << 31).any():
        raise ValueError(f"{group.name}/{key} holds values that are not integers of 32 bits")
    return values.astype(np.int32)


def _integer(group: h5py.Group, key: str) -> int:
    values = _integers(group, key)
    if values.size != 1:
        raise ValueError(f"{group.name}/{key} has {values.size} values, expected one")
    return int(values.reshape(-1)[0])


def _name(group: h5py.Group, otherwise: str) -> str:
    name = group.attrs.get("name", otherwise)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{group.name} has a name that is not one of up to 100 letters, digits and ' .:/_-'")
    return name


def _read_layer(layer: h5py.Group, where: str) -> list[Node]:
    kind = hdf5.read_text(layer, "type")
    given = _name(layer, where.rsplit(".", 1)[-1].replace("/", ""))
    if kind == "input":
        if "neuron" in layer:
            raise UnsupportedLayerError(f"{where}: an input layer with neurons is not supported; allowed a shape only")
        return [Input(given, tuple(int(n) for n in _integers(layer, "shape").reshape(-1)))]
    if kind == "flatten":
        return [Flatten(given)]
    if kind not in ("conv", "dense", "dense_rec"):
        raise UnsupportedLayerError(
            f"{where}: layer type {kind!r} is not supported; allowed conv, dense, dense_rec, flatten, input"
        )
    if "delay" in layer:
        raise UnsupportedLayerError(f"{where}: axonal delays are not supported")
    weight = _integers(layer, "weight")
    node: Node
    if kind == "conv":
        weight = weight.reshape(weight.shape[:4])
        stride, padding, dilation = (_pair(_integers(layer, k)) for k in _PAIRS)
        node = Conv2d(given, weight, stride, padding, dilation, _integer(layer, "groups"))
    elif kind == "dense":
        node = Dense(given, weight)
    else:
        node = RecurrentDense(given, weight, None, _integers(layer, "weight_rec"))
    neuron = hdf5.member(layer, "neuron", h5py.Group)
    model = hdf5.read_text(neuron, "type")
    if model not in ("CUBA", "LOIHI"):
        raise UnsupportedLayerError(f"{where}: neuron type {model!r} is not supported; allowed CUBA")
    if "gradedSpike" in neuron and _integer(neuron, "gradedSpike"):
        raise UnsupportedLayerError(f"{where}: graded spikes are not supported (Lava runs them silently wrong)")
    if "messageBits" in neuron and (bits := _integer(neuron, "messageBits")):
        raise UnsupportedLayerError(f"{where}: spikes of {bits} bits are not supported; allowed 0")
    i_decay, v_decay, v_th = (_integer(neuron, k) for k in ("iDecay", "vDecay", "vThMant"))
    bias = _integers(layer, "bias") if "bias" in layer else None
    return [node, Lif(_name(neuron, f"{given}_lif"), i_decay, v_decay, v_th, bias)]


def _pair(value: np.ndarray) -> tuple[int, int]:
    both = np.broadcast_to(value.reshape(-1), (2,))
    return int(both[0]), int(both[1])
