"""A torch network run once, one step of one sample, becomes a NIR graph: whatever its ``forward`` looks like.

Known layers are leaves: hooks see which recorded value goes in and what comes out, what happens inside is the layer's own. All
other torch calls pass a `TorchFunctionMode`. A call on a recorded value is allowed if its meaning is plain:

- layout: reshape, flatten, squeeze, indexing, stack, ... where every element stays and in its order (tried on numbers);
- a sum of two recorded values: both feed the next neurons;
- dropout in eval mode, average pooling, and maximum pooling of spikes.

Everything else is refused with the line of the user's code. What recording cannot see (states that are changed by hand, control
flow that depends on the step) is found by `taaf.export.targets.nir.replay`, which runs network and mapping side by side.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import nir
import numpy as np
import torch
from torch import nn

from taaf.export.targets.nir.torch_calls import CallRecorder, Recorded, features, tensors
from taaf.export.targets.nir.torch_layers import PASSES_ON, Layer
from taaf.models.errors import TaafError, UnsupportedLayerError

Convert = Callable[[str, nn.Module, tuple[int, ...]], Layer | None]


def record(module: nn.Module, sample: torch.Tensor, name: str, convert: Convert) -> tuple[nir.NIRGraph, dict[str, str]]:
    """Run ``module(sample)`` once.

    Parameters
    ----------
    sample : torch.Tensor
        One item, one time step.
    convert : callable
        (where, module, shape of its output without leading axes of 1) -> NIR, or None for what it does not know.

    Returns
    -------
    graph : nir.NIRGraph
        With "input" and "output".
    neurons : dict
        Torch name of every layer of neurons -> name of its population in the graph (nested graphs inlined).
    """
    recorder = _Recorder(name, convert)
    recorder.put(sample, ("input",), None)
    with _watched(module, recorder), torch.no_grad(), recorder:
        try:
            out = run_step(module, sample, ())
        except TaafError:
            raise
        except Exception as error:  # user code raises any kind
            raise UnsupportedLayerError(
                f"{name}: the network does not run on the sample {tuple(sample.shape)} ({one_line(error)})"
            ) from error
    return recorder.graph(sample, out), recorder.neurons


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def run_step(module: nn.Module, x: torch.Tensor, states: tuple[Any, ...]) -> Any:
    """``module(x, *states)``; states that it requires and that are not there yet are None."""
    parameters = list(inspect.signature(module.forward).parameters.values())[1:]
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in positional)
    states = states[: len(positional)]
    return module(x, *states, *[None] * (required - len(states)))


@contextmanager
def _watched(module: nn.Module, recorder: "_Recorder") -> Iterator[None]:
    handles, names = [], dict[nn.Module, str]()
    for called, part in module.named_modules(remove_duplicate=True):
        names[part] = called or recorder.name
        handles.append(part.register_forward_pre_hook(lambda m, args: recorder.enter(names[m], m)))
        handles.append(part.register_forward_hook(lambda m, args, out: recorder.leave(names[m], m, args, out)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Recorder(CallRecorder):
    """The same with layers, which hooks watch.

    Attributes
    ----------
    neurons : dict
        Torch name of every layer of neurons -> its population.
    """

    def __init__(self, name: str, convert: Convert) -> None:
        super().__init__(name)
        self.convert = convert
        self.neurons: dict[str, str] = {}

    def enter(self, where: str, module: nn.Module) -> None:
        if not self.inside and self._is_leaf(where, module):
            self.inside.append(module)

    def _is_leaf(self, where: str, module: nn.Module) -> bool:
        known = isinstance(module, PASSES_ON) or self.convert(f"{self.name}.{where}", module, ()) is not None
        if (
            not known
            and not any(True for _ in module.children())
            and type(module).__module__.split(".")[0] in ("torch", "norse", "snntorch")
        ):
            raise UnsupportedLayerError(f"{self.name}.{where}: {type(module).__name__} is not supported")
        return known

    def leave(self, where: str, module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        if not self.inside or self.inside[-1] is not module:
            return
        self.inside.pop()
        if not args or not isinstance(args[0], torch.Tensor) or not self.known(args[0]):
            raise UnsupportedLayerError(
                f"{self.name}.{where}: what it is given does not come from the network's input in this step; a recurrence is a layer of "
                "its own (LIFRecurrentCell, RLeaky)"
            )
        came = self.values[id(args[0])]
        first = next(t for t in (out if isinstance(out, tuple | list) else [out]) if isinstance(t, torch.Tensor))
        if isinstance(module, PASSES_ON):
            if module.training and not isinstance(module, nn.Identity):
                raise UnsupportedLayerError(
                    f"{self.name}.{where}: {type(module).__name__} in training mode; call .eval() on the network"
                )
            self.put(first, came.nodes, came.shape)
            return
        if where in self.nodes:
            raise UnsupportedLayerError(
                f"{self.name}.{where}: runs twice in one forward; record one time step (a sample of one step, with time_axis if the "
                "network loops over time), and use a layer once"
            )
        came = self._as_taken(module, came)
        layer = self.convert(f"{self.name}.{where}", module, features(first))
        assert layer is not None
        if isinstance(layer.node, nir.Flatten) and first.shape[-1] != int(np.prod(came.shape or ())):
            raise UnsupportedLayerError(
                f"{self.name}.{where}: flattens {came.shape} to {tuple(first.shape)}; allowed all features into one axis"
            )
        self.add(where, layer.node, came)
        if layer.population is not None:
            self.neurons[where] = f"{where}.{layer.population}" if layer.population else where
        self.put(first, (where,), features(first) if not layer.flat else (first.shape[-1],))

    def _as_taken(self, module: nn.Module, came: Recorded) -> Recorded:
        """The input gets its shape from the layer that takes it first."""
        if came.shape is not None:
            return came
        flat = isinstance(module, nn.Linear) or hasattr(module, "input_weights")
        shape = tuple(came.tensor.shape[-1:]) if flat else features(came.tensor)
        self.shapes["input"] = shape
        return Recorded(came.nodes, shape, came.tensor)

    def graph(self, sample: torch.Tensor, out: Any) -> nir.NIRGraph:
        found = [self.values[id(t)] for t in tensors(out) if self.known(t)]
        found = [f for f in found if "input" not in f.nodes]
        if not found:
            raise UnsupportedLayerError(f"{self.name}: what the network returns does not come from its layers in this step")
        order = list(self.nodes)
        last = max(found, key=lambda f: max(order.index(n) for n in f.nodes))
        nodes = {
            "input": nir.Input(np.array(self.shapes.get("input", features(sample)))),
            **self.nodes,
            "output": nir.Output(np.array([1])),
        }
        edges = [*self.edges, *((n, "output") for n in last.nodes)]
        return nir.NIRGraph(nodes, edges, type_check=False)
