"""What SLAYER's modules, and ours, do to recorded values: a registry {type -> handler}.

A handler is called as ``handler(recorder, leaf)`` after the module's own forward, so that lazily made shapes and normed weights are
there, and answers with the value of what the module returned.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from taaf.export.recorder import maps
from taaf.export.recorder.maps import size
from taaf.export.recorder.places import NoExactForm
from taaf.export.recorder.synapses import current_of, qat_synapse, require_plain, synapse
from taaf.export.recorder.values import Leaf, Linear, Neurons, Value, plain, spikes_of
from taaf.export.recorder.weights import axonal_delay, integers, neuron_integers, norm_mean, used_weight
from taaf.models.qat import QatConv2d, QatDense
from taaf.models.slayer_lif import SlayerLif, require_lava_dl

if TYPE_CHECKING:
    from taaf.export.recorder.mode import Recorder


Handler = Callable[["Recorder", Leaf], Value]


@dataclass(frozen=True)
class Kind:
    """How a type of module is recorded; ``role``: "neurons" answer with spikes, "synapse" with currents, "view" with the same
    values, "host" has no form on the chip, "refused" none anywhere."""

    handler: Handler
    role: str


@cache
def registry() -> dict[type, Kind]:
    """Handlers by type; the type's own ``forward`` must be in force (a subclass that overrides it is looked into instead)."""
    require_lava_dl()
    from lava.lib.dl.slayer.axon import Delay
    from lava.lib.dl.slayer.block import base, cuba
    from lava.lib.dl.slayer.neuron import Dropout
    from lava.lib.dl.slayer.neuron.cuba import Neuron
    from lava.lib.dl.slayer.neuron.norm import MeanOnlyBatchNorm, WgtScaleBatchNorm
    from lava.lib.dl.slayer.synapse import layer

    kinds: dict[type, Kind] = {
        kind: Kind(_block, "neurons") for kind in (cuba.Dense, cuba.Conv, cuba.Pool, cuba.ConvT, cuba.Unpool, cuba.Recurrent)
    }
    kinds |= {
        kind: Kind(synapse, "synapse") for kind in (layer.Dense, layer.Conv, layer.Pool, layer.ConvTranspose, layer.Unpool)
    }
    kinds |= {kind: Kind(_same, "view") for kind in (nn.Identity, Dropout)}
    return kinds | {
        cuba.Input: Kind(_input, "neurons"),
        base.AbstractFlatten: Kind(_flatten, "view"),
        base.AbstractAffine: Kind(_affine, "host"),
        Neuron: Kind(_neuron, "neurons"),
        MeanOnlyBatchNorm: Kind(_norm, "view"),
        WgtScaleBatchNorm: Kind(_scaling_norm, "host"),
        Delay: Kind(_delay, "view"),
        QatConv2d: Kind(qat_synapse, "synapse"),
        QatDense: Kind(qat_synapse, "synapse"),
        SlayerLif: Kind(_slayer_lif, "neurons"),
    }


def kind_of(module: nn.Module) -> Kind | None:
    """How a module is recorded; None: by what its forward calls."""
    for ancestor in type(module).__mro__:
        kind = registry().get(ancestor)
        if kind is not None:
            return kind if type(module).forward is getattr(ancestor, "forward", None) else None
    where = type(module).__module__
    if where.startswith(("lava.lib.dl.slayer.neuron.", "lava.lib.dl.slayer.synapse.complex", "lava.lib.dl.slayer.dendrite")):
        return Kind(_no_lif, "refused")
    if where.startswith("lava.lib.dl.slayer.block.") and hasattr(module, "neuron"):
        return Kind(_no_lif, "refused")
    return None


# -- neurons


def _block(recorder: "Recorder", leaf: Leaf) -> Value:
    from lava.lib.dl.slayer.block.cuba import Recurrent

    block = leaf.module
    recurrent = isinstance(block, Recurrent)
    current = current_of(replace(leaf, module=block.input_synapse if recurrent else block.synapse))
    if recurrent and block.bias is not None:
        raise NoExactForm("has a bias of its own; use a norm")
    made = put_neurons(
        recorder, leaf, block.neuron, current, f"{leaf.name}_lif", block.recurrent_synapse if recurrent else None
    )
    out = replace(made, lag=made.lag + (block.delay_shift is True))
    return out if block.delay is None else _delayed(out, block.delay)


def _neuron(recorder: "Recorder", leaf: Leaf) -> Value:
    return put_neurons(recorder, leaf, leaf.module, leaf.value, leaf.name or "neurons", None)


def _slayer_lif(recorder: "Recorder", leaf: Leaf) -> Value:
    scaled = replace(
        leaf.value,
        terms=tuple(replace(t, map=maps.scaled(t.map, leaf.module.unit)) for t in leaf.value.terms),
        bias=None if leaf.value.bias is None else leaf.value.bias * leaf.module.unit,
    )
    return put_neurons(recorder, leaf, leaf.module.lava_neuron(), scaled, leaf.name, None)


def _input(recorder: "Recorder", leaf: Leaf) -> Value:
    """SLAYER's input block: neurons that are driven by quantised input, or nothing but a step of time."""
    block, value = leaf.module, leaf.value
    if block.neuron is not None:
        with torch.no_grad():
            gain = 1.0 if block.weight is None else float(block.pre_hook_fx(block.weight))
            bias = 0.0 if block.bias is None else float(block.pre_hook_fx(block.bias))
        if value.spikes is None:
            raise NoExactForm("quantises what it is given; give it spikes")
        added = np.full(value.shape, bias) if bias else None
        driven = replace(value, terms=tuple(replace(t, map=maps.scaled(t.map, gain)) for t in value.terms), bias=added)
        value = put_neurons(recorder, leaf, block.neuron, driven, f"{leaf.name}_lif", None)
    return replace(value, lag=value.lag + (block.delay_shift is True))


def put_neurons(recorder: "Recorder", leaf: Leaf, neuron: Any, value: Linear, name: str, recurrent: Any) -> Linear:
    """A population that does what SLAYER's CUBA neuron ``neuron`` would, fed by ``value``; what handlers of neurons end in.

    Raises
    ------
    NoExactForm
        Where the chip's neurons do something else.
    """
    require_plain(value)
    if neuron.persistent_state is True and neuron in recorder.ran:
        raise NoExactForm(
            "is called twice with persistent_state: the second call starts where the first ended; use two modules"
        )
    if len(value.modalities) > 1:
        raise NoExactForm(
            f"is fed by {' and '.join(sorted(value.modalities))}; a chip graph takes one modality. Fuse output spikes on the host"
        )
    recorder.ran.add(neuron)
    given = neuron_integers(neuron, value.shape, value.bias, recurrent is not None)
    if value.lag and given.bias.any() and not ((given.v_decay == 4096) & (given.bias <= given.v_th_mant)).all():
        raise NoExactForm(
            f"has a bias (a norm) and gets its first spikes {value.lag} steps after the window's start (delay_shift); SLAYER integrates "
            "the bias from the start, the chip does not. Set delay_shift=False in all blocks, or record(..., delay_shift=False), and "
            "compare the accuracy"
        )
    weight = (
        None
        if recurrent is None
        else integers(used_weight(recurrent), given.unit, f"{leaf.name} (recurrent)").reshape(value.shape * 2)
    )
    builder = recorder.builders[next(iter(value.modalities))]
    made: Neurons = builder.neurons(name, leaf.index, value, given, weight)
    recorder.made_by[leaf.index] = made
    return spikes_of(made)


# -- the rest


def _same(recorder: "Recorder", leaf: Leaf) -> Value:
    return leaf.value


def _flatten(recorder: "Recorder", leaf: Leaf) -> Value:
    require_plain(leaf.value)
    flat = (size(leaf.value.shape),)
    return leaf.value.seen(flat, plain(flat))


def _norm(recorder: "Recorder", leaf: Leaf) -> Value:
    """A norm between synapse and neuron: a constant current."""
    value = leaf.value
    require_plain(value)
    mean = norm_mean(leaf.module)
    subtracted = np.broadcast_to(mean.reshape(-1, *[1] * (len(value.shape) - 1)), value.shape)
    bias = -subtracted if value.bias is None else value.bias - subtracted
    return replace(value, bias=bias if bias.any() else None, calls=value.calls | {leaf.index})


def _delay(recorder: "Recorder", leaf: Leaf) -> Value:
    return _delayed(leaf.value, leaf.module)


def _delayed(value: Linear, module: Any) -> Linear:
    """Axonal delays: equal ones are steps behind the input, others go into the next layer's synapses."""
    require_plain(value)
    steps = axonal_delay(module)
    if (steps == steps[0]).all():
        return replace(value, lag=value.lag + int(steps[0]))
    if value.spikes is None:
        raise NoExactForm("delays something that is not plain spikes")
    return replace(value, terms=tuple(replace(t, delay=steps) for t in value.terms))


def _affine(recorder: "Recorder", leaf: Leaf) -> Value:
    raise NoExactForm("Affine answers with a voltage or current, not with spikes, which only the host can read")


def _scaling_norm(recorder: "Recorder", leaf: Leaf) -> Value:
    norm_mean(leaf.module)
    raise AssertionError("refused above")


def _no_lif(recorder: "Recorder", leaf: Leaf) -> Value:
    module = leaf.module
    family = type(module).__module__.rsplit(".", 1)[-1]
    what = {
        "alif": "adaptive thresholds (ALIF)", "adrf": "adaptive resonators", "adrf_iz": "adaptive resonators", "rf": "resonators",
        "rf_iz": "resonators", "sigma_delta": "graded sigma-delta messages", "complex": "complex weights",
    }.get(family, f"{type(module).__name__}")  # fmt: skip
    if type(module).__name__ == "KWTA":
        what = "k winners that inhibit each other within a step (KWTA)"
    raise NoExactForm(
        f"slayer {family}.{type(module).__name__}: {what} have no exact form on LIF hardware; use slayer.block.cuba"
    )
