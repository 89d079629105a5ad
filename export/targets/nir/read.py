"""NIR in: a ``.nir`` file or a NIR graph in memory -> float-stage graphs; torch networks: `taaf.export.targets.nir.from_torch`.

What the neurons' parameters become is written in `taaf.export.targets.nir.neurons`, which layers there are in
`taaf.export.targets.nir.graph`. Differences that a NIR file cannot show (reset mode, initial voltage) are named there, too.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nir
import numpy as np

from taaf.export.targets.nir.file import load_nir, text
from taaf.export.targets.nir.graph import FloatNet, float_net
from taaf.export.targets.nir.neurons import RESETS, array, step_hint
from taaf.export.targets.nir.parts import components, inlined
from taaf.models.errors import BundleError, UnsupportedLayerError

if TYPE_CHECKING:
    from taaf.export.targets.nir.replay import Replay

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
    replay : Replay or None
        For torch networks: how their spikes compare with the mapping's (`taaf.export.targets.nir.replay`).
    """

    nets: dict[str, FloatNet]
    dt: float
    dt_source: str
    replay: "Replay | None" = None


def read_nir(path: Path, dt: float | None = None, reset: str | None = None) -> NirNets:
    """Read a file; a single branch is called like the file.

    Parameters
    ----------
    dt : float, optional
        Time step in seconds; default: see `time_step`.
    reset : str, optional
        How the network's neurons reset, which the file does not hold: one of `taaf.export.targets.nir.neurons.RESETS`. Left out,
        the network can be read and run (as with hard reset), but not exported.

    Raises
    ------
    BundleError
        If the file cannot be read as NIR.
    UnsupportedLayerError, GraphError
        Naming the node that has no exact equivalent or does not fit.

    Notes
    -----
    What the exporters write:

    | written by | dt | reset | better |
    |---|---|---|---|
    | snnTorch's export_to_nir | found: tau / R = 1e-4 | "subtract-next", its default, or what was chosen | `from_snntorch`, which sees it |
    | Norse's to_nir(dt=0.001) | 1e-6 | "hard" | `from_norse`: the file lacks the scale of LIFCell's current |
    | sinabs' to_nir | found for IAF (1 / R = 1), else 1 | "subtract-many" | `taaf.export.targets.nir.exporters.as_sinabs` |
    | Rockpool's to_nir | that of its modules, 1e-3 | "subtract-many" | `taaf.export.targets.nir.exporters.as_rockpool` |
    | lava-dl's export | found: tau / R | "hard" | |
    | ``taaf-export --to nir`` | in the file | in the file | |

    Examples
    --------
    >>> import nir, numpy as np, tempfile
    >>> one = np.ones(4)
    >>> lif = nir.LIF(tau=4e-3 * one, r=one, v_leak=0 * one, v_threshold=0.4 * one)
    >>> nodes = {"input": nir.Input(np.array([3])), "w": nir.Linear(np.ones((4, 3))), "lif": lif, "output": nir.Output(np.array([4]))}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nir.write(f"{folder}/digits.nir", nir.NIRGraph(nodes, [("input", "w"), ("w", "lif"), ("lif", "output")]))
    ...     found = read_nir(Path(folder) / "digits.nir", reset="hard")
    >>> found.dt_source, found.nets["digits"].graph.nodes["lif"].v_decay
    ('assumed 0.001 s: the file holds none', 1024)
    """
    graph = load_nir(path)
    try:
        return from_nir(graph, re.sub(r"[^A-Za-z0-9_-]", "_", path.stem) or "backbone", dt, reset)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise BundleError(f"{path}: a value is not of NIR's form ({type(error).__name__}: {error})") from error


def from_nir(graph: nir.NIRGraph, name: str = "backbone", dt: float | None = None, reset: str | None = None) -> NirNets:
    """Map a NIR graph with one chain, or with several that are not connected.

    Parameters
    ----------
    name : str
        Name of the branch; several are called as the file's metadata say, else ``<name>_<input node>``.
    dt : float, optional
        Time step in seconds; default: see `time_step`.
    reset : str, optional
        As for `read_nir`.
    """
    if reset is not None and reset not in RESETS:
        raise UnsupportedLayerError(f"{name}: reset {reset!r}; allowed {', '.join(RESETS)}")
    nodes, edges = inlined(graph, name)
    for node_name, node in nodes.items():
        if not isinstance(node, nir.NIRNode):
            raise UnsupportedLayerError(f"{name}.{node_name}: a module without NIR equivalent; remove or replace it")
    step, source = time_step(nodes, graph.metadata, dt)
    parts = components(nodes, edges)
    known = text(graph.metadata["reset"]) if "reset" in graph.metadata else None
    if reset is not None and known not in (None, reset):
        raise UnsupportedLayerError(f"{name}: its metadata say reset {known!r}, not {reset!r}; leave the option out")
    stored = text(graph.metadata["branches"]).split() if "branches" in graph.metadata else []
    nets = {}
    for part in parts:
        branch, prefix = name, ""
        if len(stored) == len(parts) == 1:
            branch = stored[0]
        elif len(parts) > 1:
            own = [b for b in stored if all(n.startswith(f"{b}.") for n in part)]
            inputs = [n for n in part if isinstance(nodes[n], nir.Input)]
            branch, prefix = (own[0], f"{own[0]}.") if own else (f"{name}_{(inputs or part)[0]}", "")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", branch) or branch in nets:
            raise BundleError(f"{name}: branch name {branch!r} is used twice or not allowed in a file name; rename the node")
        own_edges = [(s, t) for s, t in edges if s in part]
        nets[branch] = float_net({n: nodes[n] for n in part}, own_edges, branch, step, prefix, known or reset)
    return NirNets(nets, step, source)


def time_step(nodes: dict[str, nir.NIRNode], metadata: dict[str, Any], dt: float | None) -> tuple[float, str]:
    """The time step, which NIR does not hold, and where it was found.

    In this order: given; ``dt`` in the graph's metadata (files of `taaf.export.targets.nir.write`); tau / R where that is one
    value for all leaky neurons and R != 1 (snnTorch and lava-dl write R = tau / dt, so that a weight of 1 adds 1 per step);
    1 / R where all neurons are IF with one R (sinabs and Norse write R = 1: a weight of 1 adds 1 per step); 1 ms (Norse's and
    Rockpool's default), if it makes every time constant 1 to 1000 steps long.

    Raises
    ------
    UnsupportedLayerError
        If none applies, or the step is not positive.
    """
    if dt is not None or "dt" in metadata:
        step = float(array(dt if dt is not None else metadata["dt"]))
        if not 0 < step < np.inf:
            raise UnsupportedLayerError(f"time step {step:g}; allowed a positive number of seconds (--dt)")
        return step, "given" if dt is not None else "metadata of the file"
    leaky = [n for n in nodes.values() if isinstance(n, nir.LIF | nir.CubaLIF)]
    taus = [array(n.tau if isinstance(n, nir.LIF) else n.tau_mem) for n in leaky]
    resistances = [array(n.r) for n in leaky]
    with np.errstate(all="ignore"):
        ratios = [(t / r).reshape(-1) for t, r in zip(taus, resistances, strict=True) if r.size and (r != 1).all()]
    if ratios and len(ratios) == len(leaky) and (ratio := _the_same(ratios)):
        return ratio, "tau / R of every neuron"
    whole = [1 / array(n.r).reshape(-1) for n in nodes.values() if isinstance(n, nir.IF) and array(n.r).all()]
    if whole and not leaky and (ratio := _the_same(whole)):
        return ratio, "1 / R of every IF neuron"
    steps = [t.reshape(-1) / DEFAULT_DT for t in [*taus, *(array(n.tau_syn) for n in leaky if isinstance(n, nir.CubaLIF))]]
    found = np.concatenate(steps) if steps else np.ones(1)
    if not _PLAUSIBLE_STEPS[0] <= found.min() <= found.max() <= _PLAUSIBLE_STEPS[1]:
        least = found.min() < _PLAUSIBLE_STEPS[0]
        raise UnsupportedLayerError(
            f"NIR holds no time step, and with {DEFAULT_DT:g} s the time constants are {found.min():.3g} to {found.max():.3g} "
            f"steps long; give --dt in seconds ({step_hint(DEFAULT_DT * float(found.min() if least else found.max()))})"
        )
    return DEFAULT_DT, f"assumed {DEFAULT_DT:g} s: the file holds none"


def _the_same(values: list[np.ndarray]) -> float | None:
    """The one positive value of all, to six digits (tau and R are often float32), or None."""
    ratio = np.concatenate(values)
    middle = float(np.median(ratio))
    if 0 < middle < np.inf and np.allclose(ratio, middle, rtol=1e-5, atol=0):
        return float(f"{middle:.6g}")
    return None
