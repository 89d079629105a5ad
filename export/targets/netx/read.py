"""Read any NetX HDF5 file of LIF neurons, as stock lava-dl writes and loads it, into an integer chain.

What stock NetX (lava-dl 0.6.0, ``netx/hdf5.py``) does with a file, and what is done here:

- ``dense``, ``dense_rec``, ``conv`` (grouped, dilated), ``flatten``: loaded; the same here.
- ``neuron``: type CUBA or LOIHI; ``iDecay``, ``vDecay`` and ``vThMant`` are one value or one per channel. ``refDelay``,
  ``wgtExp``, ``gradedSpike`` and ``weight_exp`` (slayer's WgtScaleBatchNorm) are not read by NetX: refused where they say
  anything but the default.
- ``bias``: loaded. slayer exports its MeanOnlyBatchNorm so, and that is exact; but slayer, and NetX without resets, let
  the bias of the i-th layer act i - 1 and i steps before its window begins (`NetxFile.notes`).
- ``delay`` of a dense layer: NetX delays what arrives at a neuron, slayer trained with the neuron's spikes delayed. That
  is the same for neurons that are at rest without input; with a bias it is not: refused. Values above 62 are clamped,
  fractions cut: refused. A convolution's or an input layer's delay is ignored: refused. With a recurrence the delayed
  weights lose their exponent: refused.
- an ``input`` layer without neurons gives the shape. One with neurons is driven through its bias by the host; the port
  of the network is not connected to it. Here its spikes are the network's input (`NetxFile.skip_layers`).
- everything else is not implemented there, or skipped without a word: refused.
"""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from taaf.models.errors import BundleError, TaafError, UnsupportedLayerError
from taaf.models.files import hdf5
from taaf.models.files.placeholders import naming_placeholders
from taaf.models.ir import Conv2d, Dense, Flatten, Graph, Input, Lif, Node, RecurrentDense
from taaf.models.ir.nodes import MAX_DELAY, PerChannel

MAX_LAYERS = 1000
DELAYS_OF_ARRIVALS = "arrivals"  # attribute "of" of a delay that taaf wrote: meant as NetX runs it
V_TH_NEVER = 131_072  # from here on the threshold lies outside of v's 24 bits
_NAME = re.compile(r"[\w][\w .:/-]{0,99}")
_NOT_IN_NETX = ("pool", "convT", "unpool", "average", "concat")


@dataclass(frozen=True)
class NetxFile:
    """A file that was read.

    Attributes
    ----------
    graph : Graph
        Integer chain that ends in a LIF.
    n_layers : int
        Layers of the file that were read (``num_layers`` of stock NetX).
    skip_layers : int
        1 if layer 0 is an input layer with neurons, whose spikes are then the graph's input (``skip_layers`` of stock NetX).
    notes : tuple of str
        What a user should know about this reading.
    """

    graph: Graph
    n_layers: int
    skip_layers: int
    notes: tuple[str, ...]


def read_netx(path: Path, name: str) -> Graph:
    """Read a file as `read_netx_file` does, for a bundle: an input layer with neurons is refused too."""
    file = read_netx_file(path, name)
    if file.skip_layers:
        raise UnsupportedLayerError(f"{name}.layer/0: an input layer with neurons is not supported; allowed a shape only")
    return file.graph


@naming_placeholders
def read_netx_file(path: Path, name: str, n_layers: int | None = None, input_shape: tuple[int, ...] | None = None) -> NetxFile:
    """Read a NetX file written by `taaf.export.targets.netx.write.write_netx` or by stock lava-dl.

    Parameters
    ----------
    name : str
        Of the graph; the start of every place in a message.
    n_layers : int or None
        Read only the first layers of the file.
    input_shape : tuple of int, optional
        (C, H, W) of the input, which a file that starts with a convolution does not say.

    Raises
    ------
    BundleError
        If the file is missing, truncated or not of this form.
    UnsupportedLayerError
        If it holds a layer that taaf does not run exactly, or that NetX runs otherwise than it was trained; names it.
    """
    try:
        with hdf5.open_file(path) as file:
            layers = hdf5.member(file, "layer", h5py.Group)
            if not 0 < len(layers) <= MAX_LAYERS:
                raise ValueError(f"{len(layers)} layers; allowed 1..{MAX_LAYERS}")
            count = min(n_layers or len(layers), len(layers))
            reader = _Reader(name, input_shape)
            for i in range(count):
                reader.read(hdf5.member(layers, str(i), h5py.Group), i)
    except TaafError:
        raise
    except Exception as error:  # h5py raises many kinds on damaged files
        raise BundleError(f"{path}: not a readable NetX file ({type(error).__name__}: {error})") from error
    nodes = reader.nodes
    graph = Graph(name, nodes, [(a.name, b.name) for a, b in itertools.pairwise(nodes)])
    for node_name, shape in reader.declared.items():
        if graph.shapes[node_name] != shape:
            raise BundleError(f"{name}.{node_name}: shape {shape} in the file, its layer gives {graph.shapes[node_name]}")
    _ = graph.output  # raises where it does not end in one population
    if early := [lif.name for lif in graph.lifs()[1:] if lif.bias is not None and lif.bias.any()]:
        reader.notes.append(
            f"biases ({', '.join(early)}) act from the first step of a layer's own window; slayer, and NetX without resets, "
            "let them act while the pipeline fills"
        )
    return NetxFile(graph, count, reader.skip_layers, tuple(reader.notes))


class _Reader:
    """Turns layers into nodes, in order."""

    def __init__(self, name: str, input_shape: tuple[int, ...] | None = None) -> None:
        self.name, self.input_shape = name, input_shape
        self.nodes: list[Node] = []
        self.declared: dict[str, tuple[int, ...]] = {}  # LIF -> shape that the file gives
        self.skip_layers = 0
        self.notes: list[str] = []

    def read(self, layer: h5py.Group, index: int) -> None:
        where = f"{self.name}.layer/{index}"
        kind = hdf5.read_text(layer, "type")
        given = _name(layer, f"layer{index}")
        if kind in _NOT_IN_NETX:
            first = f"; run the layers before it with --layers {index}" if index > 1 else ""
            raise UnsupportedLayerError(f"{where}: type {kind!r} is not implemented in NetX{first}")
        if kind == "input":
            self._input(layer, index, given, where)
        elif kind == "flatten":
            self._flatten(given, where)
        elif kind in ("conv", "dense", "dense_rec"):
            node: Conv2d | Dense = _conv(layer, given, where) if kind == "conv" else _dense(layer, given, where)
            if not self.nodes and kind == "conv" and self.input_shape is None:
                raise UnsupportedLayerError(
                    f"{where}: no input layer gives the input's shape; NetX needs one before a conv: give --input-shape C,H,W"
                )
            if not self.nodes and kind == "conv":
                self.nodes.append(Input("input", self.input_shape or ()))
            if not self.nodes and node.weight.ndim == 2:
                self.nodes.append(Input("input", (node.weight.shape[1],)))
            lif = _lif(layer, kind, node, f"{given}_lif", where)
            self.nodes += [node, lif]
            self._declare(lif.name, layer, node)
        else:
            raise UnsupportedLayerError(
                f"{where}: layer type {kind!r} is not supported; NetX skips it without a word (or it has complex weights); "
                "allowed conv, dense, dense_rec, flatten, input"
            )

    def _input(self, layer: h5py.Group, index: int, given: str, where: str) -> None:
        if index:
            raise UnsupportedLayerError(f"{where}: an input layer behind others; NetX does not connect it")
        _refuse_delay(layer, where, "an input layer")
        self.nodes.append(Input(given, tuple(int(n) for n in hdf5.read_integers(layer, "shape").reshape(-1))))
        if "neuron" not in layer:
            return
        v_th = _neuron(layer, where)[2]
        self.skip_layers = 1
        drive = ", ".join(f"{k} {hdf5.read_integer(layer, k) if k in layer else d}" for k, d in (("weight", 64), ("bias", 0)))
        self.notes.append(
            f"layer 0 has neurons (v_th_mant {v_th}, {drive}) that the host drives through their bias; the input here are "
            "the spikes they send"
        )

    def _flatten(self, given: str, where: str) -> None:
        if not self.nodes:
            raise UnsupportedLayerError(f"{where}: no input layer gives the shape to flatten")
        if not isinstance(self.nodes[-1], Input | Flatten) and not isinstance(self.nodes[-2], Conv2d):
            raise UnsupportedLayerError(f"{where}: flattens what is flat already; NetX fails on it")
        self.nodes.append(Flatten(given))

    def _declare(self, lif: str, layer: h5py.Group, node: Node) -> None:
        shape = tuple(int(n) for n in hdf5.read_integers(layer, "shape").reshape(-1))
        self.declared[lif] = shape if isinstance(node, Conv2d) else (int(np.prod(shape)),)


def _conv(layer: h5py.Group, given: str, where: str) -> Conv2d:
    _refuse_delay(layer, where, "a convolution")
    weight = _weights(layer, "weight", where)
    if weight.ndim == 5 and weight.shape[4] != 1:
        raise UnsupportedLayerError(f"{where}: a kernel over {weight.shape[4]} time steps; allowed one")
    stride, padding, dilation = (_pair(hdf5.read_integers(layer, k)) for k in ("stride", "padding", "dilation"))
    return Conv2d(given, weight.reshape(weight.shape[:4]), stride, padding, dilation, hdf5.read_integer(layer, "groups"))


def _dense(layer: h5py.Group, given: str, where: str) -> Dense:
    n = int(np.prod(hdf5.read_integers(layer, "shape")))
    weight = _rows(_weights(layer, "weight", where), n)
    if hdf5.read_text(layer, "type") == "dense_rec":
        if "delay" in layer:
            raise UnsupportedLayerError(f"{where}: a recurrent layer with delays; NetX loses the exponent of its weights")
        return RecurrentDense(given, weight, None, _rows(_weights(layer, "weight_rec", where), n))
    return Dense(given, weight, delay=_delay(layer, weight, where) if "delay" in layer else None)


def _rows(weight: np.ndarray, n: int) -> np.ndarray:
    """A weight of one axis is a flat matrix of n rows."""
    return weight.reshape(n, -1) if weight.ndim == 1 and n and weight.size % n == 0 else weight


def _delay(layer: h5py.Group, weight: np.ndarray, where: str) -> np.ndarray | None:
    """(F', 1), (1, F) or (F', F) as NetX spreads it: one axis of F' values means the targets, else the sources."""
    values = np.asarray(hdf5.read(layer, "delay"), np.float64)
    if not np.isfinite(values).all() or (values != np.rint(values)).any() or values.size == 0:
        raise UnsupportedLayerError(f"{where}: delays that are not whole steps; NetX cuts the fraction off")
    if values.min() < 0 or values.max() > MAX_DELAY:
        raise UnsupportedLayerError(
            f"{where}: delays of {values.min():g}..{values.max():g} steps; allowed 0..{MAX_DELAY}, NetX clamps to it"
        )
    if not values.any():
        return None
    meant = hdf5.read_label(layer["delay"], "of") == DELAYS_OF_ARRIVALS
    if not meant and "bias" in layer and hdf5.read_integers(layer, "bias").any():
        raise UnsupportedLayerError(
            f"{where}: delays together with a bias; NetX delays what arrives at a neuron instead of its spikes, which is "
            "only the same without a bias"
        )
    steps = values.astype(np.int32)
    if steps.ndim == 0 or steps.shape == weight.shape[:1]:
        return steps.reshape(-1, 1)
    if steps.shape not in (weight.shape[1:], weight.shape):
        raise BundleError(f"{where}: delays {steps.shape} for weights {weight.shape}")
    return np.atleast_2d(steps)


def _refuse_delay(layer: h5py.Group, where: str, what: str) -> None:
    if "delay" in layer and np.any(hdf5.read(layer, "delay")):
        raise UnsupportedLayerError(f"{where}: {what} with delays; NetX ignores them and runs something else")


def _lif(layer: h5py.Group, kind: str, node: Node, otherwise: str, where: str) -> Lif:
    if "neuron" not in layer and kind != "conv":
        raise UnsupportedLayerError(
            f"{where}: no neuron group (slayer's Affine without dynamics); NetX makes neurons that never spike; run the "
            f"layers before it with --layers {where.rsplit('/', 1)[1]}"
        )
    i_decay, v_decay, v_th = _neuron(layer, where)
    bias = None
    if "bias" in layer:
        values = np.asarray(hdf5.read(layer, "bias"), np.float64)
        if not np.isfinite(values).all() or (values != np.rint(values)).any():
            raise UnsupportedLayerError(
                f"{where}: a bias that is not whole numbers; NetX cuts the fraction off; quantise it before exporting"
            )
        bias = hdf5.read_integers(layer, "bias")
        bias = bias.transpose(2, 1, 0) if bias.ndim == 3 else bias  # per neuron: (W, H, C)
    return Lif(_name(hdf5.member(layer, "neuron", h5py.Group), otherwise), i_decay, v_decay, v_th, bias)


def _neuron(layer: h5py.Group, where: str) -> tuple[PerChannel, PerChannel, PerChannel]:
    """i_decay, v_decay and v_th_mant of a neuron group that NetX runs as LIF."""
    neuron = hdf5.member(layer, "neuron", h5py.Group)
    model = hdf5.read_text(neuron, "type")
    if model not in ("CUBA", "LOIHI"):
        raise UnsupportedLayerError(f"{where}: neuron type {model!r} is not supported; allowed CUBA and LOIHI (LIF neurons)")
    if "gradedSpike" in neuron and hdf5.read_integer(neuron, "gradedSpike"):
        raise UnsupportedLayerError(f"{where}: graded spikes are not supported (Lava runs them silently wrong)")
    if "messageBits" in neuron and (bits := hdf5.read_integer(neuron, "messageBits")):
        raise UnsupportedLayerError(f"{where}: spikes of {bits} bits are not supported; allowed 0")
    if "weight_exp" in neuron:
        raise UnsupportedLayerError(
            f"{where}: weight_exp (slayer's WgtScaleBatchNorm); NetX ignores it; fold the norm yourself"
        )
    for key, allowed in (("refDelay", 1), ("wgtExp", 0)):
        if key in neuron and np.any((values := hdf5.read(neuron, key)) != allowed):
            found = ", ".join(f"{v:g}" for v in np.unique(values)[:3])
            raise UnsupportedLayerError(f"{where}: {key} {found}; NetX ignores it and runs as if it were {allowed}")
    i_decay, v_decay, v_th = (_per_channel(neuron, key) for key in ("iDecay", "vDecay", "vThMant"))
    if np.max(v_th) >= V_TH_NEVER:
        raise UnsupportedLayerError(
            f"{where}: vThMant {np.max(v_th)} (slayer's Affine); Lava's v has 24 bits and never reaches it; allowed up to "
            f"{V_TH_NEVER - 1}"
        )
    return i_decay, v_decay, v_th


def _per_channel(neuron: h5py.Group, key: str) -> PerChannel:
    values = hdf5.read_integers(neuron, key)
    return int(values.reshape(-1)[0]) if values.size == 1 else values


def _weights(layer: h5py.Group, key: str, where: str) -> np.ndarray:
    if isinstance(layer.get(key), h5py.Group):
        raise UnsupportedLayerError(f"{where}: complex weights (resonate-and-fire); allowed LIF layers with real weights")
    return hdf5.read_integers(layer, key)


def _name(group: h5py.Group, otherwise: str) -> str:
    name = hdf5.read_label(group, "name") or otherwise
    if not _NAME.fullmatch(name):
        raise ValueError(f"{group.name} has a name that is not one of up to 100 letters, digits and ' .:/_-'")
    return name


def _pair(value: np.ndarray) -> tuple[int, int]:
    both = np.broadcast_to(value.reshape(-1), (2,))
    return int(both[0]), int(both[1])
