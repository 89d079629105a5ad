"""The host head as a Lava process on the host: receives feature spikes over channels, decides once per window.

Lava's compiler executes every file beside a Process several times: only processes and their models live here.
"""

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from taaf.models.host_head import leading_probability
from taaf.models.host_heads import host_head


class HostHeadProcess(AbstractProcess):
    """Collects the feature spikes of both branches and writes one row of logits per window.

    Parameters
    ----------
    arrays, spec
        Of `taaf.models.host_heads.host_head`.
    n_windows, window_steps : int
        Windows arrive back to back, one every ``window_steps`` steps.
    input_steps, delays, shapes : dict
        Per branch, in the head's order: steps of a window that are read, time steps from an input to its output spike, shape
        of the last layer, (F,) or (C, H, W), which arrives as (W, H, C).
    classes : int
        Number of classes.
    confidence : float, optional
        Early exit: decide a window at the first step whose softmax of the fused readout reaches it. ``decided_out``
        tells the sources how many windows are decided; ``exit_steps`` keeps the number of steps seen.
    """

    def __init__(
        self, *, arrays: dict[str, np.ndarray], spec: dict, n_windows: int, window_steps: int,
        input_steps: dict[str, int], delays: dict[str, int], shapes: dict[str, tuple[int, ...]], classes: int,
        confidence: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            arrays=arrays, spec=spec, n_windows=n_windows, window_steps=window_steps,
            input_steps=input_steps, delays=delays, shapes=shapes, confidence=confidence,
        )  # fmt: skip
        first, second = shapes.values()  # branches in the head's order
        self.first_in = InPort(shape=tuple(reversed(first)))
        self.second_in = InPort(shape=tuple(reversed(second)))
        self.fused_logits = Var(shape=(n_windows, classes), init=0)
        self.first_logits = Var(shape=(n_windows, classes), init=0)
        self.second_logits = Var(shape=(n_windows, classes), init=0)
        self.windows_done = Var(shape=(1,), init=0)
        self.exit_steps = Var(shape=(n_windows,), init=0)
        self.decided_out = OutPort(shape=(1,))


@implements(proc=HostHeadProcess, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyHostHeadModel(PyLoihiProcessModel):
    """NumPy only: torch inside a Lava process can deadlock after a fork."""

    first_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    second_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    fused_logits: np.ndarray = LavaPyType(np.ndarray, float)
    first_logits: np.ndarray = LavaPyType(np.ndarray, float)
    second_logits: np.ndarray = LavaPyType(np.ndarray, float)
    windows_done: np.ndarray = LavaPyType(np.ndarray, np.int32)
    exit_steps: np.ndarray = LavaPyType(np.ndarray, np.int32)
    decided_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.head = host_head(proc_params["arrays"], proc_params["spec"])
        self.n_windows: int = proc_params["n_windows"]
        self.window_steps: int = proc_params["window_steps"]
        self.input_steps: dict = proc_params["input_steps"]
        self.delays: dict = proc_params["delays"]
        shapes = {m: (int(np.prod(proc_params["shapes"][m])), self.input_steps[m]) for m in self.delays}
        lead = max(self.delays.values()) - min(self.delays.values())  # steps by which one branch is ahead of the other
        self.n_slots = 1 + (lead + self.window_steps - 1) // self.window_steps  # windows begun before the oldest is complete
        self.features = {m: np.zeros((self.n_slots, *shape), np.uint8) for m, shape in shapes.items()}
        self.complete = dict.fromkeys(self.delays, 0)
        self.confidence: float | None = proc_params.get("confidence")

    def run_spk(self) -> None:
        for modality, port in zip(self.head.modalities, (self.first_in, self.second_in), strict=True):
            spikes = port.recv()
            window, step = divmod(self.time_step - 1 - self.delays[modality], self.window_steps)
            if window < 0 or window >= self.n_windows or step >= self.input_steps[modality]:
                continue
            self.features[modality][window % self.n_slots, :, step] = spikes.T.reshape(-1) != 0
            if step == self.input_steps[modality] - 1:
                self.complete[modality] = window + 1
        if self.confidence is None:
            if min(self.complete.values()) > self.windows_done[0]:
                self._decide(int(self.windows_done[0]), self.window_steps)
        else:
            self._decide_early(self.confidence)
        self.decided_out.send(self.windows_done)

    def _decide(self, window: int, seen: int, only_above: float = 0.0) -> None:
        """Record the decision after ``seen`` steps, if the leading class has at least this probability."""
        features = {m: f[window % self.n_slots][None].copy() for m, f in self.features.items()}
        for spikes in features.values():
            spikes[..., seen:] = 0
        output = self.head(features)
        if leading_probability(output.logits["fused"][0]) < only_above:
            return
        self.fused_logits[window] = output.logits["fused"][0]
        first, second = self.head.modalities
        self.first_logits[window] = output.logits[first][0]
        self.second_logits[window] = output.logits[second][0]
        self.exit_steps[window] = seen
        self.windows_done[0] = window + 1

    def _decide_early(self, confidence: float) -> None:
        """Look at the window in flight, once both branches have delivered a further step of it."""
        window, step = divmod(self.time_step - 1 - max(self.delays.values()), self.window_steps)
        if window == self.windows_done[0] and window < self.n_windows:
            self._decide(window, step + 1, confidence if step + 1 < self.window_steps else 0.0)
