"""Norse cells -> NIR nodes with the same values per step; the mapping is in `taaf.export.targets.nir.read.from_norse`."""

import warnings
from typing import Any

import nir
import numpy as np
import torch
from torch import nn

from taaf.models.errors import UnsupportedLayerError
from taaf.models.shell.pictures import allow_matplotlib

_DEFAULT_DT = 1e-3
_PLAIN = (nn.Linear, nn.Conv2d, nn.Flatten, nn.AvgPool2d)


def norse_graph(module: nn.Module, sample: torch.Tensor, name: str) -> tuple[nir.NIRGraph, float]:
    """Trace a network; returns its NIR graph and the time step of its cells."""
    allow_matplotlib()
    import nirtorch
    from norse.torch import IAFCell, LIFBoxCell, LIFCell, SequentialState

    cells = (LIFBoxCell, LIFCell, IAFCell)
    leaves = {n or name: m for n, m in module.named_modules() if not any(True for _ in m.children())}
    for called, part in module.named_modules():
        if type(part) not in (nn.Sequential, SequentialState) and any(True for _ in part.children()):
            raise UnsupportedLayerError(
                f"{name}.{called}: {type(part).__name__} holds other modules; allowed Sequential and SequentialState (what "
                "another forward() does between modules cannot be traced with certainty; write such a network as NIR)"
            )
    steps = {}
    for called, leaf in leaves.items():
        where = f"{name}.{called}"
        if not isinstance(leaf, (*cells, *_PLAIN)):
            allowed = ", ".join(k.__name__ for k in (*cells, *_PLAIN))
            raise UnsupportedLayerError(f"{where}: {type(leaf).__name__} is not supported; allowed {allowed}")
        if isinstance(leaf, nn.Conv2d) and leaf.padding_mode != "zeros":
            raise UnsupportedLayerError(f"{where}: Conv2d with padding mode {leaf.padding_mode!r}; allowed zeros")
        if isinstance(leaf, nn.AvgPool2d) and (leaf.ceil_mode or leaf.divisor_override):
            raise UnsupportedLayerError(f"{where}: AvgPool2d with ceil_mode or divisor_override; allowed neither")
        if isinstance(leaf, cells):
            steps[where] = float(leaf.dt)
            _check_reset(where, leaf.p)
    if len(set(steps.values())) > 1:
        raise UnsupportedLayerError(f"{name}: time steps differ: {', '.join(f'{k} {v:g}' for k, v in steps.items())}")
    dt = next(iter(steps.values()), _DEFAULT_DT)

    def to_nir(part: nn.Module) -> nir.NIRNode | None:
        if isinstance(part, _PLAIN):
            return _plain(part)
        return _neurons(part, dt) if isinstance(part, cells) else None

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # nirtorch renames this function
        try:
            graph = nirtorch.extract_nir_graph(module, to_nir, sample, model_name=name)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise UnsupportedLayerError(
                f"{name}: the network does not run on the sample {tuple(sample.shape)}: {error}"
            ) from error
    return graph, dt


def _check_reset(where: str, p: Any) -> None:
    from norse.torch.functional.reset import reset_value

    method = getattr(p, "reset_method", reset_value)
    if method is not reset_value:
        raise UnsupportedLayerError(f"{where}: reset method {method.__name__}; allowed reset_value (the chip resets to zero)")
    leak, reset = _array(getattr(p, "v_leak", p.v_reset)), _array(p.v_reset)
    if (leak != reset).any():
        raise UnsupportedLayerError(f"{where}: v_leak {leak} differs from v_reset {reset}; allowed equal values")


def _array(value: Any) -> np.ndarray:
    return np.asarray(torch.as_tensor(value).detach().cpu().numpy(), np.float64)


def _neurons(cell: Any, dt: float) -> nir.NIRNode:
    from norse.torch import IAFCell, LIFCell

    p = cell.p
    threshold, reset = np.broadcast_arrays(_array(p.v_th), _array(p.v_reset))
    if isinstance(cell, IAFCell):
        return nir.IF(r=np.full_like(threshold, 1 / dt), v_threshold=threshold, v_reset=reset)
    names = ("tau_mem_inv", "tau_syn_inv") if isinstance(cell, LIFCell) else ("tau_mem_inv",)
    threshold, reset, leak, *inverse = np.broadcast_arrays(
        threshold, reset, _array(p.v_leak), *(_array(getattr(p, n)) for n in names)
    )
    tau = [1 / i for i in inverse]
    common = {"r": np.ones_like(threshold), "v_leak": leak, "v_threshold": threshold, "v_reset": reset}
    if isinstance(cell, LIFCell):
        return nir.CubaLIF(tau_mem=tau[0], tau_syn=tau[1], w_in=tau[1] / dt, **common)
    return nir.LIF(tau=tau[0], **common)


def _plain(layer: nn.Module) -> nir.NIRNode:
    if isinstance(layer, nn.Linear):
        weight = _array(layer.weight)
        return nir.Linear(weight) if layer.bias is None else nir.Affine(weight, _array(layer.bias))
    if isinstance(layer, nn.Conv2d):
        bias = np.zeros(layer.out_channels) if layer.bias is None else _array(layer.bias)
        return nir.Conv2d(None, _array(layer.weight), layer.stride, layer.padding, layer.dilation, layer.groups, bias)
    if isinstance(layer, nn.Flatten):
        return nir.Flatten(None, layer.start_dim - 1 if layer.start_dim > 0 else layer.start_dim, layer.end_dim)
    assert isinstance(layer, nn.AvgPool2d)
    pairs = [np.broadcast_to(np.array(v), (2,)) for v in (layer.kernel_size, layer.stride, layer.padding)]
    return nir.AvgPool2d(*pairs)
