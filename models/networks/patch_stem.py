"""Spiking patch stem (SPS) of S-CMRL (arXiv 2502.12488): a map of tokens at its end.

    stages x [conv3 - BN - LIF], widths C/8, C/4, C/2, C    x: spikes of the last one
    positional residual: conv3 - BN - LIF                  p; the output is [p | x], and the host adds them: tokens in {0, 1, 2}

`stages` = 2 is the shallow stem that the original takes for 28 px (MNISTDVS-NTIDIGITS): two convolutions, widths C/2 and C, each
halving the map (``halvings = 2``; 28 px give 7 x 7 tokens).

The original max-pools the spikes (3x3, stride 2) of every convolution. Here the first ``halvings`` convolutions halve the map,
by a stride of their own (default), as ordinary layers of a chip do, or by ``downsampling = "max_pool"`` of their spikes, as the
original: exact on the chip too, at the price of a population more per pooling and of convolutions on the unreduced map.
"""

from typing import Annotated, Literal

from taaf.models.errors import ConfigError
from taaf.models.settings import Range
from taaf.models.wiring import Spikes

STAGES = 4  # at most


def wire(
    x: Spikes,
    *,
    channels: Annotated[int, Range(8, 1 << 16, grid=8)] = 64,
    stages: Annotated[int, Range(1, STAGES)] = STAGES,
    halvings: Annotated[int, Range(1, STAGES)] = 3,
    downsampling: Literal["stride", "max_pool"] = "stride",
) -> Spikes:
    """(C_in, H, W) -> (2 channels, H / 2^halvings, W / 2^halvings), rounded up: [p | x]."""
    if halvings > stages:
        raise ConfigError(f"halvings (={halvings}): every convolution halves once; allowed 1 to stages (={stages})")
    for i in range(1, stages + 1):
        pools = i <= halvings and downsampling == "max_pool"
        stride = 2 if i <= halvings and not pools else 1
        x = x.conv(f"conv{i}", channels // 2 ** (stages - i), 3, stride).lif(f"conv{i}_lif")
        x = x.max_pool(f"pool{i}") if pools else x
    return x.conv("position", channels, 3).lif("position_lif").beside(x, "tokens_lif")
