"""NIR's differential equations -> decays and weights, against closed forms and against snnTorch itself."""

import nir
import nir_nets
import numpy as np
import pytest
import snntorch
import torch
from nir_nets import DT, chain, cuba, full, lif, weights
from snntorch.export_nir import export_to_nir
from torch import nn

from taaf.export.ptq.float_reference import run_float
from taaf.export.targets.nir.from_torch import from_snntorch
from taaf.export.targets.nir.graph import FloatNet
from taaf.export.targets.nir.read import from_nir, read_nir
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


class _Tutorial(nn.Module):
    """As snnTorch's tutorials write it: states in the loop, a max pool of spikes, spikes and voltages stacked."""

    def __init__(self) -> None:
        super().__init__()
        how = {"reset_mechanism": "zero", "threshold": 0.2}
        self.conv, self.lif1 = nn.Conv2d(1, 4, 5), snntorch.Leaky(beta=torch.linspace(0.6, 0.9, 4)[:, None, None], **how)
        self.fc, self.lif2 = nn.Linear(16, 10), snntorch.Leaky(beta=0.8, **how)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, voltages = [], []
        for step in range(x.size(0)):
            spk, mem1 = self.lif1(self.conv(x[step]), mem1)
            spk, mem2 = self.lif2(self.fc(nn.functional.max_pool2d(spk, 3).flatten(1)), mem2)
            spikes.append(spk)
            voltages.append(mem2)
        return torch.stack(spikes), torch.stack(voltages)


class _OneStep(nn.Module):
    """States are arguments, and must be given."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lif = nn.Linear(12, 10), snntorch.Leaky(beta=0.9, threshold=0.2, reset_mechanism="zero")

    def forward(self, x: torch.Tensor, mem: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        return self.lif(self.fc(x), mem)


def _sequence() -> nn.Module:
    how = {"init_hidden": True, "reset_mechanism": "zero"}
    first = snntorch.Leaky(beta=0.9, threshold=0.2, **how)
    pooled = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), first, nn.AvgPool2d(2))
    last = snntorch.Synaptic(alpha=0.5, beta=0.8, threshold=0.2, **how, reset_delay=False, output=True)
    return nn.Sequential(pooled, nn.Flatten(), nn.Dropout(0.2), nn.Linear(36, 5, bias=False), last)


@pytest.mark.parametrize(
    ("build", "shape", "time_axis"), [(_Tutorial, (1, 10, 10), 0), (_OneStep, (12,), None), (_sequence, (2, 8, 8), None)]
)
def test_snntorch_networks(build: type, shape: tuple[int, ...], time_axis: int | None) -> None:
    """Recorded in one step, run over 24: no spike of any layer differs; the states are put back."""
    torch.manual_seed(0)
    module = build().eval()
    found = from_snntorch(module, torch.zeros(1, *(() if time_axis is None else (1,)), *shape), "net", time_axis=time_axis)
    assert found.nets["net"].graph.input.shape == shape and found.dt == 1 and found.replay is not None
    assert found.replay.differing == 0 and 0.02 < found.replay.spikes / found.replay.neuron_steps < 0.9
    assert all(m.mem.numel() == 0 for m in module.modules() if isinstance(m, snntorch.Leaky | snntorch.Synaptic))


@pytest.mark.parametrize(
    ("neuron", "mention"),
    [
        (lambda how: snntorch.Leaky(beta=0.9, inhibition=True, **how), r"net\.1: inhibition is set"),
        (lambda how: snntorch.Leaky(beta=0.9, **(how | {"reset_mechanism": "none"})), r"net\.1: reset_mechanism 'none'"),
        (lambda how: snntorch.Lapicque(beta=0.9, **how), r"net\.1: Lapicque is not supported"),
        (lambda how: snntorch.Leaky(beta=torch.tensor([0.9, 1.0]), **how), r"net\.1: beta of 1 \(no leak\)"),
    ],
)
def test_snntorch_refusals(neuron, mention: str) -> None:  # type: ignore[no-untyped-def]
    """What the chip's neurons do not do, by name."""
    module = nn.Sequential(nn.Linear(3, 2), neuron({"init_hidden": True, "reset_mechanism": "zero"}))
    with pytest.raises(UnsupportedLayerError, match=mention):
        from_snntorch(module, torch.zeros(1, 3), "net")


def test_time_step_that_is_not_in_the_file() -> None:
    """Given, stored, tau / R, or 1 ms where that is plausible; else refused."""
    graph = nir_nets.small()
    assert from_nir(graph).dt_source.startswith("assumed 0.001 s")
    assert from_nir(graph, dt=5e-4).nets["backbone"].graph.nodes["b"].v_decay == 512  # type: ignore[attr-defined]
    graph.metadata["dt"] = 2e-3
    assert from_nir(graph).dt_source == "metadata of the file"
    for tau in (2.0, 1e-5):
        hint = r"sinabs.*--dt 1\)" if tau > 1 else "Norse.*--dt 1e-06"
        with pytest.raises(UnsupportedLayerError, match=f"NIR holds no time step.*give --dt.*{hint}") as caught:
            from_nir(chain((3,), nir.Linear(weights(0, 2, 3)), lif(2, tau=tau)))
        assert ("Norse" in str(caught.value)) != ("sinabs" in str(caught.value))
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
    "only a readout": (lambda: chain((3,), nir.Linear(W), nir.LI(full(4, DT), full(4, 1), full(4, 0))), r"net\.b: LI is not supported"),
    "pool in the readout": (lambda: chain((3,), nir.Linear(W), lif(4), nir.SumPool2d(np.ones(2), np.ones(2), np.zeros(2))),
                               r"net\.c: SumPool2d at the end; the layers after the last spiking neurons are the host's"),
    "delay": (lambda: chain((3,), nir.Linear(W), nir.Delay(full(4, 1)), lif(4)), r"net\.b: Delay"),
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
    "flatten": (lambda: chain((2, 3, 3), nir.Flatten({"input": np.array([2, 3, 3])}, 1, -1), nir.Linear(weights(0, 2, 9)), lif(2)),
                r"net\.a: flattens dimensions 1\.\.-1"),
    "pool padding": (lambda: chain((1, 4, 4), nir.AvgPool2d(np.array([2, 2]), np.array([1, 1]), np.array([2, 2])), lif((1, 7, 7))),
                     r"net\.input -> net\.a: pooling with kernel \(2, 2\), stride \(1, 1\), padding \(2, 2\)"),
    "same stride": (lambda: chain((1, 8, 8), _conv(padding="same", stride=2), lif((2, 4, 4))), r"net\.a: padding 'same'"),
    "big stride": (lambda: chain((1, 8, 8), _conv(stride=10**9), lif((2, 1, 1))), r"net\.a: stride .* allowed up to 127"),
    "threshold in map": (lambda: chain((1, 4, 4), _conv(), lif((2, 2, 2), v_threshold=np.arange(1.0, 9).reshape(2, 2, 2))),
                         r"net\.b: v_threshold varies within a channel"),
    "scale": (lambda: chain((3,), nir.Scale(full(3, 2)), nir.Linear(W), lif(4)), r"net\.a: Scale is supported directly after"),
    "input": (lambda: chain((5, 3), nir.Linear(W), lif(4)), r"net\.input: input shape \(5, 3\); allowed \(F,\) of one sample at one step"),
    "time axis": (lambda: chain((16, 1, 3), nir.Linear(W), lif(4)), r"input shape \(16, 1, 3\).*a batch or time axis of more than 1"),
    "batch of maps": (lambda: chain((2, 1, 8, 8), _conv(), lif((2, 6, 6))), r"input shape \(2, 1, 8, 8\); allowed \(C, H, W\)"),
    "ends in a synapse": (lambda: chain((3,), nir.Linear(W)), r"net\.output: fed by a; allowed one layer of spiking neurons"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case: str) -> None:
    """What has no exact mapping names the node and the reason."""
    build, mention = REFUSED[case]
    with pytest.raises(TaafError, match=mention):
        only(build())


def test_cycles_and_loose_ends_are_refused() -> None:
    """A loop through two layers, a graph without output."""
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
