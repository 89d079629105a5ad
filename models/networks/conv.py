"""A small convolutional SNN with a residual block, the reference model's event branch.

    conv3/2 - LIF - [conv3/2 - LIF - conv3 + 1x1/2 shortcut] - LIF - dense - LIF

The bracket is the block of TET's spiking ResNet (Deng et al. 2022): the shortcut's current is added before the second LIF.
"""

from taaf.models.wiring import Spikes


def wire(x: Spikes, *, channels: int = 8, wide: int = 16, features: int = 128) -> Spikes:
    """(C, H, W) -> (features,); ``channels`` of the stem, ``wide`` of the block."""
    stem = x.conv("stem", channels, 3, stride=2).lif("stem_lif", v_th=64)
    inner = stem.conv("block1", wide, 3, stride=2).lif("block1_lif")
    around = inner.conv("block2", wide, 3, gain=0.7) + stem.conv("shortcut", wide, 1, stride=2, gain=0.7)
    outer = around.lif("block2_lif")
    return outer.flatten().dense("readout", features).lif("readout_lif")
