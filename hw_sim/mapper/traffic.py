"""What every core does for given spikes: synaptic operations, updates, messages and hops.

Loihi has no multicast on its mesh: a spike travels as one message to every core that reads its neuron. A message goes
east or west first, then north or south; it makes ``|dx|`` and ``|dy|`` hops between the routers (cores of the same router:
none). Spikes of the host arrive as messages too, but their way onto the chip is not counted.
"""

from collections.abc import Mapping as Dict
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch.nn import functional

from taaf.hw_sim.connectivity import ConvGroup, DenseGroup, box_of, groups_of, starts
from taaf.hw_sim.mapper.mapping import LayerMap, Mapping
from taaf.models.errors import GraphError
from taaf.models.ir import Graph, Lif

Frame = Dict[str, Dict[str, np.ndarray]]  # graph -> input or LIF -> spikes per neuron, in the layer's shape


@dataclass
class Loads:
    """Totals per core, int64 (cores,), over the time the spikes were counted in.

    Attributes
    ----------
    synops_dense, synops_conv : numpy.ndarray
        Effective synaptic operations.
    updates, active, fired : numpy.ndarray
        Neuron updates, those of them that are active (see `active_updates`), and spikes of its neurons.
    messages_in, messages_out : numpy.ndarray
        Messages received (the host's too) and sent (one per spike and destination core; not those to the host).
    hops_ew, hops_ns, crossings : numpy.ndarray
        Hops of the messages it sent, and how many of these messages leave their chip.
    """

    synops_dense: np.ndarray
    synops_conv: np.ndarray
    updates: np.ndarray
    active: np.ndarray
    fired: np.ndarray
    messages_in: np.ndarray
    messages_out: np.ndarray
    hops_ew: np.ndarray
    hops_ns: np.ndarray
    crossings: np.ndarray

    @classmethod
    def none(cls, n_cores: int) -> "Loads":
        return cls(*(np.zeros(n_cores, np.int64) for _ in fields(cls)))

    def total(self, name: str) -> int:
        return int(getattr(self, name).sum())


def count_loads(mapping: Mapping, spikes: Frame, steps: int, active: Frame | None = None) -> Loads:
    """Loads of all cores.

    Parameters
    ----------
    spikes : Frame
        Spikes per neuron of every input and LIF: of one step, or totals (``Activity.spikes``).
    steps : int
        Time steps they were counted in (windows times steps per window).
    active : Frame, optional
        Active updates per neuron (`active_updates`); by default all updates are counted as active, an upper bound.

    Raises
    ------
    GraphError
        If spikes of a layer are missing.
    """
    loads = Loads.none(mapping.n_cores)
    for name, graph in mapping.graphs.items():
        missing = [n for n in (graph.input.name, *(f.name for f in graph.lifs())) if n not in spikes.get(name, {})]
        if missing:
            raise GraphError(f"{name}: no spikes of {', '.join(missing)}; run the engine on this graph first")
        for lif in graph.lifs():
            row = mapping.layer(f"{name}.{lif.name}")
            own = slice(row.first_core, row.first_core + row.n_cores)
            loads.fired[own] = _tile_sums(_boxed(graph, lif.name, spikes[name]), row).ravel()
            loads.updates[own] = row.cut.used[0].ravel() * steps
            loads.active[own] = (
                loads.updates[own] if active is None else _tile_sums(_boxed(graph, lif.name, active[name]), row).ravel()
            )
            for group in groups_of(graph, lif.name):
                incoming = _boxed(graph, group.source, spikes[name])
                source = None if group.source == graph.input.name else mapping.layer(f"{name}.{group.source}")
                if isinstance(group, ConvGroup):
                    loads.synops_conv[own] += _conv_synops(group, incoming, row).ravel()
                    _conv_messages(mapping, loads, group, incoming, source, row)
                else:
                    loads.synops_dense[own] += _dense_synops(group, incoming, row)
                    _dense_messages(mapping, loads, incoming, source, row)
    return loads


def active_updates(graph: Graph, lif: Lif, spikes: Dict[str, np.ndarray]) -> np.ndarray:
    """Which neurons of a layer are active in one step: a synaptic event arrives or the neuron has a bias; bool, its shape.

    The chip's paper does not say what makes an update active. A neuron that only leaks is counted as inactive here.
    """
    shape = graph.shapes[lif.name]
    found = np.zeros(shape, bool)
    if lif.bias is not None:
        bias = lif.bias.astype(bool)
        found |= bias if bias.shape == shape else bias.reshape(-1, *[1] * (len(shape) - 1))
    for group in groups_of(graph, lif.name):
        incoming = _boxed(graph, group.source, spikes)
        if isinstance(group, DenseGroup):
            events = group.nonzero[:, incoming.ravel() > 0].any(1)
        else:
            events = _convolved(group, incoming, (group.node.weight != 0).astype(np.float32), group.node.groups) > 0.5
        found |= events.reshape(shape)
    return found


def _boxed(graph: Graph, name: str, values: Dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(values[name], np.int64).reshape(box_of(graph.shapes[name]))


def _tile_sums(values: np.ndarray, row: LayerMap) -> np.ndarray:
    for axis, (n, size) in enumerate(zip(row.box, row.tile, strict=True)):
        values = np.add.reduceat(values, starts(n, size), axis=axis)
    return values


def _convolved(group: ConvGroup, incoming: np.ndarray, weight: np.ndarray, groups: int) -> np.ndarray:
    node = group.node
    x = torch.from_numpy(incoming.astype(weight.dtype))[None]
    y = functional.conv2d(x, torch.from_numpy(weight), None, node.stride, node.padding, node.dilation, groups)
    return y[0].numpy()


def _conv_synops(group: ConvGroup, incoming: np.ndarray, row: LayerMap) -> np.ndarray:
    """(grid): a convolution with, per tile of channels, the number of non-zero weights; float64 is exact below 2^53."""
    weight = group.node.weight
    c_out, c_in = weight.shape[:2]
    per_tile = np.zeros((row.grid[0], c_in * group.node.groups, *weight.shape[2:]))
    for channel in range(c_out):
        low = channel // (c_out // group.node.groups) * c_in  # the first input channel of its group
        per_tile[channel // row.tile[0], low : low + c_in] += weight[channel] != 0
    reached = _convolved(group, incoming, per_tile, 1).round().astype(np.int64)
    for axis in (1, 2):
        reached = np.add.reduceat(reached, starts(row.box[axis], row.tile[axis]), axis=axis)
    return reached


def _dense_synops(group: DenseGroup, incoming: np.ndarray, row: LayerMap) -> np.ndarray:
    flat = incoming.ravel()
    per_neuron = np.array([int(flat[mask].sum()) for mask in group.nonzero], np.int64)
    return np.add.reduceat(per_neuron, starts(row.box[0], row.tile[0]))


def _dense_messages(mapping: Mapping, loads: Loads, incoming: np.ndarray, source: LayerMap | None, row: LayerMap) -> None:
    targets = np.arange(row.first_core, row.first_core + row.n_cores)
    if source is None:
        loads.messages_in[targets] += incoming.sum()
        return
    senders = np.arange(source.first_core, source.first_core + source.n_cores)
    _send(mapping, loads, np.repeat(senders, len(targets)), np.tile(targets, len(senders)),
          np.repeat(_tile_sums(incoming, source).ravel(), len(targets)))  # fmt: skip


def _conv_messages(
    mapping: Mapping, loads: Loads, group: ConvGroup, incoming: np.ndarray, source: LayerMap | None, row: LayerMap
) -> None:
    """Spikes of every pair (tile that sends, tile that reads); all channels of a pixel go to all channel tiles."""
    channels = starts(len(incoming), len(incoming) if source is None else source.tile[0])
    summed = np.add.reduceat(incoming, channels, axis=0)  # (tiles of C, H, W)
    (r_from, r_to, r_mask), (c_from, c_to, c_mask) = (
        _overlaps(axis.reads(row.tile[i]), None if source is None else source.tile[i])
        for i, axis in ((1, group.rows), (2, group.columns))
    )
    n = r_mask @ summed @ c_mask.T  # (tiles of C, row pairs, column pairs)
    target = (r_to[:, None] * row.grid[2] + c_to)[None].repeat(len(channels), 0)
    plane = row.grid[1] * row.grid[2]
    if source is not None:
        channel = np.arange(len(channels))[:, None, None] * source.grid[1]
        sender = source.first_core + (channel + r_from[:, None]) * source.grid[2] + c_from
    for tile in range(row.grid[0]):
        to = row.first_core + tile * plane + target
        if source is None:
            np.add.at(loads.messages_in, to.ravel(), n.ravel())
        else:
            _send(mapping, loads, sender.ravel(), to.ravel(), n.ravel())


def _overlaps(reads: np.ndarray, size: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of a sending tile of ``size`` (None: everything) and a reading tile that share positions of one axis.

    Returns
    -------
    sender, reader : numpy.ndarray
        (pairs,).
    mask : numpy.ndarray
        (pairs, n) int64: the positions they share.
    """
    n = reads.shape[1]
    owner = np.arange(n) // (size or n)
    mask = reads[None] & (owner == np.arange(owner[-1] + 1)[:, None])[:, None]  # (senders, readers, n)
    sender, reader = np.nonzero(mask.any(2))
    return sender, reader, mask[sender, reader].astype(np.int64)


def _send(mapping: Mapping, loads: Loads, sender: np.ndarray, target: np.ndarray, n: np.ndarray) -> None:
    where = mapping.placement
    for total, at, value in (
        (loads.messages_out, sender, n),
        (loads.messages_in, target, n),
        (loads.hops_ew, sender, n * np.abs(where.x[sender] - where.x[target])),
        (loads.hops_ns, sender, n * np.abs(where.y[sender] - where.y[target])),
        (loads.crossings, sender, n * (where.chip[sender] != where.chip[target])),
    ):
        total[:] += np.bincount(at, value, len(total)).astype(np.int64)  # float64 weights: exact below 2^53
