"""Structure of a NIR graph -> float-stage IR graphs, one per chain of the file.

Layers: Input, Output, Linear, Affine, Conv2d, Flatten, SumPool2d, AvgPool2d, Scale (after a synapse: folded), IF, LIF,
CubaLIF. Several edges into a neuron add their currents (a residual join, `ir.Sum`). A Linear or Affine from a neuron to
itself is its recurrence and arrives one step later (`ir.RecurrentDense`). Pooling in front of neurons is a grouped convolution;
pooled spikes in front of a synapse stay an `ir.Pool2d`. What comes after the last neurons is the host's
(`taaf.export.targets.nir.parts.HostReadout`). Everything else is refused by name.
"""

from dataclasses import dataclass, replace
from typing import Any

import nir
import numpy as np

from taaf.export.limits import CONV_FIELD_MAX
from taaf.export.passes import fold_batch_norm, fold_pool
from taaf.export.targets.nir.axes import flattens_all, input_shape
from taaf.export.targets.nir.file import text
from taaf.export.targets.nir.joins import GIVES_SPIKES, one_synapse_each, with_weights
from taaf.export.targets.nir.modules import BatchNormNode, ConcatNode, SpikeMaxPool
from taaf.export.targets.nir.neurons import NEURONS, Neurons, array, map_neurons
from taaf.export.targets.nir.parts import Edges, HostReadout, split_readout
from taaf.models import ir
from taaf.models.errors import UnsupportedLayerError

Recurrence = dict[str, tuple[np.ndarray, np.ndarray | None]]  # neuron -> (W_rec, bias)
_DENSE = (nir.Linear, nir.Affine)
_SYNAPSES = (*_DENSE, nir.Conv2d)


@dataclass(frozen=True)
class FloatNet:
    """A float-stage graph with what its integer decays round: ``neurons[lif]`` has the ideal leaks.

    ``readout``: what the network does after its last spiking population, on the host; None if it ends in spikes.
    """

    graph: ir.Graph
    neurons: dict[str, Neurons]
    readout: HostReadout | None = None


def float_net(
    nodes: dict[str, nir.NIRNode], edges: Edges, name: str, dt: float, prefix: str = "", reset: str | None = None
) -> FloatNet:
    """Map one connected part, without nested graphs (`taaf.export.targets.nir.parts.inlined`).

    Parameters
    ----------
    name : str
        Name of the IR graph.
    dt : float
        Time step in seconds.
    prefix : str
        What every NIR name begins with and no IR name does.
    reset : str, optional
        One of `taaf.export.targets.nir.neurons.RESETS`.
    """
    nodes, edges, readout = split_readout(nodes, edges, name, dt)
    builder = _Builder(nodes, edges, name, prefix)
    built = fold_batch_norm(fold_pool(fold_batch_norm(with_weights(builder.build()))))
    if not any("v_th_mant" in node.metadata for node in builder.neurons.values()):  # our own files stay as they are
        built = one_synapse_each(built)
    _require_layers(built)
    replaced: dict[str, ir.Node | None] = {}
    neurons: dict[str, Neurons] = {}
    for lif in built.lifs():
        where = f"{name}.{lif.name}"
        mapped = map_neurons(where, builder.neurons[lif.name], built.shapes[lif.name], dt, reset)
        neurons[lif.name] = mapped
        replaced[lif.name] = replace(lif, i_decay=mapped.i_decay, v_decay=mapped.v_decay, v_th_mant=mapped.v_th_mant or 64)
        first = True
        for node in built.synapses_of(lif.name):
            replaced[node.name] = _scaled(f"{name}.{node.name}", node, mapped, first)
            first = False
    return FloatNet(built.rebuilt(replaced), neurons, readout)


def _require_layers(graph: ir.Graph) -> None:
    """Synapses and flattening take spikes, neurons and joins take currents: all violations in one error."""
    takes_spikes = (ir.Conv2d, ir.Dense, ir.Flatten, ir.Pool2d, ir.Concat)
    problems = [
        f"{graph.name}.{source} -> {graph.name}.{target}: "
        + ("currents where spikes are taken; put spiking neurons between" if wants else "spikes without weights; put a synapse between")
        for source, target in graph.edges
        if (wants := isinstance(graph.nodes[target], takes_spikes)) != isinstance(graph.nodes[source], GIVES_SPIKES)
    ]  # fmt: skip
    if problems:
        raise UnsupportedLayerError("; ".join(problems))


def _scaled(where: str, node: ir.Conv2d | ir.Dense, neurons: Neurons, first: bool) -> ir.Node:
    """Weights and bias in thresholds; the first synapse group also carries what v_leak adds."""
    if node.bias is not None and node.bias.any() and (neurons.k_syn < 1).any():
        raise UnsupportedLayerError(
            f"{where}: its bias would pass the current filter of {neurons.kind} (tau_syn > dt), and the chip adds a bias to the "
            "voltage; train this layer without bias, or use LIF neurons"
        )
    bias = None if node.bias is None else node.bias * neurons.gain
    if first and neurons.leak_bias.any():
        bias = neurons.leak_bias if bias is None else bias + neurons.leak_bias
    scaled = replace(node, weight=node.weight * neurons.gain.reshape(-1, *[1] * (node.weight.ndim - 1)), bias=bias)
    if isinstance(scaled, ir.RecurrentDense):
        scaled = replace(scaled, weight_rec=scaled.weight_rec * neurons.gain[:, None])
    return scaled


class _Builder:
    """Nodes and edges of one part -> `ir.Graph` whose weights are still NIR's."""

    def __init__(self, nodes: dict[str, nir.NIRNode], edges: Edges, name: str, prefix: str) -> None:
        self.nodes, self.edges, self.name, self.prefix = nodes, edges, name, prefix
        self.neurons = {self.rename(n): node for n, node in nodes.items() if isinstance(node, NEURONS)}

    def rename(self, name: str) -> str:
        return name.removeprefix(self.prefix)

    def refuse(self, node: str, reason: str) -> UnsupportedLayerError:
        return UnsupportedLayerError(f"{self.name}.{self.rename(node)}: {reason}")

    def sources(self, name: str) -> list[str]:
        return [s for s, t in self.edges if t == name]

    def build(self) -> ir.Graph:
        self._check_kinds()
        recurrent = self._take_recurrence()
        out: list[ir.Node] = []
        edges: Edges = []
        for name in self._sorted():
            node, sources, called = self.nodes[name], self.sources(name), self.rename(name)
            if isinstance(node, nir.Output):
                if len(sources) != 1 or not isinstance(self.nodes[sources[0]], NEURONS):
                    raise self.refuse(name, f"fed by {', '.join(sources) or 'nothing'}; allowed one layer of spiking neurons")
                continue
            if isinstance(node, NEURONS) and len(sources) > 1:
                join = text(node.metadata.get("sum", f"{called}_sum"))
                out.append(ir.Sum(join))
                edges += [(self.rename(s), join) for s in sources] + [(join, called)]
            elif len(sources) > 1 and not isinstance(node, ConcatNode):
                raise self.refuse(name, f"fed by {', '.join(sources)}; only currents into neurons can be added")
            else:
                edges += [(self.rename(s), called) for s in sources]
            out.append(self._node(name, node, recurrent))
        graph = ir.Graph(self.name, out, edges)
        _ = graph.output  # raises where it does not end in one population
        return graph

    def _check_kinds(self) -> None:
        ends = [sum(isinstance(n, kind) for n in self.nodes.values()) for kind in (nir.Input, nir.Output)]
        for name, node in self.nodes.items():
            if not isinstance(node, (*_SYNAPSES, *NEURONS, *_SIMPLE, *_OWN, nir.Input, nir.Output)):
                raise self.refuse(name, f"{_kind(node)} is not supported; allowed {', '.join(_ALLOWED)}")
        if ends != [1, 1]:
            raise UnsupportedLayerError(f"{self.name}: {ends[0]} Input and {ends[1]} Output nodes; allowed one each per branch")

    def _take_recurrence(self) -> Recurrence:
        """Remove loops neuron -> Linear -> neuron; returns neuron -> (W_rec, bias)."""
        found: Recurrence = {}
        for name, node in list(self.nodes.items()):
            if not isinstance(node, _DENSE):
                continue
            sources, targets = self.sources(name), [t for s, t in self.edges if s == name]
            if sources != targets or len(sources) != 1 or not isinstance(self.nodes[sources[0]], NEURONS):
                continue
            found[sources[0]] = array(node.weight), _bias(node)
            del self.nodes[name]
            self.edges = [e for e in self.edges if name not in e]
        for neuron in found:
            fed = self.sources(neuron)
            if len(fed) != 1 or not isinstance(self.nodes[fed[0]], _DENSE):
                raise self.refuse(
                    neuron, "recurrent neurons must be fed by one Linear or Affine layer besides their recurrence"
                )
        return found

    def _sorted(self) -> list[str]:
        """Topological order; among free nodes by metadata ``position``, then by first mention in the edges."""
        mention = {n: i for i, n in reversed(list(enumerate([e for pair in self.edges for e in pair])))}
        rank = {n: (int(d.metadata.get("position", 1 << 30)), mention.get(n, 1 << 30), n) for n, d in self.nodes.items()}
        left, done = set(self.nodes), []
        while left:
            free = [n for n in left if not any(s in left for s in self.sources(n))]
            if not free:
                names = ", ".join(sorted(map(self.rename, left)))
                raise UnsupportedLayerError(
                    f"{self.name}: a cycle through {names}; allowed recurrence is one Linear or Affine from a layer to itself"
                )
            done.append(min(free, key=rank.__getitem__))
            left.remove(done[-1])
        return done

    def _node(self, name: str, node: Any, recurrent: Recurrence) -> ir.Node:
        called = self.rename(name)
        if isinstance(node, NEURONS):
            return ir.Lif(called)
        if isinstance(node, nir.Input):
            fed = [self.nodes[t] for s, t in self.edges if s == name]
            return ir.Input(called, input_shape(f"{self.name}.{called}", node, fed))
        if isinstance(node, _SYNAPSES):
            return self._synapse(name, node, recurrent)
        if isinstance(node, nir.Scale | BatchNormNode | ConcatNode):
            return ir.Concat(called) if isinstance(node, ConcatNode) else self._norm(name, node)
        if isinstance(node, nir.Flatten):
            if not flattens_all(node):
                raise self.refuse(name, f"flattens dimensions {node.start_dim}..{node.end_dim}; allowed all of them (0..-1)")
            return ir.Flatten(called)
        return self._pool(name, node)

    def _synapse(self, name: str, node: Any, recurrent: Recurrence) -> ir.Node:
        called, weight, bias = self.rename(name), array(node.weight), _bias(node)
        self._check_values(name, node)
        if isinstance(node, nir.Conv2d):
            pairs = {key: self._pair(name, key, getattr(node, key)) for key in ("stride", "dilation")}
            return ir.Conv2d(
                called, weight, padding=self._padding(name, node, **pairs), groups=int(node.groups), bias=bias, **pairs
            )
        (target, *_) = [t for s, t in self.edges if s == name] or [""]
        if target not in recurrent:
            return ir.Dense(called, weight, bias)
        weight_rec, more = recurrent[target]
        if more is not None:
            bias = more if bias is None else bias + more
        return ir.RecurrentDense(called, weight, bias, weight_rec)

    def _pool(self, name: str, node: Any) -> ir.Node:
        kernel, stride, padding = (self._pair(name, key, getattr(node, key)) for key in ("kernel_size", "stride", "padding"))
        kind = "max" if isinstance(node, SpikeMaxPool) else "sum" if isinstance(node, nir.SumPool2d) else "average"
        return ir.Pool2d(self.rename(name), kind, kernel, None if stride == kernel else stride, padding)

    def _check_values(self, name: str, node: Any) -> None:
        for key in ("weight", "bias"):
            value = getattr(node, key, None)
            if value is not None and not np.isfinite(array(value)).all():
                raise self.refuse(name, f"{key} holds values that are NaN or infinite; export the network again")
        bias = _bias(node)
        if bias is not None and bias.shape != node.weight.shape[:1]:
            raise self.refuse(name, f"bias {bias.shape} does not fit weight {tuple(node.weight.shape)}")

    def _pair(self, name: str, key: str, value: Any) -> tuple[int, int]:
        try:
            low, high = (int(v) for v in np.broadcast_to(np.asarray(value).reshape(-1), (2,)))
        except (TypeError, ValueError):
            raise self.refuse(name, f"{key} {value!r}; allowed a number or (height, width)") from None
        if not 0 <= min(low, high) <= max(low, high) <= CONV_FIELD_MAX:
            raise self.refuse(name, f"{key} {(low, high)}; allowed up to {CONV_FIELD_MAX} (Lava keeps it in 8 bits)")
        return low, high

    def _padding(self, name: str, node: nir.Conv2d, stride: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int]:
        if not isinstance(node.padding, str | bytes):
            return self._pair(name, "padding", node.padding)
        mode, kernel = text(node.padding), node.weight.shape[2:]
        if mode == "valid":
            return (0, 0)
        if mode != "same" or stride != (1, 1) or any(k % 2 == 0 for k in kernel):
            raise self.refuse(name, f"padding {mode!r}, stride {stride}, kernel {kernel}; 'same' needs stride 1, odd kernels")
        return dilation[0] * (kernel[0] // 2), dilation[1] * (kernel[1] // 2)

    def _norm(self, name: str, node: Any) -> ir.Node:
        """A batch norm, or a factor per channel after a synapse (one with no offset): it folds."""
        if isinstance(node, BatchNormNode):
            return ir.BatchNorm(self.rename(name), node.gain, node.offset, node.mean, node.var, node.eps)
        sources = self.sources(name)
        source = self.nodes[sources[0]] if sources else None
        if not isinstance(source, _SYNAPSES):
            raise self.refuse(name, "Scale is supported directly after Linear, Affine or Conv2d only")
        n, scale = len(source.weight), array(node.scale)
        rows = np.broadcast_to(scale, (n, *scale.shape[1:])).reshape(n, -1) if scale.shape[:1] in ((), (1,), (n,)) else None
        if rows is None or (rows != rows[:, :1]).any() or not np.isfinite(scale).all():
            raise self.refuse(name, f"scale of shape {scale.shape} is not one finite factor per channel of {n}")
        zero = np.zeros(n)
        return ir.BatchNorm(self.rename(name), rows[:, 0].copy(), zero, zero, np.ones(n), 0.0)


_SIMPLE = (nir.Flatten, nir.Scale, nir.SumPool2d, nir.AvgPool2d)
_OWN = (BatchNormNode, SpikeMaxPool, ConcatNode)
_ALLOWED = [k.__name__ for k in (nir.Input, nir.Output, *_SYNAPSES, *_SIMPLE, *NEURONS)]


def _kind(node: Any) -> str:
    return "a module without NIR equivalent" if node is None else type(node).__name__


def _bias(node: Any) -> np.ndarray | None:
    """Bias, or None where there is none; Conv2d always has one in NIR, so zeros count as none unless metadata say else."""
    value = getattr(node, "bias", None)
    if value is None:
        return None
    found = array(value)
    return found if found.any() or "has_bias" in node.metadata else None
