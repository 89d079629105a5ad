"""NIR in: a ``.nir`` file, a NIR graph in memory, or Norse modules -> float-stage graphs.

What the neurons' parameters become is written in `taaf.export.targets.nir.neurons`, which layers there are in
`taaf.export.targets.nir.graph`. Differences that a NIR file cannot show (reset mode, initial voltage) are named there, too.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nir
import numpy as np

from taaf.export.targets.nir.file import load_nir, text
from taaf.export.targets.nir.graph import FloatNet, components, float_net
from taaf.export.targets.nir.neurons import array, time_step_hint
from taaf.models.errors import BundleError, UnsupportedLayerError

DEFAULT_DT = 1e-3
_PLAUSIBLE_STEPS = (1 - 1e-6, 1000.0)  # time constants in steps that the default time step may give


@dataclass(frozen=True)
class NirNets:
    """What a NIR graph holds.

    Attributes
    ----------
    nets : dict
        Branch name -> `FloatNet`.
    dt : float
        Time step in seconds.
    dt_source : str
        Where it comes from, in words.
    """

    nets: dict[str, FloatNet]
    dt: float
    dt_source: str


def read_nir(path: Path, dt: float | None = None) -> NirNets:
    """Read a file; a single branch is called like the file.

    Raises
    ------
    BundleError
        If the file cannot be read as NIR.
    UnsupportedLayerError, GraphError
        Naming the node that has no exact equivalent or does not fit.
    """
    graph = load_nir(path)
    try:
        return from_nir(graph, re.sub(r"[^A-Za-z0-9_-]", "_", path.stem) or "backbone", dt)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise BundleError(f"{path}: a value is not of NIR's form ({type(error).__name__}: {error})") from error


def from_nir(graph: nir.NIRGraph, name: str = "backbone", dt: float | None = None) -> NirNets:
    """Map a NIR graph with one chain, or with several that are not connected.

    Parameters
    ----------
    name : str
        Name of the branch; several are called as the file's metadata say, else ``<name>_<input node>``.
    dt : float, optional
        Time step in seconds; default: see `time_step`.
    """
    for node_name, node in graph.nodes.items():
        if not isinstance(node, nir.NIRNode):
            raise UnsupportedLayerError(f"{name}.{node_name}: a module without NIR equivalent; remove or replace it")
    step, source = time_step(graph, dt)
    parts = components(graph)
    stored = text(graph.metadata["branches"]).split() if "branches" in graph.metadata else []
    nets = {}
    for part in parts:
        branch, prefix = name, ""
        if len(stored) == len(parts) == 1:
            branch = stored[0]
        elif len(parts) > 1:
            own = [b for b in stored if all(n.startswith(f"{b}.") for n in part)]
            inputs = [n for n in part if isinstance(graph.nodes[n], nir.Input)]
            branch, prefix = (own[0], f"{own[0]}.") if own else (f"{name}_{(inputs or part)[0]}", "")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", branch) or branch in nets:
            raise BundleError(f"{name}: branch name {branch!r} is used twice or not allowed in a file name; rename the node")
        nets[branch] = float_net(graph, part, branch, step, prefix)
    return NirNets(nets, step, source)


def time_step(graph: nir.NIRGraph, dt: float | None) -> tuple[float, str]:
    """The time step, which NIR does not hold, and where it was found.

    In this order: given; ``dt`` in the graph's metadata (files of `taaf.export.targets.nir.write`); tau / R where that is one
    value for all leaky neurons and R != 1 (snnTorch and lava-dl write R = tau / dt, so that a weight of 1 adds 1 per step);
    1 ms (Norse's default), if there are time constants and it makes every one 1 to 1000 steps long.

    Raises
    ------
    UnsupportedLayerError
        If none applies, or the step is not positive.
    """
    if dt is not None or "dt" in graph.metadata:
        step = float(array(dt if dt is not None else graph.metadata["dt"]))
        if not 0 < step < np.inf:
            raise UnsupportedLayerError(f"time step {step:g}; allowed a positive number of seconds (--dt)")
        return step, "given" if dt is not None else "metadata of the file"
    if any(isinstance(n, nir.IF) for n in graph.nodes.values()) and not any(
        isinstance(n, nir.LIF | nir.CubaLIF) for n in graph.nodes.values()
    ):
        raise UnsupportedLayerError(
            "NIR holds no time step, and neurons of type IF alone do not show it: an input adds R dt to their voltage; give --dt "
            "in seconds, or --dt 1 where an input adds R per step (sinabs, snnTorch)"
        )
    leaky = [n for n in graph.nodes.values() if isinstance(n, nir.LIF | nir.CubaLIF)]
    taus = [array(n.tau if isinstance(n, nir.LIF) else n.tau_mem) for n in leaky]
    resistances = [array(n.r) for n in leaky]
    with np.errstate(all="ignore"):
        ratios = [(t / r).reshape(-1) for t, r in zip(taus, resistances, strict=True) if r.size and (r != 1).all()]
    if ratios and len(ratios) == len(leaky):
        ratio = np.concatenate(ratios)
        middle = float(np.median(ratio))
        if 0 < middle < np.inf and np.allclose(ratio, middle, rtol=1e-5, atol=0):
            return float(f"{middle:.6g}"), "tau / R of every neuron"  # six digits: tau and R are often float32
    steps = [t.reshape(-1) / DEFAULT_DT for t in [*taus, *(array(n.tau_syn) for n in leaky if isinstance(n, nir.CubaLIF))]]
    found = np.concatenate(steps) if steps else np.ones(1)
    if not _PLAUSIBLE_STEPS[0] <= found.min() <= found.max() <= _PLAUSIBLE_STEPS[1]:
        raise UnsupportedLayerError(
            f"NIR holds no time step, and with {DEFAULT_DT:g} s the time constants are {found.min():.3g} to {found.max():.3g} "
            f"steps long; give --dt in seconds.{time_step_hint(float(np.median(found)) * DEFAULT_DT)}"
        )
    return DEFAULT_DT, f"assumed {DEFAULT_DT:g} s: the file holds none"


def from_norse(module: Any, sample: Any, name: str = "backbone") -> NirNets:
    """Map a Norse network: norse -> NIR -> IR.

    nirtorch traces the modules, and every Norse cell becomes the NIR node that computes what the cell computes at its own
    ``dt``. Norse's own `to_nir` is not used: it writes ``tau dt`` for tau, leaves out the factor that LIFCell's current
    needs under NIR's equations (w_in = tau_syn / dt), drops v_reset and the reset method, and fails on convolutions without
    bias and on Flatten.

    | Norse | NIR | what it computes per step |
    |---|---|---|
    | LIFBoxCell | LIF, tau = 1 / tau_mem_inv, R = 1 | v <- v + dt tau_mem_inv (v_leak - v + x) |
    | LIFCell | CubaLIF, w_in = tau_syn / dt, R = 1 | i <- i + x; v <- v + dt tau_mem_inv (v_leak - v + i); i <- i - dt tau_syn_inv i |
    | IAFCell | IF, R = 1 / dt | v <- v + x |
    | Linear, Conv2d, Flatten, AvgPool2d | Linear or Affine, Conv2d, Flatten, AvgPool2d | |

    Parameters
    ----------
    module : torch.nn.Module
        E.g. a ``norse.torch.SequentialState``.
    sample : torch.Tensor
        One time step, (1, F) or (1, C, H, W).

    Raises
    ------
    UnsupportedLayerError
        Naming the module: another type, reset by subtraction, another reset than to v_leak, unequal time steps.
    """
    from taaf.export.targets.nir.norse_modules import norse_graph

    graph, dt = norse_graph(module, sample, name)
    found = from_nir(graph, name, dt)
    return NirNets(found.nets, dt, "dt of the Norse cells")
