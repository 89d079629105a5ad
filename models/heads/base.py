"""What a head is: the host part that decides from feature spikes, written once for training (torch) and deployment (NumPy).

A head describes its arrays and what it computes of them; only operations that torch tensors and NumPy arrays share are used,
what differs between the two is passed in as `Ops`. `taaf.models.trainable_head` runs it on torch float32,
`taaf.models.host_head` on NumPy float64, also inside a Lava process.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from taaf.models.errors import ConfigError

Arrays = Mapping[str, Any]
Project = Callable[[str, Any], Any]  # name, (..., n_in) -> current (..., n_out)
FUSED = "fused"  # the output of all modalities together
UNTRAINED = ("-",)  # strategies of a head that nothing here trains


@dataclass(frozen=True)
class Ops:
    """What torch and NumPy spell differently.

    Attributes
    ----------
    sigmoid, tanh, zeros_like, ones_like : callable
        Elementwise.
    concatenate : callable
        Of a list of arrays along the last axis.
    stack : callable
        Of a list of arrays along a new last axis.
    softmax : callable
        Over the last axis.
    on_grid : callable
        Round to multiples of 1/64 within +-4 (torch: straight-through derivative).
    lif : callable
        The host neuron over axis 1 of a current (N, T, ...): ``v <- v / 2 + I``, a spike and a reset to 0 where v > 1; with
        ``at_threshold=True`` where v >= 1.
    mlif : callable
        ISNet's neuron over axis 1 of a current (N, T, ...): ``v <- v / 2 + I``, a spike and ``v <- v - 1`` where v / 2 >= 1.
    over_steps : callable
        (x (N, F, T_in), weight (T_out, T_in, 3), bias (T_out,)) -> (N, T_out, F): Conv1d with time as channels, padding 1.
    whole_steps : callable
        (x (N, F, T_in), T_out) -> (N, T_out, F): time second, silent steps appended.
    """

    sigmoid: Callable[[Any], Any]
    tanh: Callable[[Any], Any]
    zeros_like: Callable[[Any], Any]
    ones_like: Callable[[Any], Any]
    concatenate: Callable[[list[Any]], Any]
    stack: Callable[[list[Any]], Any]
    softmax: Callable[[Any], Any]
    on_grid: Callable[[Any], Any]
    lif: Callable[..., Any]
    mlif: Callable[[Any], Any]
    over_steps: Callable[[Any, Any, Any], Any]
    whole_steps: Callable[[Any, int], Any]


@dataclass(frozen=True)
class Array:
    """One array of a head: its shape, and how training starts it.

    ``init``: "linear" (as torch's Linear; a bias follows its weight), "linear_transposed" (the same, stored (in, out)),
    "spiking" (wide enough to fire at 20 % active inputs), "eye" (identity and a little noise), "align" (an aligned step reads the
    input steps it covers), "zero".
    ``noise``: of "align" and "eye". ``trained``: whether training changes it. ``raw``: bytes, kept as they are.
    """

    shape: tuple[int, ...]
    init: str = "linear"
    noise: float = 0.0
    trained: bool = True
    raw: bool = False


@dataclass(frozen=True)
class Features:
    """What a branch sends to the head: spikes of this shape, at so many steps of a window."""

    shape: tuple[int, ...]
    steps: int

    @property
    def size(self) -> int:
        """Feature neurons."""
        n = 1
        for k in self.shape:
            n *= k
        return n


@dataclass
class StepOutputs:
    """What a head computes; keys are "fused" and the modalities. Torch tensors or NumPy arrays.

    Attributes
    ----------
    logits : dict
        Per step, (N, T, C).
    alpha : dict
        Weight of each step in the readout, (N, T): the temporal attention, 1/T, or 1 where spikes are counted.
    features : dict
        Aligned features (N, T, F) per modality, of heads that align.
    residuals : dict
        S-CMRL: mean of x_res over the tokens, (N, T, C) per modality.
    """

    logits: dict[str, Any]
    alpha: dict[str, Any]
    features: dict[str, Any] = field(default_factory=dict)
    residuals: dict[str, Any] = field(default_factory=dict)

    def decision(self, which: str = FUSED) -> Any:
        """Readout logits sum_t alpha(t) O(t), (N, C)."""
        return (self.alpha[which][..., None] * self.logits[which]).sum(1)


@dataclass(frozen=True)
class NoOptions:
    """Of a head without settings."""


class Head(ABC):
    """One kind of head, for given inputs.

    Parameters
    ----------
    inputs : dict
        Modality -> `Features`, in order; one or more.
    classes : int
        Number of classes C.
    options : dataclass
        An instance of ``options_type``.

    Attributes
    ----------
    options_type : type
        Dataclass of the settings in ``[head]`` beside ``type`` and ``classes``.
    strategies : tuple of str
        Names of the training strategies that go with it; empty: all that no head names; `UNTRAINED`: none.
    unsaid : mapping
        Settings that older files do not name -> what such a file means.
    """

    options_type: type[Any] = NoOptions
    kind: str = ""
    strategies: tuple[str, ...] = ()
    unsaid: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, inputs: Mapping[str, Features], classes: int, options: Any) -> None:
        self.inputs, self.classes, self.options = dict(inputs), classes, options
        self.modalities = tuple(self.inputs)
        if not self.inputs:
            raise ConfigError("head: no branches; a head needs at least one")
        if FUSED in self.inputs:
            raise ConfigError(f"branches.{FUSED}: this name is taken by the joint output; choose another")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it decides: "fused", then each modality alone."""
        return (FUSED, *self.modalities)

    @property
    def input_steps(self) -> dict[str, int]:
        """Steps of a window that are read of each modality."""
        return {m: x.steps for m, x in self.inputs.items()}

    @property
    def trained_outputs(self) -> tuple[str, ...] | None:
        """Names of the outputs that are computed while it is trained; None: all."""
        return None

    def arrays(self) -> dict[str, Array]:
        """Its arrays by name."""
        return {}

    def projections(self) -> dict[str, tuple[int, int]]:
        """Quantisation-aware dense layers by name, (outputs, inputs); `Project` runs them. Deployed as ``<name>_weight``, ``_bias``."""
        return {}

    @abstractmethod
    def run(
        self, ops: Ops, arrays: Arrays, project: Project, features: Mapping[str, Any], which: Sequence[str] | None = None
    ) -> StepOutputs:
        """Feature spikes (N, F, T_m) per modality -> `StepOutputs`; ``which``: only these outputs (None: all)."""

    @abstractmethod
    def mac_parts(self) -> dict[str, int]:
        """Multiply-accumulates of one fused decision on the host, by part (dense count)."""

    @abstractmethod
    def stages(self) -> list[tuple[str, str]]:
        """What it does, for reports: title, detail."""

    def spec(self) -> dict[str, Any]:
        """What a bundle says of it beside its arrays; `taaf.models.heads.head_of` builds it again."""
        inputs = {m: {"shape": list(x.shape), "steps": x.steps} for m, x in self.inputs.items()}
        return {"type": self.kind, "classes": self.classes, "inputs": inputs, **asdict(self.options)}


def silenced(modalities: Sequence[str], values: Mapping[str, Any], ops: Ops, alone: str) -> list[Any]:
    """The values in order, all but one modality replaced by silence."""
    return [values[m] if m == alone else ops.zeros_like(values[m]) for m in modalities]
