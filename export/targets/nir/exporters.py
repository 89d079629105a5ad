"""What sinabs and Rockpool leave out of their NIR graphs, put back: how they decay, and the scale of their currents.

Both decay by exp(-dt / tau) per step; NIR readers integrate by Euler, 1 - dt / tau. Rockpool also leaves ``w_in`` at 1, which
under NIR's equations makes its currents tau_syn / dt times too small. Each function returns a graph that means, step by step and
spike by spike, what the framework runs; write it with `nir.write` and give ``taaf-export --reset subtract-many``.
"""

from typing import Any

import nir
import numpy as np

from taaf.export.targets.nir.neurons import array
from taaf.export.targets.nir.parts import inlined


def as_rockpool(graph: nir.NIRGraph, dt: float) -> nir.NIRGraph:
    """A graph of Rockpool's `to_nir` with the decays that Rockpool runs.

        i <- beta (i + x),  v <- alpha v + i,  alpha = exp(-dt / tau_mem),  beta = exp(-dt / tau_syn)      LIFTorch
        v <- alpha v + x                                                                                   LIFNeuronTorch
        v <- beta (v + x),  beta = exp(-dt / tau)                                                          ExpSynTorch

    Parameters
    ----------
    graph : nir.NIRGraph
        It is not changed.
    dt : float
        Time step of the modules in seconds (Rockpool's default: 1e-3).

    Examples
    --------
    >>> import nir, numpy as np
    >>> values = {k: np.full(4, v) for k, v in {"tau_mem": 0.02, "tau_syn": 0.01, "r": 19.0, "v_leak": 0.0, "v_threshold": 1.0}.items()}
    >>> nodes = {"input": nir.Input(np.array([1, 1, 3])), "w": nir.Linear(np.ones((4, 3))), "lif": nir.CubaLIF(**values),
    ...          "output": nir.Output(np.array([1, 1, 4]))}
    >>> written = nir.NIRGraph(nodes, [("input", "w"), ("w", "lif"), ("lif", "output")], type_check=False)
    >>> from taaf.export.targets.nir.read import from_nir
    >>> found = from_nir(as_rockpool(written, 1e-3), "net")
    >>> found.nets["net"].graph.input.shape, found.nets["net"].neurons["lif"].reset, found.dt
    ((3,), 'subtract-many', 0.001)
    """

    def change(node: Any) -> nir.NIRNode:
        if isinstance(node, nir.CubaLIF):
            tau_mem, tau_syn = _euler(node.tau_mem, dt), _euler(node.tau_syn, dt)
            w_in = tau_syn / dt * np.exp(-dt / array(node.tau_syn))
            return nir.CubaLIF(tau_mem=tau_mem, tau_syn=tau_syn, r=tau_mem / dt, w_in=w_in, **_rest(node))
        if isinstance(node, nir.LI):  # ExpSynTorch: v <- beta (v + x)
            tau = _euler(node.tau, dt)
            return nir.LI(tau=tau, r=tau / dt * np.exp(-dt / array(node.tau)), v_leak=array(node.v_leak))
        return nir.LIF(tau=(tau := _euler(node.tau, dt)), r=tau / dt, **_rest(node))

    return _changed(graph, dt, change)


def as_sinabs(graph: nir.NIRGraph) -> nir.NIRGraph:
    """A graph of sinabs' `to_nir` with the decays that sinabs runs; the time step is 1, because sinabs counts in steps.

        v <- alpha v + (1 - alpha) x,  alpha = exp(-1 / tau_mem)      LIF and ExpLeak with norm_input (its default)
        v <- v + x                                                    IAF, left as it is

    Examples
    --------
    >>> import nir, numpy as np
    >>> lif = nir.LIF(tau=np.array(20.0), r=np.array(1.0), v_leak=np.array(0.0), v_threshold=np.array(1.0))
    >>> nodes = {"input": nir.Input(np.array([3])), "w": nir.Linear(np.ones((4, 3))), "lif": lif, "output": nir.Output(np.array([4]))}
    >>> written = nir.NIRGraph(nodes, [("input", "w"), ("w", "lif"), ("lif", "output")], type_check=False)
    >>> from taaf.export.targets.nir.read import from_nir
    >>> found = from_nir(as_sinabs(written), "net")
    >>> found.nets["net"].graph.nodes["lif"].v_decay, round(4096 * (1 - np.exp(-1 / 20)))
    (200, 200)
    """

    def change(node: Any) -> nir.NIRNode:
        if isinstance(node, nir.LI):
            return nir.LI(tau=_euler(node.tau, 1.0), r=array(node.r), v_leak=array(node.v_leak))
        return node if isinstance(node, nir.CubaLIF) else nir.LIF(tau=_euler(node.tau, 1.0), r=array(node.r), **_rest(node))

    return _changed(graph, 1.0, change)


def _changed(graph: nir.NIRGraph, dt: float, change: Any) -> nir.NIRGraph:
    nodes, edges = inlined(graph, "graph")
    nodes = {n: change(node) if isinstance(node, nir.LIF | nir.CubaLIF | nir.LI) else node for n, node in nodes.items()}
    return nir.NIRGraph(nodes, edges, {**graph.metadata, "dt": dt, "reset": "subtract-many"}, type_check=False)


def _euler(tau: Any, dt: float) -> np.ndarray:
    """The tau whose Euler step 1 - dt / tau is exp(-dt / given tau)."""
    return dt / -np.expm1(-dt / array(tau))


def _rest(node: Any) -> dict[str, Any]:
    kept = {k: array(getattr(node, k)) for k in ("v_leak", "v_threshold")}
    reset = getattr(node, "v_reset", None)
    return {
        **kept,
        "v_reset": np.zeros_like(kept["v_threshold"]) if reset is None else array(reset),
        "metadata": dict(node.metadata),
    }
