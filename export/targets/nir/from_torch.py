"""Networks of Norse and snnTorch in memory -> float-stage graphs: run once, mapped cell by cell, then run against the mapping."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import nir
import torch
from torch import nn

from taaf.export.targets.nir.parts import inlined
from taaf.export.targets.nir.read import NirNets, from_nir
from taaf.export.targets.nir.record import Convert, record
from taaf.export.targets.nir.replay import replay
from taaf.export.targets.nir.torch_layers import Layer
from taaf.models.errors import UnsupportedLayerError
from taaf.models.shell.pictures import allow_matplotlib


def from_norse(
    module: nn.Module,
    sample: torch.Tensor,
    name: str = "backbone",
    *,
    convert_reset: bool = False,
    time_axis: int | None = None,
) -> NirNets:
    """Map a Norse network: a `SequentialState`, or a module with a ``forward`` of its own.

    The network runs once on the sample and is recorded (`taaf.export.targets.nir.record`); every cell becomes the NIR node that
    computes what the cell computes at its own ``dt``. Then network and mapping run side by side, and every spike is compared
    (`taaf.export.targets.nir.replay`). The module is not changed. Norse's own `to_nir` is not used: it writes ``tau dt`` for tau,
    leaves out the factor that LIFCell's current needs under NIR's equations (w_in = tau_syn / dt), drops v_reset and the reset
    method, and fails on convolutions without bias and on Flatten.

    | Norse | NIR | what it computes per step |
    |---|---|---|
    | LIFBoxCell | LIF, tau = 1 / tau_mem_inv, R = 1 | v <- v + dt tau_mem_inv (v_leak - v + x) |
    | LIFCell, LIF | CubaLIF, w_in = tau_syn / dt, R = 1 | i <- i + x; v <- v + dt tau_mem_inv (v_leak - v + i); i <- i - dt tau_syn_inv i |
    | LIFRecurrentCell, LIFRecurrent | Linear, CubaLIF, Linear back to it | the same with x = W_in s(t) + W_rec s_out(t-1) |
    | IAFCell, IAF | IF, R = 1 / dt | v <- v + x |
    | LICell, LI, LIBoxCell, LILinearCell at the end | CubaLI, LI | the host's: `NirNets.nets[...].readout` |
    | Linear, Conv2d, BatchNorm1d/2d, Flatten, AvgPool2d, MaxPool2d (of spikes), Dropout, Lift of one of them | | in eval mode |

    Parameters
    ----------
    module : torch.nn.Module
        In eval mode. Its forward takes one step, ``module(x, state)``, or loops over time (then give ``time_axis``).
    sample : torch.Tensor
        One item, e.g. (1, F) or (1, C, H, W); with ``time_axis=0`` (1, 1, F) or (1, 1, C, H, W). Of several items or steps, the
        first is taken.
    convert_reset : bool
        Take cells that reset by subtraction, too. They become hard resets, as on the chip, and the deviation report of
        `taaf.export.targets.nir.export.export_nets` measures against the subtracting network.
    time_axis : int, optional
        Axis of time, 0 or 1, of a network that takes sequences (LIF, LI, LIFRecurrent: 0).

    Returns
    -------
    NirNets
        With one branch, and the counts of the comparison in ``replay``.

    Raises
    ------
    UnsupportedLayerError
        Naming the module or the line: another type, reset by subtraction (without ``convert_reset``), another reset than to v_leak,
        unequal time steps, a call between layers that has no equivalent.
    ParityError
        If the network does not fire as its mapping does.

    Examples
    --------
    >>> import norse.torch as norse, numpy as np, torch
    >>> fast = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(400.0), v_th=torch.tensor(0.1))
    >>> net = norse.SequentialState(torch.nn.Linear(20, 8), norse.LIFBoxCell(fast), torch.nn.Linear(8, 3), norse.LICell()).eval()
    >>> found = from_norse(net, torch.zeros(1, 20), "digits")
    >>> [lif.name for lif in found.nets["digits"].graph.lifs()], [n for n, _ in found.nets["digits"].readout.layers]
    (['1'], ['2', '3'])
    >>> found.replay.steps, found.replay.differing
    (24, 0)

    Then ``export_nets(found.nets, Path("digits"), {"digits": windows})`` quantises, verifies and writes it.
    """
    allow_matplotlib()  # Norse imports it
    from taaf.export.targets.nir.norse_modules import TIMED, norse_layer, time_step_of

    dt = time_step_of(module, name)
    if time_axis is None and (timed := next((n for n, m in module.named_modules() if type(m) in TIMED), None)) is not None:
        raise UnsupportedLayerError(
            f"{name}.{timed}: runs over (time, batch, ...): give time_axis=0 and a sample with an axis of time"
        )

    def convert(where: str, part: nn.Module, shape: tuple[int, ...]) -> Layer | None:
        return norse_layer(where, part, shape, dt)

    return _mapped(module, sample, name, convert, lambda _: None, (dt, "dt of the Norse cells"), convert_reset, time_axis)


def from_snntorch(
    module: nn.Module,
    sample: torch.Tensor,
    name: str = "backbone",
    *,
    convert_reset: bool = False,
    time_axis: int | None = None,
) -> NirNets:
    """Map an snnTorch network: a `torch.nn.Sequential` of neurons with ``init_hidden=True``, or a module with its own ``forward``.

    As `from_norse`. snnTorch's `export_to_nir` is not used: it drops the reset mechanism, and nir refuses its numbers without axes.

    | snnTorch | NIR, with dt = 1 step | what it computes per step |
    |---|---|---|
    | Leaky | LIF, tau = R = 1 / (1 - beta) (IF for beta 1) | v <- beta v + x |
    | Synaptic | CubaLIF, tau_syn = w_in = 1 / (1 - alpha), tau_mem = R = 1 / (1 - beta) | i <- alpha i + x; v <- beta v + i |
    | RLeaky, RSynaptic | the same and a Linear back to it | x = input + W_rec s_out(t-1) |
    | Linear, Conv2d, BatchNorm1d/2d, Flatten, AvgPool2d, MaxPool2d (of spikes), Dropout | | in eval mode |

    ``reset_mechanism="zero"`` of a Leaky is the chip's hard reset, with either ``reset_delay``; of the others with
    ``reset_delay=False``. ``"subtract"``, snnTorch's default, is refused unless ``convert_reset=True``.

    Parameters
    ----------
    module, sample, convert_reset, time_axis
        As for `from_norse`. Decays and thresholds may differ between the neurons of a flat layer or the channels of a map.

    Raises
    ------
    UnsupportedLayerError, ParityError
        As `from_norse`.

    Examples
    --------
    >>> import snntorch, torch
    >>> neurons = {"init_hidden": True, "reset_mechanism": "zero"}
    >>> net = torch.nn.Sequential(torch.nn.Linear(20, 8), snntorch.Leaky(beta=0.9, threshold=0.1, **neurons)).eval()
    >>> found = from_snntorch(net, torch.zeros(1, 20), "digits")
    >>> found.nets["digits"].graph.nodes["1"].v_decay, found.nets["digits"].neurons["1"].reset
    (410, 'hard')
    """
    from taaf.export.targets.nir.snntorch_modules import DT, reset_states, snntorch_layer

    return _mapped(module, sample, name, snntorch_layer, reset_states, (DT, "steps of snnTorch"), convert_reset, time_axis)


def _mapped(
    module: nn.Module, sample: torch.Tensor, name: str, convert: Convert, reset: Callable[[nn.Module], None], step: tuple[float, str],
    convert_reset: bool, time_axis: int | None,
) -> NirNets:  # fmt: skip
    if sample.ndim < (2 if time_axis is None else 3):
        raise UnsupportedLayerError(
            f"{name}: sample {tuple(sample.shape)}; allowed one with an axis of items, and of time with time_axis"
        )
    for axis in range(1 if time_axis is None else 2):
        sample = sample.narrow(axis, 0, 1)
    with _states_kept(module):
        reset(module)
        graph, neurons = record(module, sample, name, convert)
        soft = [
            (n, how) for n, node in inlined(graph, name)[0].items() if (how := node.metadata.get("reset", "hard")) != "hard"
        ]
        if soft and not convert_reset:
            raise UnsupportedLayerError(
                f"{name}.{soft[0][0]}: its reset is {soft[0][1]!r}; the chip resets to zero in the step of the spike, so it would run "
                "another network: train with that (Norse: reset_value; snnTorch: reset_mechanism='zero', reset_delay=False), or give "
                "convert_reset=True to convert it and have the deviation measured"
            )
        found = from_nir(_with_output(graph), name, step[0])
        (net,) = found.nets.values()
        return NirNets(found.nets, step[0], step[1], replay(module, sample, net, neurons, time_axis, reset))


def _with_output(graph: nir.NIRGraph) -> nir.NIRGraph:
    """Without layers whose values the network does not return (e.g. a branch that only a loss reads)."""
    needed, todo = set[str](), ["output"]
    while todo:
        name = todo.pop()
        if name not in needed:
            needed.add(name)
            todo += [s for s, t in graph.edges if t == name]
    nodes = {n: node for n, node in graph.nodes.items() if n in needed}
    return nir.NIRGraph(nodes, [e for e in graph.edges if set(e) <= needed], type_check=False)


@contextmanager
def _states_kept(module: nn.Module) -> Iterator[None]:
    """Buffers and plain tensors that the run changes (states of neurons) are put back afterwards."""
    before: list[tuple[nn.Module, dict[str, Any], dict[str, Any]]] = [
        (m, dict(m._buffers), {k: v for k, v in vars(m).items() if isinstance(v, torch.Tensor)}) for m in module.modules()
    ]
    try:
        yield
    finally:
        for part, buffers, tensors in before:
            part._buffers.update(buffers)
            vars(part).update(tensors)
