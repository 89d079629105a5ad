"""From a trained network to float-stage graphs, one per branch (weights in units of the fed neurons' threshold).

A reading of the branch's wiring (`taaf.models.wiring`): what is trained and what is compiled have one source.
"""

from functools import singledispatch

import numpy as np
import torch

from taaf.models import ir
from taaf.models import wiring as w
from taaf.models.encoder import HostEncoder
from taaf.models.network import MultimodalSnn, SpikingNet
from taaf.models.qat import EPS, GAIN_MIN, QatConv2d, QatDense, QatRecurrent, QatSynapse
from taaf.models.slayer_lif import SlayerLif


def float_graphs(model: MultimodalSnn) -> dict[str, ir.Graph]:
    """Float-stage graphs of all branches (their chip part); nodes are named as in the wiring."""
    return {m: float_graph(m, branch) for m, branch in _branches(model).items()}


def host_encoders(model: MultimodalSnn) -> dict[str, HostEncoder]:
    """The integer encoders of branches with real-valued input; none for branches that take spikes."""
    return {m: host_encoder(branch) for m, branch in _branches(model).items() if branch.scale is not None}


def _branches(model: MultimodalSnn) -> dict[str, SpikingNet]:
    return {m: b for m, b in model.branches.items() if isinstance(b, SpikingNet)}


def float_graph(name: str, net: SpikingNet) -> ir.Graph:
    """What runs on the chip, float stage, with batch norms."""
    boundary = net.wiring.boundary
    builder = Builder(name, net, ir.Input("input", net.wiring.operations[boundary].shape))
    builder.ends[boundary] = "input"
    for operation in net.wiring.on_chip:
        builder.ends[operation.name] = _emit(operation, builder, [builder.ends[s] for s in operation.sources])
    return ir.Graph(name, builder.nodes, builder.edges)


class Builder:
    """Collects nodes and edges; ``ends`` maps a wired operation to the node that gives its value."""

    def __init__(self, name: str, net: SpikingNet, entry: ir.Input) -> None:
        self.name, self.net = name, net
        self.nodes: list[ir.Node] = [entry]
        self.edges: list[tuple[str, str]] = []
        self.ends: dict[str, str] = {}

    def add(self, node: ir.Node, *sources: str) -> str:
        """Append a node; returns its name."""
        self.nodes.append(node)
        self.edges += [(s, node.name) for s in sources]
        return node.name

    def shape(self, operation: w.Operation) -> ir.Shape:
        """Shape of what an operation reads."""
        return self.net.wiring.operations[operation.sources[0]].shape

    def normed(self, node: ir.Node, part: QatSynapse, source: str) -> str:
        """A synapse node with its batch norm behind it."""
        gain = _array(part.gain.clamp_min(GAIN_MIN))
        statistics = (_array(part.offset), _array(part.running_mean), _array(part.running_var))
        return self.add(ir.BatchNorm(f"{node.name}_bn", gain, *statistics, EPS), self.add(node, source))


def _array(tensor: torch.Tensor) -> np.ndarray:
    return np.asarray(tensor.detach().cpu().numpy(), np.float32)


@singledispatch
def _emit(operation: w.Operation, b: Builder, sources: list[str]) -> str:
    raise TypeError(f"{b.name}.{operation.name}: {type(operation).__name__} has no node")


@_emit.register
def _(operation: w.Convolution, b: Builder, sources: list[str]) -> str:
    part = b.net.get_submodule(operation.name)
    assert isinstance(part, QatConv2d)
    node = ir.Conv2d(operation.name, _array(part.weight), (part.stride,) * 2, (part.padding,) * 2)
    return b.normed(node, part, sources[0])


@_emit.register
def _(operation: w.FullyConnected, b: Builder, sources: list[str]) -> str:
    part = b.net.get_submodule(operation.name)
    assert isinstance(part, QatDense)
    weight, source = _array(part.weight), sources[0]
    if operation.over_map:  # the sum over the map and the dense layer are one dense layer of repeated weights
        _, height, width = b.shape(operation)
        weight, source = np.repeat(weight, height * width, axis=1), b.add(ir.Flatten("flatten"), source)
    return b.normed(ir.Dense(operation.name, weight), part, source)


@_emit.register
def _(operation: w.Recurrence, b: Builder, sources: list[str]) -> str:
    """Folded here: batch norm does not scale the recurrent weights. Integers over v_th are quantised to themselves."""
    part = b.net.get_submodule(operation.name)
    assert isinstance(part, QatRecurrent)
    v_th = np.float32(part.v_th_mant)
    weight, bias, recurrent = (
        _array(x) / v_th for x in (part.integer_weight(), part.integer_bias(), part.integer_recurrent_weight())
    )
    return b.add(ir.RecurrentDense(operation.name, weight, bias, weight_rec=recurrent), sources[0])


@_emit.register
def _(operation: w.Identity, b: Builder, sources: list[str]) -> str:
    eye = np.eye(operation.shape[0], dtype=np.float32)  # one threshold each
    node = ir.Conv2d(operation.name, eye[:, :, None, None]) if len(operation.shape) == 3 else ir.Dense(operation.name, eye)
    return b.add(node, sources[0])


@_emit.register
def _(operation: w.Addition, b: Builder, sources: list[str]) -> str:
    return b.add(ir.Sum(operation.name), *sources)


@_emit.register
def _(operation: w.Neurons, b: Builder, sources: list[str]) -> str:
    p = operation.parameters
    return b.add(ir.Lif(operation.name, p.i_decay, p.v_decay, p.v_th_mant), sources[0])


@_emit.register
def _(operation: w.Flattening, b: Builder, sources: list[str]) -> str:
    return b.add(ir.Flatten(operation.name), sources[0])


@_emit.register
def _(operation: w.MaxPool, b: Builder, sources: list[str]) -> str:
    pairs = ((n,) * 2 for n in (operation.kernel, operation.stride, operation.padding))
    return b.add(ir.Pool2d(operation.name, "max", *pairs), sources[0])


@_emit.register
def _(operation: w.Beside, b: Builder, sources: list[str]) -> str:
    return b.add(ir.Concat(operation.name), *sources)


def host_encoder(net: SpikingNet) -> HostEncoder:
    """The first convolution and its neurons of a branch with real-valued input, as integers."""
    conv, neurons = (net.get_submodule(n) for n in (net.wiring.first_synapse, net.wiring.boundary))
    assert isinstance(conv, QatConv2d) and isinstance(neurons, SlayerLif) and net.scale is not None
    p, shape = neurons.parameters_, net.wiring.operations["input"].shape
    weight, bias = (t.detach().numpy().astype(np.int32) for t in (conv.integer_weight(), conv.integer_bias()))
    channels, height, width = shape
    return HostEncoder(weight, bias, (channels, height, width), net.scale, conv.stride, conv.padding, p.v_decay, p.v_th_mant)
