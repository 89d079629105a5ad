"""What SLAYER answers: the spikes of every population, window-relative, as plain arrays that can be stored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from taaf.export.recorder.replay import Follower, Tape, intercepted, prepared
from taaf.export.recorder.values import Beside, Neurons, Pooled, Population
from taaf.models.errors import UnsupportedLayerError


@dataclass(frozen=True)
class Evidence:
    """SLAYER's spikes on some windows.

    Attributes
    ----------
    spikes : dict
        Modality -> LIF name -> (N, *shape of the graph's node, T) uint8. Window-relative: what SLAYER gives ``lag`` steps later
        (``delay_shift``) is moved to where the graph has it.
    steps : dict
        Modality -> LIF name -> how many of the first steps SLAYER shows; the rest never left it within its window and is zero here.
    features : dict
        Modality -> spikes (N, ..., T) uint8 of the graph's output node; as many steps known as ``feature_steps`` says.
    feature_steps : dict
        Modality -> number of known steps.
    outputs : tuple of numpy.ndarray
        The module's own output tensors (flattened structure, in order).
    """

    spikes: dict[str, dict[str, np.ndarray]]
    steps: dict[str, dict[str, int]]
    features: dict[str, np.ndarray]
    feature_steps: dict[str, int]
    outputs: tuple[np.ndarray, ...]


def tensors_of(value: object) -> list[torch.Tensor]:
    """The tensors of nested tuples, lists and dictionaries, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for v in value.values() for t in tensors_of(v)]
    return [t for v in value for t in tensors_of(v)] if isinstance(value, tuple | list) else []


def window_relative(spikes: torch.Tensor, lag: int) -> np.ndarray:
    """SLAYER's spikes ``lag`` steps earlier, as uint8; the last ``lag`` steps are zero.

    Raises
    ------
    UnsupportedLayerError
        If there is anything but zeros and ones.
    """
    if not ((spikes == 0) | (spikes == 1)).all():
        raise UnsupportedLayerError("a SLAYER population sends values other than 0 and 1")
    found = np.zeros(tuple(spikes.shape), np.uint8)
    known = max(0, spikes.shape[-1] - lag)
    found[..., :known] = spikes[..., spikes.shape[-1] - known :].numpy()
    return found


class Listener(Follower):
    """Follows a run and keeps what the recorded populations send, before ``delay_shift`` and axonal delays."""

    def __init__(self, tape: Tape, kept: set[Neurons]) -> None:
        super().__init__(tape)
        self.kept = kept
        self.found: dict[Neurons, np.ndarray] = {}
        self._heard: list[torch.Tensor] = []

    def answer(self, module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.depth:
            out = forward(*args, **kwargs)
            if isinstance(out, torch.Tensor) and hasattr(module, "threshold_eps"):
                self._heard.append(out.detach().clone())
            return out
        _, call = self.next(module)
        self._heard.clear()
        out = self.inside(forward, args, kwargs)
        if call.made in self.kept and call.made is not None:
            sent = torch.cat(self._heard, -1) if self._heard else out.detach()
            spikes = window_relative(sent, call.made.lag)
            self.found[call.made] = spikes.reshape(len(spikes), *call.made.node_shape, spikes.shape[-1])
        return out


def listen(
    tape: Tape, inputs: list[torch.Tensor], ends: Mapping[str, list[Population]], kept: Mapping[str, list[Neurons]]
) -> Evidence:
    """Run the user's module once on all windows of ``inputs``."""
    with prepared(tape.modules):
        listener = Listener(tape, {p for populations in kept.values() for p in populations})
        with intercepted(tape.leaves, listener.answer):
            out = tape.module(*inputs)
    steps = {m: x.shape[-1] for m, x in zip(kept, inputs, strict=True)}
    spikes = {m: {p.name: listener.found[p] for p in populations} for m, populations in kept.items()}
    known = {m: {p.name: max(0, steps[m] - p.lag) for p in populations} for m, populations in kept.items()}
    features = {m: _features(populations, listener.found) for m, populations in ends.items()}
    feature_steps = {m: min(known[m][n.name] for p in populations for n in p.neurons() if isinstance(n, Neurons))
                     for m, populations in ends.items()}  # fmt: skip
    return Evidence(spikes, known, features, feature_steps, tuple(t.detach().numpy().copy() for t in tensors_of(out)))


def joined(parts: list[Evidence]) -> Evidence:
    """Evidence of consecutive blocks of windows."""
    first = parts[0]
    return Evidence(
        {m: {n: np.concatenate([p.spikes[m][n] for p in parts]) for n in found} for m, found in first.spikes.items()},
        first.steps,
        {m: np.concatenate([p.features[m] for p in parts]) for m in first.features},
        first.feature_steps,
        tuple(np.concatenate([p.outputs[i] for p in parts]) if first.outputs[i].ndim else first.outputs[i]
              for i in range(len(first.outputs))),
    )  # fmt: skip


def _features(ends: list[Population], found: Mapping[Neurons, np.ndarray]) -> np.ndarray:
    arrays = [spikes_of_population(end, found) for end in ends]
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate([a.reshape(len(a), -1, a.shape[-1]) for a in arrays], 1)


def spikes_of_population(population: Population, found: Mapping[Neurons, np.ndarray]) -> np.ndarray:
    """Spikes of a population that is made of others' spikes (an OR, or several beside each other)."""
    if isinstance(population, Neurons):
        return found[population]
    if isinstance(population, Pooled):
        below = spikes_of_population(population.of, found)
        maps = torch.from_numpy(np.moveaxis(below, -1, 1).astype(np.float32)).flatten(0, 1)
        pooled = functional.max_pool2d(maps, population.kernel, population.stride, population.padding)
        return np.moveaxis(pooled.unflatten(0, (len(below), -1)).numpy().astype(np.uint8), 1, -1)
    assert isinstance(population, Beside)
    parts = [(spikes_of_population(part, found), seen) for part, seen in population.parts]
    as_seen = [p.reshape(len(p), *seen, p.shape[-1]) for p, seen in parts]
    flat = any(p.shape[1:-1] != seen for p, seen in parts)
    return np.concatenate([p.reshape(len(p), -1, p.shape[-1]) if flat else p for p in as_seen], 1)
