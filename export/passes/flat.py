"""Layers without a map: populations of any shapes as neurons of one dense layer.

A layer is flat where one of its populations is, or where no common map holds them. Convolutions are unrolled there to matrices,
one row per neuron, and relays repeat single neurons.
"""

from dataclasses import replace

import numpy as np

from taaf.export.passes.levels import Levels, Read, axis_pixels, ungrouped
from taaf.export.passes.maps import RELAY_WEIGHT, Layer
from taaf.export.passes.report import Part
from taaf.models.errors import UnsupportedLayerError
from taaf.models.ir import Conv2d, Dense, RecurrentDense, Shape

UNROLLED_MAX = 1 << 24  # weights of a matrix that the compiler makes: 64 MiB in the file


def flat_layer(levels: Levels, level: int) -> Layer:
    """Lay out a layer as single neurons, those of maps in C order."""
    shapes = levels.shapes
    parts = [Part(n, shapes[n], np.arange(int(np.prod(shapes[n]))), 0, False, flat=True) for n in levels.at(level)]
    parts += [Part(n, shapes[n], np.flatnonzero(mask), 0, True, flat=True) for n, mask in levels.carried(level).items()]
    if level == levels.depth:
        parts = [next(p for p in parts if p.population == name) for name in levels.output]
    placed, first = [], 0
    for part in parts:
        placed.append(replace(part, first=first))
        first += len(part.members)
    return Layer(tuple(placed), (first,))


def flat_synapses(levels: Levels, layer: Layer, before: Layer, name: str) -> Dense:
    """The one matrix that computes a layer from the layer before (flattened, if that is a map).

    Raises
    ------
    UnsupportedLayerError
        If the matrix would be larger than `UNROLLED_MAX`, or one synapse would need two delays.
    """
    n, n_before = layer.shape[0], int(np.prod(before.shape))
    if n * n_before > UNROLLED_MAX:
        held = ", ".join(dict.fromkeys(p.population for p in layer.parts))
        raise UnsupportedLayerError(
            f"{levels.graph.name}.{name}: {held} in one dense layer of {n} x {n_before} weights (allowed {UNROLLED_MAX}); "
            "let what is joined have maps of one size, or fewer neurons"
        )
    weight, delay, recurrent = (np.zeros((n, m), np.int32) for m in (n_before, n_before, n))
    for part in layer.parts:
        rows = part.first + np.arange(len(part.members))
        if part.relays:
            weight[rows, _columns(before, part.population, levels.shapes)[part.members]] = RELAY_WEIGHT
            continue
        for read in levels.reads[part.population]:
            _add(levels, read, part, rows, (weight, delay), before)
            if isinstance(read.synapse, RecurrentDense):
                own = next(p for p in layer.parts if p.population == part.population)
                recurrent[rows[:, None], own.first + np.arange(len(own.members))] = read.synapse.weight_rec
    delays = delay if delay.any() else None
    if not any(isinstance(r.synapse, RecurrentDense) for p in layer.parts if not p.relays for r in levels.reads[p.population]):
        return Dense(name, weight, delay=delays)
    if delays is not None:
        raise UnsupportedLayerError(
            f"{levels.graph.name}.{name}: a recurrent population and delays in one layer of the chain; NetX loses the scale of "
            "their weights, so let the delays be 0, or the layers have different depths"
        )
    return RecurrentDense(name, weight, weight_rec=recurrent)


def _add(levels: Levels, read: Read, part: Part, rows: np.ndarray, into: tuple[np.ndarray, np.ndarray], before: Layer) -> None:
    weight, delay = into
    own, steps = _matrix(levels, read, part.population), None
    if isinstance(read.synapse, Dense) and read.synapse.delay is not None:
        steps = np.broadcast_to(read.synapse.delay, own.shape)
    start = 0
    for source in read.sources:
        columns = _columns(before, source, levels.shapes)
        here = np.arange(start, start + len(columns))[columns >= 0]
        start, columns = start + len(columns), columns[columns >= 0]
        at = np.ix_(rows, columns)
        late = np.where(own[:, here] != 0, 0 if steps is None else steps[:, here], 0)
        if ((weight[at] != 0) & (own[:, here] != 0) & (delay[at] != late)).any():
            raise UnsupportedLayerError(
                f"{levels.graph.name}.{part.population}: reads {source} with two delays at one synapse; allowed one"
            )
        weight[at] += own[:, here]
        delay[at] = np.maximum(delay[at], late)


def _matrix(levels: Levels, read: Read, name: str) -> np.ndarray:
    """Weights (neurons of the population, neurons of its sources)."""
    if isinstance(read.synapse, Dense):
        return read.synapse.weight
    shapes, out = [levels.shapes[p] for p in read.sources], levels.shapes[name]
    shape = (sum(s[0] for s in shapes), *shapes[0][1:])
    if int(np.prod(shape)) * int(np.prod(out)) > UNROLLED_MAX:
        raise UnsupportedLayerError(
            f"{levels.graph.name}.{read.synapse.name}: a convolution that has to be unrolled to {int(np.prod(out))} x "
            f"{int(np.prod(shape))} weights (allowed {UNROLLED_MAX}), because its layer of the chain cannot be a map; use smaller "
            "maps, or join maps of one size"
        )
    return unrolled(read.synapse, shape, out)


def unrolled(conv: Conv2d, shape: Shape, out: Shape) -> np.ndarray:
    """A convolution of maps ``shape`` to maps ``out`` as a matrix over neurons in C order."""
    weight, matrix = ungrouped(conv), np.zeros((*out, *shape), conv.weight.dtype)
    for i, j in np.ndindex(*conv.weight.shape[2:]):
        (y, from_y), (x, from_x) = (axis_pixels(conv, axis, tap, shape, out) for axis, tap in ((0, i), (1, j)))
        matrix[:, y[:, None], x, :, from_y[:, None], from_x] = weight[:, :, i, j]
    return matrix.reshape(int(np.prod(out)), -1)


def _columns(before: Layer, population: str, shapes: dict[str, Shape]) -> np.ndarray:
    """Neuron of a population (C order) -> neuron of the flattened layer that holds it, -1 where none does."""
    shape = shapes[population]
    found = np.full(shape, -1)
    for part in before.parts:
        if part.population != population:
            continue
        if part.flat:
            found.reshape(-1)[part.members] = part.first + np.arange(len(part.members))
            continue
        (f_h, f_w), (p_h, p_w), (_, height, width) = part.factor, part.phase, before.shape
        inside = found[part.members, p_h::f_h, p_w::f_w][:, : part.extent[0], : part.extent[1]]
        _, h, w = inside.shape
        at = np.arange(before.shape[0] * height * width).reshape(before.shape)
        rows = np.arange(h)[:, None] * f_h + p_h
        columns = np.arange(w) * f_w + p_w
        found[part.members[:, None, None], rows, columns] = at[part.first : part.first + len(part.members), :h, :w]
    return found.reshape(-1)
