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
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from taaf.export.targets.nir.torch_layers import PASSES_ON, Layer, average_pool, spike_max_pool
from taaf.models.errors import TaafError, UnsupportedLayerError

Convert = Callable[[str, nn.Module, tuple[int, ...]], Layer | None]
_ABOUT = {"size", "dim", "numel", "__len__", "stride", "is_contiguous", "is_floating_point", "is_complex", "get_device", "data_ptr", "nelement"}
_NEW = {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"}
_LAYOUT = {
    "reshape", "view", "view_as", "flatten", "squeeze", "unsqueeze", "contiguous", "clone", "detach", "to", "float", "double", "type",
    "type_as", "stack", "cat", "concat", "__getitem__", "select", "unbind", "permute", "transpose", "movedim", "swapaxes", "narrow",
    "cpu", "cuda", "requires_grad_", "chunk", "split", "__get__", "T", "data", "atleast_2d", "__iter__", "expand", "half", "index_select",
}  # fmt: skip
_ADD = {"add", "add_", "__add__", "__radd__", "__iadd__"}


@dataclass(frozen=True)
class Recorded:
    """A tensor of the network: the nodes whose sum it is, and the shape of its features."""

    nodes: tuple[str, ...]
    shape: tuple[int, ...] | None  # None: the input, before a layer has taken it
    tensor: torch.Tensor  # kept alive, so that its id stays its own


def record(
    module: nn.Module, sample: torch.Tensor, name: str, convert: Convert
) -> tuple[nir.NIRGraph, dict[str, str]]:
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


class _Recorder(TorchFunctionMode):
    def __init__(self, name: str, convert: Convert) -> None:
        super().__init__()
        self.name, self.convert = name, convert
        self.values: dict[int, Recorded] = {}
        self.nodes: dict[str, nir.NIRNode] = {}
        self.edges: list[tuple[str, str]] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.neurons: dict[str, str] = {}
        self.inside: list[nn.Module] = []  # the leaf that is running, if any

    def put(self, tensor: torch.Tensor, nodes: tuple[str, ...], shape: tuple[int, ...] | None) -> None:
        self.values[id(tensor)] = Recorded(nodes, shape, tensor)

    def known(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is recorded. Whole views count (torch does not pass ``x[0]`` to a mode); parts are refused."""
        if id(tensor) in self.values:
            return True
        where = tensor.untyped_storage().data_ptr()
        for value in reversed(list(self.values.values())):
            if where and value.tensor.untyped_storage().data_ptr() == where:
                if tensor.numel() != value.tensor.numel() or not (tensor.is_contiguous() and value.tensor.is_contiguous()):
                    raise self.refuse(f"a part of a recorded value of shape {tuple(value.tensor.shape)} is used; allowed all of it")
                self._reshaped("indexing", value, tensor)
                return True
        return False

    def refuse(self, reason: str) -> UnsupportedLayerError:
        return UnsupportedLayerError(f"{self.name}{_place()}: {reason}")

    # layers

    def enter(self, where: str, module: nn.Module) -> None:
        if not self.inside and self._is_leaf(where, module):
            self.inside.append(module)

    def _is_leaf(self, where: str, module: nn.Module) -> bool:
        known = isinstance(module, PASSES_ON) or self.convert(f"{self.name}.{where}", module, ()) is not None
        if not known and not any(True for _ in module.children()) and type(module).__module__.split(".")[0] in ("torch", "norse", "snntorch"):
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
                raise UnsupportedLayerError(f"{self.name}.{where}: {type(module).__name__} in training mode; call .eval() on the network")
            self.put(first, came.nodes, came.shape)
            return
        if where in self.nodes:
            raise UnsupportedLayerError(
                f"{self.name}.{where}: runs twice in one forward; record one time step (a sample of one step, with time_axis if the "
                "network loops over time), and use a layer once"
            )
        came = self._as_taken(module, came)
        layer = self.convert(f"{self.name}.{where}", module, _features(first))
        assert layer is not None
        if isinstance(layer.node, nir.Flatten) and first.shape[-1] != int(np.prod(came.shape or ())):
            raise UnsupportedLayerError(f"{self.name}.{where}: flattens {came.shape} to {tuple(first.shape)}; allowed all features into one axis")
        self._add(where, layer.node, came)
        if layer.population is not None:
            self.neurons[where] = f"{where}.{layer.population}" if layer.population else where
        self.put(first, (where,), _features(first) if not layer.flat else (first.shape[-1],))

    def _as_taken(self, module: nn.Module, came: Recorded) -> Recorded:
        """The input gets its shape from the layer that takes it first."""
        if came.shape is not None:
            return came
        flat = isinstance(module, nn.Linear) or hasattr(module, "input_weights")
        shape = tuple(came.tensor.shape[-1:]) if flat else _features(came.tensor)
        self.shapes["input"] = shape
        return Recorded(came.nodes, shape, came.tensor)

    def _add(self, called: str, node: nir.NIRNode, came: Recorded) -> None:
        self.nodes[called] = node
        self.edges += [(source, called) for source in came.nodes]

    # calls between layers

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.inside:
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            used = [t for t in _tensors((args, kwargs)) if self.known(t)]
        if not used:
            return func(*args, **kwargs)
        called = getattr(func, "__name__", str(func))
        result = func(*args, **kwargs)
        if called == "__iter__":
            result = list(result)
            self._layout(called, lambda x: list(func(x)), args, kwargs, used[0], result)
            return iter(result)
        if called in _ABOUT or called in _NEW or not list(_tensors(result)):
            if (result is None or isinstance(result, bool | int | float)) and called not in (*_ABOUT, "__get__"):
                raise self.refuse(f"{called} of a recorded value: it may not be changed in place, and control flow may not depend on it")
            return result
        if called in _ADD and len(used) == 2 and kwargs.get("alpha", 1) == 1 and used[0].shape == used[1].shape:
            one, two = (self.values[id(t)] for t in used)
            self.put(result, (*one.nodes, *two.nodes), one.shape or two.shape)
        elif called == "dropout" and not _argument(args, kwargs, 2, "training", True):
            self.put(result, self.values[id(used[0])].nodes, self.values[id(used[0])].shape)
        elif called in ("max_pool2d", "avg_pool2d"):
            self._pool(called, used[0], result, args, kwargs)
        elif called in _LAYOUT and len(used) == 1:
            self._layout(called, func, args, kwargs, used[0], result)
        else:
            raise self.refuse(
                f"{called} of a recorded value is not supported; allowed layers, sums of currents, flattening, pooling of spikes"
            )
        return result

    def _pool(self, called: str, x: torch.Tensor, result: torch.Tensor, args: Any, kwargs: Any) -> None:
        kernel = _argument(args, kwargs, 1, "kernel_size", None)
        stride = _argument(args, kwargs, 2, "stride", None)
        padding = _argument(args, kwargs, 3, "padding", 0)
        rest = [*args[4:], *(v for k, v in kwargs.items() if k not in ("input", "kernel_size", "stride", "padding"))]
        if any(v not in (1, False, None) and v is not True for v in rest) or (called == "max_pool2d" and True in [v is True for v in rest]):
            raise self.refuse(f"{called} with dilation, ceil_mode, count_include_pad=False, divisor_override or indices; allowed none of these")
        make = spike_max_pool if called == "max_pool2d" else average_pool
        name = next(f"{called}_{i}" for i in range(len(self.nodes) + 1) if f"{called}_{i}" not in self.nodes)
        came = self.values[id(x)]
        if came.shape is None:
            came = Recorded(came.nodes, _features(x), x)
            self.shapes["input"] = _features(x)
        self._add(name, make(kernel, stride, padding), came)
        self.put(result, (name,), _features(result))

    def _layout(self, called: str, func: Any, args: Any, kwargs: Any, x: torch.Tensor, result: Any) -> None:
        came = self.values[id(x)]
        numbers = torch.arange(x.numel(), dtype=torch.float64).reshape(x.shape)
        tried = list(_tensors(func(*_swapped(args, x, numbers), **_swapped(kwargs, x, numbers))))
        outs = list(_tensors(result))
        if len(tried) != 1 or tried[0].numel() != x.numel() or not torch.equal(tried[0].reshape(-1).double(), numbers.reshape(-1)):
            raise self.refuse(f"{called} takes, repeats or reorders elements of a recorded value; allowed are changes of shape")
        self._reshaped(called, came, outs[0])

    def _reshaped(self, called: str, came: Recorded, new: torch.Tensor) -> None:
        """The same elements in another shape: the same features, or all of them flattened."""
        shape = tuple(new.shape)
        if came.shape is None or shape[-len(came.shape) :] == came.shape:
            self.put(new, came.nodes, came.shape)
        elif shape and shape[-1] == int(np.prod(came.shape)) and len(came.nodes) == 1:
            name = f"{came.nodes[0]}_flat"
            if name not in self.nodes:
                self._add(name, nir.Flatten({"input": np.array(came.shape)}, 0, -1), came)
            self.put(new, (name,), (shape[-1],))
        else:
            raise self.refuse(f"{called} gives {shape} from features {came.shape}; allowed to keep them or to flatten all")

    def graph(self, sample: torch.Tensor, out: Any) -> nir.NIRGraph:
        found = [self.values[id(t)] for t in _tensors(out) if id(t) in self.values]
        found = [f for f in found if "input" not in f.nodes]
        if not found:
            raise UnsupportedLayerError(f"{self.name}: what the network returns does not come from its layers in this step")
        order = list(self.nodes)
        last = max(found, key=lambda f: max(order.index(n) for n in f.nodes))
        nodes = {"input": nir.Input(np.array(self.shapes.get("input", _features(sample)))), **self.nodes, "output": nir.Output(np.array([1]))}
        edges = [*self.edges, *((n, "output") for n in last.nodes)]
        return nir.NIRGraph(nodes, edges, type_check=False)


def _features(tensor: torch.Tensor) -> tuple[int, ...]:
    """(C, H, W) of a tensor with three axes after the batch, else (F,)."""
    return tuple(tensor.shape[-3:]) if tensor.ndim >= 4 else tuple(tensor.shape[-1:])


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def _swapped(value: Any, old: torch.Tensor, new: torch.Tensor) -> Any:
    if value is old:
        return new
    if isinstance(value, dict):
        return {k: _swapped(v, old, new) for k, v in value.items()}
    return type(value)(_swapped(v, old, new) for v in value) if type(value) in (tuple, list) else value


def _argument(args: Any, kwargs: Any, position: int, name: str, default: Any) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def _place() -> str:
    """" (file.py:12)" of the innermost line that is neither torch's, a framework's, nor ours."""
    own = ("/torch/", "/norse/", "/snntorch/", "/export/targets/nir/", "/contextlib.py")
    lines = [f for f in traceback.extract_stack() if not any(part in f.filename.replace("\\", "/") for part in own)]
    return f" ({lines[-1].filename}:{lines[-1].lineno})" if lines else ""
