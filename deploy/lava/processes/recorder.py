"""Spike recorder: writes what one layer sends, step by step, into memory that the host reads afterwards.

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
    """Records spikes into ``raster`` (rows, *shape), shared with the host (`taaf.deploy.lava.board`).

    Time step t is row ``(t - 1) % rows``.
    """

    def __init__(self, *, raster: np.ndarray) -> None:
        super().__init__(raster=raster)
        self.a_in = InPort(shape=raster.shape[1:])


@implements(proc=RecorderProcess, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyRecorderModel(PyLoihiProcessModel):
    """Overwrites the oldest row."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.raster: np.ndarray = proc_params["raster"]

    def run_spk(self) -> None:
        self.raster[(int(self.time_step) - 1) % len(self.raster)] = self.a_in.recv() != 0
