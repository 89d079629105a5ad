"""Fast exact engine: batch and time fused, integers held in float32 (or float64 where float32 could round).

A float32 holds every integer up to 2^24, a float64 up to 2^53. Each layer's largest possible sum is bounded from its
weights before anything runs; float32 is used where the bound proves it exact, float64 otherwise. The results equal
`taaf.hw_sim.reference` on every spike (tests/conformance).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional

from taaf.models.errors import GraphError, LimitExceededError
from taaf.models.ir import Conv2d, Dense, Flatten, Graph, Input, Lif, Node, RecurrentDense, Sum

_UV_LIMIT = 1 << 23
_EXACT = {torch.float32: 1 << 24, torch.float64: 1 << 53}


@dataclass
class Activity:
    """Exact counts over all windows of a run.

    Attributes
    ----------
    n_windows, n_steps : int
        Windows run and time steps per window.
    spikes : dict
        Node name (input and every LIF) -> spikes per neuron, int64, shape of the node.
    """

    n_windows: int = 0
    n_steps: int = 0
    spikes: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, name: str, counts: np.ndarray) -> None:
        self.spikes[name] = self.spikes.get(name, 0) + counts


@dataclass
class EngineResult:
    """``spikes[name]``: uint8 (N, ..., T) for the output LIF, or for every LIF and the input if asked for."""

    spikes: dict[str, np.ndarray]
    activity: Activity


class Engine:
    """Runs an integer graph on many windows at once.

    Parameters
    ----------
    graph : Graph
        Integer stage.
    chunk : int
        Windows per pass; bounds memory and keeps a step's state in cache.

    Raises
    ------
    GraphError
        If the graph holds nodes that are not of the integer stage.
    LimitExceededError
        If a sum could exceed what even float64 holds exactly.
    """

    def __init__(self, graph: Graph, chunk: int = 32) -> None:
        self.graph = graph
        self.chunk = chunk
        self._input_bound = dict(_current_bounds(graph))
        self._plan = [self._prepare(node) for node in graph.nodes.values()]

    def _prepare(self, node: Node) -> tuple[Node, torch.dtype, dict[str, torch.Tensor]]:
        name = f"{self.graph.name}.{node.name}"
        if isinstance(node, Input | Flatten):
            return node, torch.float32, {}
        if isinstance(node, Sum):
            (fed,) = self.graph.targets(node.name)
            return node, _dtype_for(64 * self._input_bound.get(fed, 1 << 53), name), {}
        if isinstance(node, Lif):
            bound = 64 * self._input_bound[node.name]
            bias = 0 if node.bias is None else 64 * int(np.abs(node.bias).max(initial=0))
            # the largest product the update forms: v (4096 - v_decay), unless the decay is an exact power of two
            decay_exact = all(_is_power_of_two(4096 - d) or d == 4096 for d in (node.i_decay, node.v_decay))
            memory = 2 * _UV_LIMIT + bound + bias
            need = memory if decay_exact else (_UV_LIMIT << 12) + memory
            if node.i_decay == 4096 and _is_power_of_two(4096 - node.v_decay):
                need = min(need, _steady_bound(node, bound, bias))
            return node, _dtype_for(need, name), {}
        if isinstance(node, Conv2d | Dense):
            fed_dtype = _dtype_for(
                64 * int(np.abs(node.weight.astype(np.int64)).reshape(len(node.weight), -1).sum(1).max()), name
            )
            tensors = {"weight": torch.from_numpy(node.weight.astype(np.float64)).to(fed_dtype) * 64}
            if isinstance(node, RecurrentDense):
                tensors["weight_rec"] = torch.from_numpy(node.weight_rec.astype(np.float64)).to(fed_dtype) * 64
            return node, fed_dtype, tensors
        raise GraphError(f"{name}: {type(node).__name__} is not an integer-stage node; run the compiler first")

    @torch.no_grad()
    def run(self, spikes: np.ndarray, keep_all: bool = False) -> EngineResult:
        """Run windows from rest.

        Parameters
        ----------
        spikes : numpy.ndarray
            (N, *input shape, T), values 0 or 1. A time-major memory layout is fastest.
        keep_all : bool
            Also return the spikes of every LIF, not only the output's.
        """
        if spikes.ndim < 3 or spikes.shape[1:-1] != self.graph.input.shape:
            raise GraphError(
                f"{self.graph.name}.{self.graph.input.name}: input {spikes.shape[1:-1]} != {self.graph.input.shape}"
            )
        activity = Activity(len(spikes), spikes.shape[-1])
        kept: dict[str, list[np.ndarray]] = {}
        wanted = {n.name for n in self.graph.lifs()} if keep_all else {self.graph.output}
        for start in range(0, len(spikes), self.chunk):
            block = np.ascontiguousarray(np.moveaxis(spikes[start : start + self.chunk], -1, 0))  # (T, N, ...)
            for name, value in self._run_block(torch.from_numpy(block)):
                activity.add(name, value.sum((0, 1), dtype=torch.float64).to(torch.int64).numpy())
                if name in wanted:
                    kept.setdefault(name, []).append(value.to(torch.uint8).numpy())
        joined = {n: np.moveaxis(np.concatenate(parts, axis=1), 0, -1) for n, parts in kept.items()}
        return EngineResult(joined, activity)

    def _run_block(self, block: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, spikes (T, N, ...)) of the input and of every LIF."""
        value: dict[str, torch.Tensor] = {}
        for node, dtype, tensors in self._plan:
            inputs = [value[s] for s in self.graph.sources(node.name)]
            if isinstance(node, Input):
                value[node.name] = block.to(torch.float32)
                yield node.name, value[node.name]
            elif isinstance(node, Lif):
                recurrent = self._recurrent_weight(node.name)
                overflow = 64 * self._input_bound[node.name] >= _UV_LIMIT
                value[node.name] = _lif(node, inputs[0].to(dtype), recurrent, overflow)
                yield node.name, value[node.name]
            elif isinstance(node, Conv2d):
                x = inputs[0].flatten(0, 1).to(dtype)
                y = functional.conv2d(x, tensors["weight"], None, node.stride, node.padding, node.dilation, node.groups)
                value[node.name] = y.unflatten(0, inputs[0].shape[:2])
            elif isinstance(node, Dense):
                value[node.name] = inputs[0].to(dtype) @ tensors["weight"].T
            elif isinstance(node, Sum):
                value[node.name] = sum((x.to(dtype) for x in inputs[1:]), start=inputs[0].to(dtype))
            else:
                value[node.name] = inputs[0].flatten(2)
            for source in self.graph.sources(node.name):  # free what nobody reads any more
                if self.graph.targets(source)[-1] == node.name:
                    value.pop(source, None)

    def _recurrent_weight(self, lif: str) -> torch.Tensor | None:
        (source,) = self.graph.sources(lif)
        return next((t.get("weight_rec") for n, _, t in self._plan if n.name == source), None)


def _lif(node: Lif, drive: torch.Tensor, recurrent: torch.Tensor | None, overflow: bool) -> torch.Tensor:
    """Neuron dynamics over time; ``drive`` is 64 a(t), shape (T, N, ...); returns spikes of the same shape as float.

    ``overflow``: whether the drive alone could leave 24 bits (then u is wrapped even without current memory).
    """
    threshold = float(node.v_th_mant << 6)
    keep_u, keep_v = (1 - d / 4096 for d in (node.i_decay, node.v_decay))  # exact: multiples of 2^-12
    if node.bias is not None:
        bias = torch.from_numpy(node.bias.astype(np.float64) * 64).to(drive.dtype)
        bias = bias.reshape(-1, *[1] * (drive.dim() - 3))
    out = torch.empty(drive.shape, dtype=torch.float32)
    v = torch.zeros_like(drive[0])
    u = torch.zeros_like(v) if node.i_decay < 4096 else None
    for step in range(len(drive)):
        a = drive[step]
        if recurrent is not None and step:
            a = a + out[step - 1].to(drive.dtype) @ recurrent.T
        if u is not None:
            u = _wrap(torch.trunc(u * keep_u) + a)
            a = u
        elif overflow:
            a = _wrap(a)
        v.mul_(keep_v).trunc_().add_(a)
        if node.bias is not None:
            v.add_(bias)
        v.clamp_(-_UV_LIMIT + 1, _UV_LIMIT - 1)
        fired = v > threshold
        v.masked_fill_(fired, 0)
        out[step] = fired
    return out


def _wrap(u: torch.Tensor) -> torch.Tensor:
    high = torch.where(u > _UV_LIMIT, u - 2 * _UV_LIMIT, u)
    return torch.where(high <= -_UV_LIMIT, u + 2 * _UV_LIMIT, high)


def _is_power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


def _steady_bound(node: Lif, drive: int, bias: int) -> int:
    """Bound of |v| for a pure voltage leak without current memory: (drive + bias) / leak."""
    leak = node.v_decay / 4096
    return int((drive + bias) / leak) + 1 if leak > 0 else 2 * _UV_LIMIT + drive + bias


def _dtype_for(bound: int, where: str) -> torch.dtype:
    for dtype, limit in _EXACT.items():
        if bound < limit:
            return dtype
    raise LimitExceededError(f"{where}: a sum could reach {bound}, more than 2^53; no exact arithmetic for it")


def _current_bounds(graph: Graph) -> Iterator[tuple[str, int]]:
    """(LIF name, largest possible |a(t)|) from the sums of absolute weights."""
    for lif in graph.lifs():
        total = 0
        for node in graph.synapses_of(lif.name):
            weight = np.abs(node.weight.astype(np.int64)).reshape(len(node.weight), -1).sum(1)
            if isinstance(node, RecurrentDense):
                weight = weight + np.abs(node.weight_rec.astype(np.int64)).sum(1)
            total += int(weight.max())
        yield lif.name, total
