"""S-CMRL goes the whole way: SLAYER forward = reference = engine = Lava on every layer, and every decision."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from on_lava import assert_layers_agree
from scmrl_nets import firing_network

from taaf.deploy.backends.fast import run_fast
from taaf.deploy.backends.sim import run_sim
from taaf.export.bundle.reader import Bundle, read_bundle
from taaf.export.frontend import float_graphs
from taaf.export.netx_bundle import export_netx
from taaf.export.passes import CompileReport, compile_graph
from taaf.models.checkpoint import load_model, save_checkpoint
from taaf.models.taaf import TaafSnn
from taaf.training.config import TrainConfig
from taaf.training.datasets.ead_mini import LABELS, load_split

pytestmark = pytest.mark.needs_slayer


def _windows(n: int, graph_shape: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    found = load_split("test", slice(n)).inputs()
    return {m: x.reshape(n, *graph_shape[m], x.shape[-1]) for m, x in found.items()}


@pytest.mark.parametrize(("how", "layers"), [("stride", 5), ("max_pool", 8)])
@pytest.mark.needs_lava
@pytest.mark.slow
def test_every_layer(how: str, layers: int) -> None:
    """SLAYER = reference = engine = stock NetX on Lava, every layer of a stem, relays of the positional residual included.

    Max pooling in training is torch's own; on the chip it is an OR of neurons. Seen failing with relays read from the kernel's
    corner, with a relay weight below the threshold, with relays before the positional channels, and with pooling weights of half
    a threshold.
    """
    model = firing_network(stem_downsampling=how)
    chains = {m: compile_graph(g, True, CompileReport())[1] for m, g in float_graphs(model).items()}
    for name, spikes in _windows(3, {m: g.input.shape for m, g in chains.items()}).items():
        chain, branch = chains[name], model.branches[name]
        with torch.no_grad():
            trained = {k: v.numpy() for k, v in branch.trace(torch.from_numpy(spikes.astype(np.float32))).items()}
        assert len(trained) == layers
        assert_layers_agree(chain, spikes, trained)
        channels = model.config.token_channels
        np.testing.assert_array_equal(trained["tokens_lif"][:, channels:], trained["conv4_lif"])
        assert (trained["tokens_lif"][:, :channels] != trained["conv4_lif"]).any()


def _exported(folder: Path, n: int, **changes: Any) -> tuple[TaafSnn, Bundle, dict[str, np.ndarray]]:
    network = firing_network(**changes)
    save_checkpoint(folder / "model.pt", network, TrainConfig(model=network.config).to_dict())
    part = load_split("test", slice(n))
    export_netx(folder / "model.pt", folder / "bundle", part.inputs(), part.labels, list(LABELS), verify_lava=0, quiet=True)
    return load_model(folder / "model.pt")[0], read_bundle(folder / "bundle"), part.inputs()


@pytest.mark.parametrize(
    ("changes", "on_lava"),
    [
        ({}, True),
        ({"fusion": "concat", "cross_modal": "attention", "alignment": "learned"}, False),
        ({"cross_modal": "none", "stem_downsampling": "max_pool"}, False),
    ],
    ids=str,
)
@pytest.mark.needs_lava
def test_export_and_run(changes: dict[str, Any], on_lava: bool, tmp_path: Path) -> None:
    """Engine and Lava give the trained network's features, logits (1e-9) and decisions.

    Seen failing with the map of tokens flattened in Lava's axis order, and with tokens split as (n, C) in the torch head.
    """
    model, bundle, inputs = _exported(tmp_path, 8, **changes)
    assert bundle.manifest["head"]["type"] == "scmrl" and bundle.manifest["model"] == "s-cmrl"
    features, output = model.predict(*(torch.from_numpy(x.astype(np.float32)) for x in inputs.values()))
    runs = {"fast": run_fast(bundle, bundle.encode(inputs))}
    if on_lava:
        runs["sim"] = run_sim(bundle, {m: x[:3] for m, x in bundle.encode(inputs).items()}, 120)
        early = [run_fast(bundle, bundle.encode({m: x[:3] for m, x in inputs.items()}), 0.2)]
        early.append(run_sim(bundle, {m: x[:3] for m, x in bundle.encode(inputs).items()}, 120, confidence=0.2))
        np.testing.assert_array_equal(early[0].exit_steps, early[1].exit_steps)
        np.testing.assert_allclose(early[0].logits["fused"], early[1].logits["fused"], atol=1e-9)
    for backend, found in runs.items():
        n = len(found.logits["fused"])
        for m, spikes in found.features.items():
            assert 0.01 < features[m].mean() < 0.9
            np.testing.assert_array_equal(spikes, features[m][:n].numpy(), err_msg=f"{backend} {m}")
        for u, logits in found.logits.items():
            expected = output.decision(u)[:n].numpy()
            np.testing.assert_allclose(logits, expected, atol=1e-9, err_msg=f"{backend} {u}")
            np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1))
        assert np.ptp(found.logits["fused"], axis=0).max() > 1e-3
