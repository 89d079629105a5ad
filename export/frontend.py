"""From a trained network to float-stage graphs, one per branch (weights in units of the fed LIF's threshold)."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from taaf.export.passes import RELAY_WEIGHT
from taaf.models import ir
from taaf.models.branches import EventBranch
from taaf.models.config import ModelConfig
from taaf.models.encoded_branch import EncodedBranch
from taaf.models.encoder import HostEncoder
from taaf.models.qat import _EPS, _GAIN_MIN, QatConv2d, QatDense, QatSynapse
from taaf.models.resnet import SpikingResNet18
from taaf.models.slayer_lif import SlayerLif
from taaf.models.sps import POOL_PADDING, POOL_SIZE, POOL_STRIDE, V_TH, SpikingPatchStem
from taaf.models.taaf import TaafSnn


def _synapse(name: str, part: QatSynapse) -> tuple[ir.Node, ir.BatchNorm]:
    def array(tensor: object) -> np.ndarray:
        return np.asarray(tensor.detach().numpy(), np.float32)  # type: ignore[attr-defined]

    weight = array(part.weight)
    node: ir.Node
    if isinstance(part, QatConv2d):
        node = ir.Conv2d(name, weight, (part.stride,) * 2, (part.padding,) * 2)
    else:
        assert isinstance(part, QatDense)
        node = ir.Dense(name, weight)
    gain = array(part.gain.clamp_min(_GAIN_MIN))
    return node, ir.BatchNorm(f"{name}_bn", gain, array(part.offset), array(part.running_mean), array(part.running_var), _EPS)


def _lif(name: str, part: SlayerLif) -> ir.Lif:
    p = part.parameters_
    return ir.Lif(name, p.i_decay, p.v_decay, p.v_th_mant)


class _Builder:
    """Collects nodes and edges; each method returns the name others connect to."""

    def __init__(self, name: str, shape: ir.Shape) -> None:
        self.name = name
        self.nodes: list[ir.Node] = [ir.Input("input", shape)]
        self.edges: list[tuple[str, str]] = []

    def add(self, node: ir.Node, sources: Iterable[str]) -> str:
        self.nodes.append(node)
        self.edges += [(s, node.name) for s in sources]
        return node.name

    def synapse(self, name: str, part: QatSynapse, source: str) -> str:
        node, norm = _synapse(name, part)
        return self.add(norm, [self.add(node, [source])])

    def graph(self) -> ir.Graph:
        return ir.Graph(self.name, self.nodes, self.edges)


def float_graphs(model: TaafSnn) -> dict[str, ir.Graph]:
    """Float-stage graphs of both branches (their chip part), LIF names as in the branches' ``trace``."""
    return {name: _branch_graph(name, branch, model.config) for name, branch in model.branches.items()}


def host_encoders(model: TaafSnn) -> dict[str, HostEncoder]:
    """The integer encoders of branches with real-valued input; none for branches that take spikes."""
    shapes = model.config.input_shapes
    branches = model.branches.items()
    return {m: _encoder(b, shapes[m]) for m, b in branches if isinstance(b, EncodedBranch) and b.scale is not None}


def _branch_graph(name: str, branch: object, config: ModelConfig) -> ir.Graph:
    if isinstance(branch, SpikingResNet18):
        return _resnet(name, branch, config)
    if isinstance(branch, SpikingPatchStem):
        return _patch_stem(name, branch)
    return _event(name, branch, config) if isinstance(branch, EventBranch) else _audio(name, branch, config)


def _event(name: str, event: Any, config: ModelConfig) -> ir.Graph:
    b = _Builder(name, config.input_shapes[name])
    stem = b.add(_lif("stem_lif", event.stem_lif), [b.synapse("stem", event.stem, "input")])
    inner = b.add(_lif("block1_lif", event.block1_lif), [b.synapse("block1", event.block1, stem)])
    paths = [b.synapse("block2", event.block2, inner), b.synapse("shortcut", event.shortcut, stem)]
    outer = b.add(_lif("block2_lif", event.block2_lif), [b.add(ir.Sum("join"), paths)])
    flat = b.add(ir.Flatten("flatten"), [outer])
    b.add(_lif("readout_lif", event.readout_lif), [b.synapse("readout", event.readout, flat)])
    return b.graph()


def _audio(name: str, audio: Any, config: ModelConfig) -> ir.Graph:
    a = _Builder(name, config.input_shapes[name])
    hidden = a.add(_lif("hidden_lif", audio.hidden_lif), [a.synapse("hidden", audio.hidden, "input")])
    a.add(_lif("readout_lif", audio.readout_lif), [a.synapse("readout", audio.readout, hidden)])
    return a.graph()


def _patch_stem(name: str, branch: SpikingPatchStem) -> ir.Graph:
    """Four convolutions with their poolings, and the positional one beside relays of what it reads (the host adds their spikes).

    Max pooling of spikes is an OR: every synapse of a pooling neuron exceeds the threshold, and its reset leaves nothing behind.
    The first convolution of a real-valued input is the host's.
    """
    encodes = branch.scale is not None
    b = _Builder(name, _encoder(branch, branch.shape).output_shape if encodes else branch.shape)
    last = "input"
    for i, (conv, neurons) in enumerate(zip(branch.convs, branch.lifs, strict=True), start=1):
        if i > 1 or not encodes:
            last = b.add(_lif(f"conv{i}_lif", neurons), [b.synapse(f"conv{i}", conv, last)])
        if branch.pooled[i - 1]:
            weight = np.full((n := len(conv.weight), 1, POOL_SIZE, POOL_SIZE), RELAY_WEIGHT / V_TH, np.float32)
            pool = ir.Conv2d(f"pool{i}", weight, stride=(POOL_STRIDE,) * 2, padding=(POOL_PADDING,) * 2, groups=n)
            last = b.add(_lif(f"pool{i}_lif", neurons), [b.add(pool, [last])])
    conv, norm = _synapse("position", branch.position)
    assert isinstance(conv, ir.Conv2d)
    channels, centre = len(conv.weight), conv.weight.shape[2] // 2
    relay = np.zeros_like(conv.weight)
    relay[np.arange(channels), np.arange(channels), centre, centre] = RELAY_WEIGHT / branch.position.v_th_mant
    beside = replace(conv, weight=np.concatenate([conv.weight, relay]))
    one, none = np.ones(channels, np.float32), np.zeros(channels, np.float32)  # a batch norm that changes nothing
    joined = {"gain": one, "offset": none, "mean": none, "var": one - np.float32(norm.eps)}
    both = replace(norm, **{k: np.concatenate([getattr(norm, k), v]) for k, v in joined.items()})
    b.add(_lif("tokens_lif", branch.position_lif), [b.add(both, [b.add(beside, [last])])])
    return b.graph()


def _resnet(name: str, branch: SpikingResNet18, config: ModelConfig) -> ir.Graph:
    """Everything behind the encoder. The sum over the map and the dense layer are one dense layer of repeated weights."""
    stem = _encoder(branch, config.input_shapes[name])
    b = _Builder(name, stem.output_shape)
    last = b.add(_lif("pool_lif", branch.pool_lif), [b.synapse("pool", branch.pool, "input")])
    for i, block in enumerate(branch.blocks, start=1):
        inner = b.add(_lif(f"block{i}_lif1", block.lif1), [b.synapse(f"block{i}_conv1", block.conv1, last)])
        paths = [b.synapse(f"block{i}_conv2", block.conv2, inner), _shortcut(b, f"block{i}_shortcut", block, last)]
        last = b.add(_lif(f"block{i}_lif2", block.lif2), [b.add(ir.Sum(f"block{i}_join"), paths)])
    _, height, width = b.graph().shapes[last]
    dense, norm = _synapse("readout", branch.readout)
    assert isinstance(dense, ir.Dense)
    everywhere = replace(dense, weight=np.repeat(dense.weight, height * width, axis=1))
    current = b.add(norm, [b.add(everywhere, [b.add(ir.Flatten("flatten"), [last])])])
    b.add(_lif("readout_lif", branch.readout_lif), [current])
    return b.graph()


def _shortcut(b: _Builder, name: str, block: Any, source: str) -> str:
    if block.shortcut is not None:
        return b.synapse(name, block.shortcut, source)
    channels = len(block.conv2.weight)
    return b.add(ir.Conv2d(name, np.eye(channels, dtype=np.float32)[:, :, None, None]), [source])  # one threshold each


def _encoder(branch: EncodedBranch, input_shape: tuple[int, ...]) -> HostEncoder:
    conv, neurons = branch.first_layer()
    neuron = neurons.parameters_
    assert branch.scale is not None and neuron.i_decay == 4096 and len(input_shape) == 3
    weight, bias = (t.detach().numpy().astype(np.int32) for t in (conv.integer_weight(), conv.integer_bias()))
    fields = (branch.scale, conv.stride, conv.padding, neuron.v_decay, neuron.v_th_mant)
    return HostEncoder(weight, bias, input_shape, *fields)
