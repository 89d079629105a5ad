"""What flows between neurons: linear forms of spikes, or values that only the host can compute.

A `Linear` value is ``sum over terms of map(spikes of a population) + bias``, in SLAYER's units. Spikes themselves are one term with
gain 1. Synapses, sums, concatenation, pooling by sums and views turn linear values into linear values; neurons turn one into a
new `Population`. ``layout`` says what each axis of the user's tensor is: "N" windows, "T" time, "NT" both merged, and 0, 1, 2
the axes of ``shape``.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from taaf.export.recorder.maps import Map, Scale, viewed
from taaf.export.recorder.places import NoExactForm
from taaf.models.ir import Shape

Axis = str | int


@dataclass(frozen=True, eq=False)
class Population:
    """Spikes that are a node of the graph, ``lag`` steps later in SLAYER than in the window-relative graph."""

    modality: str
    shape: Shape
    lag: int

    def neurons(self) -> "frozenset[Population]":
        """The populations of neurons (or the input) that the spikes come from."""
        return frozenset([self])


@dataclass(frozen=True, eq=False)
class Neurons(Population):
    """Neurons or the input: ``name`` in the graph; ``node_shape`` is flat where the layer was unrolled."""

    name: str
    node_shape: Shape
    call: int  # index of the leaf call that made them; -1 for the input


@dataclass(frozen=True, eq=False)
class Beside(Population):
    """Spikes beside each other along the first axis."""

    parts: "tuple[tuple[Population, Shape], ...]"  # and the shape each is seen in

    def neurons(self) -> frozenset[Population]:
        return frozenset().union(*(part.neurons() for part, _ in self.parts))


@dataclass(frozen=True, eq=False)
class Pooled(Population):
    """OR of spikes."""

    of: Population
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def neurons(self) -> frozenset[Population]:
        return self.of.neurons()


@dataclass(frozen=True, eq=False)
class Term:
    """``map`` of a population's spikes; ``delay`` steps per channel of the source (axonal delays)."""

    source: Population
    map: Map
    delay: np.ndarray | None = None
    label: str = ""  # name of the synapse module


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear form of spikes."""

    shape: Shape
    layout: tuple[Axis, ...]
    terms: tuple[Term, ...]
    lag: int
    bias: np.ndarray | None = None  # of ``shape``
    calls: frozenset[int] = frozenset()  # leaf calls (synapses) that it takes to compute it

    @property
    def spikes(self) -> Population | None:
        """The population, where the value is nothing but its spikes."""
        if len(self.terms) != 1 or self.bias is not None or self.terms[0].delay is not None:
            return None
        m = self.terms[0].map
        return self.terms[0].source if isinstance(m, Scale) and m.gain == 1 else None

    @property
    def neurons(self) -> frozenset[Population]:
        """Where its spikes come from."""
        return frozenset().union(*(t.source.neurons() for t in self.terms))

    @property
    def modalities(self) -> set[str]:
        return {t.source.modality for t in self.terms}

    @property
    def plain(self) -> bool:
        """Whether the user's tensor is (N, *shape, T)."""
        return self.layout == plain(self.shape)

    def with_terms(self, shape: Shape, terms: tuple[Term, ...], bias: np.ndarray | None = None) -> "Linear":
        """Another form of the same spikes; the axes of ``shape`` lie where those of the present one did."""
        return replace(self, shape=shape, terms=terms, bias=bias, layout=relaid(self.layout, len(shape)))

    def seen(self, shape: Shape, layout: tuple[Axis, ...]) -> "Linear":
        """The same values in another shape."""
        bias = None if self.bias is None else self.bias.reshape(shape)
        cheap = (replace(t, map=viewed(t.map, shape)) if isinstance(t.map, Scale) else t for t in self.terms)
        return replace(self, shape=shape, layout=layout, terms=tuple(cheap), bias=bias)


@dataclass(frozen=True, eq=False)
class Host:
    """A value that only the host can compute: which populations it takes, and the first operation without an exact form."""

    origin: str
    reason: str
    neurons: frozenset[Population] = frozenset()
    calls: frozenset[int] = field(default_factory=frozenset)


Value = Linear | Host


def plain(shape: Shape) -> tuple[Axis, ...]:
    """Layout of (N, *shape, T)."""
    return ("N", *range(len(shape)), "T")


def spikes_of(population: Population) -> Linear:
    """A population's own spikes as a value."""
    return Linear(population.shape, plain(population.shape), (Term(population, Scale(population.shape)),), population.lag)


def relaid(layout: tuple[Axis, ...], n: int) -> tuple[Axis, ...]:
    """The layout with ``n`` axes of features in place of those it has, which must lie together and in order."""
    found = [a for a in layout if isinstance(a, int)]
    start = next((i for i, a in enumerate(layout) if isinstance(a, int)), len(layout))
    if found != sorted(found) or list(layout[start : start + len(found)]) != found:
        raise NoExactForm("works on axes that were permuted; permute back to (N, C, H, W, T) first")
    return (*layout[:start], *range(n), *layout[start + len(found) :])


def reshaped_layout(
    layout: tuple[Axis, ...], before: tuple[int, ...], after: tuple[int, ...], n_and_t: tuple[int, int]
) -> tuple[Shape, tuple[Axis, ...]] | None:
    """Shape and layout after a reshape of the user's tensor from sizes ``before`` to ``after``; None if axes get mixed."""
    shape: list[int] = []
    new: list[Axis] = []
    order: list[int] = []
    i = j = 0
    while i < len(before) or j < len(after):
        olds, news = list(layout[i : i + 1]), list(after[j : j + 1])
        a, b = int(np.prod(before[i : i + 1])), int(np.prod(after[j : j + 1]))
        i, j = i + 1, j + 1
        while a != b or (j == len(after) and i < len(before)) or (i == len(before) and j < len(after)):
            if (a < b or (a == b and j >= len(after))) and i < len(before):
                olds.append(layout[i])
                a, i = a * before[i], i + 1
            elif j < len(after):
                news.append(after[j])
                b, j = b * after[j], j + 1
            else:
                return None
        sizes = dict(zip(layout, before, strict=True))
        labels = _labels(olds, news, sizes, n_and_t)
        if labels is None:
            return None
        order += [o for o in olds if isinstance(o, int)]
        for label, n in zip(labels, news, strict=True):
            if label == "F":
                new.append(len(shape))
                shape.append(n)
            else:
                new.append(label)
    return (tuple(shape), tuple(new)) if order == sorted(order) else None


def _labels(olds: list[Axis], news: list[int], sizes: dict[Axis, int], n_and_t: tuple[int, int]) -> list[str] | None:
    """What the new axes of one group are; "F" for features."""
    named = [o for o in olds if isinstance(o, str)]
    features = int(np.prod([sizes[o] for o in olds if isinstance(o, int)]))
    big = [i for i, n in enumerate(news) if n != 1]
    if not named:
        return ["F"] * len(news)
    if named == ["NT"] and tuple(news) == n_and_t and features == 1:
        return ["N", "T"]
    if features != 1 or len(big) > 1 or named not in (["N", "T"], ["N"], ["T"], ["NT"]):
        return None
    name = "".join(named)
    at = big[0] if big else (len(news) - 1 if name == "T" else 0)
    return [name if i == at else "F" for i in range(len(news))]
