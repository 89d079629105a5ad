"""The torch engine: batch and time fused, integers held in float32 (or float64 where float32 could round). Runs any graph.

A float32 holds every integer up to 2^24, a float64 up to 2^53. Each layer's largest possible values are bounded from its
weights before anything runs (`taaf.hw_sim.intervals`); float32 is used where the bound proves it exact, float64 otherwise.
(Bounds say nothing about Winograd kernels, whose intermediate values are fractions: where PyTorch would use them,
everything is float64.) The same bounds, for the length of the windows that arrive, tell which layers can wrap u or clip v
at all; only those look for it, and count it.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from taaf.hw_sim.activity import Activity
from taaf.hw_sim.engines.delays import DelayPlan, delay_plan, delayed_linear
from taaf.hw_sim.engines.exact import (
    exact_tensor,
    float32_convolves_exactly,
    is_power_of_two,
    per_channel,
    scales_channels,
    whole_for,
)
from taaf.hw_sim.intervals import UV_LIMIT, lif_ranges
from taaf.models.errors import LimitExceededError
from taaf.models.ir import Concat, Conv2d, Dense, Flatten, Graph, Input, Lif, Node, Pool2d, RecurrentDense, Sum

_PASS_VALUES = 1 << 24  # of a layer's current
_EXACT = {torch.float32: 1 << 24, torch.float64: 1 << 53}


class TorchEngine:
    """Runs an integer graph on many windows at once.

    Parameters
    ----------
    graph : Graph
        Integer stage.
    chunk : int
        Most windows per pass; fewer of large networks. Bounds memory and keeps a step's state in cache.

    Raises
    ------
    LimitExceededError
        If a sum could exceed what even float64 holds exactly.
    """

    def __init__(self, graph: Graph, chunk: int = 32) -> None:
        self.graph = graph
        self.chunk = chunk
        self._lif_plans: dict[str, _LifPlan] = {}
        self._exact = {d: limit for d, limit in _EXACT.items() if d == torch.float64 or float32_convolves_exactly()}
        self._plan = [(node, self._prepare(node)) for node in self.graph.nodes.values()]
        self._watch: dict[int, dict[str, _Watch]] = {}  # window length -> LIF name -> what it must look for

    def _prepare(self, node: Node) -> "_SynapsePlan | _LifPlan | torch.dtype | None":
        if isinstance(node, Input | Flatten | Concat | Pool2d):
            return None
        if isinstance(node, Sum):
            return self._lif_plan(self._fed_lif(node)).dtype
        if isinstance(node, Lif):
            return self._lif_plan(node)
        assert isinstance(node, Conv2d | Dense)
        return self._synapse_plan(node)

    def _fed_lif(self, node: Node) -> Lif:
        fed: Node = node
        while not isinstance(fed, Lif):
            (target,) = self.graph.targets(fed.name)
            fed = self.graph.nodes[target]
        return fed

    def _synapse_plan(self, node: Conv2d | Dense) -> "_SynapsePlan":
        lif = self._fed_lif(node)
        fed = self._lif_plan(lif)
        alone = self.graph.sources(lif.name) == [node.name] and fed.bias_in_drive
        return _SynapsePlan(
            fed.dtype,
            exact_tensor(64 * node.weight.astype(np.int64), fed.dtype),
            fed.bias if alone else None,
            scales_channels(node),
            None if not isinstance(node, Dense) or node.delay is None else delay_plan(node.delay),
        )

    def _lif_plan(self, lif: Lif) -> "_LifPlan":
        if lif.name not in self._lif_plans:
            self._lif_plans[lif.name] = self._new_lif_plan(lif)
        return self._lif_plans[lif.name]

    def _new_lif_plan(self, lif: Lif) -> "_LifPlan":
        where = f"{self.graph.name}.{lif.name}"
        synapses = self.graph.synapses_of(lif.name)
        ranges = lif_ranges(self.graph, lif)
        drive = 64 * ranges.a.peak  # no partial sum is larger: spikes are 0 or 1
        bias = 0 if lif.bias is None else 64 * int(np.abs(lif.bias.astype(np.int64)).max(initial=0))
        leaks = [int(d) for d in np.unique(lif.v_decay)]
        memory = int(np.min(lif.i_decay)) < 4096
        bound = (2 << 24 << 12) + drive + bias  # general: the product v (4096 - v_decay), plus what is added
        if not memory and all(is_power_of_two(4096 - d, or_zero=True) for d in leaks) and ranges.v.peak < 1 << 24:
            bound = max(ranges.v.peak, drive) + bias  # a power of two only moves the binary point
        dtype = self._dtype_for(bound, where)
        recurrent = next((n.weight_rec for n in synapses if isinstance(n, RecurrentDense)), None)
        direct = len(synapses) == 1 and self.graph.sources(lif.name) == [synapses[0].name]
        shape = self.graph.shapes[lif.name]
        return _LifPlan(
            dtype=dtype,
            threshold=per_channel(lif.v_th_mant, shape, 64.0, dtype),
            keep_u=per_channel(4096 - np.asarray(lif.i_decay, np.int64), shape, 2.0**-12, dtype),
            keep_v=per_channel(4096 - np.asarray(lif.v_decay, np.int64), shape, 2.0**-12, dtype),
            bias=None if lif.bias is None else exact_tensor(64 * lif.bias.astype(np.int64), dtype),
            bias_in_drive=direct and not memory and not ranges.may_wrap.any() and lif.bias is not None and lif.bias.ndim == 1,
            memory=memory,
            whole_for=0 if memory else whole_for(leaks),
            recurrent=None if recurrent is None else exact_tensor(64 * recurrent.astype(np.int64), dtype),
        )

    def _dtype_for(self, bound: int, where: str) -> torch.dtype:
        for dtype, limit in self._exact.items():
            if bound < limit:
                return dtype
        raise LimitExceededError(f"{where}: a sum could reach {bound}, more than 2^53; no exact arithmetic for it")

    def _watch_for(self, steps: int) -> "dict[str, _Watch]":
        """Which layers could saturate in windows of this length; the rest need not be looked at."""
        if steps not in self._watch:
            ranges = {lif.name: lif_ranges(self.graph, lif, steps) for lif in self.graph.lifs()}
            self._watch[steps] = {n: _Watch(bool(r.may_wrap.any()), bool(r.may_clip.any())) for n, r in ranges.items()}
        return self._watch[steps]

    @torch.no_grad()
    def run(self, spikes: np.ndarray, wanted: Collection[str]) -> tuple[dict[str, np.ndarray], Activity]:
        """Spikes (N, ..., T) uint8 of ``wanted`` nodes, and counts; ``spikes`` (N, *shape, T) hold zeros and ones."""
        activity = Activity(len(spikes), spikes.shape[-1])
        kept: dict[str, list[np.ndarray]] = {}
        chunk = self._chunk_for(spikes.shape[-1])
        for start in range(0, max(len(spikes), 1), chunk):  # once even without windows: results get their shapes
            block = np.ascontiguousarray(np.moveaxis(spikes[start : start + chunk], -1, 0), np.uint8)  # (T, N, ...)
            for name, value in self._run_block(torch.from_numpy(block), activity):
                if isinstance(self.graph.nodes[name], Input | Lif):
                    activity.add(name, value.sum((0, 1)).to(torch.int64).numpy())  # below 2^24: exact
                if name in wanted:
                    kept.setdefault(name, []).append(value.to(torch.uint8).numpy())
        return {n: np.moveaxis(np.concatenate(parts, axis=1), 0, -1) for n, parts in kept.items()}, activity

    def _chunk_for(self, steps: int) -> int:
        """Windows per pass, such that a pass of the widest layer stays within `_PASS_VALUES`."""
        widest = max(int(np.prod(shape)) for shape in self.graph.shapes.values())
        return max(1, min(self.chunk, _PASS_VALUES // (widest * max(1, steps))))

    def _run_block(self, block: torch.Tensor, activity: Activity) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, spikes (T, N, ...)) of the input and of every LIF; wraps and clips are added to ``activity``."""
        watch = self._watch_for(len(block))
        value: dict[str, torch.Tensor] = {}
        unread = {name: len(self.graph.targets(name)) for name in self.graph.nodes}
        for node, plan in self._plan:
            inputs = [value[s] for s in self.graph.sources(node.name)]
            if isinstance(node, Input):
                value[node.name] = block.to(torch.float32)
            elif isinstance(plan, _LifPlan):
                value[node.name], wraps, clips = _lif(plan, inputs[0], watch[node.name])
                for found, total in ((wraps, activity.wraps), (clips, activity.clips)):
                    if found:
                        total[node.name] = total.get(node.name, 0) + found
            elif isinstance(plan, _SynapsePlan):
                value[node.name] = _synapse(node, plan, inputs[0])
            elif isinstance(node, Sum):
                value[node.name] = inputs[0]
                for more in inputs[1:]:
                    value[node.name].add_(more)  # nobody else reads a current
            else:
                value[node.name] = _arranged(node, inputs)
            if isinstance(node, Input | Lif) or node.name == self.graph.output:
                yield node.name, value[node.name]
            for source in self.graph.sources(node.name):  # free what nobody reads any more
                unread[source] -= 1
                if not unread[source]:
                    del value[source]


@dataclass(frozen=True)
class _SynapsePlan:
    dtype: torch.dtype
    weight: torch.Tensor  # 64 W
    bias: torch.Tensor | None  # 64 b, where the LIF's bias can be added with the current
    diagonal: bool  # a 1x1 convolution of every channel with itself
    delay: DelayPlan | None


@dataclass(frozen=True)
class _LifPlan:
    dtype: torch.dtype
    threshold: float | torch.Tensor
    keep_u: float | torch.Tensor  # 1 - decay / 4096: a multiple of 2^-12, exact
    keep_v: float | torch.Tensor
    bias: torch.Tensor | None
    bias_in_drive: bool
    memory: bool  # u keeps something from step to step
    whole_for: int  # so many times v can leak and still be a whole number, as it starts as a multiple of 64
    recurrent: torch.Tensor | None


@dataclass(frozen=True)
class _Watch:
    wrap: bool  # u may leave 24 bits
    clip: bool  # v may leave 24 bits


def _synapse(node: Node, plan: _SynapsePlan, spikes: torch.Tensor) -> torch.Tensor:
    """64 a(t) (+ 64 bias) of all steps at once."""
    x = spikes.flatten(0, 1).to(plan.dtype)
    if plan.diagonal:
        y = x * plan.weight.diagonal().permute(2, 0, 1)
        y = y if plan.bias is None else y.add_(plan.bias[:, None, None])
    elif isinstance(node, Conv2d):
        y = functional.conv2d(x, plan.weight, plan.bias, node.stride, node.padding, node.dilation, node.groups)
    elif plan.delay is not None:
        y = delayed_linear(x.unflatten(0, spikes.shape[:2]), plan.weight, plan.delay).flatten(0, 1)
        y = y if plan.bias is None else y.add_(plan.bias)  # a bias acts from the first step on
    else:
        y = functional.linear(x, plan.weight, plan.bias)
    return y.unflatten(0, spikes.shape[:2])


def _arranged(node: Node, inputs: list[torch.Tensor]) -> torch.Tensor:
    """Spikes (T, N, ...) flattened, beside each other, or pooled."""
    if isinstance(node, Concat):
        return torch.cat([x.to(torch.float32) for x in inputs], 2)
    if isinstance(node, Pool2d):
        pooled = functional.max_pool2d(inputs[0].flatten(0, 1), node.kernel, node.step, node.padding)
        return pooled.unflatten(0, inputs[0].shape[:2])
    return inputs[0].flatten(2)


def _lif(plan: _LifPlan, drive: torch.Tensor, watch: _Watch) -> tuple[torch.Tensor, int, int]:
    """Neuron dynamics over time; ``drive`` is 64 a(t), shape (T, N, ...).

    Returns spikes of the same shape and dtype, and how often u wrapped and v was clipped.
    """
    wraps = clips = 0
    out = torch.empty_like(drive)
    v = torch.zeros_like(drive[0])
    u = torch.zeros_like(v)
    whole = torch.empty_like(v, dtype=torch.int64 if drive.dtype == torch.float64 else torch.int32)
    late_bias = None
    if plan.bias is not None and not plan.bias_in_drive:
        late_bias = plan.bias if plan.bias.dim() > 1 else plan.bias.reshape(-1, *[1] * (drive.dim() - 3))
    for step in range(len(drive)):
        a = drive[step]
        if plan.recurrent is not None and step:
            a = a + out[step - 1] @ plan.recurrent.T
        if plan.memory:
            a = _truncate(u.mul_(plan.keep_u), whole).add_(a)
        if watch.wrap:
            wide, a = a, _wrap(a)
            wraps += int(torch.count_nonzero(a != wide))
        if plan.memory:
            u = a
        if step:
            v.mul_(plan.keep_v)
            if watch.clip or step > plan.whole_for:
                _truncate(v, whole)
            v.add_(a)
        else:
            v.copy_(a)
        if late_bias is not None:
            v.add_(late_bias)
        if watch.clip:
            clips += int(torch.count_nonzero(v.abs() >= UV_LIMIT))
            v.clamp_(1 - UV_LIMIT, UV_LIMIT - 1)
        fired = torch.gt(v, plan.threshold, out=out[step])
        v.addcmul_(v, fired, value=-1)  # v (1 - s)
    return out, wraps, clips


def _truncate(x: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Truncate toward zero in place, through an integer copy (torch.trunc_ is several times slower)."""
    return x.copy_(whole.copy_(x))


def _wrap(u: torch.Tensor) -> torch.Tensor:
    high = torch.where(u > UV_LIMIT, u - 2 * UV_LIMIT, u)
    return torch.where(high <= -UV_LIMIT, u + 2 * UV_LIMIT, high)
