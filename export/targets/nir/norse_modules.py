"""Norse's neurons -> NIR nodes with the same values per step; the mapping is in `taaf.export.targets.nir.read.from_norse`."""

from typing import Any

import nir
import numpy as np
from norse import torch as norse
from norse.torch.functional.reset import reset_subtract, reset_value
from norse.torch.module.iaf import IAF
from torch import nn

from taaf.export.targets.nir.torch_layers import Layer, linear, plain_layer, recurrent, values
from taaf.models.errors import UnsupportedLayerError

DEFAULT_DT = 1e-3
TIMED = (norse.LIF, norse.LIFRecurrent, norse.LI, IAF, norse.Lift)
_RECURRENT = (norse.LIFRecurrentCell, norse.LIFRecurrent)
_CURRENT = (norse.LIFCell, norse.LIF, *_RECURRENT)
_READOUTS = (norse.LICell, norse.LI, norse.LIBoxCell, norse.LILinearCell)
_IAF = (norse.IAFCell, IAF)
NEURONS = (norse.LIFBoxCell, *_CURRENT, *_IAF)
_RESETS = {reset_value: "hard", reset_subtract: "subtract"}


def norse_layer(where: str, module: nn.Module, shape: tuple[int, ...], dt: float) -> Layer | None:
    """A layer of Norse or a plain one in NIR; None for other types."""
    if type(module) is norse.Lift:
        inner = plain_layer(where, module.lifted_module)
        if inner is None:
            raise UnsupportedLayerError(
                f"{where}: Lift of {type(module.lifted_module).__name__}; allowed plain layers; LIF has its own time"
            )
        return inner
    if type(module) in NEURONS:
        return _neurons(where, module, dt)
    if type(module) in _READOUTS:
        return _integrator(module, dt)
    return plain_layer(where, module)


def time_step_of(module: nn.Module, name: str) -> float:
    """The one dt of all cells."""
    steps = {f"{name}.{n}": float(m.dt) for n, m in module.named_modules() if type(m) in (*NEURONS, *_READOUTS)}
    if len(set(steps.values())) > 1:
        raise UnsupportedLayerError(f"{name}: time steps differ: {', '.join(f'{k} {v:g}' for k, v in steps.items())}")
    return next(iter(steps.values()), DEFAULT_DT)


def _neurons(where: str, cell: Any, dt: float) -> Layer:
    p = cell.p
    method = getattr(p, "reset_method", reset_value)
    if method not in _RESETS:
        raise UnsupportedLayerError(f"{where}: reset method {method.__name__}; allowed reset_value and reset_subtract")
    metadata = {"reset": _RESETS[method]}
    leak, reset = values(getattr(p, "v_leak", p.v_reset)), values(p.v_reset)
    if (leak != reset).any():
        raise UnsupportedLayerError(f"{where}: v_leak {leak} differs from v_reset {reset}; allowed equal values")
    threshold, reset = np.broadcast_arrays(values(p.v_th), reset)
    if type(cell) in _IAF:
        return Layer(nir.IF(r=np.full_like(threshold, 1 / dt), v_threshold=threshold, v_reset=reset, metadata=metadata), "")
    names = ("tau_mem_inv", "tau_syn_inv") if type(cell) in _CURRENT else ("tau_mem_inv",)
    threshold, reset, leak, *inverse = np.broadcast_arrays(threshold, reset, leak, *(values(getattr(p, n)) for n in names))
    with np.errstate(divide="ignore"):
        tau = [1 / i for i in inverse]
    common = {"r": np.ones_like(threshold), "v_leak": leak, "v_threshold": threshold, "v_reset": reset, "metadata": metadata}
    if type(cell) not in _CURRENT:
        return Layer(nir.LIF(tau=tau[0], **common), "")
    lif = nir.CubaLIF(tau_mem=tau[0], tau_syn=tau[1], w_in=tau[1] / dt, **common)
    if type(cell) not in _RECURRENT:
        return Layer(lif, "")
    return Layer(recurrent(lif, linear(cell.recurrent_weights), linear(cell.input_weights)), "lif", flat=True)


def _integrator(cell: Any, dt: float) -> Layer:
    p = cell.p
    names = ("tau_mem_inv",) if type(cell) is norse.LIBoxCell else ("tau_mem_inv", "tau_syn_inv")
    leak, *inverse = np.broadcast_arrays(values(p.v_leak), *(values(getattr(p, n)) for n in names))
    tau = [1 / i for i in inverse]
    if type(cell) is norse.LIBoxCell:
        return Layer(nir.LI(tau=tau[0], r=np.ones_like(leak), v_leak=leak))
    integrator = nir.CubaLI(tau_mem=tau[0], tau_syn=tau[1], r=np.ones_like(leak), v_leak=leak, w_in=tau[1] / dt)
    if type(cell) is not norse.LILinearCell:
        return Layer(integrator)
    nodes = {
        "input": nir.Input(np.array([1])),
        "w_in": linear(cell.input_weights),
        "li": integrator,
        "output": nir.Output(np.array([1])),
    }
    edges = [("input", "w_in"), ("w_in", "li"), ("li", "output")]
    return Layer(nir.NIRGraph(nodes, edges, type_check=False), flat=True)
