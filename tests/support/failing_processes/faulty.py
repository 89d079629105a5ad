"""A Lava process that misbehaves at a chosen step. Alone in its folder: Lava's compiler executes all files beside it."""

import os
import signal
import time

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class Faulty(AbstractProcess):
    """``how``: raise, kill, sleep, init or none; ``step``: when."""

    def __init__(self, *, how: str, step: int) -> None:
        super().__init__(how=how, step=step)
        self.a_in = InPort(shape=(3,))


@implements(proc=Faulty, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyFaulty(PyLoihiProcessModel):
    """Receives spikes until its time has come."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.how, self.when = proc_params["how"], proc_params["step"]
        if self.how == "init":
            raise ValueError("planted in __init__")

    def run_spk(self) -> None:
        self.a_in.recv()
        if self.time_step != self.when:
            return
        if self.how == "raise":
            raise ValueError("planted in run_spk")
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "sleep":
            time.sleep(600)
