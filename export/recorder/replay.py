"""Running a user's module without leaving a trace in it: leaf calls intercepted, states cleared before, everything restored after."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from taaf.export.recorder.modules import kind_of
from taaf.export.recorder.values import Neurons
from taaf.models.errors import UnsupportedLayerError
from taaf.models.ir import Shape

_STATES = ("current_state", "voltage_state", "spike_state")

Answer = Callable[[nn.Module, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@dataclass(frozen=True, eq=False)
class LeafCall:
    """One call of a leaf module during the recording, in order.

    ``made`` is the population it answered with (or None), ``lag`` and ``delay`` how many steps later than window-relative, for all and
    per channel, ``modality`` that of what it was given and ``shape`` that of its answer without windows and time.
    """

    module: nn.Module
    role: str
    modality: str
    shape: Shape
    made: Neurons | None = None
    lag: int = 0
    delay: np.ndarray | None = None


@dataclass
class Tape:
    """The user's module, its leaf modules by name, and what they were called for."""

    name: str
    module: nn.Module
    modules: dict[nn.Module, str]
    calls: list[LeafCall] = field(default_factory=list)

    @property
    def leaves(self) -> list[nn.Module]:
        return [m for m in self.modules if kind_of(m) is not None]


def all_modules(root: nn.Module) -> dict[nn.Module, str]:
    """Every module and its name, also those that hide in plain lists, tuples and dictionaries."""
    found: dict[nn.Module, str] = {}

    def visit(module: nn.Module, name: str) -> None:
        if module in found:
            return
        found[module] = name
        prefix = f"{name}." if name else ""
        for key, child in module._modules.items():
            if child is not None:
                visit(child, f"{prefix}{key}")
        for key, value in vars(module).items():
            if key.startswith("_") or not isinstance(value, list | tuple | Mapping):
                continue
            for at, item in value.items() if isinstance(value, Mapping) else enumerate(value):
                if isinstance(item, nn.Module):
                    visit(item, f"{prefix}{key}.{at}")

    visit(root, "")
    return found


@contextmanager
def prepared(modules: Mapping[nn.Module, str]) -> Iterator[None]:
    """Eval mode and cleared states inside; outside, everything is as it was: parameters, buffers, hooks, mode, random state."""
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.no_grad())
        stack.enter_context(restored(modules))
        for module in modules:
            module.training = False
        clear_states(modules)
        yield


def clear_states(modules: Mapping[nn.Module, str]) -> None:
    """What SLAYER keeps from call to call: neuron states (``persistent_state``) and delay buffers."""
    for module in modules:
        for state in _STATES:
            if isinstance(getattr(module, state, None), torch.Tensor):
                setattr(module, state, torch.zeros(1))
        if hasattr(module, "delay_buffer"):
            module.delay_buffer = None  # type: ignore[assignment]


@contextmanager
def restored(modules: Mapping[nn.Module, str], values: bool = True) -> Iterator[None]:
    """Afterwards every module has the attributes it had; with ``values`` also the tensors their numbers."""
    shots = [(vars(m), dict(vars(m))) for m in modules]
    inner = [(v, v.copy()) for _, shot in shots for v in shot.values() if isinstance(v, dict | list | set)]
    held = [v for _, shot in shots for v in shot.values()] + [x for v, _ in inner if isinstance(v, dict) for x in v.values()]
    tensors = {id(t): (t, t.data, t.data.clone()) for t in held if values and isinstance(t, torch.Tensor)}
    try:
        yield
    finally:
        for now, shot in shots:
            now.clear()
            now.update(shot)
        for container, content in inner:
            container.clear()
            container.extend(content) if isinstance(container, list) else container.update(content)
        for tensor, data, numbers in tensors.values():
            if tensor.data_ptr() != data.data_ptr() or tensor.shape != data.shape:
                tensor.data = data
            if not torch.equal(data, numbers):
                data.copy_(numbers)


@contextmanager
def intercepted(leaves: list[nn.Module], answer: Answer) -> Iterator[None]:
    """Inside, ``answer(module, forward, args, kwargs)`` answers the calls of these modules."""

    def wrapped(module: nn.Module) -> Callable[..., Any]:
        forward = module.forward
        return lambda *args, **kwargs: answer(module, forward, args, kwargs)

    for module in leaves:
        vars(module)["forward"] = wrapped(module)
    try:
        yield
    finally:
        for module in leaves:
            vars(module).pop("forward", None)


class Follower:
    """Counts the leaf calls of a run and compares them with those of the recording."""

    def __init__(self, tape: Tape) -> None:
        self.tape, self.at, self.depth = tape, 0, 0

    def next(self, module: nn.Module) -> tuple[int, LeafCall]:
        """Index and record of the next leaf call."""
        index, self.at = self.at, self.at + 1
        if index >= len(self.tape.calls) or self.tape.calls[index].module is not module:
            raise UnsupportedLayerError(
                f"{self.tape.name}: forward calls {self.tape.modules[module]!r} where it did not on the example; its path must not "
                "depend on the data"
            )
        return index, self.tape.calls[index]

    def inside(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a leaf module's own forward, whose inner modules are no leaf calls of their own."""
        self.depth += 1
        try:
            return forward(*args, **kwargs)
        finally:
            self.depth -= 1
