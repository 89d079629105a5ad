"""Cores placed by what they say to each other: a space-filling curve, then swaps that make counted messages travel less.

    cost = sum over pairs of cores of messages x (c_ew |dx| + c_ns |dy|)

is a quadratic assignment. Cores start along a Hilbert curve (Hilbert 1891; on the smallest square of a power of two around the
mesh, positions outside left out) or along the snake of `taaf.hw_sim.placement`, whichever is cheaper, and only exchange
places from then on, so that routers and chips in use stay as many. Each core in turn, the one with the most expensive
messages first, is exchanged with the core of the place where that gains most (2-opt; among many places those around the
weighted median of its partners), until a round gains nothing, ``rounds`` are over or `MOST_WORK` is done. Deterministic.
"""

from dataclasses import dataclass, replace

import numpy as np

from taaf.hw_sim.mapper.chip_limits import ChipLimits
from taaf.hw_sim.mapper.mapped_cost import MAPPED_CONVENTIONS, load_convention
from taaf.hw_sim.mapper.mapping import Mapping
from taaf.hw_sim.mapper.traffic import Frame, Pairs, loads_of_frames
from taaf.hw_sim.placement import Placement, place

ALL_PLACES = 128  # tried for every core; among more, NEAR of them
NEAR = 48
ROUNDS = 8
MOST_WORK = 10**9  # distances per placement: large networks get fewer rounds, at least one of their most talkative cores


@dataclass(frozen=True)
class Traffic:
    """Messages between pairs of cores, both directions together: core i's partners are ``partner[start[i]:start[i + 1]]``."""

    start: np.ndarray
    partner: np.ndarray
    messages: np.ndarray

    def of(self, core: int) -> tuple[np.ndarray, np.ndarray]:
        own = slice(self.start[core], self.start[core + 1])
        return self.partner[own], self.messages[own]


@dataclass(frozen=True)
class Travel:
    """What a placement makes of the traffic: cost in the unit of the weights, hops, the longest way, messages between chips."""

    cost: float
    hops: int
    longest: int
    crossings: int


def traffic_between(mapping: Mapping, spikes: Frame) -> Traffic:
    """Messages of every pair of cores, from totals of spikes per neuron (``Activity.spikes`` of every graph)."""
    pairs: Pairs = []
    frames = {g: {n: np.asarray(v)[..., None] for n, v in layers.items()} for g, layers in spikes.items()}
    loads_of_frames(mapping, frames, 1, pairs=pairs)
    n = mapping.n_cores
    a, b, messages = (np.concatenate([p[i] for p in pairs] or [np.zeros(0, np.int64)]) for i in range(3))
    keep = (messages > 0) & (a != b)
    a, b, messages = a[keep], b[keep], messages[keep].astype(np.float64)
    key = np.concatenate([a * n + b, b * n + a])
    unique, inverse = np.unique(key, return_inverse=True)
    summed = np.bincount(inverse, np.concatenate([messages, messages]), len(unique))
    return Traffic(np.searchsorted(unique, np.arange(n + 1) * n), unique % n, summed)


def hop_weights(limits: ChipLimits) -> tuple[float, float]:
    """pJ of a hop east or west, north or south, of the chip's first convention; 1 and 1 where none is published."""
    for name in MAPPED_CONVENTIONS:
        data = load_convention(name)
        if data["chip"] == limits.name:
            return data["energy_pj"]["hop_ew"], data["energy_pj"]["hop_ns"]
    return 1.0, 1.0


def travel(placement: Placement, traffic: Traffic, weights: tuple[float, float]) -> Travel:
    """Cost of a placement."""
    core = np.repeat(np.arange(len(traffic.start) - 1), np.diff(traffic.start))
    dx, dy = (np.abs(axis[core] - axis[traffic.partner]) for axis in (placement.x, placement.y))
    away = placement.chip[core] != placement.chip[traffic.partner]
    each = traffic.messages / 2  # both directions are listed
    return Travel(
        float(each @ (weights[0] * dx + weights[1] * dy)), round(float(each @ (dx + dy))), int((dx + dy).max(initial=0)),
        round(float(each @ away)),
    )  # fmt: skip


def placed(mapping: Mapping, spikes: Frame, rounds: int = ROUNDS) -> Mapping:
    """The same cores at places that make the messages of these spikes cheaper; never dearer than along the snake.

    Parameters
    ----------
    spikes : Frame
        Totals of spikes per neuron (``Activity.spikes`` of every graph).
    rounds : int
        Most rounds over all cores; 0 leaves the better of the two curves.
    """
    traffic, weights = traffic_between(mapping, spikes), hop_weights(mapping.limits)
    curves = [mapping.placement, along_hilbert(mapping.n_cores, mapping.limits)]
    start = min(curves, key=lambda p: travel(p, traffic, weights).cost)
    return replace(mapping, placement=_Swaps(start, traffic, weights).run(rounds))


def along_hilbert(n_cores: int, limits: ChipLimits) -> Placement:
    """Cores in order along a Hilbert curve over the routers of each chip; chips as along the snake."""
    snake = place(-(-n_cores // limits.cores_per_chip) * limits.cores_per_chip, limits)
    x, y = snake.x % limits.width, snake.y % limits.height
    order = np.lexsort((snake.slot, _hilbert_index(x, y, max(limits.width, limits.height)), snake.chip))[:n_cores]
    return Placement(snake.chip[order], snake.x[order], snake.y[order], snake.slot[order], snake.n_chips)


def _hilbert_index(x: np.ndarray, y: np.ndarray, side: int) -> np.ndarray:
    """Position along the curve on a square whose side is the next power of two."""
    x, y, index = x.copy(), y.copy(), np.zeros(len(x), np.int64)
    half = 1 << max(side - 1, 1).bit_length() - 1
    while half:
        right, upper = (x & half) > 0, (y & half) > 0
        index += half * half * ((3 * right) ^ upper)
        flip = right & ~upper
        x, y = np.where(flip, 2 * half - 1 - (x & (2 * half - 1)), x), np.where(flip, 2 * half - 1 - (y & (2 * half - 1)), y)
        x, y = np.where(upper, x, y), np.where(upper, y, x)
        half >>= 1
    return index


class _Swaps:
    """Local search over exchanges of two cores; ``x`` and ``y`` per core."""

    def __init__(self, start: Placement, traffic: Traffic, weights: tuple[float, float]) -> None:
        self.start, self.traffic, self.weights = start, traffic, weights
        self.at = np.arange(len(start.x))  # core -> place, an index into the start's cores
        self.core_at = self.at.copy()
        self.x, self.y = (weights[0] * start.x).astype(np.float64), (weights[1] * start.y).astype(np.float64)
        self.place_x, self.place_y = self.x.copy(), self.y.copy()

    def run(self, rounds: int) -> Placement:
        left = MOST_WORK
        for _ in range(rounds):
            order = np.argsort(-self._costs(), kind="stable")
            work = np.cumsum(2 * min(len(order), NEAR) * np.diff(self.traffic.start)[order])
            affordable = int(np.searchsorted(work, left, side="right"))
            gained = [self._improve(core) for core in order[:affordable].tolist()]
            if not any(gained):
                break
            left -= int(work[affordable - 1])
        s = self.start
        return Placement(s.chip[self.at], s.x[self.at], s.y[self.at], s.slot[self.at], s.n_chips)

    def _costs(self) -> np.ndarray:
        t = self.traffic
        core = np.repeat(np.arange(len(self.x)), np.diff(t.start))
        far = np.abs(self.x[core] - self.x[t.partner]) + np.abs(self.y[core] - self.y[t.partner])
        return np.bincount(core, t.messages * far, len(self.x))

    def _improve(self, core: int) -> bool:
        partner, messages = self.traffic.of(core)
        if not len(partner):
            return False
        places = self._candidates(partner, messages)
        others = self.core_at[places]
        gain = self._moved(core, partner, messages, places) + self._moved_here(core, others)
        both = np.zeros(len(self.x))
        both[partner] = messages
        here = np.abs(self.place_x[places] - self.x[core]) + np.abs(self.place_y[places] - self.y[core])
        gain += 2 * both[others] * here  # a pair that exchanges places stays as far apart as it was
        best = int(np.argmin(gain))
        if gain[best] >= -1e-9 * (1 + np.abs(gain).max()):
            return False
        self._exchange(core, int(others[best]))
        return True

    def _candidates(self, partner: np.ndarray, messages: np.ndarray) -> np.ndarray:
        if len(self.x) <= ALL_PLACES:
            return np.arange(len(self.x))
        x, y = (_weighted_median(axis[partner], messages) for axis in (self.x, self.y))
        return np.argpartition(np.abs(self.place_x - x) + np.abs(self.place_y - y), NEAR)[:NEAR]

    def _moved(self, core: int, partner: np.ndarray, messages: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Change of the core's own cost at every place, partners where they are."""
        px, py = self.x[partner], self.y[partner]
        there = np.abs(self.place_x[places, None] - px) + np.abs(self.place_y[places, None] - py)
        return np.asarray(there @ messages - (np.abs(self.x[core] - px) + np.abs(self.y[core] - py)) @ messages)

    def _moved_here(self, core: int, others: np.ndarray) -> np.ndarray:
        """Change of the others' cost at the core's place."""
        t = self.traffic
        n = t.start[others + 1] - t.start[others]
        which = np.repeat(np.arange(len(others)), n)
        entry = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n) + np.repeat(t.start[others], n)
        px, py, other = self.x[t.partner[entry]], self.y[t.partner[entry]], others[which]
        now = np.abs(self.x[other] - px) + np.abs(self.y[other] - py)
        then = np.abs(self.x[core] - px) + np.abs(self.y[core] - py)
        return np.bincount(which, t.messages[entry] * (then - now), len(others))

    def _exchange(self, a: int, b: int) -> None:
        self.at[[a, b]] = self.at[[b, a]]
        self.core_at[self.at[[a, b]]] = [a, b]
        for axis, place_axis in ((self.x, self.place_x), (self.y, self.place_y)):
            axis[[a, b]] = place_axis[self.at[[a, b]]]


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    return float(values[order][np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)])
