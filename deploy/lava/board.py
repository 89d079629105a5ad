"""Memory and a pipe that this process shares with the Lava processes it forks: windows in, answers and recorded spikes out.

Time on a Lava network is cut into slots of one window each. Slot k lies at place ``k % n_slots`` of every array; the spikes of
a layer at time step t (from 1) at row ``(t - 1) % (n_slots * steps)``. Nothing here is locked: this process writes and reads while
the network pauses, or after an answer came through the pipe. No name and no file exists for any of it, so nothing can be left behind.
"""

import math
import mmap
import os
import select
from collections.abc import Mapping

import numpy as np

from taaf.models.errors import RuntimeFailedError
from taaf.models.shell.limits import of_memory

Port = tuple[int, ...]
_TOKEN = 8  # bytes of a slot number in the pipe


def shared_array(shape: tuple[int, ...], dtype: np.dtype | type = np.uint8) -> np.ndarray:
    """Zeros that processes forked later write into and read from.

    Raises
    ------
    RuntimeFailedError
        If there is no memory for it.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        buffer = mmap.mmap(-1, max(1, size))
    except (OSError, OverflowError, ValueError) as error:
        raise RuntimeFailedError(
            f"{size / 2**20:,.0f} MiB for the spikes of the Lava network cannot be had{of_memory()}; run a smaller network"
        ) from error
    return np.frombuffer(buffer, dtype, math.prod(shape)).reshape(shape)


class Board:
    """What is shared.

    Parameters
    ----------
    n_slots, steps : int
        Slots kept, and time steps of one.
    inputs : mapping
        Branch -> axes of a time step at its input port.
    outputs : tuple of int
        Axes of one decision: outputs and classes.

    Attributes
    ----------
    inputs : dict
        Branch -> spikes to send, (slots, steps, *port) uint8.
    taken : numpy.ndarray
        1 where the slot holds a window, 0 where it is idle.
    logits, seen : numpy.ndarray
        Decision of each slot, (slots, outputs, classes) float64, and the steps of its window that were seen then.
    """

    def __init__(self, n_slots: int, steps: int, inputs: Mapping[str, Port], outputs: tuple[int, int]) -> None:
        self.n_slots, self.steps = n_slots, steps
        self.inputs = {b: shared_array((n_slots, steps, *port)) for b, port in inputs.items()}
        self.taken = shared_array((n_slots,))
        self.logits = shared_array((n_slots, max(1, outputs[0]), max(1, outputs[1])), np.float64)
        self.seen = shared_array((n_slots,), np.int64)
        self._read = self._write = -1

    def open(self) -> None:
        """Make the pipe; before the processes are forked."""
        self._read, self._write = os.pipe()

    def raster(self, port: Port) -> np.ndarray:
        """Room for what one layer sends: (slots * steps, *port)."""
        return shared_array((self.n_slots * self.steps, *port))

    def put(self, slot: int, windows: Mapping[str, np.ndarray] | None) -> None:
        """Fill a slot with (steps, *port) per branch; None: it is idle."""
        at = slot % self.n_slots
        self.taken[at] = windows is not None
        for branch, spikes in self.inputs.items():
            spikes[at] = 0 if windows is None else windows[branch]

    def answer(self, slot: int, logits: list[np.ndarray], seen: int) -> None:
        """Called by the head: the decision of a slot."""
        at = slot % self.n_slots
        for i, row in enumerate(logits):
            self.logits[at, i] = row
        self.seen[at] = seen
        os.write(self._write, slot.to_bytes(_TOKEN, "little"))

    def wait(self) -> int:
        """The next slot that is answered, in their order; blocks until it is."""
        poll = select.poll()  # select() takes no descriptors beyond 1023
        poll.register(self._read, select.POLLIN)
        poll.poll()  # a signal ends it
        return int.from_bytes(os.read(self._read, _TOKEN), "little")

    def decision(self, slot: int) -> tuple[np.ndarray, int]:
        """Logits (outputs, classes) and steps seen of an answered slot."""
        at = slot % self.n_slots
        return self.logits[at].copy(), int(self.seen[at])

    def rows(self, raster: np.ndarray, slot: int, delay: int) -> np.ndarray:
        """A layer's (steps, *port) of a slot that arrives ``delay`` time steps late."""
        at = (slot * self.steps + delay + np.arange(self.steps)) % len(raster)
        return raster[at]

    def close(self) -> None:
        """Close the pipe; the memory goes with the arrays."""
        for end in (self._read, self._write):
            if end >= 0:
                os.close(end)
        self._read = self._write = -1
