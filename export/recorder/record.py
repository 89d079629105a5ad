"""The recorder's face: run a user's module once, and write down what its SLAYER parts do to spikes."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from taaf.export.recorder import functions
from taaf.export.recorder.builder import GraphBuilder
from taaf.export.recorder.evidence import Evidence, joined, listen, tensors_of
from taaf.export.recorder.host import HostPart
from taaf.export.recorder.modules import Leaf, kind_of
from taaf.export.recorder.places import NoExactForm, refusal, user_place
from taaf.export.recorder.replay import LeafCall, Tape, all_modules, intercepted, prepared
from taaf.export.recorder.values import Host, Linear, Neurons, Population, Value, spikes_of
from taaf.models.errors import DataError, TaafError, UnsupportedLayerError
from taaf.models.ir import Graph, Shape
from taaf.models.slayer_lif import require_lava_dl

_WINDOWS_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Recording:
    """A recorded module.

    Attributes
    ----------
    name : str
    graphs : dict of str to Graph
        One integer-stage graph per modality; joins, OR pooling and concatenation are as the user wrote them.
    lags : dict of str to (dict of str to int)
        Modality -> LIF name -> steps that SLAYER's answer is behind the graph (one per block with ``delay_shift``). A decision by
        spike counts over SLAYER's window misses the last ``lag`` steps of the output.
    host : HostPart or None
        What the module does behind the chip; None if it returns the output spikes of one population per modality.
    """

    name: str
    graphs: dict[str, Graph]
    lags: dict[str, dict[str, int]]
    host: HostPart | None
    _tape: Tape
    _ends: dict[str, list[Population]]
    _populations: dict[str, list[Neurons]]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the inputs, in the order of ``forward``."""
        return tuple(self.graphs)

    def trace(self, inputs: Mapping[str, "torch.Tensor | np.ndarray"]) -> Evidence:
        """SLAYER's spikes of every population of the graphs on ``inputs``, {modality: (N, *shape, T)} of zeros and ones.

        The user's module runs in eval mode, its states cleared for every block of windows, and is left as it was.
        """
        tensors = _checked(self.name, inputs, {m: g.input.shape for m, g in self.graphs.items()})
        n = len(next(iter(tensors.values())))
        starts = range(0, n, _WINDOWS_AT_ONCE)
        blocks = [[x[at : at + _WINDOWS_AT_ONCE] for x in tensors.values()] for at in starts]
        return joined([listen(self._tape, block, self._ends, self._populations) for block in blocks])


def record(
    module: "nn.Module | Mapping[str, nn.Module]", inputs: Mapping[str, torch.Tensor], name: str | None = None
) -> Recording:
    """Turn a module of lava-dl SLAYER parts (or of ours) into integer-stage graphs by running it once.

    Parameters
    ----------
    module : torch.nn.Module or dict
        Takes the modalities in the order of ``inputs``; or one module per modality (and "head", which takes their outputs).
        It is run in eval mode and left as it was: parameters, hooks, mode and persistent states.
    inputs : dict of str to torch.Tensor
        Modality -> an example, (N, *shape, T) float32 of zeros and ones, shape (C, H, W) or (F,).
    name : str, optional
        Prefix of messages; by default the module's class.

    Returns
    -------
    Recording

    Raises
    ------
    UnsupportedLayerError
        Where something in front of a chip layer has no exact form: the user's file and line, the reason and a way forward.
    DataError
        If an example is not spikes, or the module cannot run on it.

    Examples
    --------
    >>> recording = record(net, {"event": torch.zeros(1, 2, 34, 34, 20)})
    >>> recording.graphs["event"].output, recording.host is None
    ('readout_lif', True)
    """
    require_lava_dl()
    if isinstance(module, Mapping):
        module = _Branches(dict(module), tuple(inputs))
    name = name or type(module).__name__
    tape = Tape(name, module, all_modules(module))
    _require_recordable(tape)
    examples = _checked(name, inputs, None)
    with prepared(tape.modules):
        recorder = Recorder(tape, examples)
        out = run_module(recorder, list(examples.values()))
        return recorder.finished(out)


def run_module(recorder: "Recorder", inputs: list[torch.Tensor]) -> Any:
    """Run the user's forward under the recorder; errors of its own get the inputs' shapes."""
    tape = recorder.tape
    try:
        with intercepted(tape.leaves, recorder.answer), recorder, recorder.indexing():
            return tape.module(*inputs)
    except TaafError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{m} {tuple(x.shape)}" for m, x in recorder.examples.items())
        raise DataError(f"{tape.name}: forward fails on {shapes}: {type(error).__name__}: {error}".replace("\n", " ")) from error


class _Branches(nn.Module):
    """One module per modality, and perhaps a head that takes their outputs."""

    def __init__(self, modules: dict[str, nn.Module], modalities: tuple[str, ...]) -> None:
        super().__init__()
        self.head = modules.pop("head", None)
        if set(modules) != set(modalities):
            raise DataError(f"modules for {', '.join(modules)}, but inputs for {', '.join(modalities)}; name them alike")
        for modality in modalities:
            self.add_module(modality, modules[modality])
        self._order = modalities

    def forward(self, *inputs: torch.Tensor) -> Any:
        found = [getattr(self, m)(x) for m, x in zip(self._order, inputs, strict=True)]
        return tuple(found) if self.head is None else self.head(*found)


def _checked(
    name: str, inputs: Mapping[str, "torch.Tensor | np.ndarray"], shapes: Mapping[str, Shape] | None
) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    if not inputs or (shapes is not None and set(shapes) != set(inputs)):
        raise DataError(f"{name}: inputs {', '.join(inputs) or 'none'}; expected {', '.join(shapes or ()) or 'at least one'}")
    for modality in shapes or inputs:
        x = torch.as_tensor(inputs[modality]).detach().to(torch.float32)
        where = f"{name}: input {modality!r} {tuple(x.shape)}"
        if x.dim() not in (3, 5) or min(x.shape) < 1:
            raise DataError(f"{where}: expected (windows, channels, height, width, steps) or (windows, neurons, steps)")
        if shapes is not None and tuple(x.shape[1:-1]) != shapes[modality]:
            raise DataError(f"{where}: recorded with {shapes[modality]} per window and step")
        if not ((x == 0) | (x == 1)).all():
            raise DataError(f"{where} holds {x.min():g}..{x.max():g}; expected spikes, 0 and 1: encode it as spikes first")
        found[modality] = x.clone()
    if len({len(x) for x in found.values()}) > 1:
        raise DataError(f"{name}: " + ", ".join(f"{m} has {len(x)} windows" for m, x in found.items()) + "; give equally many")
    return found


def _require_recordable(tape: Tape) -> None:
    problems = []
    for module, name in tape.modules.items():
        where = f"{tape.name}.{name}" if name else tape.name
        if any(t.device.type != "cpu" for t in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
            problems.append(f"{where} is on {next(module.parameters()).device}; record on the CPU (SLAYER's GPU code is not exact)")
        if hasattr(module, "current_decay_min"):
            problems.append(f"{where} draws its decays at its first forward; run the module once, then record")
        if getattr(module, "init", True) is False and hasattr(module, "max_delay"):
            problems.append(f"{where} draws its delays at its first forward; run the module once, then record")
    if problems:
        raise UnsupportedLayerError("; ".join(problems))


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

    def _get(self, tensor: object) -> Value | None:
        return self._values.get(id(tensor)) if isinstance(tensor, torch.Tensor) else None

    def _linear(self, tensor: object) -> Linear | None:
        value = self._get(tensor)
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
        touched = [t for t in _flat((args, kwargs)) if self._get(t) is not None]
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
            if self._depth or self._get(tensor) is None:
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
        changed = name in functions.IN_PLACE or (name.endswith("_") and not name.startswith("__")) or kwargs.get("out") is not None
        for tensor, value in zip(results, found if isinstance(found, list) else [found] * len(results), strict=True):
            self._put(tensor, value)
        if changed or kwargs.get("inplace"):
            target = args[0] if isinstance(args[0], torch.Tensor) else results[0]
            if name == "__setitem__":
                self._put(target, found)
            self._spoil(target, f"{name.strip('_')} changes a tensor in place that is also used under another name; write it out of place")

    # -- leaf modules

    def answer(self, module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a leaf module and record what it does."""
        kind = kind_of_leaf(module)
        if self._depth or kind is None:
            return forward(*args, **kwargs)
        given = [t for t in _flat((args, kwargs)) if isinstance(t, torch.Tensor)]
        name = self.tape.modules[module]
        value = self._get(given[0]) if given else None
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
            if kind.role == "view" or kind.role == "host":
                self.tape.calls.append(LeafCall(module, "view", "", shape))
                return out
            raise refusal(
                self.tape.name, f"{what} gets a tensor that no recorded operation made (NumPy, a custom autograd function, a constant?)"
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

    def _leaf_value(self, kind: Any, leaf: Leaf, what: str) -> Value:
        value: Value = leaf.value
        if isinstance(value, Host):
            if kind.role in ("view", "host"):
                return value
            place = user_place()
            at = f" at {place}" if place and place != value.origin else ""
            raise UnsupportedLayerError(f"{value.origin}: {value.reason}; its result enters {what}{at}, which belongs on the chip")
        try:
            return kind.handler(self, leaf)
        except NoExactForm as why:
            if kind.role in ("view", "host"):
                return self._host([value], user_place() or self.tape.name, f"{what}: {why}")
            raise refusal(self.tape.name, f"{what} {why}") from why

    def called_before(self, leaf: Leaf) -> bool:
        """Whether this module was called earlier in the same forward."""
        return any(call.module is leaf.module for call in self.tape.calls)

    # -- the end

    def finished(self, out: Any) -> Recording:
        """Graphs, host part and lags, once forward has answered ``out``."""
        values = [self._get(t) for t in tensors_of(out)]
        known = [v for v in values if v is not None]
        if not known:
            raise UnsupportedLayerError(
                f"{self.tape.name}: what forward returns was not made of the inputs by recorded operations (NumPy, a custom autograd "
                "function?)"
            )
        plain = self._plain_ends(values)
        neurons = frozenset().union(*(v.neurons for v in known))
        ends: dict[str, list[Population]] = plain or {m: [p for p in self._in_order() if p in neurons and p.modality == m] for m in self.builders}
        self._require_ends(ends, neurons)
        graphs = {m: builder.graph(ends[m]) for m, builder in self.builders.items()}
        kept = {m: [p for p in self._in_order() if p.name in g.nodes and p.modality == m] for m, g in graphs.items()}
        by_population = {c.made: c.lag for c in self.tape.calls if c.made is not None}
        lags = {m: {p.name: by_population[p] for p in populations} for m, populations in kept.items()}
        host = None
        if plain is None:
            inputs = {m: g.input.shape for m, g in graphs.items()}
            needed = frozenset().union(*(v.calls for v in known))
            host = HostPart(self.tape, inputs, {m: [p for p in e if isinstance(p, Neurons)] for m, e in ends.items()}, needed)
        recording = Recording(self.tape.name, graphs, lags, host, self.tape, ends, kept)
        if host is not None:
            self._require_same(recording, out)
        return recording

    def _in_order(self) -> list[Neurons]:
        return list(self.made_by.values())

    def _plain_ends(self, values: list[Value | None]) -> dict[str, list[Population]] | None:
        """The output populations, if there is exactly one per modality and nothing else."""
        found: dict[str, list[Population]] = {}
        for value in values:
            spikes = value.spikes if isinstance(value, Linear) and value.plain else None
            if spikes is None or spikes.modality in found:
                return None
            found[spikes.modality] = [spikes]
        return {m: found[m] for m in self.builders} if set(found) == set(self.builders) else None

    def _require_ends(self, ends: Mapping[str, list[Population]], neurons: frozenset[Population]) -> None:
        for modality, builder in self.builders.items():
            where = f"{self.tape.name}: input {modality!r}"
            raw = builder.input in neurons or any(builder.input in e.neurons() for e in ends[modality])
            if raw:
                raise UnsupportedLayerError(f"{where} reaches the output without passing neurons; the host gets only the chip's spikes")
            if not ends[modality]:
                raise UnsupportedLayerError(f"{where} does not reach what forward returns; leave it out")

    def _require_same(self, recording: Recording, out: Any) -> None:
        """The host part must repeat forward's answer; where user code hides operations from the recorder, it does not."""
        assert recording.host is not None
        evidence = listen(self.tape, list(self.examples.values()), recording._ends, recording._populations)
        features = [torch.from_numpy(evidence.features[m].astype(np.float32)) for m in recording.graphs]
        answers = tensors_of(recording.host(*features))
        wanted = tensors_of(out)
        if len(answers) != len(wanted) or not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(answers, wanted, strict=True)):
            raise UnsupportedLayerError(
                f"{self.tape.name}: its host part, run on the chip's spikes alone, answers otherwise than forward; forward uses something "
                "the recorder does not see (a custom autograd function, NumPy, state of its own, or random numbers)"
            )


def kind_of_leaf(module: nn.Module) -> Any:
    """As `kind_of`, while the module's forward is intercepted."""
    return kind_of(module)


def _flat(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return [x for v in value.values() for x in _flat(v)]
    return [x for v in value for x in _flat(v)] if isinstance(value, tuple | list) else [value]


_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]


def _name_of(func: Callable[..., Any]) -> str:
    name = getattr(func, "__name__", str(func))
    return "data" if name == "__get__" and func == _DATA else name


__all__ = ["Recorder", "Recording", "record", "run_module"]
