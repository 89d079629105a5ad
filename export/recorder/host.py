"""The host part: what a user's module does behind the chip, as a module that takes the chip's output spikes."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from taaf.export.recorder.replay import Follower, Tape, clear_states, intercepted, restored
from taaf.export.recorder.values import Neurons


class HostPart(nn.Module):
    """The user's forward behind the chip.

    ``forward(*features)`` takes the output spikes of every modality's graph, in order, (N, *shape, T) float32 and window-relative,
    and returns what the user's module returns. The user's own code runs: where it calls a layer that is on the chip, the answer is
    taken from the features (moved by the steps that ``delay_shift`` and axonal delays move it), or is silence where nothing behind
    reads it. So the result is the module's own in eval mode, bit
    for bit, if the chip's spikes are. It can be traced (``torch.onnx.export``).

    Parameters
    ----------
    tape : Tape
        The recording's leaf calls.
    inputs : dict
        Modality -> shape of its input, without windows and time.
    boundary : dict
        Modality -> populations that the host reads; several lie flat beside each other in the features.
    needed : frozenset of int
        Calls of synapses whose currents the host reads.
    """

    def __init__(
        self, tape: Tape, inputs: Mapping[str, tuple[int, ...]], boundary: Mapping[str, list[Neurons]], needed: frozenset[int]
    ) -> None:
        super().__init__()
        self.module = tape.module
        self.training = tape.module.training
        self._tape, self._inputs, self._boundary, self._needed = tape, dict(inputs), dict(boundary), needed

    def forward(self, *features: torch.Tensor) -> Any:
        by_modality = dict(zip(self._inputs, features, strict=True))
        answers = {p: spikes for m, x in by_modality.items() for p, spikes in self._split(m, x)}
        follower = Follower(self._tape)

        def silence(modality: str, shape: tuple[int, ...]) -> torch.Tensor:
            like = by_modality[modality]
            return like.new_zeros((like.shape[0], *shape, like.shape[-1]))

        def answer(module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if follower.depth:
                return forward(*args, **kwargs)
            index, call = follower.next(module)
            if call.made is not None and call.made in answers:
                spikes = answers[call.made]
                return _later(spikes.reshape(spikes.shape[0], *call.shape, spikes.shape[-1]), call.lag, call.delay)
            if call.made is not None or (call.role == "synapse" and index not in self._needed):
                return silence(call.modality, call.shape)
            return follower.inside(forward, args, kwargs)

        with restored(self._tape.modules, values=False), intercepted(self._tape.leaves, answer):
            for module in self._tape.modules:
                module.training = False
            clear_states(self._tape.modules)
            return self.module(*(silence(m, shape) for m, shape in self._inputs.items()))

    def _split(self, modality: str, features: torch.Tensor) -> list[tuple[Neurons, torch.Tensor]]:
        populations = self._boundary[modality]
        if len(populations) == 1:
            return [(populations[0], features)]
        sizes = [int(torch.Size(p.node_shape).numel()) for p in populations]
        return list(zip(populations, features.split(sizes, 1), strict=True))


def _later(spikes: torch.Tensor, lag: int, delay: Any) -> torch.Tensor:
    """Window-relative spikes as SLAYER's module gives them: ``lag`` steps later, channels by ``delay`` more."""
    if delay is None:
        return _moved(spikes, lag)
    return torch.stack([_moved(spikes[:, i], lag + int(d)) for i, d in enumerate(delay)], 1)


def _moved(spikes: torch.Tensor, steps: int) -> torch.Tensor:
    if not steps:
        return spikes
    return nn.functional.pad(spikes, (steps, 0))[..., : spikes.shape[-1]]
