"""A head of one's own: any torch module, exported to ONNX and run on the host by onnxruntime.

It takes the feature spikes of every modality as float32, (N, F_m, T_m) flattened or in the branch's shape (N, *shape, T_m), in
the order of the branches, and gives logits (N, C). A modality alone is the head with the others silent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from taaf.models.errors import BundleError
from taaf.models.heads.base import FUSED, UNTRAINED, Array, Arrays, Features, Head, Ops, Project, StepOutputs, silenced
from taaf.models.settings import Range

MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class Options:
    """Settings of ``[head] type = "onnx"``, written by the exporter.

    Attributes
    ----------
    n_bytes : int
        Size of the ONNX model, which is the array "onnx" of the head.
    flat : bool
        Features arrive as (N, F, T); False: in the branch's shape.
    tolerance : float
        By which logits may differ from torch's, relative to the largest of a window (at least 1).
    """

    n_bytes: Annotated[int, Range(1, MAX_BYTES)] = 1
    flat: bool = True
    tolerance: Annotated[float, Range(0.0, 1.0)] = 1e-4


class OnnxHead(Head):
    """See the module."""

    kind = "onnx"
    options_type = Options
    options: Options
    strategies = UNTRAINED  # whoever made it did

    def __init__(self, inputs: Mapping[str, Features], classes: int, options: Options) -> None:
        super().__init__(inputs, classes, options)
        self._session: Any = None

    def arrays(self) -> dict[str, Array]:
        return {"onnx": Array((self.options.n_bytes,), trained=False, raw=True)}

    def run(
        self, ops: Ops, arrays: Arrays, project: Project, features: Mapping[str, Any], which: Sequence[str] | None = None
    ) -> StepOutputs:
        given = {m: self._arranged(m, np.asarray(features[m], np.float32)) for m in self.modalities}
        logits = {}
        for u in self.outputs if which is None else which:
            parts = list(given.values()) if u == FUSED else silenced(self.modalities, given, ops, u)
            logits[u] = self._decide(arrays["onnx"], parts)[:, None]
        return StepOutputs(logits, {u: np.ones(o.shape[:2]) for u, o in logits.items()})

    def _arranged(self, name: str, x: np.ndarray) -> np.ndarray:
        return x if self.options.flat else x.reshape(len(x), *self.inputs[name].shape, x.shape[-1])

    def _decide(self, model: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
        session = self._opened(model)
        names = [i.name for i in session.get_inputs()]
        try:
            (found,) = session.run(None, dict(zip(names, parts, strict=True)))
        except Exception as error:  # onnxruntime has errors of its own for shapes and types
            raise BundleError(f"head: its ONNX model does not take these features ({str(error).splitlines()[0]})") from error
        logits = np.asarray(found, np.float64)
        if logits.shape != (len(parts[0]), self.classes):
            raise BundleError(f"head: its ONNX model gives {logits.shape}; allowed (windows, {self.classes})")
        return logits

    def _opened(self, model: np.ndarray) -> Any:
        """The session, made once per process (a Lava process must not inherit the threads of another)."""
        if self._session is None:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 4
            try:
                self._session = onnxruntime.InferenceSession(model.tobytes(), options, providers=["CPUExecutionProvider"])
            except Exception as error:
                raise BundleError(f"head: not a readable ONNX model ({str(error).splitlines()[0][:200]})") from error
            if len(self._session.get_inputs()) != len(self.inputs) or len(self._session.get_outputs()) != 1:
                raise BundleError(f"head: its ONNX model must have {len(self.inputs)} inputs and one output")
        return self._session

    def mac_parts(self) -> dict[str, int]:
        return {}

    def stages(self) -> list[tuple[str, str]]:
        return [("own head", f"ONNX model of {self.options.n_bytes:,} bytes, {self.classes} classes")]


HEAD = OnnxHead
