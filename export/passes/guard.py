"""Guard steps: windows of recurrent and delayed chains follow each other without a gap, and nothing of one reaches the next.

A reset clears neurons, not synapses: recurrent spikes of a window's last step, and delayed ones, would arrive in the next window.
So g steps are put in front of every window. In them the host fires synchronisation channels and nothing else. They are relayed
through every layer and inhibit, with weight -254 each, all neurons whose spikes would still be under way, so that none can fire:

    v(t) <= keep_v(min(v_max, 64 v_th)) + keep_u(u_max) + 64 (a_max - 254 n) + 64 bias <= 64 v_th     and     254 n >= a_max

with u_max and v_max of a window (`taaf.hw_sim.intervals`), keep_x(x) = tz(x (4096 - decay) / 4096), and a_max the positive
weights of all synapses at which a spike can still arrive (those of layers that are silent in the guard steps cannot; they are, if
nothing arrives there, without current memory and positive biases). One step is enough for recurrences, d steps for delays up to
d. Then the window starts: the resets clear what the inhibition left in u and v. The first window has its guard steps too, so
whatever biases did while the pipeline filled is over by then.
"""

from dataclasses import dataclass, replace

import numpy as np

from taaf.export.limits import check_limits
from taaf.export.passes.chain import lay_out
from taaf.export.passes.levels import Levels, Read
from taaf.export.passes.report import CompileReport
from taaf.hw_sim.intervals import UV_LIMIT, lif_ranges, synaptic_range
from taaf.models.errors import LimitExceededError
from taaf.models.ir import Conv2d, Dense, Flatten, Graph, Lif, RecurrentDense, chain
from taaf.models.ir.nodes import spread
from taaf.models.lif import WEIGHT_MAX

SYNC = "sync"  # the population of synchronisation channels, in a report
MAX_SYNC = 127  # synchronisation channels
_INHIBITION = WEIGHT_MAX  # -254: a smallest weight of -256 is one that Lava may change


@dataclass(frozen=True)
class GuardedChain:
    """A chain whose windows are ``guard_steps`` longer and isolated from each other.

    Attributes
    ----------
    chain : Graph
        Its input has ``n_sync`` more channels, its layers relays of them behind their own channels.
    window_steps, guard_steps : int
        On Lava a window takes ``guard_steps + window_steps`` steps: that is the ``reset_interval``.
    n_sync : int
        Channels that the host fires in the guard steps, the last ones of the input.
    lines : tuple of str
        What was added and what it cost.
    """

    chain: Graph
    window_steps: int
    guard_steps: int
    n_sync: int
    lines: tuple[str, ...] = ()

    @property
    def reset_offset(self) -> int:
        """Of stock NetX: every layer is reset when its guard steps are over."""
        return 1 + self.guard_steps

    def inputs(self, spikes: np.ndarray) -> np.ndarray:
        """Windows (N, *shape, T) for the chain alone, from rest (engine, reference): with silent synchronisation channels."""
        return np.pad(spikes, ((0, 0), (0, self.n_sync), *[(0, 0)] * (spikes.ndim - 2)))

    def stream(self, spikes: np.ndarray) -> np.ndarray:
        """Windows (N, *shape, T) as they follow each other on Lava, (N, *shape of the chain, guard steps + T)."""
        found = np.pad(self.inputs(spikes), (*[(0, 0)] * (spikes.ndim - 1), (self.guard_steps, 0)))
        found[:, spikes.shape[1] :, ..., : self.guard_steps] = 1
        return found


def with_guard(graph: Graph, window_steps: int) -> GuardedChain:
    """Isolate the windows of a chain.

    Parameters
    ----------
    graph : Graph
        Integer chain (`taaf.export.passes.chain`), within the limits of `taaf.export.limits.check_limits` for one window per run.
    window_steps : int
        Steps of a window, T.

    Returns
    -------
    GuardedChain
        The chain itself, without guard steps, if it has neither recurrences nor delays.

    Raises
    ------
    LimitExceededError
        If neurons cannot be silenced by `MAX_SYNC` channels, or by none: naming the layer and the reason. Such a chain runs one
        window per run.

    Examples
    --------
    >>> guarded = with_guard(chain, 20)                                                          # doctest: +SKIP
    >>> Network("net.net", reset_interval=20 + guarded.guard_steps, reset_offset=guarded.reset_offset)   # doctest: +SKIP
    """
    chain(graph)
    plan = _Plan(graph, window_steps)
    if not plan.guard_steps:
        return GuardedChain(graph, window_steps, 0, 0)
    if not plan.inhibited:  # everything falls silent by itself
        line = f"guard: {graph.name}: {plan.guard_steps} steps before every window, in which delayed spikes arrive"
        return GuardedChain(graph, window_steps, plan.guard_steps, 0, (line,))
    n_sync = max(-(-n // len(plan.pixels)) for n in plan.inhibited.values())
    if n_sync > MAX_SYNC:
        worst = max(plan.inhibited, key=lambda name: plan.inhibited[name])
        raise LimitExceededError(
            f"{graph.name}.{worst}: {plan.inhibited[worst]} synchronisation neurons would be needed to silence it between "
            f"windows (allowed {MAX_SYNC * len(plan.pixels)}); run one window per run, or use smaller weights"
        )
    report = CompileReport()
    guarded = lay_out(_with_sync(graph, plan, n_sync), report)
    check_limits(guarded, state=False, fill=False)
    neurons = sum(int(np.prod(guarded.shapes[n])) - int(np.prod(graph.shapes[n])) for n in (lif.name for lif in graph.lifs()))
    line = f"guard: {graph.name}: {plan.guard_steps} steps before every window, {n_sync} channels that silence "
    line += f"{', '.join(plan.inhibited)} (+{neurons} neurons, +{neurons} axons)"
    return GuardedChain(guarded, window_steps, plan.guard_steps, n_sync, (line,))


class _Plan:
    """What has to be silenced, for how long, and by how many neurons."""

    def __init__(self, graph: Graph, window_steps: int) -> None:
        self.graph, self.window_steps = graph, window_steps
        self.inhibited: dict[str, int] = {}  # LIF -> synchronisation neurons
        synapses = {lif.name: graph.synapses_of(lif.name)[0] for lif in graph.lifs()}
        delays = [int(s.delay.max()) for s in synapses.values() if isinstance(s, Dense) and s.delay is not None]
        recurrent = any(isinstance(s, RecurrentDense) for s in synapses.values())
        self.guard_steps = max([int(recurrent), *delays])
        self.pixels = _pixels(graph)
        silent = {graph.input.name: True}
        for lif, after in zip(graph.lifs(), [*list(synapses.values())[1:], None], strict=True):
            synapse = synapses[lif.name]
            quiet = not _is_late(synapse) and silent[_source(graph, synapse)] and not _drives_itself(lif)
            waits = isinstance(synapse, RecurrentDense) or (isinstance(after, Dense) and after.delay is not None and not quiet)
            if waits:
                self.inhibited[lif.name] = self._needed(lif, synapse, silent[_source(graph, synapse)])
            silent[lif.name] = quiet or waits

    def _needed(self, lif: Lif, synapse: Conv2d | Dense, silent_before: bool) -> int:
        where, shape = f"{self.graph.name}.{lif.name}", self.graph.shapes[lif.name]
        if len(shape) == 3:
            raise LimitExceededError(
                f"{where}: a map whose spikes are delayed and that can fire between windows (a bias, current memory, or what "
                "arrives there); only dense layers can be silenced: run one window per run"
            )
        arriving = self.graph
        if silent_before and not _is_late(synapse, but_recurrent=True):
            arriving = self.graph.rebuilt({synapse.name: replace(synapse, weight=np.zeros_like(synapse.weight))})
        highest = synaptic_range(arriving, lif).high
        ranges = lif_ranges(self.graph, lif, max(self.window_steps, len(self.graph.lifs())))  # a pipeline fills first
        keep_u, keep_v = (4096 - spread(d, shape) for d in (lif.i_decay, lif.v_decay))
        threshold = 64 * spread(lif.v_th_mant, shape)
        bias = 0 if lif.bias is None else 64 * lif.bias.astype(np.int64)
        kept = (np.maximum(ranges.u.high, 0) * keep_u >> 12) + (np.clip(ranges.v.high, 0, threshold) * keep_v >> 12)
        above = np.maximum(kept + 64 * highest + bias - threshold, 64 * highest)
        n = max(1, int(-(-above.max() // (64 * _INHIBITION))))
        lowest = int(ranges.u.low.min()) - self.guard_steps * 64 * (_INHIBITION * n - int(ranges.a.low.min()))
        if ranges.may_wrap.any() or lowest <= -UV_LIMIT:
            raise LimitExceededError(
                f"{where}: u could leave 24 bits when it is silenced between windows (down to {lowest:,d}, allowed above "
                f"{-UV_LIMIT:,d}); run one window per run, or use smaller weights"
            )
        return n


def _is_late(synapse: Conv2d | Dense, but_recurrent: bool = False) -> bool:
    """Whether spikes may arrive later than they were sent."""
    return isinstance(synapse, Dense) and (
        synapse.delay is not None or (isinstance(synapse, RecurrentDense) and not but_recurrent)
    )


def _drives_itself(lif: Lif) -> bool:
    """Whether a neuron without input can still fire: current memory or a positive bias."""
    return bool(np.any(np.less(lif.i_decay, 4096)) or (lif.bias is not None and (lif.bias > 0).any()))


def _source(graph: Graph, synapse: Conv2d | Dense) -> str:
    (name,) = graph.sources(synapse.name)
    while isinstance(graph.nodes[name], Flatten):
        (name,) = graph.sources(name)
    return name


def _pixels(graph: Graph) -> np.ndarray:
    """Of a synchronisation map: the pixels whose spikes arrive behind all maps, as indices of the flattened map."""
    shape = graph.input.shape
    if len(shape) == 1:
        return np.zeros(1, np.int64)
    pace, sizes = np.ones(2, np.int64), [(np.ones(2, np.int64), np.array(shape[1:]))]
    for lif in graph.lifs():
        (synapse,) = graph.synapses_of(lif.name)
        if isinstance(synapse, Conv2d):
            pace = pace * synapse.stride
            sizes.append((pace, np.array(graph.shapes[lif.name][1:])))
    rows, columns = (min(int(-(-n[a] * p[a] // pace[a])) for p, n in sizes) for a in (0, 1))
    found: np.ndarray = (np.arange(rows)[:, None] * pace[0] * shape[2] + np.arange(columns) * pace[1]).reshape(-1)
    return found


def _with_sync(graph: Graph, plan: _Plan, n_sync: int) -> Levels:
    """The chain as populations, with one more that comes from the host and inhibits."""
    levels = Levels(graph)
    shape = (n_sync, *graph.input.shape[1:])
    levels.enter(SYNC, shape)
    size = int(np.prod(shape[1:]))
    places = (np.arange(n_sync)[:, None] * size + plan.pixels).reshape(-1)
    for name, n in plan.inhibited.items():
        weight = np.zeros((graph.shapes[name][0], n_sync * size), np.int32)
        weight[:, places[:n]] = -_INHIBITION
        levels.reads[name] = (*levels.reads[name], Read(Dense(f"{name}_guard", weight), (SYNC,)))
    return levels
