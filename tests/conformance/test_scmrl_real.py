"""S-CMRL on frames and spectrograms: SLAYER forward = integer encoder on the host, then reference = engine = Lava on every layer."""

import numpy as np
import pytest
import torch
from on_lava import run_on_lava
from resnet_nets import compiled, levels_of
from scmrl_nets import REAL, firing_network

from taaf.export.frontend import host_encoders
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.reference import run_reference

pytestmark = pytest.mark.needs_slayer


@pytest.mark.parametrize(
    ("how", "side", "first"), [("stride", 16, "conv2_lif"), ("max_pool", 32, "pool1_lif")], ids=["stride", "max_pool"]
)
@pytest.mark.needs_lava
@pytest.mark.slow
def test_encoder_and_every_layer(how: str, side: int, first: str) -> None:
    """Both modalities; inputs beyond the levels' range are clipped; the host convolves, and pools nothing.

    Seen failing without the clamp or the rounding in training's `levels`, with the first convolution in the chip's graph too, or
    in `trace`, and with a graph that lacks pool1.
    """
    model = firing_network(**REAL, stem_downsampling=how)
    _, chains, _ = compiled(model)
    levels = levels_of(model, 2)
    for name, encoder in host_encoders(model).items():
        branch, x = model.branches[name], levels[name]
        x[0, ..., 0], x[1, ..., 1] = 127, -128
        spikes = encoder(x)
        assert encoder.output_shape[:2] == (2, side if name == "visual" else -(-33 * side // 32)) and 0 < spikes.mean() < 0.9
        real = torch.from_numpy(x.astype(np.float32) / encoder.scale)
        with torch.no_grad():
            inner, part = real.abs() < 127 / encoder.scale, 0.4 / encoder.scale  # of a level
            for pushed in (real, torch.where(inner, real + part, 3 * real)):
                np.testing.assert_array_equal(branch.encode(pushed).numpy(), spikes)
            trained = {k: v.numpy() for k, v in branch.trace(torch.from_numpy(spikes.astype(np.float32))).items()}
            features = branch(real).numpy()
        chain = chains[name]
        assert chain.input.shape == encoder.output_shape
        assert list(trained) == [lif.name for lif in chain.lifs()] and next(iter(trained)) == first
        fast = Engine(chain).run(spikes, keep_all=True).spikes
        on_lava = run_on_lava(chain, spikes)
        for lif, expected in trained.items():
            assert expected.any(), lif
            slow = np.stack([run_reference(chain, w).spikes[lif] for w in spikes])
            for found in (slow, fast[lif], on_lava[lif]):
                np.testing.assert_array_equal(found, expected, f"{name}.{lif}")
        np.testing.assert_array_equal(features, fast["tokens_lif"].reshape(features.shape))
