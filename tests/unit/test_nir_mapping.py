"""NIR's differential equations -> decays and weights, against closed forms and against Norse and snnTorch themselves."""

import nir
import nir_nets
import norse.torch as norse
import numpy as np
import pytest
import snntorch
import torch
from nir_nets import DT, chain, cuba, full, lif, weights
from snntorch.export_nir import export_to_nir
from torch import nn

from taaf.export.float_reference import run_float
from taaf.export.nir_graph import FloatNet
from taaf.export.nir_reader import from_nir, from_norse, read_nir
from taaf.models.errors import TaafError, UnsupportedLayerError
from taaf.models.ir import Conv2d, Dense, Lif, RecurrentDense, Sum


def only(graph: nir.NIRGraph, dt: float | None = DT) -> FloatNet:
    """The one branch of a graph."""
    (net,) = from_nir(graph, "net", dt).nets.values()
    return net


def euler(graph: nir.NIRGraph, x: np.ndarray) -> np.ndarray:
    """NIR's equations for Linear/Affine + neuron chains in plain loops, in NIR's own units: (F, T) -> (F', T)."""
    nodes = [graph.nodes[t] for _, t in graph.edges]
    for synapse, neuron in zip(nodes[:-1:2], nodes[1::2], strict=True):
        current, v = np.zeros(len(synapse.weight)), neuron.v_reset.copy()
        out = np.zeros((len(v), x.shape[-1]))
        for t in range(x.shape[-1]):
            s = synapse.weight @ x[:, t] + getattr(synapse, "bias", 0)
            if isinstance(neuron, nir.IF):
                v = v + DT * neuron.r * s
            elif isinstance(neuron, nir.LIF):
                v = v + DT / neuron.tau * ((neuron.v_leak - v) + neuron.r * s)
            else:
                current = current + DT / neuron.tau_syn * (-current + neuron.w_in * s)
                v = v + DT / neuron.tau_mem * ((neuron.v_leak - v) + neuron.r * current)
            out[:, t] = v > neuron.v_threshold
            v = np.where(out[:, t] > 0, neuron.v_reset, v)
        x = out
    return x


CHAINS = {
    "LIF": lambda: nir_nets.small(),
    "LIF with rest below zero": lambda: chain((12,), nir.Linear(weights(1, 9, 12)), lif(9, v_leak=-0.7, v_reset=-0.7, v_threshold=-0.2)),
    "LIF, own R and threshold per neuron": lambda: chain(
        (12,), nir.Linear(weights(2, 9, 12)), lif(9, r=np.linspace(0.5, 2, 9), v_threshold=np.linspace(0.2, 0.9, 9))
    ),
    "CubaLIF": lambda: chain((12,), nir.Linear(weights(3, 9, 12)), cuba(9, r=1.3), nir.Linear(weights(4, 4, 9)), cuba(4)),
    "IF": lambda: chain((12,), nir.Affine(weights(5, 9, 12), weights(6, 9)), nir.IF(full(9, 300.0), full(9, 1.5), full(9, 0.2))),
}  # fmt: skip


@pytest.mark.parametrize("case", CHAINS)
def test_float_reference_is_nirs_equations(case: str) -> None:
    """Every output spike equals explicit Euler of the ODEs written out by hand, float64."""
    graph = CHAINS[case]()
    net, x = only(graph), nir_nets.spikes((12,), n=8, steps=60)
    wanted = np.stack([euler(graph, window.astype(float)) for window in x])
    assert 0.02 < wanted.mean() < 0.9
    np.testing.assert_array_equal(run_float(net, x).spikes[net.graph.output], wanted)


def test_decays_and_gains_in_closed_form() -> None:
    """tau = 4 dt -> v_decay 1024, tau_syn = 2 dt -> i_decay 2048; weights in thresholds."""
    net = only(chain((1,), nir.Linear(np.array([[3.0]])), cuba(1, r=5.0, v_threshold=0.8)))
    layer, synapse = net.graph.nodes["b"], net.graph.nodes["a"]
    assert isinstance(layer, Lif) and isinstance(synapse, Dense)
    assert (layer.i_decay, layer.v_decay) == (2048, 1024)
    assert synapse.weight[0, 0] == pytest.approx(3 * (2.0 / 2) * (5.0 / 4) / 0.8, rel=1e-15)
    line = net.neurons["b"].mapping("net.b")
    assert line["dt_over_tau_syn"] == 0.5 and line["dt_over_tau_mem"] == 0.25 and line["nir"] == "CubaLIF"


def test_constant_current_reaches_the_closed_form() -> None:
    """Below threshold v(n) = R I (1 - (1 - dt/tau)^n): the first spike comes at the step that the formula says."""
    k, drive = 1 / 16, 1.0
    graph = chain((1,), nir.Linear(np.array([[drive]])), lif(1, tau=16 * DT, v_threshold=0.75))
    fired = run_float(only(graph), np.ones((1, 1, 60), np.uint8)).spikes["b"][0, 0]
    first = int(np.floor(np.log(1 - 0.75 / drive) / np.log(1 - k))) + 1  # smallest n with 1 - (1 - k)^n > 0.75
    assert np.flatnonzero(fired)[0] == first - 1 and (np.diff(np.flatnonzero(fired)) == first).all()


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


def test_snntorch_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Leaky and Synaptic with hard reset, through export_to_nir and a file; the time step is found from tau / R."""
    torch.manual_seed(5)
    first = {"beta": torch.full((10,), 0.875), "threshold": torch.full((10,), 0.5)}  # nir 1.0.8 refuses scalars here
    second = {"alpha": torch.full((6,), 0.5), "beta": torch.full((6,), 0.75), "threshold": torch.full((6,), 0.5)}
    how = {"init_hidden": True, "reset_mechanism": "zero", "reset_delay": False}
    last = snntorch.Synaptic(**second, **how, output=True)
    net = nn.Sequential(nn.Linear(12, 10), snntorch.Leaky(**first, **how), nn.Linear(10, 6, bias=False), last)
    nir.write(tmp_path / "snn.nir", export_to_nir(net, torch.zeros(1, 12), ignore_dims=[0]))
    found = read_nir(tmp_path / "snn.nir")
    assert found.dt == 1e-4 and found.dt_source == "tau / R of every neuron"
    (mapped,) = found.nets.values()
    node = mapped.graph.nodes["3"]
    assert isinstance(node, Lif) and (node.i_decay, node.v_decay) == (2048, 1024)
    x, wanted = nir_nets.spikes((12,), n=4, steps=60, rate=0.5), []
    for layer in (net[1], net[3]):
        layer.reset_mem()
    with torch.no_grad():
        for step in range(60):
            wanted.append(net(torch.from_numpy(x[..., step]).float())[0].numpy())
    assert 0.02 < np.mean(wanted) < 0.9
    np.testing.assert_array_equal(run_float(mapped, x).spikes["3"], np.stack(wanted, -1))


def test_time_step_that_is_not_in_the_file() -> None:
    """Given, stored, tau / R, or 1 ms where that is plausible; else refused."""
    graph = nir_nets.small()
    assert from_nir(graph).dt_source.startswith("assumed 0.001 s")
    assert from_nir(graph, dt=5e-4).nets["backbone"].graph.nodes["b"].v_decay == 512  # type: ignore[attr-defined]
    graph.metadata["dt"] = 2e-3
    assert from_nir(graph).dt_source == "metadata of the file"
    for tau in (2.0, 1e-5):
        with pytest.raises(UnsupportedLayerError, match="NIR holds no time step.*give --dt"):
            from_nir(chain((3,), nir.Linear(weights(0, 2, 3)), lif(2, tau=tau)))
    for dt in (0.0, -1.0, float("nan")):
        with pytest.raises(UnsupportedLayerError, match="allowed a positive number of seconds"):
            from_nir(graph, dt=dt)


def test_joins_recurrence_pools_scales() -> None:
    """Two edges into neurons, a loop through a Linear, SumPool2d, Scale: each becomes its IR node."""
    one = nir.NIRGraph(
        {
            "input": nir.Input(np.array([3])), "w": nir.Linear(weights(0, 4, 3)), "n": lif(4),
            "rec": nir.Affine(weights(1, 4, 4), full(4, 0.25)), "x": nir.Linear(weights(2, 2, 4)),
            "y": nir.Linear(weights(3, 2, 3)), "m": lif(2, tau=8 * DT), "output": nir.Output(np.array([2])),
        },
        [("input", "w"), ("w", "n"), ("n", "rec"), ("rec", "n"), ("n", "x"), ("input", "y"), ("x", "m"), ("y", "m"), ("m", "output")],
        type_check=False,
    )  # fmt: skip
    graph = only(one).graph
    assert isinstance(graph.nodes["w"], RecurrentDense) and isinstance(graph.nodes["m_sum"], Sum)
    np.testing.assert_allclose(graph.nodes["w"].weight_rec, weights(1, 4, 4) / 4 / 0.4, rtol=1e-14)
    np.testing.assert_allclose(graph.nodes["w"].bias, 0.25 / 4 / 0.4, rtol=1e-14)  # type: ignore[arg-type]
    pooled = only(chain((2, 4, 6), nir.SumPool2d(np.array([2, 3]), np.array([2, 3]), np.array([0, 0])), lif((2, 2, 2)))).graph
    pool = pooled.nodes["a"]
    assert isinstance(pool, Conv2d) and pool.groups == 2 and pool.stride == (2, 3)
    np.testing.assert_allclose(pool.weight, 1 / 4 / 0.4, rtol=1e-14)
    scale = np.array([1.0, -2.0])
    folded = only(chain((3,), nir.Affine(weights(4, 2, 3), weights(5, 2)), nir.Scale(scale), lif(2))).graph.nodes["a"]
    assert isinstance(folded, Dense)
    np.testing.assert_allclose(folded.weight, weights(4, 2, 3) * scale[:, None] / 4 / 0.4, rtol=1e-14)


@pytest.mark.parametrize(("padding", "wanted"), [("same", (2, 1)), ("valid", (0, 0)), (1, (1, 1)), ((0, 2), (0, 2))])
def test_conv_padding(padding: object, wanted: tuple[int, int]) -> None:
    """Words, a number, a pair."""
    conv = nir.Conv2d((9, 9), weights(0, 2, 1, 3, 3), 1, padding, (2, 1), 1, np.zeros(2))  # type: ignore[arg-type]
    shape = (2, 9 + 2 * wanted[0] - 4, 9 + 2 * wanted[1] - 2)
    node = only(chain((1, 9, 9), conv, lif(shape))).graph.nodes["a"]
    assert isinstance(node, Conv2d) and node.padding == wanted and node.bias is None


def _conv(**changed: object) -> nir.Conv2d:
    values = {"input_shape": None, "weight": weights(0, 2, 1, 3, 3), "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    return nir.Conv2d(**(values | {"bias": np.zeros(2)} | changed))  # type: ignore[arg-type]


W = weights(0, 4, 3)
REFUSED = {
    "LI readout": (lambda: chain((3,), nir.Linear(W), nir.LI(full(4, DT), full(4, 1), full(4, 0))), r"net\.b: LI is not supported"),
    "delay": (lambda: chain((3,), nir.Linear(W), nir.Delay(full(4, 1)), lif(4)), r"net\.b: Delay"),
    "tau differs": (lambda: chain((3,), nir.Linear(W), lif(4, tau=np.array([1, 2, 3, 4]) * DT)), r"net\.b: tau varies from 0.001 to"),
    "tau too short": (lambda: chain((3,), nir.Linear(W), lif(4, tau=DT / 2)), r"net\.b: tau = 0.0005 is 0.5 time steps"),
    "tau too long": (lambda: chain((3,), nir.Linear(W), lif(4, tau=1e4 * DT)), r"net\.b: tau = 10 is 1e\+04 time steps"),
    "tau zero": (lambda: chain((3,), nir.Linear(W), lif(4, tau=0.0)), r"net\.b: tau = 0"),
    "tau NaN": (lambda: chain((3,), nir.Linear(W), lif(4, tau=np.nan)), r"net\.b: tau holds values that are NaN"),
    "weight inf": (lambda: chain((3,), nir.Linear(W * np.inf), lif(4)), r"net\.a: weight holds values that are NaN"),
    "threshold": (lambda: chain((3,), nir.Linear(W), lif(4, v_threshold=0.0)), r"net\.b: v_threshold 0 is not above v_reset 0"),
    "v_leak": (lambda: chain((3,), nir.Linear(W), lif(4, v_leak=0.1)), r"net\.b: v_leak differs from v_reset"),
    "cuba bias": (lambda: chain((3,), nir.Affine(W, full(4, 0.1)), cuba(4)), r"net\.a: its bias would pass the current filter"),
    "shape": (lambda: chain((3,), nir.Linear(W), lif(5)), r"net\.b: tau has shape \(5,\); the layer has \(4,\)|has shape"),
    "two synapses": (lambda: chain((3,), nir.Linear(W), nir.Linear(weights(1, 2, 4)), lif(2)), r"net\.a -> net\.b: currents"),
    "no synapse": (lambda: chain((3,), lif(3), nir.Linear(W), lif(4)), r"net\.input -> net\.a: spikes without weights"),
    "linear shape": (lambda: chain((5,), nir.Linear(W), lif(4)), r"net\.input -> net\.a: \(5,\) != \(3,\)"),
    "bias shape": (lambda: chain((3,), nir.Affine(W, full(3, 1)), lif(4)), r"net\.a: bias \(3,\) does not fit"),
    "flatten": (lambda: chain((1, 3, 3), nir.Flatten({"input": np.array([1, 3, 3])}, 1, -1), nir.Linear(weights(0, 2, 9)), lif(2)),
                r"net\.a: flattens dimensions 1\.\.-1"),
    "pool stride": (lambda: chain((1, 4, 4), nir.AvgPool2d(np.array([2, 2]), np.array([1, 1]), np.array([0, 0])), lif((1, 3, 3))),
                    r"net\.a: kernel \(2, 2\), stride \(1, 1\)"),
    "same stride": (lambda: chain((1, 8, 8), _conv(padding="same", stride=2), lif((2, 4, 4))), r"net\.a: padding 'same'"),
    "big stride": (lambda: chain((1, 8, 8), _conv(stride=10**9), lif((2, 1, 1))), r"net\.a: stride .* allowed up to 127"),
    "threshold in map": (lambda: chain((1, 4, 4), _conv(), lif((2, 2, 2), v_threshold=np.arange(1.0, 9).reshape(2, 2, 2))),
                         r"net\.b: v_threshold varies within a channel"),
    "scale": (lambda: chain((3,), nir.Scale(full(3, 2)), nir.Linear(W), lif(4)), r"net\.a: Scale is supported directly after"),
    "input": (lambda: chain((5, 3), nir.Linear(W), lif(4)), r"net\.input: input shape \(5, 3\)"),
    "ends in a synapse": (lambda: chain((3,), nir.Linear(W)), r"net\.output: fed by a; allowed one layer of spiking neurons"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case: str) -> None:
    """What has no exact mapping names the node and the reason."""
    build, mention = REFUSED[case]
    with pytest.raises(TaafError, match=mention):
        only(build())


def test_cycles_and_loose_ends_are_refused() -> None:
    """A loop through two layers, a graph without output, a nested graph."""
    graph = nir_nets.small()
    graph.nodes["z"] = nir.Linear(weights(0, 10, 5))
    graph.edges += [("d", "z"), ("z", "b")]
    with pytest.raises(UnsupportedLayerError, match=r"net: a cycle through b, c, d, output, z; allowed recurrence"):
        only(graph)
    graph = nir_nets.small()
    del graph.nodes["output"]
    graph.edges.pop()
    with pytest.raises(UnsupportedLayerError, match="1 Input and 0 Output"):
        only(graph)
    with pytest.raises(UnsupportedLayerError, match=r"net\.a: NIRGraph is not supported"):
        only(chain((3,), nir_nets.small(), lif(3)))


def test_norse_refusals() -> None:
    """Another reset, subtraction, recurrent or temporal modules, unequal steps: named by module."""
    box = norse.LIFBoxCell

    def read(*layers: nn.Module, features: int = 3) -> None:
        from_norse(norse.SequentialState(*layers), torch.zeros(1, features), "net")

    with pytest.raises(UnsupportedLayerError, match=r"net\.1: reset method reset_subtract"):
        read(nn.Linear(3, 2), box(norse.LIFBoxParameters(reset_method=norse.functional.reset.reset_subtract)))
    with pytest.raises(UnsupportedLayerError, match=r"net\.1: v_leak 0.0 differs from v_reset -1.0"):
        read(nn.Linear(3, 2), box(norse.LIFBoxParameters(v_reset=torch.tensor(-1.0))))
    with pytest.raises(UnsupportedLayerError, match=r"net\.0.*LIFRecurrentCell|net\.0: LIFRecurrentCell"):
        read(norse.LIFRecurrentCell(3, 2))
    with pytest.raises(UnsupportedLayerError, match=r"net\.1: ReLU is not supported"):
        read(nn.Linear(3, 2), nn.ReLU(), box())
    with pytest.raises(UnsupportedLayerError, match=r"net: time steps differ: net\.1 0.001, net\.3 0.002"):
        read(nn.Linear(3, 2), box(), nn.Linear(2, 2), box(dt=0.002))
    with pytest.raises(UnsupportedLayerError, match=r"backbone\.0: AvgPool2d with ceil_mode"):
        from_norse(norse.SequentialState(nn.AvgPool2d(2, ceil_mode=True), box()), torch.zeros(1, 1, 4, 4))
    with pytest.raises(UnsupportedLayerError, match=r"backbone\.0: Conv2d with padding mode 'circular'"):
        from_norse(norse.SequentialState(nn.Conv2d(1, 1, 3, padding_mode="circular"), box()), torch.zeros(1, 1, 4, 4))

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.inner(x)

    with pytest.raises(UnsupportedLayerError, match=r"net\.0: Own holds other modules"):
        read(Own(), box())
    with pytest.raises(UnsupportedLayerError, match="does not run on the sample"):
        read(nn.Linear(3, 2), box(), features=4)
