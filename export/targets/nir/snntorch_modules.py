"""snnTorch's neurons -> NIR nodes with the same values per step; the mapping is in `taaf.export.targets.nir.read.from_snntorch`."""

from typing import Any

import nir
import numpy as np
from snntorch import Leaky, RLeaky, RSynaptic, Synaptic
from torch import nn

from taaf.export.targets.nir.torch_layers import Layer, linear, plain_layer, recurrent, values
from taaf.models.errors import UnsupportedLayerError

DT = 1.0  # snnTorch counts in steps
NEURONS = (Leaky, Synaptic, RLeaky, RSynaptic)
_SYNAPTIC, _RECURRENT = (Synaptic, RSynaptic), (RLeaky, RSynaptic)


def snntorch_layer(where: str, module: nn.Module, shape: tuple[int, ...]) -> Layer | None:
    """A layer of snnTorch or a plain one in NIR; None for other types."""
    if type(module) not in NEURONS:
        return plain_layer(where, module)
    neuron: Any = module
    settings = {
        "inhibition": neuron.inhibition,
        "state_quant": neuron.state_quant,
        "graded_spikes_factor": neuron.graded_spikes_factor != 1,
    }
    if found := [name for name, value in settings.items() if bool(value)]:
        raise UnsupportedLayerError(f"{where}: {', '.join(found)} is set; the chip's neurons have no such thing")
    metadata = {"reset": _reset(where, neuron)}
    threshold, beta = np.broadcast_arrays(values(neuron.threshold), np.clip(values(neuron.beta), 0, 1))
    if (beta == 1).any() and (type(neuron) in _SYNAPTIC or (beta < 1).any()):
        raise UnsupportedLayerError(
            f"{where}: beta of 1 (no leak) with a current of its own or beside neurons that leak; allowed below 1, or 1 for a whole Leaky"
        )
    common: dict[str, Any] = {"v_reset": np.zeros_like(threshold), "metadata": metadata}
    with np.errstate(divide="ignore"):
        tau = 1 / (1 - beta)
    if type(neuron) in _SYNAPTIC:
        threshold, alpha, tau = np.broadcast_arrays(threshold, np.clip(values(neuron.alpha), 0, 1), tau)
        with np.errstate(divide="ignore"):
            tau_syn = 1 / (1 - alpha)
        common["v_reset"] = zero = np.zeros_like(threshold)
        node: nir.NIRNode = nir.CubaLIF(
            tau_syn=tau_syn, tau_mem=tau, r=tau, w_in=tau_syn, v_leak=zero, v_threshold=threshold, **common
        )
    elif (beta == 1).all():
        node = nir.IF(r=np.ones_like(threshold), v_threshold=threshold, **common)
    else:
        node = nir.LIF(tau=tau, r=tau, v_leak=np.zeros_like(tau), v_threshold=threshold, **common)
    if type(neuron) not in _RECURRENT:
        return Layer(node, "")
    return Layer(recurrent(node, _recurrence(where, neuron, shape)), "lif", flat=True)


def _reset(where: str, neuron: Any) -> str:
    """One of `taaf.export.targets.nir.neurons.RESETS`."""
    how = neuron.reset_mechanism
    if how not in ("zero", "subtract"):
        raise UnsupportedLayerError(
            f"{where}: reset_mechanism {how!r}; allowed 'zero' (the chip's), and 'subtract' converted to it"
        )
    if how == "subtract":
        return "subtract-next" if neuron.reset_delay else "subtract-snntorch"
    # a Leaky drops its voltage before the next input arrives; the others drop it with that input
    return "zero-next" if neuron.reset_delay and type(neuron) is not Leaky else "hard"


def _recurrence(where: str, neuron: Any, shape: tuple[int, ...]) -> nir.NIRNode:
    if neuron.all_to_all:
        if not isinstance(neuron.recurrent, nn.Linear):
            raise UnsupportedLayerError(
                f"{where}: a recurrent {type(neuron.recurrent).__name__}; allowed linear_features, or one to one"
            )
        return linear(neuron.recurrent.weight, neuron.recurrent.bias)
    weight = values(neuron.recurrent.V)
    return linear(np.diag(np.broadcast_to(weight, shape or np.atleast_1d(weight).shape)))


def reset_states(module: nn.Module) -> None:
    """Every neuron at rest, as before a window."""
    for part in module.modules():
        if type(part) in NEURONS:
            part.reset_mem()  # type: ignore[operator]
