"""Compiled loops over torch tensors on the CPU."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from taaf.models.kernels.threads import in_parts

T = TypeVar("T")


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's memory."""
    array: np.ndarray = (tensor.detach() if tensor.requires_grad else tensor).numpy()
    return array


def over_first_axis(do: Callable[..., T], *tensors: torch.Tensor) -> list[T]:
    """``do(*arrays)`` with the tensors' memory, in parts of the first axis on as many threads as torch uses."""
    return in_parts(do, *map(array_of, tensors), threads=torch.get_num_threads())
