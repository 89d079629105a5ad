"""Compiled loops over torch tensors on the CPU."""

from collections.abc import Callable

import numpy as np
import torch

from taaf.models.kernels.threads import in_parts


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's memory."""
    array: np.ndarray = (tensor.detach() if tensor.requires_grad else tensor).numpy()
    return array


def over_first_axis(do: Callable[..., None], *tensors: torch.Tensor) -> None:
    """``do(*arrays)`` with the tensors' memory, in parts of the first axis on as many threads as torch uses."""
    in_parts(do, *map(array_of, tensors), threads=torch.get_num_threads())
