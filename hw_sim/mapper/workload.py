"""What a network has to compute in one window, for an ANN and for a spiking network, split by what arrives at the synapses.

Parts are groups of synapses with one role:

- "first": reads the network's input. Real-valued input (frames, spectrograms) makes these multiply-accumulates in every
  convention, also in the spiking network;
- "join": reads the output of a residual block. Here that output is binary (currents are added before the neuron); in
  SEW-style networks (Fang et al. 2021) spikes are added after it, and what arrives are numbers;
- "binary": reads spikes;
- "extra": identity shortcuts and relay channels, which an ANN does not multiply for (its MACs are 0).

Multiply-accumulates are counted as everybody counts them, ``C' H' W' x C kh kw``, padded positions included
(`taaf.hw_sim.counters.dense_macs` leaves the padding out, because no synapse is there).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from taaf.hw_sim.activity import Activity
from taaf.hw_sim.counters import fan_out, spiking_source
from taaf.models.errors import GraphError
from taaf.models.ir import Conv2d, Dense, Graph, Lif, RecurrentDense, Sum

ROLES = ("first", "join", "binary", "extra")
RESNET_STAGES = ((1, 1), (1, 1), (2, 2), (2, 1), (4, 2), (4, 1), (8, 2), (8, 1))  # of ResNet18: (widths, stride) per block


@dataclass(frozen=True)
class Part:
    """Synapses of one role.

    Attributes
    ----------
    macs : int
        Multiply-accumulates of the ANN twin in one pass.
    synops : float or None
        Effective synaptic operations per window, counted; None where nothing was run.
    """

    name: str
    role: str
    macs: int
    synops: float | None = None


@dataclass(frozen=True)
class Workload:
    """One network, all its branches.

    Attributes
    ----------
    steps : dict
        Branch -> steps with input = passes of the ANN twin.
    parts : dict
        Branch -> its parts.
    real_input : bool
        Whether "first" parts receive numbers instead of spikes.
    neurons : dict
        Branch -> neurons that are updated in each step of the window.
    window_steps : int
        Steps in which neurons are updated.
    spikes : float or None
        Spikes of these neurons per window, counted.
    elementwise : int
        Per pass of all branches: operations profilers add for normalisation, activation and pooling; 0 if not known.
    """

    name: str
    steps: Mapping[str, int]
    parts: Mapping[str, tuple[Part, ...]]
    real_input: bool
    neurons: Mapping[str, int]
    window_steps: int
    spikes: float | None = None
    elementwise: int = 0

    def macs(self, *roles: str) -> int:
        """Multiply-accumulates per window of the ANN twin's parts of these roles (all without any)."""
        return sum(self.steps[b] * p.macs for b, ps in self.parts.items() for p in ps if not roles or p.role in roles)

    def synops(self, *roles: str) -> float:
        """Counted effective SynOps per window of these roles (all without any)."""
        return math.fsum(p.synops or 0 for ps in self.parts.values() for p in ps if not roles or p.role in roles)

    @property
    def updates(self) -> int:
        """Neuron updates per window."""
        return sum(self.neurons.values()) * self.window_steps

    @property
    def passes(self) -> int:
        """Passes of the ANN twin per window, of the branch that makes most."""
        return max(self.steps.values())

    @property
    def rate(self) -> float:
        """Counted SynOps per multiply-accumulate of what reads spikes: the mean input rate, weighted by synapses."""
        spiking = ("join", "binary") if self.real_input else ("first", "join", "binary")
        return self.synops(*spiking) / max(self.macs(*spiking), 1)


def resnet18(channels: int, height: int, width: int, *, base: int = 64, features: int = 128, pool: str = "max") -> "Branch":
    """ResNet18 (He et al. 2016) on (channels, height, width), its classifier replaced by ``features`` outputs.

    Parameters
    ----------
    pool : str
        "max": 3x3/2 max pooling behind the stem, which multiplies nothing (what the paper's ANN has); "conv": a 3x3/2
        convolution in its place (what runs on the chip).
    """
    h, w = _halved(height), _halved(width)  # 7x7, stride 2, padding 3
    parts = [Part("stem", "first", base * h * w * channels * 7 * 7)]
    elements, activations = base * h * w, base * h * w  # normalised values; values that pass an activation
    pooled = elements
    h, w = _halved(h), _halved(w)
    neurons = base * h * w if pool == "conv" else 0
    if pool == "conv":
        parts.append(Part("pool", "binary", base * h * w * base * 3 * 3))
        elements, activations, pooled = elements + base * h * w, activations + base * h * w, 0
    c = base
    for i, (times, stride) in enumerate(RESNET_STAGES, start=1):
        n = base * times
        h, w = (_halved(h), _halved(w)) if stride == 2 else (h, w)
        size = n * h * w
        before = "join" if i > 1 else "binary"
        parts.append(Part(f"block{i}_conv1", before, size * c * 3 * 3))
        parts.append(Part(f"block{i}_conv2", "binary", size * n * 3 * 3))
        if stride == 2 or c != n:
            parts.append(Part(f"block{i}_shortcut", before, size * c))
            elements += size
        c = n
        elements, activations, neurons = elements + 2 * size, activations + 2 * size, neurons + 2 * size
    pooled += c * h * w
    parts.append(Part("readout", "join", c * features))
    return Branch(tuple(parts), neurons + features, 2 * elements + activations + pooled)


@dataclass(frozen=True)
class Branch:
    """Parts, neurons behind the stem, and elementwise operations (2 per normalised value, 1 per activation and pooled value)."""

    parts: tuple[Part, ...]
    neurons: int
    elementwise: int


def paper_network(steps: int = 3, resolution: float = 1.0, pool: str = "max") -> Workload:
    """The paper's two branches: frames 3 x 224 x 224 and spectrograms 1 x 257 x 188, both sides times ``resolution``."""
    shapes = {"visual": (3, 224, 224), "audio": (1, 257, 188)}
    branches = {b: resnet18(c, *(max(1, round(n * resolution)) for n in side), pool=pool) for b, (c, *side) in shapes.items()}
    return Workload(
        "two ResNet18", dict.fromkeys(branches, steps), {b: x.parts for b, x in branches.items()}, True,
        {b: x.neurons for b, x in branches.items()}, steps, None, sum(x.elementwise for x in branches.values()),
    )  # fmt: skip


def measured_parts(
    graph: Graph, activity: Activity, relays: Mapping[str, int] | None = None, input_role: str = "first"
) -> tuple[Part, ...]:
    """Parts of a graph with their counted SynOps per window, relay channels taken apart again.

    Parameters
    ----------
    graph : Graph
        Integer stage, as compiled (with relays) or before.
    activity : Activity
        Of a run on it.
    relays : mapping
        LIF -> number of relay channels at its end.
    input_role : str
        "first", or "binary" where the graph's input are the spikes of an encoder, which is the first layer then.

    Raises
    ------
    GraphError
        If ``relays`` does not fit the graph.
    """
    relays = relays or {}
    for lif, n in relays.items():
        if lif not in graph.shapes or not 0 < n < graph.shapes[lif][0]:
            raise GraphError(f"{graph.name}.{lif}: {n} relay channels; no such population, or not fewer than it has channels")
    return tuple(_Counter(graph, activity, relays, input_role).parts())


class _Counter:
    def __init__(self, graph: Graph, activity: Activity, relays: Mapping[str, int], input_role: str) -> None:
        self.graph, self.activity, self.relays, self.input_role = graph, activity, relays, input_role
        self.origins: dict[str, str] = {}  # LIF -> role of what reads its relays

    def parts(self) -> list[Part]:
        found: list[Part] = []
        for lif in self.graph.lifs():
            for node in self.graph.synapses_of(lif.name):
                found += self._of(node, lif.name)
        return found

    def _of(self, node: Conv2d | Dense, lif: str) -> list[Part]:
        (source,) = self.graph.sources(node.name)
        sender = spiking_source(self.graph, source)
        role = self._role(sender)
        found = []
        own = len(node.weight) - self.relays.get(lif, 0)
        if own < len(node.weight) and isinstance(node, Conv2d):
            self.origins[lif] = role
            found.append(Part(f"{node.name}_relays", "extra", 0, self._synops(replace(node, weight=node.weight[own:]), source)))
            node = replace(node, weight=node.weight[:own])
        relayed = self.relays.get(sender, 0)
        if relayed and isinstance(node, Conv2d):
            direct = node.weight.copy()
            direct[:, -relayed:] = 0
            found.append(self._shortcut(node, source, sender, relayed))
            found.append(
                Part(
                    node.name,
                    role,
                    self._macs(node, node.weight.shape[1] - relayed),
                    self._synops(replace(node, weight=direct), source),
                )
            )
            return found
        kind = "extra" if isinstance(node, Conv2d) and _is_identity(node) else role
        macs = 0 if kind == "extra" else self._macs(node)
        found.append(Part(node.name, kind, macs, self._synops(node, source)))
        if isinstance(node, RecurrentDense):
            own_spikes = self.activity.spikes[lif] / self.activity.n_windows
            fed_back = float((own_spikes * (node.weight_rec != 0).sum(0)).sum())
            found.append(Part(f"{node.name}_recurrent", "binary", node.weight_rec.size, fed_back))
        return found

    def _shortcut(self, node: Conv2d, source: str, sender: str, relayed: int) -> Part:
        """The 1x1 shortcut that arrives through relays; an identity multiplies nothing."""
        weight = node.weight.copy()
        weight[:, :-relayed] = 0
        centre = node.weight[:, -relayed:, node.weight.shape[2] // 2, node.weight.shape[3] // 2]
        identity = centre.shape[0] == centre.shape[1] and _is_diagonal(centre)
        macs = 0 if identity else int(np.prod(self.graph.shapes[node.name])) * relayed
        role = "extra" if identity else self.origins.get(sender, "binary")
        return Part(f"{node.name}_shortcut", role, macs, self._synops(replace(node, weight=weight), source))

    def _role(self, sender: str) -> str:
        if sender == self.graph.input.name:
            return self.input_role
        lif = self.graph.nodes[sender]
        assert isinstance(lif, Lif)
        joined = any(isinstance(self.graph.nodes[s], Sum) for s in self.graph.sources(sender))
        fed_by_relays = any(
            self.relays.get(spiking_source(self.graph, s), 0)
            for node in self.graph.synapses_of(sender)
            for s in self.graph.sources(node.name)
        )
        return "join" if joined or fed_by_relays else "binary"

    def _macs(self, node: Conv2d | Dense, n_in: int | None = None) -> int:
        if isinstance(node, Conv2d):
            shape = (len(node.weight), *self.graph.shapes[node.name][1:])
            return int(np.prod(shape)) * (n_in or node.weight.shape[1]) * int(np.prod(node.weight.shape[2:]))
        return int(node.weight.size)

    def _synops(self, node: Conv2d | Dense, source: str) -> float:
        shape = self.graph.shapes[source]
        spikes = self.activity.spikes[spiking_source(self.graph, source)].reshape(shape)
        return float((spikes * fan_out(node, shape, nonzero_only=True)).sum()) / self.activity.n_windows


def _is_identity(node: Conv2d) -> bool:
    return node.weight.shape[2:] == (1, 1) and node.groups == 1 and _is_diagonal(node.weight[:, :, 0, 0])


def _is_diagonal(matrix: np.ndarray) -> bool:
    return matrix.shape[0] == matrix.shape[1] and not np.any(matrix - np.diag(np.diag(matrix)))


def _halved(size: int) -> int:
    """Output side of an odd kernel k with padding k // 2 and stride 2."""
    return (size + 1) // 2
