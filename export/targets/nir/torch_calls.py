"""Torch calls between the layers of a network that is recorded: layout, sums, pooling, dropout; everything else is refused."""

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from taaf.export.targets.nir.modules import ConcatNode
from taaf.export.targets.nir.torch_layers import average_pool, spike_max_pool
from taaf.models.errors import UnsupportedLayerError

_ABOUT = set("size dim numel nelement __len__ stride is_contiguous is_floating_point is_complex get_device data_ptr".split())
_NEW = set("zeros_like ones_like empty_like full_like rand_like new_zeros new_ones new_empty new_full new_tensor".split())
_LAYOUT = set(
    "reshape view view_as flatten squeeze unsqueeze contiguous clone detach to float double half type type_as stack cat concat select "
    "unbind permute transpose movedim swapaxes narrow expand chunk split cpu cuda requires_grad_ __getitem__ __get__ __iter__".split()
)
_ADD = {"add", "add_", "__add__", "__radd__", "__iadd__"}


@dataclass(frozen=True)
class Recorded:
    """A tensor of the network: the nodes whose sum it is, and the shape of its features."""

    nodes: tuple[str, ...]
    shape: tuple[int, ...] | None  # None: the input, before a layer has taken it
    tensor: torch.Tensor  # kept alive, so that its id stays its own


class CallRecorder(TorchFunctionMode):
    """Nodes and edges of a network, and which tensor is which of its values.

    Attributes
    ----------
    values : dict
        id of a tensor -> what it is.
    inside : list
        The layer that is running, if any: what it calls is its own.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.values: dict[int, Recorded] = {}
        self.nodes: dict[str, nir.NIRNode] = {}
        self.edges: list[tuple[str, str]] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.inside: list[torch.nn.Module] = []

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
                    raise self.refuse(
                        f"a part of a recorded value of shape {tuple(value.tensor.shape)} is used; allowed all of it"
                    )
                self._reshaped("indexing", value, tensor)
                return True
        return False

    def refuse(self, reason: str) -> UnsupportedLayerError:
        return UnsupportedLayerError(f"{self.name}{_place()}: {reason}")

    def add(self, called: str, node: nir.NIRNode, came: Recorded) -> None:
        self.nodes[called] = node
        self.edges += [(source, called) for source in came.nodes]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.inside:
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            used = [t for t in tensors((args, kwargs)) if self.known(t)]
        if not used:
            return func(*args, **kwargs)
        called = getattr(func, "__name__", str(func))
        result = func(*args, **kwargs)
        if called == "__iter__":
            result = list(result)
            self._layout(called, lambda x: list(func(x)), args, kwargs, used[0], result)
            return iter(result)
        if called == "__setitem__":
            raise self.refuse("a recorded value is written into a tensor; collect values in a list and torch.stack them")
        if called in _ABOUT or called in _NEW or not list(tensors(result)):
            if (result is None or isinstance(result, bool | int | float)) and called not in (*_ABOUT, "__get__"):
                raise self.refuse(
                    f"{called} of a recorded value: it may not be changed in place, and control flow may not depend on it"
                )
            return result
        if called in _ADD and len(used) == 2 and kwargs.get("alpha", 1) == 1 and used[0].shape == used[1].shape:
            one, two = (self.values[id(t)] for t in used)
            self.put(result, (*one.nodes, *two.nodes), one.shape or two.shape)
        elif called == "dropout" and not _argument(args, kwargs, 2, "training", True):
            self.put(result, self.values[id(used[0])].nodes, self.values[id(used[0])].shape)
        elif called in ("max_pool2d", "avg_pool2d"):
            self._pool(called, used[0], result, args, kwargs)
        elif called in ("cat", "concat") and len(used) > 1:
            self._concatenate(called, used, result, args, kwargs)
        elif called in _LAYOUT and len(used) == 1:
            self._layout(called, func, args, kwargs, used[0], result)
        else:
            raise self.refuse(
                f"{called} of a recorded value is not supported; allowed layers, sums of currents, flattening, concatenation, pooling of "
                "spikes; return the spikes themselves, counts and decisions are the host's"
            )
        return result

    def _pool(self, called: str, x: torch.Tensor, result: torch.Tensor, args: Any, kwargs: Any) -> None:
        kernel = _argument(args, kwargs, 1, "kernel_size", None)
        stride = _argument(args, kwargs, 2, "stride", None)
        padding = _argument(args, kwargs, 3, "padding", 0)
        rest = [*args[4:], *(v for k, v in kwargs.items() if k not in ("input", "kernel_size", "stride", "padding"))]
        if any(v not in (1, False, None) and v is not True for v in rest) or (
            called == "max_pool2d" and True in [v is True for v in rest]
        ):
            raise self.refuse(
                f"{called} with dilation, ceil_mode, count_include_pad=False, divisor_override or indices; allowed none of these"
            )
        make = spike_max_pool if called == "max_pool2d" else average_pool
        name = next(f"{called}_{i}" for i in range(len(self.nodes) + 1) if f"{called}_{i}" not in self.nodes)
        came = self.values[id(x)]
        if came.shape is None:
            came = Recorded(came.nodes, features(x), x)
            self.shapes["input"] = features(x)
        self.add(name, make(kernel, stride, padding), came)
        self.put(result, (name,), features(result))

    def _concatenate(self, called: str, used: list[torch.Tensor], result: torch.Tensor, args: Any, kwargs: Any) -> None:
        parts = [self.values[id(t)] for t in used]
        axes = {len(p.shape) for p in parts if p.shape is not None and len(p.nodes) == 1}
        dim = int(_argument(args, kwargs, 1, "dim", 0))
        dim = dim if dim < 0 else dim - result.ndim
        whole = sum(t.numel() for t in used) == result.numel() and all(p.shape is not None and len(p.nodes) == 1 for p in parts)
        if not whole or axes != {-dim}:
            raise self.refuse(
                f"{called} along axis {dim}; allowed of single values along their channels (-3 of maps, -1 of flat ones)"
            )
        name = next(f"cat_{i}" for i in range(len(self.nodes) + 1) if f"cat_{i}" not in self.nodes)
        self.nodes[name] = ConcatNode()
        self.edges += [(part.nodes[0], name) for part in parts]
        self.put(result, (name,), tuple(result.shape[dim:]))

    def _layout(self, called: str, func: Any, args: Any, kwargs: Any, x: torch.Tensor, result: Any) -> None:
        came = self.values[id(x)]
        numbers = torch.arange(x.numel(), dtype=torch.float64).reshape(x.shape)
        tried = list(tensors(func(*_swapped(args, x, numbers), **_swapped(kwargs, x, numbers))))
        outs = list(tensors(result))
        if (
            len(tried) != 1
            or tried[0].numel() != x.numel()
            or not torch.equal(tried[0].reshape(-1).double(), numbers.reshape(-1))
        ):
            raise self.refuse(f"{called} takes, repeats or reorders elements of a recorded value; allowed are changes of shape")
        self._reshaped(called, came, outs[0])

    def _reshaped(self, called: str, came: Recorded, new: torch.Tensor) -> None:
        """The same elements in another shape: the same features, or all of them flattened."""
        shape = tuple(new.shape)
        if came.shape is None or shape[-len(came.shape) :] == came.shape:
            self.put(new, came.nodes, came.shape)
        elif len(came.nodes) > 1:
            raise self.refuse(
                f"{called} of a sum of {', '.join(came.nodes)}; allowed sums of currents that go straight into neurons"
            )
        elif shape and shape[-1] == int(np.prod(came.shape)):
            name = f"{came.nodes[0]}_flat"
            if name not in self.nodes:
                self.add(name, nir.Flatten({"input": np.array(came.shape)}, 0, -1), came)
            self.put(new, (name,), (shape[-1],))
        else:
            raise self.refuse(f"{called} gives {shape} from features {came.shape}; allowed to keep them or to flatten all")


def features(tensor: torch.Tensor) -> tuple[int, ...]:
    """(C, H, W) of a tensor with three axes after the batch, else (F,)."""
    return tuple(tensor.shape[-3:]) if tensor.ndim >= 4 else tuple(tensor.shape[-1:])


def tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)


def _swapped(value: Any, old: torch.Tensor, new: torch.Tensor) -> Any:
    if value is old:
        return new
    if isinstance(value, dict):
        return {k: _swapped(v, old, new) for k, v in value.items()}
    return type(value)(_swapped(v, old, new) for v in value) if type(value) in (tuple, list) else value


def _argument(args: Any, kwargs: Any, position: int, name: str, default: Any) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def _place() -> str:
    """ " (file.py:12)" of the innermost line that is neither torch's, a framework's, nor ours."""
    own = ("/torch/", "/norse/", "/snntorch/", "/export/targets/nir/", "/contextlib.py")
    lines = [f for f in traceback.extract_stack() if not any(part in f.filename.replace("\\", "/") for part in own)]
    return f" ({lines[-1].filename}:{lines[-1].lineno})" if lines else ""
