"""Spiking patch stem (SPS) of S-CMRL (arXiv 2502.12488): the on-chip backbone of one modality, tokens at its end.

    4 x [conv 3x3 - BN - LIF], widths C/8, C/4, C/2, C         x: spikes of the last one, a map of tokens
    positional residual: conv 3x3 - BN - LIF                   p; the tokens are x + p, in {0, 1, 2}

The original max-pools the spikes (3x3, stride 2) of every convolution. Here the first ``stem_halvings`` convolutions halve the
map, and by default they do so by a stride of their own, as ordinary layers of a chip do. ``stem_downsampling = "max_pool"``
pools as the original: the maximum of spikes is an OR, and neurons whose every synapse exceeds the threshold compute exactly
that on the chip, at the price of a population more per pooling and of convolutions on the unreduced map.

Spikes (branch kind "sps") enter the chip as they are. Of frames and spectrograms (kind "sps_real") the first convolution and its
LIF are the encoder on the host (`taaf.models.encoded_branch`); what follows, its pooling included, is on the chip.

The positional residual adds *spikes*, behind the LIF. Residual joins that the compiler lowers add *currents* in front of one,
so this one is lowered here: the last layer on the chip has channels [p | x], the second half relays, and the host adds them.
"""

import torch
from torch import nn
from torch.nn import functional

from taaf.models.branches import lif
from taaf.models.config import STEM_STAGES, ModelConfig
from taaf.models.encoded_branch import EncodedBranch
from taaf.models.qat import QatConv2d, over_time
from taaf.models.slayer_lif import SlayerLif

POOL_SIZE, POOL_STRIDE, POOL_PADDING = 3, 2, 1
V_TH = 128  # below the weight of a relay, which must fire at once


class SpikingPatchStem(EncodedBranch):
    """(N, C_in, H, W, T) spikes or real numbers, or flat spikes (N, C_in H W, T), -> (N, 2 C tokens, T) spikes, [p | x] flattened.

    Parameters
    ----------
    shape : tuple of int
        (C_in, H, W) of the input.
    config : ModelConfig
        ``token_channels`` (C), ``stem_halvings`` and ``stem_downsampling`` are read.
    scale : int, optional
        Levels per unit of a real-valued input; without it the input is spikes.
    """

    def __init__(self, shape: tuple[int, ...], config: ModelConfig, scale: int | None = None) -> None:
        super().__init__()
        self.shape, self.scale = shape, scale
        channels = config.token_channels
        widths = [shape[0], *(channels // 8 * 2**i for i in range(STEM_STAGES))]
        halved = [i < config.stem_halvings for i in range(STEM_STAGES)]
        self.pooled = [is_halved and config.stem_downsampling == "max_pool" for is_halved in halved]
        self.convs = nn.ModuleList(
            QatConv2d(widths[i], widths[i + 1], 3, 2 if halved[i] and not self.pooled[i] else 1, v_th_mant=V_TH)
            for i in range(STEM_STAGES)
        )
        self.lifs = nn.ModuleList(lif(V_TH, config) for _ in range(STEM_STAGES))
        self.position = QatConv2d(channels, channels, 3, 1, v_th_mant=V_TH)
        self.position_lif = lif(V_TH, config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shaped = x.reshape(len(x), *self.shape, x.shape[-1])
        return self.trace(shaped if self.scale is None else self.encode(shaped))["tokens_lif"].flatten(1, 3)

    def first_layer(self) -> tuple[QatConv2d, SlayerLif]:
        return self.convs[0], self.lifs[0]  # type: ignore[return-value]

    def trace(self, spikes: torch.Tensor) -> dict[str, torch.Tensor]:
        """Spikes of every LIF population on the chip, by name, (N, C', H', W', T) each, for the chip's input spikes."""
        found = {}
        x = spikes if self.scale else spikes.reshape(len(spikes), *self.shape, spikes.shape[-1])
        for i, (conv, neurons) in enumerate(zip(self.convs, self.lifs, strict=True), start=1):
            if i > 1 or self.scale is None:
                found[f"conv{i}_lif"] = x = neurons(over_time(conv, x))
            if self.pooled[i - 1]:
                found[f"pool{i}_lif"] = x = over_time(_max_pool, x)
        position = self.position_lif(over_time(self.position, x))
        found["tokens_lif"] = torch.cat([position, x], 1)
        return found


def _max_pool(spikes: torch.Tensor) -> torch.Tensor:
    return functional.max_pool2d(spikes, POOL_SIZE, POOL_STRIDE, POOL_PADDING)
