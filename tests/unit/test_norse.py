"""Norse itself against the float reference of what its modules are mapped to. Not collected where Norse is missing."""

import json
from pathlib import Path

import nir
import nir_nets
import norse.torch as norse
import numpy as np
import pytest
import torch
from torch import nn

from taaf.export.ptq.float_reference import run_float
from taaf.export.targets.nir.export import export_nets
from taaf.export.targets.nir.from_torch import from_norse
from taaf.export.targets.nir.read import read_nir
from taaf.models.errors import UnsupportedLayerError

pytestmark = pytest.mark.needs_slayer


def _parameters(kind: type, **values: float) -> object:
    return kind(**{k: torch.tensor(v, dtype=torch.float64) for k, v in values.items()})


def _norse_net() -> norse.SequentialState:
    torch.manual_seed(3)
    return norse.SequentialState(
        nn.Conv2d(2, 4, 3, stride=(2, 1), padding=(1, 0), bias=False),
        norse.LIFBoxCell(_parameters(norse.LIFBoxParameters, tau_mem_inv=230.0, v_th=0.05)),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        norse.LIFBoxCell(_parameters(norse.LIFBoxParameters, tau_mem_inv=410.0, v_th=0.06, v_leak=-0.1, v_reset=-0.1)),
        nn.Flatten(),
        nn.Linear(4 * 4 * 5, 12, bias=False),
        norse.LIFCell(_parameters(norse.LIFParameters, tau_mem_inv=250.0, tau_syn_inv=310.0, v_th=0.1)),
        nn.Linear(12, 6),
        norse.IAFCell(_parameters(norse.IAFParameters, v_th=0.9, v_reset=0.0)),
    ).double()  # fmt: skip


def _run_norse(net: norse.SequentialState, x: np.ndarray) -> np.ndarray:
    out, state = [], None
    with torch.no_grad():
        for step in range(x.shape[-1]):
            z, state = net(torch.from_numpy(x[..., step]).double(), state)
            out.append(z.numpy())
    return np.stack(out, -1)


def test_norse_modules_equal_the_float_reference() -> None:
    """LIFBox, LIF and IAF cells, convolution, flatten: every output spike of Norse (float64) equals ours."""
    net, x = _norse_net(), nir_nets.spikes((2, 7, 7), n=6, steps=50)
    found = from_norse(net, torch.zeros(1, 2, 7, 7, dtype=torch.float64))
    assert found.dt == 1e-3 and found.dt_source == "dt of the Norse cells"
    trace = run_float(found.nets["backbone"], x)
    wanted = _run_norse(net, x)
    assert 0.01 < wanted.mean() < 0.9 and all(0.005 < s.mean() < 0.95 for s in trace.spikes.values())
    np.testing.assert_array_equal(trace.spikes["8"], wanted)


@pytest.mark.parametrize("cell", ["LIFBoxCell", "LIFCell"])
def test_norse_cells_equal_the_float_reference(cell: str) -> None:
    """One cell with strong input over 80 steps: spikes equal, for time constants from 1 to 200 steps."""
    x = nir_nets.spikes((30,), n=8, steps=80)
    for inverse in (5.0, 97.0, 500.0, 950.0):
        values = {"tau_mem_inv": inverse, "v_th": 0.3} | ({"tau_syn_inv": 400.0} if cell == "LIFCell" else {})
        kind = getattr(norse, cell.replace("Cell", "Parameters"))
        torch.manual_seed(int(inverse))
        net = norse.SequentialState(nn.Linear(30, 10), getattr(norse, cell)(_parameters(kind, **values))).double()
        if cell == "LIFCell":
            nn.init.zeros_(net[0].bias)
        (mapped,) = from_norse(net, torch.zeros(1, 30, dtype=torch.float64)).nets.values()
        np.testing.assert_array_equal(run_float(mapped, x).spikes["1"], _run_norse(net, x), err_msg=f"{inverse}")


def test_norses_own_files_need_their_step(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Norse's to_nir writes tau dt: refused without --dt with the cure in the message, right with it."""
    torch.manual_seed(0)
    net = norse.SequentialState(nn.Linear(12, 9), norse.LIFBoxCell(norse.LIFBoxParameters(tau_mem_inv=torch.tensor(200.0))))
    graph = norse.to_nir(net, torch.zeros(1, 12))
    nir.write(tmp_path / "norse.nir", graph, compression=None)  # nir.write cannot compress scalars
    with pytest.raises(UnsupportedLayerError, match="give --dt in seconds.*1e-06"):
        read_nir(tmp_path / "norse.nir")
    (mapped,) = read_nir(tmp_path / "norse.nir", 1e-6).nets.values()
    (direct,) = from_norse(net, torch.zeros(1, 12)).nets.values()
    assert mapped.graph.nodes["1"].v_decay == direct.graph.nodes["1"].v_decay == round(4096 * 0.2)
    np.testing.assert_allclose(mapped.graph.nodes["0"].weight, direct.graph.nodes["0"].weight, rtol=1e-5)


def test_norse_refusals() -> None:
    """Another reset, subtraction, recurrent or temporal modules, unequal steps: named by module."""
    box = norse.LIFBoxCell

    def read(*layers: nn.Module, features: int = 3) -> None:
        from_norse(norse.SequentialState(*layers), torch.zeros(1, features), "net")

    with pytest.raises(
        UnsupportedLayerError, match=r"net\.1: its reset is 'subtract'; the chip resets to zero.*convert_reset=True"
    ):
        read(nn.Linear(3, 2), box(norse.LIFBoxParameters(reset_method=norse.functional.reset.reset_subtract)))
    with pytest.raises(UnsupportedLayerError, match=r"net\.1: v_leak 0.0 differs from v_reset -1.0"):
        read(nn.Linear(3, 2), box(norse.LIFBoxParameters(v_reset=torch.tensor(-1.0))))
    with pytest.raises(UnsupportedLayerError, match=r"net\.1: LSNNCell is not supported"):
        read(nn.Linear(3, 2), norse.LSNNCell())
    with pytest.raises(UnsupportedLayerError, match=r"net\.1: runs over \(time, batch, \.\.\.\): give time_axis=0"):
        read(nn.Linear(3, 2), norse.LIF())
    with pytest.raises(UnsupportedLayerError, match=r"net\.1: Dropout in training mode; call \.eval\(\)"):
        read(nn.Linear(3, 2), nn.Dropout(), box())
    with pytest.raises(UnsupportedLayerError, match=r"net\.1: ReLU is not supported"):
        read(nn.Linear(3, 2), nn.ReLU(), box())
    with pytest.raises(UnsupportedLayerError, match=r"net: time steps differ: net\.1 0.001, net\.3 0.002"):
        read(nn.Linear(3, 2), box(), nn.Linear(2, 2), box(dt=0.002))
    with pytest.raises(UnsupportedLayerError, match=r"backbone\.0: AvgPool2d with ceil_mode"):
        from_norse(norse.SequentialState(nn.AvgPool2d(2, ceil_mode=True), box()), torch.zeros(1, 1, 4, 4))
    with pytest.raises(UnsupportedLayerError, match=r"backbone\.0: Conv2d with padding mode 'circular'"):
        from_norse(norse.SequentialState(nn.Conv2d(1, 1, 3, padding_mode="circular"), box()), torch.zeros(1, 1, 4, 4))

    with pytest.raises(UnsupportedLayerError, match="does not run on the sample"):
        read(nn.Linear(3, 2), box(), features=4)


def test_norse_modules_to_a_folder(tmp_path: Path) -> None:
    """Norse -> IR -> folder in memory, with a measured report."""
    torch.manual_seed(0)
    fast = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(400.0), v_th=torch.tensor(0.1))
    module = norse.SequentialState(
        torch.nn.Linear(20, 16), norse.LIFBoxCell(fast), torch.nn.Linear(16, 6), norse.LIFBoxCell(fast)
    )
    nets = from_norse(module, torch.zeros(1, 20)).nets
    report = export_nets(nets, tmp_path / "net", {"backbone": nir_nets.spikes((20,))}, np.arange(6))
    assert json.loads((tmp_path / "net/report.json").read_text()) == report
    layers = report["branches"]["backbone"]["deviation"]["layers"]
    assert len(layers) == 2 and all(line["float_spikes"] > 50 and line["differing_fraction"] < 0.05 for line in layers)
