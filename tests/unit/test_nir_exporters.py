"""Files as sinabs, Rockpool and snnTorch write them, and what NIR graphs of them hold beside a chain of layers."""

import doctest

import nir
import nir_nets
import numpy as np
import pytest
from nir_nets import DT, chain, cuba, full, lif, weights

from taaf.export.ptq.float_reference import run_float
from taaf.export.targets.nir import exporters, read
from taaf.export.targets.nir.export import export_nets, nir_to_netx
from taaf.export.targets.nir.exporters import as_rockpool, as_sinabs
from taaf.export.targets.nir.file import load_nir
from taaf.export.targets.nir.graph import FloatNet
from taaf.export.targets.nir.read import from_nir, read_nir
from taaf.models.errors import UnsupportedLayerError
from taaf.models.ir import Conv2d, Lif

NO_PAD = np.array([0, 0])


def _pair(n: int) -> np.ndarray:
    return np.array([n, n])


def _sinabs_cnn() -> nir.NIRGraph:
    """The NIR paper's kind of CNN as sinabs 3.1 writes it: R = 1, float32, zero biases, shapes filled in by nirtorch."""

    def fire(*shape: int) -> nir.IF:
        return nir.IF(r=np.ones(shape, np.float32), v_threshold=np.ones(shape, np.float32))

    def conv(seed: int, c: int, c_in: int, size: int, padding: int) -> nir.Conv2d:
        weight = np.random.default_rng(seed).normal(0.02, 0.25, (c, c_in, 3, 3)).astype(np.float32)
        return nir.Conv2d((size, size), weight, (1, 1), (padding, padding), (1, 1), 1, np.zeros(c, np.float32))

    return chain(
        (2, 12, 12), conv(0, 4, 2, 12, 1), fire(4, 12, 12), nir.SumPool2d(_pair(2), _pair(2), (0, 0)),
        conv(1, 6, 4, 6, 0), fire(6, 4, 4), nir.SumPool2d(_pair(2), _pair(2), (0, 0)), nir.Flatten({"input": np.array([6, 2, 2])}, 0, -1),
        nir.Affine(weights(2, 5, 24, scale=0.2).astype(np.float32), np.zeros(5, np.float32)), fire(5),
    )  # fmt: skip


def _conv(x: np.ndarray, weight: np.ndarray, padding: int) -> np.ndarray:
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    h, w = (n - weight.shape[2] + 1 for n in x.shape[1:])
    out = np.zeros((len(weight), h, w))
    for y, z in np.ndindex(h, w):
        out[:, y, z] = (weight * x[:, y : y + weight.shape[2], z : z + weight.shape[3]]).sum((1, 2, 3))
    return out


def _sum_pool(x: np.ndarray) -> np.ndarray:
    return x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]


def test_the_cnn_of_sinabs(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """dt = 1 step is found; pooled spikes reach the next weights; every count equals sinabs' IAF (several spikes a step) in plain loops."""
    graph = _sinabs_cnn()
    nir.write(tmp_path / "cnn.nir", graph)
    found = read_nir(tmp_path / "cnn.nir", reset="subtract-many")
    net = found.nets["cnn"]
    assert found.dt == 1 and found.dt_source == "1 / R of every IF neuron"
    x = nir_nets.spikes((2, 12, 12), n=2, steps=12)
    trace = run_float(net, x)
    for i, window in enumerate(x):
        v = [np.zeros((4, 12, 12)), np.zeros((6, 4, 4)), np.zeros(5)]
        for t in range(12):
            s = window[..., t].astype(float)
            for layer, name in enumerate("bei"):
                weight = np.asarray(graph.nodes["adh"[layer]].weight, np.float64)
                s = weight @ s.reshape(-1) if layer == 2 else _conv(s, weight, 1 - layer)
                v[layer] += s
                s = np.maximum(np.floor(v[layer]), 0)
                v[layer] -= s
                np.testing.assert_array_equal(trace.spikes[name][i, ..., t], s, err_msg=f"{name} step {t}")
                s = _sum_pool(s) if layer < 2 else s
    assert all(0.02 < (trace.spikes[n] > 0).mean() < 0.95 for n in "bei") and trace.spikes["b"].max() > 1


@pytest.mark.parametrize("leading", [(), (1,), (1, 1)])
def test_axes_of_batch_and_time(leading: tuple[int, ...]) -> None:
    """Rockpool writes (1, 1, F): shapes and parameters with leading ones are those without."""

    def fire(*shape: int) -> nir.CubaLIF:
        values = {"tau_syn": 2e-3, "tau_mem": 4e-3, "w_in": 2.0, "r": 1.0, "v_leak": 0.0, "v_threshold": 0.4, "v_reset": 0.0}
        return nir.CubaLIF(**{k: np.full(shape, v) for k, v in values.items()})

    layers = nir.Linear(weights(0, 9, 12)), fire(*leading, 9), nir.Linear(weights(1, 4, 9)), fire(*leading, 4)
    (net,) = from_nir(chain((*leading, 12), *layers), "net", DT).nets.values()
    (plain,) = from_nir(chain((12,), layers[0], cuba(9), layers[2], cuba(4)), "net", DT).nets.values()
    assert net.graph.input.shape == (12,)
    x = nir_nets.spikes((12,))
    np.testing.assert_array_equal(run_float(net, x).spikes["d"], run_float(plain, x).spikes["d"])


def _counts(x: np.ndarray, weight: np.ndarray, alpha: float, beta: float | None, gain: float) -> np.ndarray:
    """Rockpool's LIFTorch (with beta) or sinabs' LIF in plain loops: several spikes in a step, their thresholds taken off."""
    v, i, out = np.zeros(len(weight)), np.zeros(len(weight)), np.zeros((len(weight), x.shape[-1]))
    for t in range(x.shape[-1]):
        i = weight @ x[:, t] if beta is None else beta * (i + weight @ x[:, t])
        v = alpha * v + gain * i
        out[:, t] = np.maximum(np.floor(v), 0)
        v -= out[:, t]
    return out


def test_what_rockpool_and_sinabs_leave_out(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Files in their shapes and with their values: with the decays put back, every count equals what the framework runs."""
    weight, x = weights(0, 9, 12, scale=0.3), nir_nets.spikes((12,), n=2, steps=60)
    r = full(9, 20 * np.exp(-1 / 20))
    cell = nir.CubaLIF(
        tau_syn=full(9, 0.01), tau_mem=full(9, 0.02), r=r, v_leak=full(9, 0), v_threshold=full(9, 1), w_in=full(9, 1)
    )
    rockpool = chain((1, 12), nir.Linear(weight), cell)
    rockpool.nodes["output"] = nir.Output(np.array([1, 1, 9]))
    tau = np.array(20.0)
    scalar = nir.LIF(tau=tau, r=np.array(1.0), v_leak=np.array(0.0), v_threshold=np.array(1.0), v_reset=np.array(0.0))
    sinabs = chain((12,), nir.Affine(8 * weight, full(9, 0)), scalar)
    alpha = np.exp(-1 / 20)
    cases = {
        "rockpool": (as_rockpool(rockpool, DT), DT, (alpha, np.exp(-1 / 10), 1.0)),
        "sinabs": (as_sinabs(sinabs), 1.0, (alpha, None, 8 * (1 - alpha))),
    }
    for name, (graph, dt, values) in cases.items():
        nir.write(tmp_path / f"{name}.nir", graph, compression=None)
        found = read_nir(tmp_path / f"{name}.nir")
        wanted = np.stack([_counts(window.astype(float), weight, *values) for window in x])
        assert wanted.max() >= 1 and (wanted > 0).mean() > 0.02 and found.dt == dt and found.dt_source == "metadata of the file"
        np.testing.assert_array_equal(run_float(found.nets[name], x).spikes["b"], wanted, err_msg=name)
        with pytest.raises(UnsupportedLayerError, match=r"reset by 'subtract-many'.*give --reset subtract-many to convert"):
            nir_to_netx([tmp_path / f"{name}.nir"], tmp_path / "net", None, None)
    with pytest.raises(UnsupportedLayerError, match=r"b: tau = 20 is 2e\+04 time steps of 0\.001 s.*sinabs.*--dt 1$"):
        from_nir(sinabs, "net", DT)
    assert doctest.testmod(exporters).failed == doctest.testmod(read).failed == 0


def test_axes_of_maps() -> None:
    """(1, 1, C, H, W) before a convolution; (1, 1, 6) is flat before Linear and a map of one channel before Conv2d."""
    conv = nir.Conv2d(None, weights(0, 4, 2, 3, 3), 1, 1, 1, 1, np.zeros(4))
    flat = nir.Flatten({"input": np.array([1, 1, 4, 6, 6])}, 2, -1)
    layers = conv, lif((1, 1, 4, 6, 6)), flat, nir.Linear(weights(1, 3, 144)), lif((1, 1, 3))
    (net,) = from_nir(chain((1, 1, 2, 6, 6), *layers), "net", DT).nets.values()
    assert net.graph.input.shape == (2, 6, 6) and net.graph.shapes["c"] == (144,)
    (net,) = from_nir(chain((1, 1, 6), nir.Linear(weights(0, 3, 6)), lif(3)), "net", DT).nets.values()
    assert net.graph.input.shape == (6,)
    row = nir.Conv2d(None, weights(0, 2, 1, 1, 3), 1, 0, 1, 1, np.zeros(2))
    (net,) = from_nir(chain((1, 1, 6), row, lif((2, 1, 4))), "net", DT).nets.values()
    assert net.graph.input.shape == (1, 1, 6)


def test_decays_per_neuron_and_per_channel() -> None:
    """tau may differ: per neuron of a flat layer and per channel of a map, not within a channel."""
    tau = np.array([2, 3, 4, 8]) * DT
    (net,) = from_nir(chain((3,), nir.Linear(weights(0, 4, 3)), lif(4, tau=tau)), "net", DT).nets.values()
    node = net.graph.nodes["b"]
    assert isinstance(node, Lif) and list(node.v_decay) == [2048, 1365, 1024, 512]  # type: ignore[arg-type]
    assert net.neurons["b"].mapping("net.b")["v_decay"] == [512, 2048]
    conv = nir.Conv2d(None, weights(0, 4, 2, 3, 3), 1, 1, 1, 1, np.zeros(4))
    full_tau = np.broadcast_to(tau[:, None, None], (4, 5, 5)).copy()
    (net,) = from_nir(chain((2, 5, 5), conv, lif((4, 5, 5), tau=full_tau)), "net", DT).nets.values()
    x = nir_nets.spikes((2, 5, 5), n=2, steps=20)
    spikes = run_float(net, x).spikes["b"]
    for c in range(4):
        (one,) = from_nir(chain((2, 5, 5), conv, lif((4, 5, 5), tau=float(tau[c]))), "net", DT).nets.values()
        np.testing.assert_array_equal(spikes[:, c], run_float(one, x).spikes["b"][:, c])
    full_tau[0, 0, 0] *= 2
    with pytest.raises(UnsupportedLayerError, match=r"net\.b: tau varies within a channel"):
        from_nir(chain((2, 5, 5), conv, lif((4, 5, 5), tau=full_tau)), "net", DT)


def test_layers_after_the_last_spikes_are_the_hosts(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """LIF - Linear - LI: the backbone ends at the LIF, the report says so, and the readout decides; its file reads back."""
    w, tau = weights(5, 3, 9), np.array([2, 4, 8]) * DT
    li = nir.LI(tau=tau, r=full(3, 2.0), v_leak=full(3, 0.0))
    graph = chain((12,), nir.Linear(weights(0, 9, 12)), lif(9), nir.Affine(w, full(3, 0.1)), li)
    nets = from_nir(graph, "net", DT, "hard").nets
    net, x = nets["net"], nir_nets.spikes((12,), n=5)
    assert net.graph.output == "b" and net.readout is not None and [n for n, _ in net.readout.layers] == ["c", "d"]
    spikes = run_float(net, x).spikes["b"]
    v, wanted = np.zeros((5, 3)), []
    for t in range(x.shape[-1]):
        v = v + DT / tau * (-v + 2.0 * (spikes[..., t] @ w.T + 0.1))
        wanted.append(v)
    np.testing.assert_allclose(net.readout.run(spikes), np.stack(wanted, -1), rtol=1e-12, atol=1e-15)
    labels = np.mean(wanted, 0).argmax(1)
    branch = export_nets(nets, tmp_path / "net", {"net": x}, labels)["branches"]["net"]
    assert branch["host_readout"]["layers"] == ["c (Affine)", "d (LI)"] and branch["deviation"]["accuracy"]["float"] == 100
    stored = load_nir(tmp_path / "net/net.readout.nir")
    assert list(stored.nodes["input"].input_type["input"]) == [9] and stored.metadata["dt"] == DT
    np.testing.assert_array_equal(stored.nodes["c"].weight, w)
    np.testing.assert_array_equal(stored.nodes["d"].tau, tau)


def test_nested_graphs() -> None:
    """snnTorch nests a recurrent layer; it means the same as the loop written flat."""
    w_in, w_rec = weights(0, 9, 12), weights(1, 9, 9, scale=0.2)
    inner = nir.NIRGraph(
        {"input": nir.Input(np.array([9])), "lif": lif(9), "w_rec": nir.Linear(w_rec), "output": nir.Output(np.array([9]))},
        [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")], type_check=False,
    )  # fmt: skip
    (net,) = from_nir(chain((12,), nir.Linear(w_in), inner), "net", DT).nets.values()
    flat = chain((12,), nir.Linear(w_in), lif(9))
    flat.nodes["rec"] = nir.Linear(w_rec)
    flat.edges += [("b", "rec"), ("rec", "b")]
    (other,) = from_nir(flat, "net", DT).nets.values()
    x = nir_nets.spikes((12,))
    found, wanted = run_float(net, x).spikes["b.lif"], run_float(other, x).spikes["b"]
    assert 0.02 < wanted.mean() < 0.9
    np.testing.assert_array_equal(found, wanted)
    inner.nodes["more"] = nir.Output(np.array([9]))
    with pytest.raises(UnsupportedLayerError, match=r"net\.b: a nested graph with 1 inputs and 2 outputs"):
        from_nir(chain((12,), nir.Linear(w_in), inner), "net", DT)


def test_pools_around_neurons() -> None:
    """In front of neurons a pool is a grouped convolution with its stride and padding; behind them the next weights see means."""
    layers = (
        nir.AvgPool2d(_pair(3), _pair(2), _pair(1)),
        lif((2, 4, 4), v_threshold=0.05),
        nir.AvgPool2d(_pair(2), _pair(2), NO_PAD),
    )
    conv = nir.Conv2d(None, weights(0, 3, 2, 2, 2), 1, 0, 1, 1, np.zeros(3))
    (net,) = from_nir(chain((2, 8, 8), *layers, conv, lif((3, 1, 1))), "net", DT).nets.values()
    first = net.graph.nodes["a"]
    assert isinstance(first, Conv2d) and (first.stride, first.padding, first.groups) == ((2, 2), (1, 1), 2)
    np.testing.assert_allclose(first.weight, 1 / 9 / 4 / 0.05, rtol=1e-6)
    x = nir_nets.spikes((2, 8, 8), n=2, steps=20)
    spikes = run_float(net, x).spikes
    means, v = spikes["b"].reshape(2, 2, 2, 2, 2, 2, 20).mean((3, 5)), np.zeros((2, 3))
    for t in range(20):
        v += 0.25 * (np.einsum("ocij,ncij->no", conv.weight, means[..., t]) - v)
        np.testing.assert_array_equal(spikes["e"][:, :, 0, 0, t], v > 0.4)
        v[v > 0.4] = 0
    assert 0.1 < spikes["b"].mean() < 0.9 and 0.02 < spikes["e"].mean() < 0.9


def test_synapses_of_the_same_spikes_become_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 3x3 and a 1x1 convolution (padded by 1 and 0), two Linear layers: one each, and no spike changes; other pixels stay apart."""

    def conv(seed: int, k: int, padding: int) -> nir.Conv2d:
        return nir.Conv2d(None, weights(seed, 4, 2, k, k, scale=0.3), 1, padding, 1, 1, 0.1 * weights(seed + 9, 4))

    def build(shortcut: nir.Conv2d) -> FloatNet:
        graph = chain(
            (2, 6, 6),
            conv(0, 3, 1),
            lif((4, 6, 6)),
            nir.Flatten(None, 0, -1),
            nir.Linear(weights(2, 5, 144, scale=0.1)),
            lif(5),
        )
        graph.nodes |= {"short": shortcut, "beside": nir.Affine(weights(3, 5, 144, scale=0.1), full(5, 0.1))}
        graph.edges += [("input", "short"), ("short", "b"), ("c", "beside"), ("beside", "e")]
        return from_nir(graph, "net", DT).nets["net"]

    x, merged = nir_nets.spikes((2, 6, 6), n=2, steps=30), build(conv(1, 1, 0))
    assert list(merged.graph.nodes) == ["input", "a", "b", "c", "d", "e"]
    assert [
        len(build(c).graph.nodes) for c in (conv(1, 5, 2), nir.Conv2d(None, weights(1, 4, 2, 3, 3), 1, 2, 2, 1, np.zeros(4)))
    ] == [6, 8]
    found = run_float(merged, x).spikes
    monkeypatch.setattr("taaf.export.targets.nir.graph.one_synapse_each", lambda graph: graph)
    wanted = run_float(build(conv(1, 1, 0)), x).spikes
    for name in "be":
        assert 0.02 < wanted[name].mean() < 0.9
        np.testing.assert_array_equal(found[name], wanted[name])
