"""Plain torch layers -> NIR nodes with the same values: linear, convolution, flatten, pooling, batch norm; dropout passes on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import torch
from torch import nn

from taaf.export.targets.nir.modules import BatchNormNode, SpikeMaxPool
from taaf.models.errors import UnsupportedLayerError

PASSES_ON = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Identity)  # in eval mode


@dataclass(frozen=True)
class Layer:
    """What a torch layer is in NIR.

    Attributes
    ----------
    node : nir.NIRNode
        A node, or a graph of nodes from "input" to "output".
    population : str or None
        Name of its spiking neurons inside such a graph, "" for the node itself; None without spiking neurons.
    flat : bool
        Its output is (F,).
    """

    node: nir.NIRNode
    population: str | None = None
    flat: bool = False


def values(value: Any) -> np.ndarray:
    """A parameter in float64."""
    return np.asarray(torch.as_tensor(value).detach().cpu().numpy(), np.float64)


def plain_layer(where: str, layer: nn.Module) -> Layer | None:
    """The layer in NIR; None for other types.

    Raises
    ------
    UnsupportedLayerError
        Naming the setting that has no equivalent.
    """
    make = _LAYERS.get(type(layer))
    return None if make is None else make(where, layer)


def _conv(where: str, layer: Any) -> Layer:
    if layer.padding_mode != "zeros":
        raise UnsupportedLayerError(f"{where}: Conv2d with padding mode {layer.padding_mode!r}; allowed zeros")
    bias = np.zeros(layer.out_channels) if layer.bias is None else values(layer.bias)
    return Layer(nir.Conv2d(None, values(layer.weight), layer.stride, layer.padding, layer.dilation, layer.groups, bias))


def _average(where: str, layer: Any) -> Layer:
    if layer.ceil_mode or layer.divisor_override or (not layer.count_include_pad and np.any(layer.padding)):
        raise UnsupportedLayerError(
            f"{where}: AvgPool2d with ceil_mode, divisor_override or count_include_pad=False; allowed none of them"
        )
    return Layer(average_pool(layer.kernel_size, layer.stride, layer.padding))


def _maximum(where: str, layer: Any) -> Layer:
    if layer.ceil_mode or layer.return_indices or np.any(np.asarray(layer.dilation) != 1):
        raise UnsupportedLayerError(f"{where}: MaxPool2d with ceil_mode, dilation or indices; allowed none of them")
    return Layer(spike_max_pool(layer.kernel_size, layer.stride, layer.padding))


def _batch_norm(where: str, layer: Any) -> Layer:
    if layer.running_mean is None:
        raise UnsupportedLayerError(
            f"{where}: a batch norm without running statistics depends on the batch; allowed one that tracks them"
        )
    if layer.training:
        raise UnsupportedLayerError(f"{where}: {type(layer).__name__} in training mode; call .eval() on the network")
    n = layer.num_features
    gain, offset = (np.full(n, d) if v is None else values(v) for v, d in ((layer.weight, 1.0), (layer.bias, 0.0)))
    return Layer(BatchNormNode(gain, offset, values(layer.running_mean), values(layer.running_var), float(layer.eps)))


_LAYERS: dict[type, Callable[[str, Any], Layer]] = {
    nn.Linear: lambda where, layer: Layer(linear(layer.weight, layer.bias), flat=True),
    nn.Conv2d: _conv,
    nn.Flatten: lambda where, layer: Layer(nir.Flatten(None, 0, -1), flat=True),
    nn.AvgPool2d: _average,
    nn.MaxPool2d: _maximum,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
}


def linear(weight: Any, bias: Any = None) -> nir.NIRNode:
    return nir.Linear(values(weight)) if bias is None else nir.Affine(values(weight), values(bias))


def recurrent(lif: nir.NIRNode, w_rec: nir.NIRNode, w_in: nir.NIRNode | None = None) -> nir.NIRGraph:
    """Neurons with a synapse onto themselves, after input weights if there are any, as a graph of its own."""
    nodes = {"input": nir.Input(np.array([1])), **({} if w_in is None else {"w_in": w_in}), "lif": lif, "w_rec": w_rec}
    edges = [("input", "lif")] if w_in is None else [("input", "w_in"), ("w_in", "lif")]
    edges += [("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")]
    return nir.NIRGraph({**nodes, "output": nir.Output(np.array([1]))}, edges, type_check=False)


def average_pool(kernel: Any, stride: Any, padding: Any) -> nir.NIRNode:
    return nir.AvgPool2d(*_pairs(kernel, stride, padding))


def spike_max_pool(kernel: Any, stride: Any, padding: Any) -> nir.NIRNode:
    return SpikeMaxPool(*_pairs(kernel, stride, padding))


def _pairs(kernel: Any, stride: Any, padding: Any) -> list[np.ndarray]:
    stride = kernel if stride is None or (isinstance(stride, list | tuple) and not stride) else stride
    return [np.broadcast_to(np.array(v), (2,)) for v in (kernel, stride, padding)]
