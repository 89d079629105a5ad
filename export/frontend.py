"""From a trained `TaafSnn` to float-stage graphs, one per branch (weights in units of the fed LIF's threshold)."""

from collections.abc import Iterable

import numpy as np

from taaf.models import ir
from taaf.models.config import ModelConfig
from taaf.models.errors import UnsupportedLayerError
from taaf.models.qat import _EPS, _GAIN_MIN, QatConv2d, QatDense, QatSynapse
from taaf.models.slayer_lif import SlayerLif
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


def require_exportable(config: ModelConfig) -> None:
    """Raise `UnsupportedLayerError` if the branches of this configuration have no exporter."""
    for name, kind, wanted in (("event", config.first_branch, "conv"), ("audio", config.audio_branch, "dense")):
        if kind != wanted or name not in config.modalities:
            raise UnsupportedLayerError(
                f"{config.modalities}: branches {config.first_branch!r}, {config.audio_branch!r} cannot be exported yet; "
                "allowed: event branch 'conv' with audio branch 'dense'"
            )


def float_graphs(model: TaafSnn) -> dict[str, ir.Graph]:
    """Float-stage graphs of the event and the audio branch, LIF names as in the branches' ``trace``."""
    config = model.config
    require_exportable(config)
    event, audio = model.branches["event"], model.branches["audio"]
    b = _Builder("event", (2, config.event_size, config.event_size))
    stem = b.add(_lif("stem_lif", event.stem_lif), [b.synapse("stem", event.stem, "input")])
    inner = b.add(_lif("block1_lif", event.block1_lif), [b.synapse("block1", event.block1, stem)])
    paths = [b.synapse("block2", event.block2, inner), b.synapse("shortcut", event.shortcut, stem)]
    outer = b.add(_lif("block2_lif", event.block2_lif), [b.add(ir.Sum("join"), paths)])
    flat = b.add(ir.Flatten("flatten"), [outer])
    b.add(_lif("readout_lif", event.readout_lif), [b.synapse("readout", event.readout, flat)])

    a = _Builder("audio", (model.config.audio_inputs,))
    hidden = a.add(_lif("hidden_lif", audio.hidden_lif), [a.synapse("hidden", audio.hidden, "input")])
    a.add(_lif("readout_lif", audio.readout_lif), [a.synapse("readout", audio.readout, hidden)])
    return {"event": b.graph(), "audio": a.graph()}
