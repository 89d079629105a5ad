"""A torch network and its mapping side by side: the same random spikes, every neuron's spikes counted.

Recording sees one step. Whatever a network does from step to step beside its layers, e.g. a state that is changed by hand, shows
here: the network itself runs a window, and its neurons must fire as those of the float reference.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from taaf.export.ptq.float_reference import run_float
from taaf.export.targets.nir.graph import FloatNet
from taaf.export.targets.nir.record import one_line, run_step
from taaf.models.errors import ParityError, UnsupportedLayerError

STEPS, RATE = 24, 0.3
ALLOWED = 0.01  # of a layer's neuron-steps: rounding of float32 at the threshold; what differs is reported


@dataclass(frozen=True)
class Replay:
    """Counts of the run: steps, spikes of the torch network, and neuron-steps in all and differing from the mapping."""

    steps: int
    spikes: int
    neuron_steps: int
    differing: int


def replay(
    module: nn.Module,
    sample: torch.Tensor,
    net: FloatNet,
    neurons: dict[str, str],
    time_axis: int | None,
    reset: Callable[[nn.Module], None],
) -> Replay:
    """Run ``STEPS`` steps of random spikes.

    Parameters
    ----------
    sample : torch.Tensor
        One item, one step.
    neurons : dict
        Torch name of a layer of neurons -> name of its population.

    Raises
    ------
    ParityError
        Naming the first layer of which more than `ALLOWED` differs.
    """
    rng = np.random.default_rng(0)
    drive = (rng.random((STEPS, *sample.shape)) < RATE).astype(np.float64)
    x = torch.from_numpy(drive).to(sample)
    fired: dict[str, list[np.ndarray]] = {name: [] for name in neurons}
    reset(module)
    with _listening(module, fired), torch.no_grad():
        try:
            if time_axis is None:
                states: tuple[Any, ...] = ()
                for step in x:
                    out = run_step(module, step, states)
                    states = tuple(out[1:]) if isinstance(out, tuple) else ()
            else:
                run_step(module, torch.cat(list(x), dim=time_axis), ())
        except Exception as error:  # user code raises any kind
            raise UnsupportedLayerError(
                f"{net.graph.name}: the network runs on one step, but not on {STEPS} ({one_line(error)})"
            ) from error
    ours = run_float(net, np.moveaxis(drive.reshape(STEPS, 1, *net.graph.input.shape), 0, -1).astype(np.uint8)).spikes
    spikes = total = differing = 0
    for called, population in neurons.items():
        if population not in ours:
            continue  # behind the last layer that is kept
        theirs = np.concatenate([f.reshape(-1) for f in fired[called]])
        wanted = np.moveaxis(ours[population], -1, 0).reshape(-1)
        wrong = int((theirs != wanted).sum()) if theirs.shape == wanted.shape else wanted.size
        spikes, total, differing = spikes + int(theirs.sum()), total + wanted.size, differing + wrong
        if wrong > ALLOWED * wanted.size:
            raise ParityError(
                f"{net.graph.name}.{called}: run over {STEPS} steps, the network's neurons fire {int(theirs.sum())} times, its mapping's "
                f"{int(wanted.sum())}, and {wrong} of {wanted.size} neuron-steps differ: its forward does something between its layers "
                "or steps that recording cannot see (states changed by hand?)"
            )
    return Replay(STEPS, spikes, total, differing)


@contextmanager
def _listening(module: nn.Module, fired: dict[str, list[np.ndarray]]) -> Iterator[None]:
    handles = []
    for called, part in module.named_modules():
        if called in fired or (not called and len(fired) == 1 and part is module and not any(True for _ in part.children())):
            parts = fired[called] if called in fired else next(iter(fired.values()))

            def keep(_: nn.Module, __: Any, out: Any, parts: list[np.ndarray] = parts) -> None:
                parts.append((out[0] if isinstance(out, tuple) else out).detach().cpu().numpy().astype(np.uint8))

            handles.append(part.register_forward_hook(keep))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
