"""The recorder at work: it sees every leaf module and every torch function of one forward, and knows what each tensor stands for."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from taaf.export.recorder import functions, pooling  # noqa: F401  (pooling registers its handlers)
from taaf.export.recorder.builder import GraphBuilder
from taaf.export.recorder.evidence import tensors_of
from taaf.export.recorder.modules import Kind, Leaf, kind_of
from taaf.export.recorder.places import NoExactForm, refusal, user_place
from taaf.export.recorder.replay import LeafCall, Tape, intercepted
from taaf.export.recorder.values import Host, Linear, Neurons, Value, spikes_of
from taaf.models.errors import DataError, TaafError, UnsupportedLayerError


def run_module(recorder: "Recorder") -> Any:
    """Run the user's forward on the examples, under the recorder; errors of its own get the inputs' shapes."""
    tape = recorder.tape
    try:
        with intercepted(tape.leaves, recorder.answer), recorder, recorder.indexing():
            return tape.module(*recorder.examples.values())
    except TaafError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{m} {tuple(x.shape)}" for m, x in recorder.examples.items())
        raise DataError(
            f"{tape.name}: forward fails on {shapes}: {type(error).__name__}: {error}".replace("\n", " ")
        ) from error


class Recorder(TorchFunctionMode):
    """Sees every leaf call (`answer`) and every torch function, and keeps what each tensor stands for."""

    def __init__(self, tape: Tape, examples: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.tape, self.examples = tape, dict(examples)
        self.builders = {m: GraphBuilder(m, tuple(x.shape[1:-1])) for m, x in examples.items()}
        self.made_by: dict[int, Neurons] = {}
        self._depth = 0
        self._values: dict[int, Value] = {}
        self._kept: dict[int, torch.Tensor] = {}
        self._sharing: dict[int, set[int]] = {}
        for modality, x in examples.items():
            self._put(x, spikes_of(self.builders[modality].input))

    # -- what tensors stand for

    def _put(self, tensor: torch.Tensor, value: Value) -> None:
        self._values[id(tensor)] = value
        self._kept[id(tensor)] = tensor  # a tensor that lives keeps its id
        self._sharing.setdefault(tensor.untyped_storage().data_ptr(), set()).add(id(tensor))

    def value_of(self, tensor: object) -> Value | None:
        """What a tensor stands for; None if nothing recorded made it."""
        return self._values.get(id(tensor)) if isinstance(tensor, torch.Tensor) else None

    def _linear(self, tensor: object) -> Linear | None:
        value = self.value_of(tensor)
        return value if isinstance(value, Linear) else None

    def _spoil(self, tensor: torch.Tensor, reason: str) -> None:
        """After a change in place: other views of the same memory no longer hold what was recorded for them."""
        origin = user_place() or self.tape.name
        for other in self._sharing.get(tensor.untyped_storage().data_ptr(), ()):
            if other != id(tensor):
                self._values[other] = self._host([self._values[other]], origin, reason)

    def _host(self, values: list[Value], origin: str, reason: str) -> Host:
        first = next((v for v in values if isinstance(v, Host)), None)
        neurons = frozenset().union(*(v.neurons for v in values))
        calls = frozenset().union(*(v.calls for v in values))
        return Host(first.origin if first else origin, first.reason if first else reason, neurons, calls)

    # -- torch functions

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._depth:
            return func(*args, **kwargs)
        touched = [t for t in tensors_of((args, kwargs)) if self.value_of(t) is not None]
        name = _name_of(func)
        if touched and name in functions.DECIDES:
            raise refusal(
                self.tape.name, f"{name.strip('_')} decides on what spikes hold; the chip's network must not depend on the data"
            )
        out = func(*args, **kwargs)
        results = tensors_of(out)
        if touched and results and name not in functions.CONSTANTS:
            self._record(name, args, kwargs, out, results, touched)
        return out

    @contextmanager
    def indexing(self) -> Iterator[None]:
        """See ``x[0]`` too: torch asks no function mode where the index is a number, None or a tensor."""
        plain, own = torch.Tensor.__getitem__, vars(torch.Tensor).get("__getitem__")

        def getitem(tensor: torch.Tensor, index: Any) -> Any:
            if self._depth or self.value_of(tensor) is None:
                return plain(tensor, index)
            self._depth += 1
            try:
                out = plain(tensor, index)
            finally:
                self._depth -= 1
            self._record("__getitem__", (tensor, index), {}, out, [out], [tensor])
            return out

        torch.Tensor.__getitem__ = getitem  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            if own is None:
                del torch.Tensor.__getitem__  # inherited again
            else:
                torch.Tensor.__getitem__ = own  # type: ignore[method-assign]

    def _record(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, results: list[torch.Tensor],
        touched: list[torch.Tensor],
    ) -> None:  # fmt: skip
        values = [self._values[id(t)] for t in touched]
        found: Any = None
        reason = functions.reason_for(name)
        handler = functions.HANDLERS.get(name)
        if handler is not None and all(isinstance(v, Linear) for v in values):
            first = values[0]
            assert isinstance(first, Linear)
            sizes = self.examples[first.terms[0].source.modality].shape
            call = functions.Call(name, args, kwargs, out, first, touched[0], self._linear, (sizes[0], sizes[-1]))
            try:
                found = handler(call)
            except NoExactForm as why:
                reason = str(why)
        if found is None:
            found = self._host(values, user_place() or self.tape.name, reason)
        changed = (
            name in functions.IN_PLACE or (name.endswith("_") and not name.startswith("__")) or kwargs.get("out") is not None
        )
        for tensor, value in zip(results, found if isinstance(found, list) else [found] * len(results), strict=True):
            self._put(tensor, value)
        if changed or kwargs.get("inplace"):
            target = args[0] if isinstance(args[0], torch.Tensor) else results[0]
            if name == "__setitem__":
                self._put(target, found)
            self._spoil(
                target,
                f"{name.strip('_')} changes a tensor in place that is also used under another name; write it out of place",
            )

    # -- leaf modules

    def answer(self, module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a leaf module and record what it does."""
        kind = kind_of(module)
        if self._depth or kind is None:
            return forward(*args, **kwargs)
        given = tensors_of((args, kwargs))
        name = self.tape.modules[module]
        value = self.value_of(given[0]) if given else None
        self._depth += 1
        try:
            out = forward(*args, **kwargs)
        finally:
            self._depth -= 1
        tensor = out[0] if isinstance(out, tuple) else out
        index = len(self.tape.calls)
        shape = tuple(tensor.shape[1:-1])
        what = f"{name or self.tape.name} ({type(module).__name__})"
        if value is None:
            if kind.role in {"view", "host"}:
                self.tape.calls.append(LeafCall(module, "view", "", shape))
                return out
            raise refusal(
                self.tape.name,
                f"{what} gets a tensor that no recorded operation made (NumPy, a custom autograd function, a constant?)",
            )
        found = self._leaf_value(kind, Leaf(module, name, index, value, tensor), what)  # type: ignore[arg-type]
        first = next(iter(sorted(found.modalities))) if isinstance(found, Linear) else ""
        lag = found.lag if isinstance(found, Linear) else 0
        delay = found.terms[0].delay if isinstance(found, Linear) and index in self.made_by else None
        role = kind.role if isinstance(found, Linear) and found.plain else "view"  # others answer in shapes of their own
        self.tape.calls.append(LeafCall(module, role, first, shape, self.made_by.get(index), lag, delay))
        self._put(tensor, found)
        for more in tensors_of(out)[1:]:
            self._put(more, self._host([found], user_place() or self.tape.name, "a rate of spikes leaves the chip"))
        return out

    def _leaf_value(self, kind: Kind, leaf: Leaf, what: str) -> Value:
        value: Value = leaf.value
        if isinstance(value, Host):
            if kind.role in ("view", "host"):
                return value
            place = user_place()
            at = f" at {place}" if place and place != value.origin else ""
            raise UnsupportedLayerError(
                f"{value.origin}: {value.reason}; its result enters {what}{at}, which belongs on the chip"
            )
        try:
            return kind.handler(self, leaf)
        except NoExactForm as why:
            if kind.role in ("view", "host"):
                return self._host([value], user_place() or self.tape.name, f"{what}: {why}")
            raise refusal(self.tape.name, f"{what} {why}") from why

    def called_before(self, leaf: Leaf) -> bool:
        """Whether this module was called earlier in the same forward."""
        return any(call.module is leaf.module for call in self.tape.calls)


_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]


def _name_of(func: Callable[..., Any]) -> str:
    name = getattr(func, "__name__", str(func))
    return "data" if name == "__get__" and func == _DATA else name
