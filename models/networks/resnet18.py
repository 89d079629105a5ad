"""Spiking ResNet18, the branch of arXiv 2505.14535 (section 4) for CREMA-D and AVE; the block is TET's (Deng et al. 2022).

    7x7/2 conv - BN - LIF                                  of real-valued input: the encoder on the host
    3x3/2 conv - BN - LIF - 8 blocks - sum over the map - dense - LIF
    block:  conv - BN - LIF - conv - BN - (+ shortcut) - LIF

Two things differ from ResNet18: the second stem convolution stands where ResNet18 max-pools, and the dense layer takes the sum
over the map instead of its mean, which the chip cannot hold exactly (each position has the same weights, so that a factor
1 / (H W) is in the weights, which batch norm scales anyway).
"""

from taaf.models.wiring import Spikes

BLOCKS = ((1, 1), (1, 1), (2, 2), (2, 1), (4, 2), (4, 1), (8, 2), (8, 1))  # (times the width, stride)


def wire(x: Spikes, *, width: int = 64, features: int = 128) -> Spikes:
    """(C, H, W) -> (features,); ``width``: channels of the stem, 64 in the paper."""
    x = x.conv("stem", width, 7, stride=2).lif("stem_lif")
    x = x.conv("pool", width, 3, stride=2).lif("pool_lif")
    for i, (times, stride) in enumerate(BLOCKS, start=1):
        n, changes = times * width, stride != 1 or x.shape[0] != times * width
        inner = x.conv(f"block{i}_conv1", n, 3, stride).lif(f"block{i}_lif1")
        main, name = inner.conv(f"block{i}_conv2", n, 3, gain=0.7), f"block{i}_shortcut"
        around = x.conv(name, n, 1, stride, gain=0.7) if changes else x.through(name)
        x = (main + around).lif(f"block{i}_lif2")
    return x.dense_over_map("readout", features).lif("readout_lif")
