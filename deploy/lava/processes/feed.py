"""Spike source fed from the host: sends the windows of a board, and falls silent once the head has decided one (early exit).

Lava's compiler executes every file beside a Process several times: only processes and their models live here.
"""

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class FeedProcess(AbstractProcess):
    """Sends step ``(t - 1) % steps`` of slot ``(t - 1) // steps`` at time step t, unless its window is decided.

    Parameters
    ----------
    slots : numpy.ndarray
        (slots, steps, *shape) uint8, shared with the host (`taaf.deploy.lava.board.Board`).

    ``decided_in``, where it is connected, receives once per time step the number of slots decided so far.
    """

    def __init__(self, *, slots: np.ndarray) -> None:
        super().__init__(slots=slots)
        self.s_out = OutPort(shape=slots.shape[2:])
        self.decided_in = InPort(shape=(1,))


@implements(proc=FeedProcess, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyFeedModel(PyLoihiProcessModel):
    """Sends before it listens: an answer acts on the next time step, and the loop through the network cannot lock up."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    decided_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.slots: np.ndarray = proc_params["slots"]
        self.n_decided = 0

    def run_spk(self) -> None:
        slot, step = divmod(int(self.time_step) - 1, self.slots.shape[1])
        row = self.slots[slot % len(self.slots), step].astype(np.int32)
        self.s_out.send(row if slot >= self.n_decided else np.zeros_like(row))
        self.n_decided = int(self.decided_in.recv()[0])  # 0 where nothing is connected
