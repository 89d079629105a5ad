"""Which layer of the chain a population belongs to, and how long its spikes have to be carried on.

A chain of layers is what stock NetX runs. Layer k of it holds the populations whose longest path from the input has k synapses,
and relays: neurons that repeat the spikes of populations (or of the input) of lower layers, for readers in higher ones.

    level(input) = 0,   level(q) = 1 + max over the populations p that q reads of level(p)     (flat ones: behind all maps)
    p is carried by the layers level(p) + 1 .. max over its readers q of level(q) - 1

Of a population only those neurons are carried that a reader has a weight for.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from taaf.models.ir import Concat, Conv2d, Dense, Flatten, Graph, Lif, Shape


@dataclass(frozen=True, eq=False)
class Read:
    """A group of synapses of a population, and the populations it reads, in the order of its weights."""

    synapse: Conv2d | Dense
    sources: tuple[str, ...]

    @property
    def is_dense(self) -> bool:
        return isinstance(self.synapse, Dense)


class Levels:
    """An integer graph as populations that read each other, each with its level.

    Attributes
    ----------
    graph : Graph
        Integer stage, without pooling.
    entries : list of str
        Populations that come from the host: the input.
    lifs : dict of str to Lif
        In the order of the graph.
    shapes : dict of str to Shape
        Of every population.
    reads : dict of str to tuple of Read
    output : tuple of str
        The populations that leave the chip, in the order of their channels.
    level : dict of str to int
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.lifs: dict[str, Lif] = {lif.name: lif for lif in graph.lifs()}
        self.entries = [graph.input.name]
        self.shapes: dict[str, Shape] = {n: graph.shapes[n] for n in (*self.entries, *self.lifs)}
        self.reads = {
            name: tuple(Read(s, self._beside(graph.sources(s.name)[0])) for s in graph.synapses_of(name)) for name in self.lifs
        }
        self.output = self._beside(graph.output)
        self.level = self._levels()

    def enter(self, name: str, shape: Shape) -> None:
        """Let one more population come from the host, behind the channels of the input."""
        self.entries.append(name)
        self.shapes[name], self.level[name] = shape, 0

    def _beside(self, name: str) -> tuple[str, ...]:
        """Populations whose spikes lie beside each other in what a node gives; flattening keeps their order (channels first)."""
        if isinstance(self.graph.nodes[name], Concat | Flatten):
            return tuple(p for source in self.graph.sources(name) for p in self._beside(source))
        return (name,)

    def _levels(self) -> dict[str, int]:
        level = dict.fromkeys(self.entries, 0)
        for maps in (True, False):  # flat populations wait for the last map, as no map can follow them in a chain
            last = max((k for n, k in level.items() if len(self.shapes[n]) == 3), default=0)
            for name, reads in self.reads.items():
                if (len(self.shapes[name]) == 3) == maps:
                    longest = max(level[p] for read in reads for p in read.sources)
                    level[name] = 1 + (longest if maps else max(longest, last))
        return level

    @property
    def depth(self) -> int:
        """Layers of the chain."""
        return max(self.level.values())

    def at(self, level: int) -> list[str]:
        """Populations of a layer, in the order of the graph."""
        return [name for name in self.lifs if self.level[name] == level]

    @cached_property
    def _needs(self) -> dict[str, list[tuple[int, np.ndarray]]]:
        """Population -> (level of a reader, mask of the neurons it has weights for)."""
        found: dict[str, list[tuple[int, np.ndarray]]] = {name: [] for name in self.shapes}
        for name, reads in self.reads.items():
            for read in reads:
                for source, mask in zip(read.sources, self._masks(read, self.shapes[name]), strict=True):
                    found[source].append((self.level[name], mask))
        for name in self.output:
            found[name].append((self.depth + 1, np.ones(self.shapes[name], bool)))
        return found

    def _masks(self, read: Read, out: Shape) -> list[np.ndarray]:
        shapes = [self.shapes[p] for p in read.sources]
        if isinstance(read.synapse, Dense):
            used = (read.synapse.weight != 0).any(axis=0)
            ends = np.cumsum([int(np.prod(s)) for s in shapes])[:-1]
            return [part.reshape(shape) for part, shape in zip(np.split(used, ends), shapes, strict=True)]
        used = _pixels_read(read.synapse, (sum(s[0] for s in shapes), *shapes[0][1:]), out)
        return np.split(used, np.cumsum([s[0] for s in shapes])[:-1])

    def carried(self, level: int) -> dict[str, np.ndarray]:
        """Populations of lower layers that this one must repeat -> mask of the neurons that higher layers read."""
        found = {}
        for name in self.shapes:
            masks = [mask for reader, mask in self._needs[name] if reader > level]
            if self.level[name] < level and masks and (mask := np.logical_or.reduce(masks)).any():
                found[name] = mask
        return found


def ungrouped(conv: Conv2d) -> np.ndarray:
    """The weight as one of a single group, (C', C, kH, kW); zero between groups."""
    if conv.groups == 1:
        return conv.weight
    c_out, c_in, *kernel = conv.weight.shape
    weight = np.zeros((conv.groups, c_out // conv.groups, conv.groups, c_in, *kernel), conv.weight.dtype)
    own = np.arange(conv.groups)
    weight[own, :, own] = conv.weight.reshape(conv.groups, -1, c_in, *kernel)
    return weight.reshape(c_out, conv.groups * c_in, *kernel)


def _pixels_read(conv: Conv2d, shape: Shape, out: Shape) -> np.ndarray:
    """Mask (C, H, W) of the pixels for which a convolution has a weight other than zero."""
    used, mask = (ungrouped(conv) != 0).any(axis=0), np.zeros(shape, bool)
    for i, j in np.ndindex(conv.weight.shape[2:]):
        rows, columns = (axis_pixels(conv, axis, tap, shape, out)[1] for axis, tap in ((0, i), (1, j)))
        mask[:, rows[:, None], columns] |= used[:, i, j, None, None]
    return mask


def axis_pixels(conv: Conv2d, axis: int, tap: int, shape: Shape, out: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Positions along an axis of the output whose kernel tap reads a pixel of the map, and which pixel."""
    where = np.arange(out[1 + axis])
    pixel = where * conv.stride[axis] - conv.padding[axis] + tap * conv.dilation[axis]
    inside = (pixel >= 0) & (pixel < shape[1 + axis])
    return where[inside], pixel[inside]
