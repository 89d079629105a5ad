"""Networks as users write them, from their torch module to the Lava runtime: every one becomes a bundle, exact on every spike."""

from pathlib import Path

import numpy as np
import pytest
import torch
from user_networks import NETWORKS, UserNetwork, built, examples

from taaf import deploy, export
from taaf.export.recorded import RecordedNetwork
from taaf.models.errors import ConfigError, UnsupportedLayerError

pytestmark = [pytest.mark.needs_slayer]
GROUP = 12  # networks that share one run of Lava, as branches of one bundle
NOT_ONNX = {"voltage readout"}  # torch's exporter fails on its own trace of it
READS_OUT = {
    "axonal delays",
    "split and merge",
    "current readout",
    "deep supervision",
}  # return more than logits (windows, classes)


@pytest.fixture(scope="module")
def recorded() -> dict[str, RecordedNetwork]:
    """Every network without a head: the spikes that leave the chip."""
    return {n.name: export.record_network(built(n), examples(n, 2), head="none") for n in NETWORKS}


def _together(networks: list[RecordedNetwork]) -> RecordedNetwork:
    """Networks side by side, as branches of one."""
    from taaf.models.heads import find_head
    from taaf.models.heads.base import Features
    from taaf.models.host_head import HostHead

    graphs, steps, inputs, evidence = {}, {}, {}, {}
    for i, network in enumerate(networks):
        for m, graph in network.graphs.items():
            name = f"n{i}_{m}"
            graphs[name] = type(graph)(name, graph.nodes.values(), graph.edges)
            steps[name], inputs[name], evidence[name] = network.steps[m], network.inputs[m], network.evidence[m]
    features = {m: Features(g.shapes[g.output], steps[m]) for m, g in graphs.items()}
    head = HostHead({}, find_head("none")(features, 0, find_head("none").options_type()))
    return RecordedNetwork(graphs, head, steps, inputs, None, [], evidence, {}, 0.0, networks[0].provenance)


@pytest.mark.needs_lava
@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, len(NETWORKS), GROUP))
def test_every_network_is_exact_on_lava(start: int, recorded: dict[str, RecordedNetwork], tmp_path: Path) -> None:
    """SLAYER = reference = engine on export, and the Lava runtime on two windows back to back, every layer."""
    names = [n.name for n in NETWORKS[start : start + GROUP]]
    whole = _together([recorded[n] for n in names])
    result = export.to_bundle(whole, out=tmp_path / "bundle", allow_saturation=True)
    assert all(c.ok for c in result.checks) and sum(c.spikes for c in result.checks) > 200 * len(names)
    report = deploy.run(tmp_path / "bundle", "sim")
    agreement = report["agreement"]
    assert agreement["exact"] and agreement["windows"] == 2 and agreement["spike_mismatches"] == 0
    layers = agreement["layer_mismatches"]
    assert {name.split(".")[0] for name in layers} == set(whole.graphs) and not any(layers.values())


@pytest.mark.parametrize(
    "network", [n for n in NETWORKS if n.host and n.name not in READS_OUT | NOT_ONNX], ids=lambda n: n.name
)
def test_what_a_module_does_behind_the_chip_is_its_head(network: UserNetwork, tmp_path: Path) -> None:
    """As ONNX on the host: torch's own logits of every window within the stated tolerance, and every decision."""
    module, inputs = built(network), examples(network, 4)
    found = export.record_network(module, inputs, np.arange(4) % 2)
    export.to_bundle(found, out=tmp_path / "bundle", allow_saturation=True)
    report = deploy.run(tmp_path / "bundle", "fast")
    assert report["agreement"]["exact"] and report["agreement"]["max_logit_difference"] < 1e-4
    assert set(report["accuracy_percent"]) == {"fused", *inputs}


@pytest.mark.parametrize("name", sorted(NOT_ONNX))
def test_heads_that_torch_cannot_export_are_refused(name: str) -> None:
    network = next(n for n in NETWORKS if n.name == name)
    with pytest.raises(UnsupportedLayerError, match="cannot become ONNX: torch says .*head none"):
        export.record_network(built(network), examples(network, 2), np.arange(2))


@pytest.mark.parametrize("name", sorted(READS_OUT))
def test_heads_that_give_no_logits_are_refused(name: str) -> None:
    network = next(n for n in NETWORKS if n.name == name)
    with pytest.raises(ConfigError, match="a head returns logits"):
        export.record_network(built(network), examples(network, 1), head="own")


@pytest.mark.parametrize(
    ("name", "hidden"),
    {
        "conv chain with delay_shift and weight norm": {"event": 4},
        "nmnist tutorial": {"event": 3},
        "recurrent": {"audio": 3},
        "three branches, T = 8, 20, 5": {"frames": 2, "events": 2, "touch": 1},
    }.items(),
)
def test_decisions_by_spike_count_are_slayers(name: str, hidden: dict[str, int], tmp_path: Path) -> None:
    """Counts of all that leaves SLAYER's module: with delay_shift not the last steps, of each modality its own."""
    network = next(n for n in NETWORKS if n.name == name)
    module, inputs = built(network), examples(network, 8)
    found = export.record_network(module, inputs, np.zeros(8, np.int64), head="rate")
    export.to_bundle(found, out=tmp_path / "bundle", allow_saturation=True)
    parts = module if isinstance(module, dict) else dict.fromkeys(inputs, module)
    with torch.no_grad():
        counts = sum(parts[m].eval()(x).sum(-1).reshape(8, -1) for m, x in inputs.items())
    report = deploy.run(tmp_path / "bundle", "fast")
    assert report["agreement"]["exact"] and report["agreement"]["decision_mismatches"] == 0
    golden = dict(np.load(tmp_path / "bundle" / "golden.npz"))
    np.testing.assert_array_equal(golden["logits"], counts.numpy())
    assert np.ptp(golden["logits"]) > 1
    found.save(tmp_path / "network.pt")
    again = export.RecordedNetwork.load(tmp_path / "network.pt")
    counted = dict(zip(inputs, again.head.head.counted, strict=True))
    assert {m: n - counted[m] for m, n in again.steps.items() if counted[m] < n} == hidden
