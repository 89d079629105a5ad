"""The host head as a Lava process on the host: receives feature spikes over channels, decides once per window.

Lava's compiler executes every file beside a Process several times: only processes and their models live here. A process's ports
are attributes of its class, so there is one class per number of branches (`HOST_HEADS`).
"""

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from taaf.models.host_head import HostHead, leading_probability

MAX_BRANCHES = 16


class HostHeadProcess(AbstractProcess):
    """Collects the feature spikes of all branches and answers once per window.

    Parameters
    ----------
    arrays, spec
        Of `taaf.models.host_head.HostHead`.
    board : taaf.deploy.lava.board.Board
        Says which slots hold a window, and takes the decisions.
    guard_steps : int
        First steps of each slot, whose spikes belong to no window.
    delays, shapes : dict
        Per branch, in the head's order: time steps from an input to its output spike, and shape of the last layer, (F,) or
        (C, H, W), which arrives as (W, H, C) at port ``in_<i>``.
    confidence : float, optional
        Early exit: decide a window at the first step whose softmax of the fused readout reaches it. ``decided_out``
        tells the sources how many slots are decided.
    """

    def __init__(
        self, *, arrays: dict[str, np.ndarray], spec: dict, board: Any, guard_steps: int, delays: dict[str, int],
        shapes: dict[str, tuple[int, ...]], confidence: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            arrays=arrays, spec=spec, board=board, guard_steps=guard_steps, delays=delays, shapes=shapes, confidence=confidence
        )
        for i, shape in enumerate(shapes.values()):  # branches in the head's order
            setattr(self, f"in_{i}", InPort(shape=tuple(reversed(shape))))
        self.decided_out = OutPort(shape=(1,))


class HostHeadModel(PyLoihiProcessModel):
    """NumPy only: torch inside a Lava process can deadlock after a fork."""

    decided_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.head = HostHead(proc_params["arrays"], proc_params["spec"])
        self.board: Any = proc_params["board"]
        self.window_steps: int = self.board.steps
        self.guard_steps: int = proc_params["guard_steps"]
        self.input_steps: dict = self.head.head.input_steps
        self.delays: dict = proc_params["delays"]
        shapes = {m: (int(np.prod(proc_params["shapes"][m])), self.input_steps[m]) for m in self.delays}
        lead = max(self.delays.values()) - min(self.delays.values())  # steps by which one branch is ahead of another
        self.n_slots = 1 + (lead + self.window_steps - 1) // self.window_steps  # slots begun before the oldest is complete
        self.features = {m: np.zeros((self.n_slots, *shape), np.uint8) for m, shape in shapes.items()}
        self.complete = dict.fromkeys(self.delays, 0)
        self.confidence: float | None = proc_params.get("confidence")
        self.n_decided = 0  # slots, idle ones included

    def run_spk(self) -> None:
        for i, modality in enumerate(self.delays):
            spikes = getattr(self, f"in_{i}").recv()
            slot, step = divmod(int(self.time_step) - 1 - self.delays[modality], self.window_steps)
            step -= self.guard_steps
            if slot < 0 or not 0 <= step < self.input_steps[modality]:
                continue
            self.features[modality][slot % self.n_slots, :, step] = spikes.T.reshape(-1) != 0
            if step == self.input_steps[modality] - 1:
                self.complete[modality] = slot + 1
        if self.confidence is None:
            if min(self.complete.values()) > self.n_decided:
                self._decide(self.n_decided, self.window_steps - self.guard_steps)
        else:
            self._decide_early(self.confidence)
        self.decided_out.send(np.array([self.n_decided], np.int32))

    def _decide(self, slot: int, seen: int, only_above: float = 0.0) -> None:
        """Answer after ``seen`` steps, if the leading class has at least this probability."""
        if self.board.taken[slot % self.board.n_slots]:
            features = {m: f[slot % self.n_slots][None].copy() for m, f in self.features.items()}
            for spikes in features.values():
                spikes[..., seen:] = 0
            output = self.head(features)
            if only_above and leading_probability(output.logits["fused"][0]) < only_above:
                return
            self.board.answer(slot, [logits[0] for logits in output.logits.values()], seen)
        self.n_decided = slot + 1

    def _decide_early(self, confidence: float) -> None:
        """Look at the window in flight, once all branches have delivered a further step of it."""
        slot, step = divmod(int(self.time_step) - 1 - max(self.delays.values()), self.window_steps)
        if slot == self.n_decided and step >= self.guard_steps:
            seen, most = step + 1 - self.guard_steps, self.window_steps - self.guard_steps
            self._decide(slot, seen, confidence if seen < most else 0.0)


def _classes_for(n_branches: int) -> tuple[type[AbstractProcess], type[PyLoihiProcessModel]]:
    """The process with this many ports, and its model."""
    process = type(f"HostHeadProcess{n_branches}", (HostHeadProcess,), {"__module__": __name__})
    ports = {f"in_{i}": LavaPyType(PyInPort.VEC_DENSE, np.int32) for i in range(n_branches)}
    kinds = {name: PyInPort for name in ports}
    space: dict[str, Any] = {**ports, "__module__": __name__, "__annotations__": kinds}
    model = type(f"HostHeadModel{n_branches}", (HostHeadModel,), space)
    return process, tag("fixed_pt")(requires(CPU)(implements(proc=process, protocol=LoihiProtocol)(model)))


HOST_HEADS: dict[int, type[AbstractProcess]] = {}
for _n in range(1, MAX_BRANCHES + 1):
    HOST_HEADS[_n], _model = _classes_for(_n)
    globals()[HOST_HEADS[_n].__name__], globals()[_model.__name__] = HOST_HEADS[_n], _model
