"""The recorder's face: run a user's module once, and write down what its SLAYER parts do to spikes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from taaf.export.recorder.evidence import tensors_of
from taaf.export.recorder.host import HostPart
from taaf.export.recorder.mode import Recorder, run_module
from taaf.export.recorder.recording import Recording, checked_inputs
from taaf.export.recorder.replay import Tape, all_modules, prepared
from taaf.export.recorder.values import Linear, Neurons, Population, Value
from taaf.models.errors import DataError, UnsupportedLayerError
from taaf.models.slayer_lif import require_lava_dl


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
    examples = checked_inputs(name, inputs, None)
    with prepared(tape.modules):
        recorder = Recorder(tape, examples)
        return _finished(recorder, run_module(recorder))


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


def _require_recordable(tape: Tape) -> None:
    problems = []
    for module, name in tape.modules.items():
        where = f"{tape.name}.{name}" if name else tape.name
        if any(t.device.type != "cpu" for t in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
            problems.append(
                f"{where} is on {next(module.parameters()).device}; record on the CPU (SLAYER's GPU code is not exact)"
            )
        if hasattr(module, "current_decay_min"):
            problems.append(f"{where} draws its decays at its first forward; run the module once, then record")
        if getattr(module, "init", True) is False and hasattr(module, "max_delay"):
            problems.append(f"{where} draws its delays at its first forward; run the module once, then record")
    if problems:
        raise UnsupportedLayerError("; ".join(problems))


# -- where the chip ends


def _finished(recorder: Recorder, out: Any) -> Recording:
    """Graphs, host part and lags, once forward has answered ``out``."""
    tape = recorder.tape
    values = [recorder.value_of(t) for t in tensors_of(out)]
    known = [v for v in values if v is not None]
    if not known:
        raise UnsupportedLayerError(
            f"{tape.name}: what forward returns was not made of the inputs by recorded operations (NumPy, a custom autograd function?)"
        )
    made = list(recorder.made_by.values())
    neurons = frozenset().union(*(v.neurons for v in known))
    plain = _plain_ends(recorder, values)
    read: dict[str, list[Neurons]] = {m: [p for p in made if p in neurons and p.modality == m] for m in recorder.builders}
    ends: dict[str, list[Population]] = plain or {m: list(populations) for m, populations in read.items()}
    _require_ends(recorder, ends, neurons)
    graphs = {m: builder.graph(ends[m]) for m, builder in recorder.builders.items()}
    kept = {m: [p for p in made if p.name in g.nodes and p.modality == m] for m, g in graphs.items()}
    lags = {m: {p.name: tape.calls[p.call].lag for p in populations} for m, populations in kept.items()}
    host = None
    if plain is None:
        needed = frozenset().union(*(v.calls for v in known))
        host = HostPart(tape, {m: g.input.shape for m, g in graphs.items()}, read, needed)
    recording = Recording(tape.name, graphs, lags, host, tape, ends, kept)
    if host is not None:
        _require_same(recording, recorder.examples, out)
    return recording


def _plain_ends(recorder: Recorder, values: list[Value | None]) -> dict[str, list[Population]] | None:
    """The output populations, if there is exactly one per modality and nothing else."""
    found: dict[str, list[Population]] = {}
    for value in values:
        spikes = value.spikes if isinstance(value, Linear) and value.plain else None
        if spikes is None or spikes.modality in found:
            return None
        found[spikes.modality] = [spikes]
    return {m: found[m] for m in recorder.builders} if set(found) == set(recorder.builders) else None


def _require_ends(recorder: Recorder, ends: Mapping[str, list[Population]], neurons: frozenset[Population]) -> None:
    for modality, builder in recorder.builders.items():
        where = f"{recorder.tape.name}: input {modality!r}"
        if builder.input in neurons:
            raise UnsupportedLayerError(
                f"{where} reaches the output without passing neurons; behind the chip there are only spikes of neurons"
            )
        if not ends[modality]:
            raise UnsupportedLayerError(f"{where} does not reach what forward returns; leave it out")


def _require_same(recording: Recording, examples: Mapping[str, torch.Tensor], out: Any) -> None:
    """The host part must repeat forward's answer; where user code hides operations from the recorder, it does not."""
    assert recording.host is not None
    evidence = recording.trace(examples)
    features = [torch.from_numpy(evidence.features[m].astype(np.float32)) for m in recording.graphs]
    answers, wanted = tensors_of(recording.host(*features)), tensors_of(out)
    alike = (a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(answers, wanted, strict=False))
    if len(answers) != len(wanted) or not all(alike):
        raise UnsupportedLayerError(
            f"{recording.name}: its host part, run on the chip's spikes alone, answers otherwise than forward; forward uses something "
            "the recorder does not see (a custom autograd function, NumPy, a state of its own, or random numbers)"
        )
