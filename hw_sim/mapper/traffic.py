"""What every core does for given spikes: synaptic operations, updates, messages and hops.

Loihi has no multicast on its mesh: a spike travels as one message to every core that reads its neuron. A message goes
east or west first, then north or south; it makes ``|dx|`` and ``|dy|`` hops between the routers (cores of the same router:
none). Spikes of the host arrive as messages too, but their way onto the chip is not counted.
"""

from collections.abc import Mapping as Dict
from dataclasses import dataclass, fields

import numpy as np

from taaf.hw_sim.connectivity import Axis, ConvGroup, DenseGroup, box_of, groups_of, starts
from taaf.hw_sim.mapper.mapping import LayerMap, Mapping
from taaf.models.errors import GraphError
from taaf.models.ir import Graph, Lif

Frame = Dict[str, Dict[str, np.ndarray]]  # graph -> input or LIF -> spikes per neuron, in the layer's shape


@dataclass
class Loads:
    """Totals per core, int64 (cores,), over the time the spikes were counted in; (cores, S) of S frames at once.

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
    def none(cls, *shape: int) -> "Loads":
        return cls(*(np.zeros(shape, np.int64) for _ in fields(cls)))

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
    frames, active_frames = _with_one_frame(spikes), None if active is None else _with_one_frame(active)
    return Loads(*(x[:, 0] for x in vars(loads_of_frames(mapping, frames, steps, active_frames)).values()))


def _with_one_frame(values: Frame) -> dict[str, dict[str, np.ndarray]]:
    return {g: {n: np.asarray(v)[..., None] for n, v in layers.items()} for g, layers in values.items()}


Pairs = list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # sending core, receiving core, messages


def loads_of_frames(
    mapping: Mapping, spikes: Frame, steps: int, active: Frame | None = None, pairs: Pairs | None = None
) -> Loads:
    """`count_loads` of many frames at once, for instance of every step of a window; loads are linear in spikes.

    Parameters
    ----------
    spikes, active : Frame
        As there, with a last axis of S frames.
    steps : int
        Time steps that each frame was counted in.
    pairs : list, optional
        Receives which core sent how many messages to which, over all frames; pairs may repeat.

    Returns
    -------
    Loads
        (cores, S).
    """
    n_frames = next(iter(next(iter(spikes.values())).values())).shape[-1]
    loads = Loads.none(mapping.n_cores, n_frames)
    for name, graph in mapping.graphs.items():
        missing = [n for n in (graph.input.name, *(f.name for f in graph.lifs())) if n not in spikes.get(name, {})]
        if missing:
            raise GraphError(f"{name}: no spikes of {', '.join(missing)}; run the engine on this graph first")
        boxed = {n: _boxed(graph, n, spikes[name]) for n in (graph.input.name, *(f.name for f in graph.lifs()))}
        for lif in graph.lifs():
            row = mapping.layer(f"{name}.{lif.name}")
            own = slice(row.first_core, row.first_core + row.n_cores)
            loads.fired[own] = _tile_sums(boxed[lif.name], row)
            loads.updates[own] = row.cut.used[0].reshape(-1, 1) * steps
            loads.active[own] = loads.updates[own] if active is None else _tile_sums(_boxed(graph, lif.name, active[name]), row)
            for group in groups_of(graph, lif.name):
                incoming = boxed[group.source]
                source = None if group.source == graph.input.name else mapping.layer(f"{name}.{group.source}")
                if isinstance(group, ConvGroup):
                    loads.synops_conv[own] += _conv_synops(group, incoming, row)
                    _conv_messages(mapping, loads, group, incoming, source, row, pairs)
                else:
                    loads.synops_dense[own] += _dense_synops(group, incoming, row)
                    _dense_messages(mapping, loads, incoming, source, row, pairs)
    return loads


def active_updates(graph: Graph, lif: Lif, spikes: Dict[str, np.ndarray]) -> np.ndarray:
    """Which neurons of a layer are active in one step: a synaptic event arrives or the neuron has a bias; bool, its shape.

    The chip's paper does not say what makes an update active. A neuron that only leaks is counted as inactive here. Spikes with
    a last axis of frames give the updates of every frame.
    """
    shape = graph.shapes[lif.name]
    some, value = next(iter(spikes.items()))
    framed = np.ndim(value) > len(graph.shapes[some])
    given = spikes if framed else {n: np.asarray(v)[..., None] for n, v in spikes.items()}
    found = np.zeros((*shape, next(iter(given.values())).shape[-1]), bool)
    if lif.bias is not None:
        bias = lif.bias.astype(bool)
        found |= (bias if bias.shape == shape else bias.reshape(-1, *[1] * (len(shape) - 1)))[..., None]
    for group in groups_of(graph, lif.name):
        incoming = (_boxed(graph, group.source, given) > 0).astype(np.float32)
        if isinstance(group, DenseGroup):
            events = group.nonzero.astype(np.float32) @ incoming.reshape(-1, incoming.shape[-1])
        else:
            events = _reached(group, incoming)
        found |= events.reshape(found.shape) > 0.5
    return found if framed else found[..., 0]


def _boxed(graph: Graph, name: str, values: Dict[str, np.ndarray]) -> np.ndarray:
    """(C, H, W, S) int64."""
    return np.asarray(values[name], np.int64).reshape(*box_of(graph.shapes[name]), -1)


def _tile_sums(values: np.ndarray, row: LayerMap) -> np.ndarray:
    """(cores of the layer, S) of (C, H, W, S)."""
    for axis, (n, size) in enumerate(zip(row.box, row.tile, strict=True)):
        values = np.add.reduceat(values, starts(n, size), axis=axis)
    return values.reshape(-1, values.shape[-1])


def _reached(group: ConvGroup, incoming: np.ndarray) -> np.ndarray:
    """Non-zero synapses through which spikes (C, H, W, S) reach every neuron (C', H', W', S), float32: tap by tap."""
    node, (channels, height, width) = group.node, group.out_box
    mask = (node.weight != 0).astype(np.float32)
    (p_h, p_w), (s_h, s_w), (d_h, d_w) = node.padding, node.stride, node.dilation
    padded = np.pad(incoming, ((0, 0), (p_h, p_h), (p_w, p_w), (0, 0)))
    out = np.zeros((node.groups, channels // node.groups, height, width, incoming.shape[-1]), np.float32)
    for i in range(mask.shape[2]):
        for j in range(mask.shape[3]):
            read = padded[:, i * d_h :: s_h, j * d_w :: s_w][:, :height, :width].reshape(node.groups, mask.shape[1], -1)
            taps = mask[:, :, i, j].reshape(node.groups, -1, mask.shape[1])
            out += (taps @ read).reshape(out.shape)
    return out


def _readers(axis: Axis, size: int) -> np.ndarray:
    """(kernel, tiles, n_in): how many outputs of each tile of ``size`` read an input through a tap; float64."""
    found = np.zeros((axis.kernel, len(starts(axis.n_out, size)), axis.n_in))
    output, tap = np.nonzero(axis.source >= 0)
    np.add.at(found, (tap, output // size, axis.source[output, tap]), 1)
    return found


def _conv_synops(group: ConvGroup, incoming: np.ndarray, row: LayerMap) -> np.ndarray:
    """(cores, S): spikes times the non-zero weights of a tile's channels, over rows, columns and taps; exact below 2^53."""
    weight = group.node.weight
    c_out, c_in = weight.shape[:2]
    per_tile = np.zeros((row.grid[0], c_in * group.node.groups, *weight.shape[2:]))
    for channel in range(c_out):
        low = channel // (c_out // group.node.groups) * c_in  # the first input channel of its group
        per_tile[channel // row.tile[0], low : low + c_in] += weight[channel] != 0
    by_row = np.tensordot(_readers(group.rows, row.tile[1]), incoming.astype(np.float64), (2, 1))  # (i, tiles, C, W, S)
    by_both = np.tensordot(by_row, _readers(group.columns, row.tile[2]), (3, 2))  # (i, tiles of H, C, S, j, tiles of W)
    reached = np.tensordot(per_tile, by_both, ((1, 2, 3), (2, 0, 4)))  # (tiles of C, of H, S, of W)
    return np.moveaxis(reached, 2, 3).round().astype(np.int64).reshape(-1, incoming.shape[-1])


def _dense_synops(group: DenseGroup, incoming: np.ndarray, row: LayerMap) -> np.ndarray:
    """(cores, S)."""
    per_tile = np.add.reduceat(group.nonzero.astype(np.float64), starts(row.box[0], row.tile[0]), axis=0)
    return (per_tile @ incoming.reshape(-1, incoming.shape[-1])).round().astype(np.int64)


def _dense_messages(
    mapping: Mapping, loads: Loads, incoming: np.ndarray, source: LayerMap | None, row: LayerMap, pairs: Pairs | None
) -> None:
    targets = np.arange(row.first_core, row.first_core + row.n_cores)
    if source is None:
        loads.messages_in[targets] += incoming.sum((0, 1, 2))
        return
    senders = np.arange(source.first_core, source.first_core + source.n_cores)
    _send(mapping, loads, np.repeat(senders, len(targets)), np.tile(targets, len(senders)),
          np.repeat(_tile_sums(incoming, source), len(targets), axis=0), pairs)  # fmt: skip


def _conv_messages(
    mapping: Mapping, loads: Loads, group: ConvGroup, incoming: np.ndarray, source: LayerMap | None, row: LayerMap,
    pairs: Pairs | None,
) -> None:  # fmt: skip
    """Spikes of every pair (tile that sends, tile that reads); all channels of a pixel go to all channel tiles."""
    channels = starts(len(incoming), len(incoming) if source is None else source.tile[0])
    summed = np.add.reduceat(incoming, channels, axis=0).astype(np.float64)  # (tiles of C, H, W, S)
    (r_from, r_to, r_mask), (c_from, c_to, c_mask) = (
        _overlaps(axis.reads(row.tile[i]), None if source is None else source.tile[i])
        for i, axis in ((1, group.rows), (2, group.columns))
    )
    by_row = np.tensordot(summed, r_mask, (1, 1))  # (tiles of C, W, S, row pairs)
    n = np.tensordot(by_row, c_mask, (1, 1)).transpose(0, 2, 3, 1)  # (tiles of C, row pairs, column pairs, S)
    n = n.round().astype(np.int64).reshape(-1, incoming.shape[-1])
    target = (r_to[:, None] * row.grid[2] + c_to)[None].repeat(len(channels), 0)
    plane = row.grid[1] * row.grid[2]
    if source is not None:
        channel = np.arange(len(channels))[:, None, None] * source.grid[1]
        sender = source.first_core + (channel + r_from[:, None]) * source.grid[2] + c_from
    for tile in range(row.grid[0]):
        to = row.first_core + tile * plane + target
        if source is None:
            _add_at(loads.messages_in, to.ravel(), n)
        else:
            _send(mapping, loads, sender.ravel(), to.ravel(), n, pairs)


def _overlaps(reads: np.ndarray, size: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of a sending tile of ``size`` (None: everything) and a reading tile that share positions of one axis.

    Returns
    -------
    sender, reader : numpy.ndarray
        (pairs,).
    mask : numpy.ndarray
        (pairs, n) float64: the positions they share.
    """
    n = reads.shape[1]
    owner = np.arange(n) // (size or n)
    mask = reads[None] & (owner == np.arange(owner[-1] + 1)[:, None])[:, None]  # (senders, readers, n)
    sender, reader = np.nonzero(mask.any(2))
    return sender, reader, mask[sender, reader].astype(np.float64)


def _send(mapping: Mapping, loads: Loads, sender: np.ndarray, target: np.ndarray, n: np.ndarray, pairs: Pairs | None) -> None:
    """Messages ``n`` (pairs, S) on their way."""
    if pairs is not None:
        pairs.append((sender, target, n.sum(1)))
    where = mapping.placement
    _add_at(loads.messages_in, target, n)
    hops = [np.abs(axis[sender] - axis[target]) for axis in (where.x, where.y)]
    factors = (np.ones(len(sender), np.int64), *hops, where.chip[sender] != where.chip[target])
    totals = (loads.messages_out, loads.hops_ew, loads.hops_ns, loads.crossings)
    for total, factor in zip(totals, factors, strict=True):
        if factor.any():
            _add_at(total, sender, n * factor[:, None])


def _add_at(total: np.ndarray, at: np.ndarray, values: np.ndarray) -> None:
    """``total[at] += values`` (n, S), where ``at`` repeats itself."""
    order = np.argsort(at, kind="stable")
    first = np.flatnonzero(np.diff(at[order], prepend=-1))
    total[at[order][first]] += np.add.reduceat(values[order], first, axis=0)
