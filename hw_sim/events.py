"""Convolution by events: for every spike, add its fan-out to the output. Exact like the dense one, cheaper when few spike.

Measured on shapes of ResNet18 (tests/benchmarks/paper_scale.py): the dense convolution wins from about one spike in a hundred
on, the event-driven one below; `few_spikes` is set where it wins on all of them.
"""

import torch

from taaf.models.ir import Conv2d

EVENT_RATE = 0.002


def few_spikes(conv: Conv2d, spikes: torch.Tensor) -> bool:
    """Whether `convolve_events` is expected to be faster than a dense convolution; ``spikes`` (N, C, H, W)."""
    if conv.groups != 1 or spikes.numel() == 0:
        return False
    return int(torch.count_nonzero(spikes)) <= EVENT_RATE * spikes.numel()


def convolve_events(conv: Conv2d, by_source: torch.Tensor, bias: torch.Tensor | None, spikes: torch.Tensor) -> torch.Tensor:
    """Cross-correlation of spikes (N, C, H, W) with ``by_source`` (C, kH, kW, C'), one group -> (N, C', H', W').

    Every sum has the terms of the dense convolution, so that it is exact where those are (`taaf.hw_sim.engine`).
    """
    _, *size = conv.out_shape([tuple(spikes.shape[1:])])
    height, width = size
    out = by_source.new_zeros((len(spikes) * height * width, by_source.shape[-1]))
    n, c, y, x = spikes.nonzero().T
    for i in range(by_source.shape[1]):
        for j in range(by_source.shape[2]):
            row, row_off = _divided(y + conv.padding[0] - i * conv.dilation[0], conv.stride[0])
            column, column_off = _divided(x + conv.padding[1] - j * conv.dilation[1], conv.stride[1])
            hit = (row_off == 0) & (column_off == 0) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            at = (n * height + row) * width + column
            out.index_add_(0, at[hit], by_source[c[hit], i, j])
    if bias is not None:
        out += bias
    return out.view(len(spikes), height, width, -1).permute(0, 3, 1, 2).contiguous()


def _divided(at: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    return at.div(stride, rounding_mode="floor"), at.remainder(stride)
