"""Spike recorder: writes what one layer sends, step by step, into a memory-mapped file the parent reads afterwards.

Lava moves Var values one element at a time (about 20 us each), which a full raster cannot afford.
"""

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class RecorderProcess(AbstractProcess):
    """Records ``n_steps`` steps of spikes of the given shape into ``path`` (an existing .npy file, uint8)."""

    def __init__(self, *, shape: tuple[int, ...], path: str, n_steps: int) -> None:
        super().__init__(path=path, n_steps=n_steps)
        self.a_in = InPort(shape=shape)


@implements(proc=RecorderProcess, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyRecorderModel(PyLoihiProcessModel):
    """Row ``t - 1`` of the file holds the spikes of time step t."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.raster = np.load(proc_params["path"], mmap_mode="r+")
        self.n_steps: int = proc_params["n_steps"]

    def run_spk(self) -> None:
        spikes = self.a_in.recv()
        if self.time_step <= self.n_steps:
            self.raster[self.time_step - 1] = spikes != 0
