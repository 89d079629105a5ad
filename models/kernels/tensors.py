"""Compiled loops over torch tensors on the CPU."""

from collections.abc import Callable

import torch

from taaf.models.kernels.threads import in_parts


def over_first_axis(do: Callable[..., None], *tensors: torch.Tensor) -> None:
    """``do(*arrays)`` with the tensors' memory, in parts of the first axis on as many threads as torch uses."""
    in_parts(do, *(t.detach().numpy() for t in tensors), threads=torch.get_num_threads())
