"""Spike source that falls silent for the rest of a window once the host head has decided it (early exit).

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


class GatedSourceProcess(AbstractProcess):
    """Sends row ``t - 1`` of ``path`` (.npy, (steps, *shape)) at time step t, unless its window is decided.

    ``decided_in`` receives, once per time step, the number of windows decided so far.
    """

    def __init__(self, *, shape: tuple[int, ...], path: str, window_steps: int) -> None:
        super().__init__(path=path, window_steps=window_steps)
        self.s_out = OutPort(shape=shape)
        self.decided_in = InPort(shape=(1,))


@implements(proc=GatedSourceProcess, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyGatedSourceModel(PyLoihiProcessModel):
    """Sends before it listens: an answer acts on the next time step, and the loop through the network cannot lock up."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    decided_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.stream = np.load(proc_params["path"], mmap_mode="r")
        self.window_steps: int = proc_params["window_steps"]
        self.n_decided = 0

    def run_spk(self) -> None:
        row = self.stream[min(self.time_step, len(self.stream)) - 1].astype(np.int32)
        open_window = (self.time_step - 1) // self.window_steps >= self.n_decided
        self.s_out.send(row if open_window and self.time_step <= len(self.stream) else np.zeros_like(row))
        self.n_decided = int(self.decided_in.recv()[0])
