"""Resets that are not the chip's: refused unless said, run by the float reference as the network ran, and measured spike by spike."""

import json
from pathlib import Path

import nir
import nir_nets
import numpy as np
import pytest
import torch
from nir_nets import DT, chain, lif, weights
from snntorch import Leaky, RLeaky, Synaptic
from torch import nn

from taaf.export.ptq.float_reference import run_float
from taaf.export.targets.nir.export import export_nets, nir_to_netx
from taaf.export.targets.nir.from_torch import from_snntorch
from taaf.export.targets.nir.neurons import RESETS
from taaf.export.targets.nir.read import from_nir, read_nir
from taaf.models.errors import UnsupportedLayerError


def by_hand(graph: nir.NIRGraph, x: np.ndarray, reset: str) -> np.ndarray:
    """One Affine and one LIF in NIR's units, in plain loops over neurons: (F, T) -> counts (F', T)."""
    synapse, neuron = graph.nodes["a"], graph.nodes["b"]
    n, theta = len(synapse.weight), float(neuron.v_threshold[0])
    v, out = np.zeros(n), np.zeros((n, x.shape[-1]))
    for t in range(x.shape[-1]):
        for i in range(n):
            current = float(synapse.weight[i] @ x[:, t]) + float(synapse.bias[i])
            v[i] += DT / float(neuron.tau[i]) * (float(neuron.r[i]) * current - v[i])
            if reset == "subtract-next" and t:
                v[i] -= theta * out[i, t - 1]
            if reset == "zero-next" and t and out[i, t - 1]:
                v[i] = 0
            if v[i] > theta:
                out[i, t] = np.floor(v[i] / theta) if reset == "subtract-many" else 1
                if reset in ("subtract", "subtract-many"):
                    v[i] -= theta * out[i, t]
                elif reset == "hard":
                    v[i] = 0
    return out


def _net() -> nir.NIRGraph:
    affine = nir.Affine(weights(0, 40, 12), 0.1 * weights(1, 40))
    return chain((12,), affine, lif(40, tau=6e-3, v_threshold=0.13))


@pytest.mark.parametrize("reset", [r for r in RESETS if r != "subtract-snntorch"])
def test_every_reading_by_hand(reset: str) -> None:
    """Spikes, and counts of several in one step, equal loops in NIR's own units."""
    graph, x = _net(), nir_nets.spikes((12,), n=3, steps=50)
    (net,) = from_nir(graph, "net", DT, reset).nets.values()
    found, wanted = run_float(net, x).spikes["b"], np.stack([by_hand(graph, window.astype(float), reset) for window in x])
    np.testing.assert_array_equal(found, wanted)
    hard = np.stack([by_hand(graph, window.astype(float), "hard") for window in x])
    assert ((found != hard).mean() > 0.02) == (reset != "hard") and (found.max() > 1) == (reset == "subtract-many")


NEURONS = {
    "Leaky": lambda **how: Leaky(beta=torch.linspace(0.5, 0.95, 9), threshold=0.3, **how),
    "Synaptic": lambda **how: Synaptic(
        alpha=0.6, beta=torch.linspace(0.5, 0.95, 9), threshold=torch.linspace(0.2, 0.4, 9), **how
    ),
    "RLeaky": lambda **how: RLeaky(beta=0.9, threshold=0.3, linear_features=9, **how),
    "RLeaky one to one": lambda **how: RLeaky(beta=0.9, threshold=0.3, all_to_all=False, V=torch.linspace(-0.3, 0.3, 9), **how),
}


@pytest.mark.parametrize("delay", [True, False])
@pytest.mark.parametrize("mechanism", ["zero", "subtract"])
@pytest.mark.parametrize("neuron", NEURONS)
def test_snntorch_itself(neuron: str, mechanism: str, delay: bool) -> None:
    """All four resets of snnTorch: its own spikes equal the float reference's, decays and thresholds per neuron and all."""
    torch.manual_seed(0)
    cell = NEURONS[neuron](init_hidden=True, reset_mechanism=mechanism, reset_delay=delay)
    net = nn.Sequential(nn.Linear(12, 9, bias=neuron != "Synaptic"), cell).eval()
    if mechanism == "subtract":
        with pytest.raises(UnsupportedLayerError, match=r"net\.1.*'subtract-.*the chip resets to zero.*convert_reset=True"):
            from_snntorch(net, torch.zeros(1, 12), "net")
    found = from_snntorch(net, torch.zeros(1, 12), "net", convert_reset=True)
    (mapped,), x, wanted = found.nets.values(), nir_nets.spikes((12,), n=4, steps=60, rate=0.4), []
    cell.reset_mem()
    with torch.no_grad():
        for step in range(60):
            wanted.append(net(torch.from_numpy(x[..., step]).float()).numpy())
    (neurons,) = mapped.neurons.values()
    zero = "hard" if neuron == "Leaky" or not delay else "zero-next"
    subtract = "subtract-next" if delay else "subtract-snntorch"
    assert neurons.reset == (zero if mechanism == "zero" else subtract)
    assert found.replay is not None and found.replay.differing == 0
    assert 0.02 < np.mean(wanted) < 0.9
    np.testing.assert_array_equal(run_float(mapped, x).spikes[mapped.graph.output], np.stack(wanted, -1))


def test_unknown_reset_is_refused_and_soft_reset_is_counted(tmp_path: Path) -> None:
    """One file, two networks: as hard reset hardly a spike differs, as subtraction every twentieth; without a word it is refused."""
    path, out = nir_nets.write(tmp_path / "a.nir", _net()), tmp_path / "net"
    with pytest.raises(
        UnsupportedLayerError, match=r"a\.b: the file does not hold how its neurons reset.*--reset: hard \(Norse"
    ):
        nir_to_netx([path], out, None, None)
    assert not out.exists()
    hard = nir_to_netx([path], out, None, None, "hard")["branches"]["a"]
    soft = nir_to_netx([path], out, None, None, "subtract")["branches"]["a"]
    assert json.loads((out / "report.json").read_text())["branches"]["a"] == soft
    assert hard["sha256"] != "" and hard["mapping"][0]["reset"] == "hard" and soft["mapping"][0]["reset"] == "subtract"
    one, two = (b["deviation"]["layers"][0] for b in (hard, soft))
    assert one["differing_fraction"] < 0.01 and two["differing_fraction"] > 0.03 and two["float_spikes"] > one["float_spikes"]
    assert not hard["warnings"] and "b: reset subtract became a hard reset" in soft["warnings"][0]
    assert soft["deviation"]["output"]["mean_count_difference"] > 5 * hard["deviation"]["output"]["mean_count_difference"]


def test_nets_in_memory_are_not_exempt(tmp_path: Path) -> None:
    """export_nets refuses a network of unknown reset, too."""
    with pytest.raises(UnsupportedLayerError, match="does not hold how its neurons reset"):
        export_nets(from_nir(_net(), "net", DT).nets, tmp_path / "net", {"net": nir_nets.spikes((12,))})


def test_what_a_file_says_of_its_reset(tmp_path: Path) -> None:
    """Metadata of the graph or of a node hold it; an option that contradicts, and words that mean nothing, are refused."""
    graph = _net()
    graph.metadata["reset"] = "hard"
    path = nir_nets.write(tmp_path / "a.nir", graph)
    assert read_nir(path).nets["a"].neurons["b"].reset == "hard"
    with pytest.raises(UnsupportedLayerError, match="its metadata say reset 'hard', not 'subtract'"):
        read_nir(path, reset="subtract")
    graph = _net()
    graph.nodes["b"].metadata["reset"] = "softly"
    with pytest.raises(UnsupportedLayerError, match=r"net\.b: metadata reset 'softly'; allowed hard, subtract, "):
        from_nir(graph, "net", DT)
    with pytest.raises(UnsupportedLayerError, match="net: reset 'softly'; allowed hard"):
        from_nir(_net(), "net", DT, "softly")
