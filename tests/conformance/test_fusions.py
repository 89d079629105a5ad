"""Every fusion goes the whole way: checkpoint -> bundle -> exact engine and Lava runtime, as the trained network decides."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import taaf_config, trained

from taaf.deploy.backends.fast import run_fast
from taaf.deploy.backends.sim import run_sim
from taaf.export.bundle.reader import read_bundle
from taaf.export.netx_bundle import export_netx
from taaf.models.fusion import FUSIONS
from taaf.models.network import MultimodalSnn
from taaf.training.datasets.ead_mini import LABELS, load_split

ON_LAVA = ("film", "gated", "sum", "sca")


def _network(**changes: str) -> MultimodalSnn:
    """A small network with random weights that fire."""
    torch.manual_seed(4)
    model = MultimodalSnn(taaf_config(channels=2, wide=4, hidden=24, features=16, **changes)).eval()
    for name, value in model.named_parameters():
        if name.endswith("offset"):
            value.data.fill_(0.3)
        elif name.endswith("_spiking_weight"):
            value.data.normal_(0, 0.8)
    return model


@pytest.mark.parametrize(
    ("fusion", "options"),
    [
        *((f, {}) for f in FUSIONS),
        ("concat", {"attention_on": "features"}),
        ("gated", {"attention_on": "features"}),
        ("concat", {"attention_weights": "shared"}),
        ("sum", {"classifier": "spiking"}),
    ],
)
@pytest.mark.needs_lava
def test_export_and_run(fusion: str, options: dict[str, str], tmp_path: Path) -> None:
    """Export verifies the head; engine and Lava give the trained network's features, logits (1e-9) and decisions."""
    network, part = trained(tmp_path, _network(fusion=fusion, **options)), load_split("test", slice(12))
    export_netx(network, tmp_path / "bundle", part.inputs(), part.labels, list(LABELS))
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.manifest["head"]["fusion"] == fusion
    features, output = network.model.predict({m: torch.from_numpy(x.astype(np.float32)) for m, x in part.inputs().items()})
    runs = {"fast": run_fast(bundle, part.inputs())}
    if fusion in ON_LAVA and "attention_on" not in options:
        runs["sim"] = run_sim(bundle, {m: x[:3] for m, x in part.inputs().items()}, 120)
    for backend, found in runs.items():
        n = len(found.logits["fused"])
        for m, spikes in found.features.items():
            assert 0 < features[m].mean() < 1
            np.testing.assert_array_equal(spikes, features[m][:n].numpy(), err_msg=f"{backend} {m}")
        for u, logits in found.logits.items():
            expected = output.decision(u)[:n].numpy()
            assert np.ptp(expected) > 1e-3
            np.testing.assert_allclose(logits, expected, atol=1e-9, err_msg=f"{backend} {u}")
            np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1))
