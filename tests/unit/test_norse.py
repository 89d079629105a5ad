"""Norse itself against the float reference of what its modules are mapped to. Not collected where Norse is missing."""

import doctest
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
from taaf.models.errors import ParityError, UnsupportedLayerError

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


def _box(v_th: float = 0.1) -> norse.LIFBoxCell:
    return norse.LIFBoxCell(_parameters(norse.LIFBoxParameters, tau_mem_inv=400.0, v_th=v_th))


def _current(v_th: float = 0.1) -> object:
    return _parameters(norse.LIFParameters, tau_mem_inv=400.0, tau_syn_inv=300.0, v_th=v_th)


class _Own(nn.Module):
    """A forward of one step: functional pooling, flatten, two currents added, a list of states."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first = nn.Conv2d(2, 4, 3), _box()
        self.one, self.two, self.last = nn.Linear(36, 5), nn.Linear(36, 5, bias=False), _box()

    def forward(self, x: torch.Tensor, state: list | None = None) -> tuple[torch.Tensor, list]:
        s1, s2 = state or [None, None]
        z, s1 = self.first(self.conv(x), s1)
        z = nn.functional.avg_pool2d(z, 2).flatten(1)
        z, s2 = self.last(self.one(z) + self.two(z), s2)
        return z, [s1, s2]


class _Shortcut(nn.Module):
    """Spikes join a current: a residual block with identity shortcut."""

    def __init__(self, wide: int = 4) -> None:
        super().__init__()
        self.stem, self.inner, self.out = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(64 * wide, 5)
        self.lif1, self.lif2, self.lif3 = _box(), _box(), _box()

    def forward(self, x: torch.Tensor, state: list | None = None) -> tuple[torch.Tensor, list]:
        state = state or [None] * 3
        h, state[0] = self.lif1(self.stem(x), state[0])
        g, state[1] = self.lif2(self.inner(h) + h, state[1])
        z, state[2] = self.lif3(self.out(torch.flatten(g, 1)), state[2])
        return z, state


class _Beside(_Shortcut):
    """Spikes of two layers beside each other, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__(8)

    def forward(self, x: torch.Tensor, state: list | None = None) -> tuple[torch.Tensor, list]:
        state = state or [None] * 3
        h, state[0] = self.lif1(self.stem(x), state[0])
        g, state[1] = self.lif2(self.inner(h), state[1])
        z, state[2] = self.lif3(self.out(torch.cat([g, h], 1).flatten(1)), state[2])
        return z, state


class _Loop(_Own):
    """A forward that loops over time, indexes its input and stacks what comes out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        s1 = s2 = None
        out = []
        for t in range(x.shape[0]):
            z, s1 = self.first(self.conv(x[t]), s1)
            z = nn.functional.max_pool2d(z, 2)
            z, s2 = self.last(self.one(z.view(z.shape[0], -1)), s2)
            out.append(z)
        return torch.stack(out)


class _Fades(_Own):
    """Changes a state by hand, which one step cannot show."""

    def forward(self, x: torch.Tensor, state: list | None = None) -> tuple[torch.Tensor, list]:
        if state is not None:
            state = [type(state[0])(0.1 * state[0].v), state[1]]
        return super().forward(x, state)


class _Doubles(_Own):
    def forward(self, x: torch.Tensor, state: list | None = None) -> tuple[torch.Tensor, list]:
        return self.first(2 * self.conv(x)), []


class _Repeats(_Own):
    """Shows one picture for several steps."""

    def forward(self, x: torch.Tensor, state: list | None = None) -> tuple[torch.Tensor, list]:
        for _ in range(3):
            z, _ = self.first(self.conv(x))
        return z, []


class _Remembers(_Own):
    """A recurrence by hand: weights on the spikes of the step before."""

    def forward(self, x: torch.Tensor, state: list | None = None) -> tuple[torch.Tensor, list]:
        z, s1 = self.first(self.conv(x), state and state[1])
        fed_back = self.one(torch.zeros(1, 36) if state is None else state[0])
        return z, [nn.functional.avg_pool2d(z, 2).flatten(1) + 0 * fed_back.sum(), s1]


class _Decides(_Own):
    def forward(self, x: torch.Tensor, state: list | None = None) -> tuple[torch.Tensor, list]:
        z, s1 = self.first(self.conv(x))
        return (z, [s1]) if (z > 0).any() else (x, [s1])


def _norm() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-0.2, 0.2)
    norm.running_var.uniform_(0.5, 2.0)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    return norm


MAPS, FLAT = (2, 8, 8), (12,)
NETWORKS = {
    "recurrent cell": (FLAT, None, lambda: [
        norse.LIFRecurrentCell(12, 9, _current()), nn.Linear(9, 4, bias=False), norse.LIFCell(_current()),
    ]),
    "batch norm, dropout, pools": (MAPS, None, lambda: [
        nn.Conv2d(2, 4, 3), _norm(), _box(), nn.Dropout(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 2), _box(0.02), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(4, 3), _box(0.02),
    ]),
    "modules with time": (FLAT, 0, lambda: [
        nn.Linear(12, 9, bias=False), norse.LIF(_current()), norse.LIFRecurrent(9, 6, _current()), nn.Linear(6, 3), norse.LI(),
    ]),
    "lifted convolution": ((1, 8, 8), 0, lambda: [
        norse.Lift(nn.Conv2d(1, 4, 3, bias=False)), norse.LIF(_current(0.02)), nn.Flatten(2), nn.Linear(144, 3, bias=False),
        norse.LIF(_current(0.02)),
    ]),
    "identity shortcut": (MAPS, None, lambda: [_Shortcut()]), "dense block": (MAPS, None, lambda: [_Beside()]),
    "own forward": (MAPS, None, lambda: [_Own()]), "own loop": (MAPS, 0, lambda: [_Loop()]),
}  # fmt: skip


@pytest.mark.parametrize("case", NETWORKS)
def test_networks_as_users_write_them(case: str) -> None:
    """Recorded in one step, run over 24: every neuron of every layer fires as the mapping's, and the module is left as it was."""
    shape, time_axis, build = NETWORKS[case]
    torch.manual_seed(0)
    layers = build()
    module = (layers[0] if len(layers) == 1 else norse.SequentialState(*layers)).eval()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    found = from_norse(module, torch.zeros(1, *(() if time_axis is None else (1,)), *shape), "net", time_axis=time_axis)
    net, replay = found.nets["net"], found.replay
    assert net.graph.input.shape == shape and replay is not None
    assert replay.differing == 0 and replay.steps == 24 and 0.02 < replay.spikes / replay.neuron_steps < 0.9
    assert replay.neuron_steps == 24 * sum(int(np.prod(net.graph.shapes[lif.name])) for lif in net.graph.lifs())
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items()) and not module.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


@pytest.mark.parametrize("readout", [norse.LICell, norse.LILinearCell, norse.LIBoxCell])
def test_integrators_are_the_hosts(readout: type) -> None:
    """The backbone ends at the last spikes, and what the host computes from them is what Norse's integrator gives."""
    torch.manual_seed(0)
    last = [norse.LILinearCell(9, 4)] if readout is norse.LILinearCell else [nn.Linear(9, 4, bias=False), readout()]
    module = norse.SequentialState(nn.Linear(12, 9), _box(), *last)
    net = from_norse(module, torch.zeros(1, 12), "net").nets["net"]
    assert net.graph.output == "1" and net.readout is not None
    x = nir_nets.spikes((12,), n=3, steps=30)
    wanted = _run_norse(module.double(), x)
    assert np.abs(wanted).max() > 0.05
    np.testing.assert_allclose(net.readout.run(run_float(net, x).spikes["1"]), wanted, rtol=1e-5, atol=1e-7)


def test_what_recording_refuses() -> None:
    """Arithmetic between layers with the user's line; states changed by hand, by what the neurons then do; loops that repeat."""
    torch.manual_seed(0)
    sample = torch.zeros(1, 2, 8, 8)
    with pytest.raises(UnsupportedLayerError, match=r"net \(.*test_norse\.py:\d+\): mul of a recorded value is not supported"):
        from_norse(_Doubles().eval(), sample, "net")
    with pytest.raises(ParityError, match=r"net\.first: run over 24 steps.*neuron-steps differ.*states changed by hand"):
        from_norse(_Fades().eval(), sample, "net")
    with pytest.raises(UnsupportedLayerError, match=r"net\.conv: runs twice in one forward; record one time step"):
        from_norse(_Repeats().eval(), sample, "net")
    with pytest.raises(
        UnsupportedLayerError, match=r"net\.one: what it is given does not come from the network's input in this step"
    ):
        from_norse(_Remembers().eval(), sample, "net")
    with pytest.raises(UnsupportedLayerError, match=r"net \(.*\): gt of a recorded value is not supported"):
        from_norse(_Decides().eval(), sample, "net")


def test_subtraction_is_converted_on_request() -> None:
    """reset_subtract: the float reference subtracts as Norse does."""
    torch.manual_seed(0)
    values = {"tau_mem_inv": torch.tensor(400.0, dtype=torch.float64), "v_th": torch.tensor(0.1, dtype=torch.float64)}
    cell = norse.LIFBoxCell(norse.LIFBoxParameters(reset_method=norse.functional.reset.reset_subtract, **values))
    module, x = norse.SequentialState(nn.Linear(12, 9), cell).double(), nir_nets.spikes((12,), n=4, steps=50)
    found = from_norse(module, torch.zeros(1, 12, dtype=torch.float64), "net", convert_reset=True)
    assert found.nets["net"].neurons["1"].reset == "subtract"
    np.testing.assert_array_equal(run_float(found.nets["net"], x).spikes["1"], _run_norse(module, x))


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


def test_examples_of_the_faces() -> None:
    """The docstrings' examples run."""
    from taaf.export.targets.nir import from_torch

    found = doctest.testmod(from_torch)
    assert found.attempted >= 9 and found.failed == 0
