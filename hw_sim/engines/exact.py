"""When floating-point numbers hold integers exactly: what the engine may leave out, and how it converts."""

import numpy as np
import torch
from torch.nn import functional

from taaf.models.ir import Conv2d, Node
from taaf.models.ir.nodes import PerChannel, Shape, spread


def is_power_of_two(n: int, or_zero: bool) -> bool:
    return (n > 0 or or_zero) and n & (n - 1) == 0


def whole_for(leaks: list[int]) -> int:
    """Leaks of 2^-k in a row that keep a multiple of 64 whole; 0 for others."""
    if any(d == 4096 or not is_power_of_two(4096 - d, or_zero=False) for d in leaks):
        return 0
    halvings = max((4096 // (4096 - d)).bit_length() - 1 for d in leaks)
    return 6 // halvings if halvings else 1 << 30


def scales_channels(node: Node) -> bool:
    """Whether a convolution only scales every channel: the identity shortcut of a residual block."""
    if not isinstance(node, Conv2d) or node.groups != 1 or node.weight.shape[2:] != (1, 1):
        return False
    square = node.weight.shape[0] == node.weight.shape[1] and node.stride == (1, 1) and node.padding == (0, 0)
    return square and np.count_nonzero(node.weight) == np.count_nonzero(node.weight[:, :, 0, 0].diagonal())


def per_channel(value: PerChannel, shape: Shape, factor: float, dtype: torch.dtype) -> float | torch.Tensor:
    """``factor`` (a power of two) times one value, or times one per channel such that it broadcasts over ``shape``."""
    if np.ndim(value) == 0:
        return factor * int(value)
    return torch.from_numpy(factor * spread(value, shape)).to(dtype)


def exact_tensor(values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32 if dtype == torch.float32 else np.float64))


@torch.no_grad()
def float32_convolves_exactly() -> bool:
    """Try it. NNPACK (used for batches where oneDNN is off or missing) rounds sums that float32 holds."""
    integers = torch.arange(16 * 8 * 10 * 10, dtype=torch.float64)
    x, weight = integers.reshape(16, 8, 10, 10) % 7 % 2, 64 * (integers[: 8 * 8 * 9].reshape(8, 8, 3, 3) * 37 % 255 - 127)
    exact = functional.conv2d(x, weight, padding=1)
    return torch.equal(functional.conv2d(x.float(), weight.float(), padding=1).double(), exact)
