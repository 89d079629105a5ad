"""Training over several processes with torchrun: which rows of a batch a rank computes, and on which device."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from taaf.models.errors import BackendUnavailableError, ConfigError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """This process among all.

    Attributes
    ----------
    rank, size : int
        Of this process, and number of processes.
    device : torch.device
        Where this process computes; devices of the ranks may differ.
    """

    rank: int
    size: int
    device: torch.device

    @staticmethod
    def single(device: str = "cpu") -> "Ranks":
        """One process."""
        return Ranks(0, 1, torch.device(device))

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def slice_of(self, n: int) -> slice:
        """The rows of ``n`` that belong to this rank: contiguous, sizes differ by at most one, all rows covered."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def share(self, items: list[Item]) -> list[Item]:
        """This rank's items."""
        return items[self.slice_of(len(items))]

    def check_batches(self, n_samples: int, batch_size: int) -> None:
        """Every rank needs at least one sample of every batch, the last one included."""
        last = n_samples % batch_size or min(batch_size, n_samples)
        if min(last, batch_size) < self.size:
            raise ConfigError(
                f"optimiser.batch_size (={batch_size}): the smallest batch of {n_samples} samples has {min(last, batch_size)}, "
                f"fewer than {self.size} processes; choose another batch size or fewer processes"
            )

    def wrap(self, step: nn.Module, may_skip: bool) -> nn.Module:
        """The training step, with gradients averaged over ranks. Statistics are synchronised by the layers themselves.

        ``may_skip``: some parameters may get no gradient.
        """
        if self.size == 1:
            return step
        ddp: nn.Module = nn.parallel.DistributedDataParallel(step, broadcast_buffers=False, find_unused_parameters=may_skip)
        return ddp


@contextmanager
def join(devices: str) -> Iterator[Ranks]:
    """Join the group that torchrun started (gloo, which serves CPU and CUDA tensors), or be the only process.

    Parameters
    ----------
    devices : str
        ``cpu``, ``cuda``, ``cuda:1`` or a comma-separated list that is dealt out to the ranks of a machine, e.g.
        ``cuda:0,cpu``. ``cuda`` alone means the device of the local rank.

    Raises
    ------
    ConfigError
        If a device name is not understood.
    BackendUnavailableError
        If a CUDA device is asked for that is not there.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    names = devices.split(",")
    name = names[local % len(names)].strip()
    try:
        device = torch.device(f"cuda:{local}" if name == "cuda" else name)
    except RuntimeError as error:
        raise ConfigError(f"--device {devices}: {name!r} is not a device; allowed cpu, cuda, cuda:N, or a list") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {devices}: {name!r} is not supported; allowed cpu, cuda, cuda:N, or a list")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendUnavailableError(f"--device {devices}: {torch.cuda.device_count()} CUDA devices here; use --device cpu")
    if size == 1:
        yield Ranks(0, 1, device)
        return
    torch.distributed.init_process_group("gloo")
    try:
        yield Ranks(rank, size, device)
    finally:
        torch.distributed.destroy_process_group()
