"""Networks that came from NIR: after quantisation reference = engine = stock Lava, every spike of every layer."""

import nir
import nir_nets
import norse.torch as norse
import numpy as np
import pytest
import torch
from engines import run_engines
from nir_nets import chain, cuba, lif, weights
from on_lava import run_on_lava
from torch import nn

from taaf.export.limits import check_limits
from taaf.export.passes import CompileReport, compile_graph
from taaf.export.ptq.calibrate import calibrate
from taaf.export.targets.nir.from_torch import from_norse
from taaf.export.targets.nir.graph import FloatNet
from taaf.export.targets.nir.read import from_nir
from taaf.hw_sim.reference import run_reference

pytestmark = pytest.mark.needs_lava


def _by_hand() -> FloatNet:
    """Conv - LIF - flatten - CubaLIF - IF, a bias where one may be, a threshold per channel."""
    conv = nir.Conv2d(None, weights(0, 4, 2, 3, 3, scale=0.4), 2, 1, 1, 1, 0.1 * weights(1, 4))
    first = lif((4, 3, 3), v_threshold=np.broadcast_to(np.array([0.3, 0.4, 0.5, 0.6])[:, None, None], (4, 3, 3)).copy())
    flat = nir.Flatten({"input": np.array([4, 3, 3])}, 0, -1)
    last = nir.IF(np.full(4, 1e3), np.full(4, 0.9))
    layers = [conv, first, flat, nir.Linear(weights(2, 8, 36, scale=0.3)), cuba(8), nir.Linear(weights(3, 4, 8)), last]
    return from_nir(chain((2, 6, 6), *layers), "net", 1e-3).nets["net"]


def _from_norse() -> FloatNet:
    """A decay per neuron, and a readout that stays on the host."""
    torch.manual_seed(1)
    fast = norse.LIFBoxParameters(tau_mem_inv=torch.linspace(300.0, 500.0, 16), v_th=torch.tensor(0.1))
    last = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(400.0), v_th=torch.tensor(0.1))
    layers = (
        nn.Linear(20, 16),
        norse.LIFBoxCell(fast),
        nn.Linear(16, 6),
        norse.LIFBoxCell(last),
        nn.Linear(6, 3),
        norse.LICell(),
    )
    net = norse.SequentialState(*layers)
    return from_norse(net, torch.zeros(1, 20), "net").nets["net"]


@pytest.mark.parametrize("build", [_by_hand, _from_norse])
def test_three_executions_agree(build) -> None:  # type: ignore[no-untyped-def]
    """Four windows back to back."""
    net = build()
    x = nir_nets.spikes(net.graph.input.shape, n=4, steps=12, rate=0.4)
    calibrated, _, trace = calibrate(net, x)
    _, graph = compile_graph(calibrated.graph, True, CompileReport())
    check_limits(graph, state=False)
    fast, lava = run_engines(graph, x).spikes, run_on_lava(graph, x)
    exact = [run_reference(graph, window).spikes for window in x]
    for node in graph.lifs():
        wanted = np.stack([e[node.name] for e in exact])
        assert 0.01 < wanted.mean() < 0.95, node.name
        np.testing.assert_array_equal(fast[node.name], wanted, err_msg=node.name)
        np.testing.assert_array_equal(lava[node.name], wanted, err_msg=node.name)
        assert (trace.spikes[node.name] != wanted).mean() < 0.05
