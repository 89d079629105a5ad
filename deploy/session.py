"""A bundle opened once, answering many windows."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from taaf.deploy.backends import backend_of
from taaf.deploy.backends.base import Backend, BackendResult, Spikes
from taaf.deploy.windows import one_window
from taaf.export.bundle.reader import Bundle, read_bundle
from taaf.models.errors import ConfigError, TaafError
from taaf.models.host_head import softmax

Window = Mapping[str, Any]  # modality -> array (*shape, steps)
TIME_LIMIT_S = 60.0


@dataclass(frozen=True, eq=False)
class Decision:
    """The answer to one window.

    Attributes
    ----------
    index : int
        Number of the window in its session, from 0 on; refused windows count.
    label : int
        Class with the largest fused readout.
    name : str
        Name of that class.
    probabilities : numpy.ndarray
        Softmax of the fused readout, (C,).
    logits : dict
        "fused" and the modalities -> readout (C,) float64.
    steps : int
        Time steps of the window that the head had seen when it decided, 1..W; W without early exit.
    spikes : dict
        "branch.layer" -> spikes counted in the window, the input included; empty where nothing is counted.
    latency_s : float
        Seconds from taking the window to its answer, encoding included.
    """

    index: int
    label: int
    name: str
    probabilities: np.ndarray
    logits: dict[str, np.ndarray]
    steps: int
    spikes: dict[str, int]
    latency_s: float


class Session:
    """Context manager around a bundle that is ready to answer.

    On ``sim`` the Lava network is compiled and its processes are forked when the session is entered; they stay up until it is left.
    Then no process, shared memory or file is left, also after SIGINT, SIGTERM or the death of a Lava process. A window that
    is not as the bundle takes it is refused by one line; the session goes on.

    Parameters
    ----------
    bundle : Bundle or Path
        A bundle (`taaf.export.bundle.reader.read_bundle`), or its folder.
    backend : str
        "sim" (Lava runtime), "fast" (exact engine) or "loihi2" (chip).
    early_exit : float, optional
        Confidence in 0..1 at which a window is decided early.
    count : bool
        Record every layer, so that its spikes are counted. On ``sim`` this takes a process per layer; without, an answer comes as
        soon as the head has decided.
    time_limit_s : float
        On Lava: seconds for entering, and for each answer.

    Attributes
    ----------
    bundle : Bundle
        What it answers with.
    n_windows : int
        Windows it was given so far.

    Raises
    ------
    BundleError, ConfigError
        From here: the bundle cannot be read, or an option is wrong.
    BackendUnavailableError
        From here or on entering: the backend is not on this machine.
    RuntimeFailedError
        On entering or from an answer: a Lava process died or failed, or the time limit is over. The session is over then.
    DataError
        From an answer: the window is refused.

    Notes
    -----
    A bundle whose synapses hold spikes over the end of a window (recurrent layers without guard steps, axonal delays) cannot stay
    up on Lava: every window is compiled anew there, as no reset of Lava's clears them. On Lava a session belongs to the main thread.

    Examples
    --------
    >>> import numpy as np
    >>> from taaf.deploy import Session
    >>> from taaf.models import zoo_path
    >>> window = {"event": np.zeros((2, 34, 34, 8)), "audio": np.zeros((160, 12))}
    >>> with Session(zoo_path("ead_mini"), backend="fast") as session:
    ...     decision = session(window)
    >>> decision.steps, decision.spikes["audio.input"], decision.probabilities.shape
    (12, 0, (10,))
    """

    def __init__(
        self, bundle: Bundle | Path | str, backend: str = "sim", *, early_exit: float | None = None, count: bool = True,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:  # fmt: skip
        self.bundle = bundle if isinstance(bundle, Bundle) else read_bundle(Path(bundle))
        kind = backend_of(backend)
        if early_exit is not None and not self.bundle.head.decides:
            raise ConfigError(f"--early-exit: {self.bundle.path} has no head that decides; leave it out")
        if early_exit is not None and not 0 <= early_exit <= 1:
            raise ConfigError(f"early exit {early_exit!r}: not a probability; allowed 0..1")
        if not time_limit_s > 0:
            raise ConfigError(f"time limit {time_limit_s!r}: allowed seconds above 0")
        self._prepared: Backend = kind(self.bundle, early_exit, count, time_limit_s)
        self._backend: Backend | None = None
        self._labels = self.bundle.manifest["labels"]
        self.n_windows = 0

    def __enter__(self) -> "Session":
        self._prepared.__enter__()
        self._backend = self._prepared
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._backend = None
        self._prepared.__exit__(kind, error, trace)

    def __call__(self, window: Window) -> Decision:
        """Decide one window.

        Parameters
        ----------
        window : mapping
            Modality -> array (*shape, steps): zeros and ones for a branch that takes spikes; real numbers, or int8 levels, for
            one with an encoder.
        """
        (decision,) = self.stream([window])
        return decision

    def stream(
        self, windows: Iterable[Window | None], refused: Callable[[int, TaafError], Any] | None = None
    ) -> Iterator[Decision]:
        """Decide windows as they come, in order.

        On Lava they follow each other without a gap: a window is answered once the next one has been taken and has run. A live source
        yields None where it has nothing at present; then what is in flight is answered at once.

        Parameters
        ----------
        windows : iterable
            Windows as in a call, and None.
        refused : callable, optional
            Called with the index and the error of a window that is not as the bundle takes it; the stream goes on. Without it, the
            error is raised once the windows before are answered.
        """
        backend, taken = self._open(), deque[tuple[int, float]]()
        failed: list[TaafError] = []
        if not self.bundle.head.decides:
            raise ConfigError(f"{self.bundle.path}: has no head that decides; `run` gives its feature spikes")

        def encoded() -> Iterator[Spikes | None]:
            for window in windows:
                if window is None:
                    yield None
                    continue
                index, begun = self.n_windows, time.perf_counter()
                self.n_windows += 1
                try:
                    spikes = one_window(self.bundle, window, f"window {index}")
                except TaafError as error:
                    if refused is None:
                        failed.append(error)
                        return
                    refused(index, error)
                    continue
                taken.append((index, begun))
                yield spikes

        for result in backend.answers(encoded()):
            index, begun = taken.popleft()
            yield self._decision(index, result, time.perf_counter() - begun)
        if failed:
            raise failed[0]

    def run(
        self, inputs: Spikes, tick: Callable[[int], Any] = lambda _: None, time_limit_s: float = TIME_LIMIT_S
    ) -> BackendResult:
        """Run encoded windows at once and return everything that was recorded.

        Parameters
        ----------
        inputs : dict
            Branch -> spikes (N, *shape, T) uint8, as `taaf.export.bundle.reader.Bundle.encode` gives them.
        tick : callable
            Called with a number of windows as they finish.
        time_limit_s : float
            On Lava: for all of them.
        """
        return self._open().run(inputs, time_limit_s, tick)

    def _open(self) -> Backend:
        if self._backend is None:
            raise ConfigError(f"{self.bundle.path}: the session is not open; use it in a `with` statement")
        return self._backend

    def _decision(self, index: int, result: BackendResult, latency_s: float) -> Decision:
        logits = {u: rows[0] for u, rows in result.logits.items()}
        probabilities = softmax(logits["fused"])
        label = int(logits["fused"].argmax())
        steps = self.bundle.window_steps if result.exit_steps is None else int(result.exit_steps[0])
        spikes = {f"{b}.{n}": int(k.sum()) for b, activity in result.activity.items() for n, k in activity.spikes.items()}
        return Decision(index, label, self._labels[label], probabilities, logits, steps, spikes, latency_s)
