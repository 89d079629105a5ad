"""Backend ``fast``: the exact engine of hw_sim and the NumPy host head, in this process."""

import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any

from taaf.deploy.backends.base import BackendResult, Spikes, pad_window
from taaf.export.bundle.reader import Bundle
from taaf.hw_sim.early_exit import anytime_logits, cut, exit_steps
from taaf.hw_sim.engine import Engine


class FastBackend:
    """See `taaf.deploy.backends.base.Backend`; counts include the idle steps of a window, layers are not recorded.

    With ``confidence`` the head decides as soon as it is that sure (`taaf.hw_sim.early_exit`), and the input of a window
    falls silent once the decision has reached the source, as on the Lava runtime.
    """

    def __init__(
        self, bundle: Bundle, confidence: float | None = None, record: bool = False, time_limit_s: float = 0.0
    ) -> None:
        self.bundle, self.confidence = bundle, confidence
        self._engines = {name: Engine(graph) for name, graph in bundle.graphs.items()}

    def __enter__(self) -> "FastBackend":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def run(self, inputs: Spikes, time_limit_s: float = 0.0, tick: Callable[[int], Any] = lambda _: None) -> BackendResult:
        """All windows of ``inputs``; there is no time limit."""
        bundle, engines = self.bundle, self._engines
        padded = {name: pad_window(inputs[name], bundle.window_steps) for name in engines}
        started = time.perf_counter()
        results = {name: engine.run(padded[name]) for name, engine in engines.items()}
        features = {name: bundle.features_of(name, r.spikes[bundle.graphs[name].output]) for name, r in results.items()}
        steps = None
        if self.confidence is not None:
            steps, _ = exit_steps(anytime_logits(bundle.head.fused, features, bundle.window_steps), self.confidence)
            results = {name: engine.run(cut(padded[name], steps + bundle.depth)) for name, engine in engines.items()}
            features = {b: bundle.features_of(b, r.spikes[bundle.graphs[b].output]) for b, r in results.items()}
        seen = features if steps is None else {b: cut(f, steps) for b, f in features.items()}
        logits = bundle.head(seen).logits
        wall_s, n = time.perf_counter() - started, len(next(iter(inputs.values())))
        tick(n)
        activity = {name: r.activity for name, r in results.items()}
        return BackendResult(features, logits, activity, {}, bundle.window_steps * n, wall_s, steps)

    def answers(self, windows: Iterable[Spikes | None]) -> Iterator[BackendResult]:
        """Each window by itself."""
        return (self.run(window) for window in windows if window is not None)


def run_fast(bundle: Bundle, inputs: Spikes, confidence: float | None = None) -> BackendResult:
    """Run all windows of ``inputs`` ({branch: (N, *shape, T) uint8})."""
    return FastBackend(bundle, confidence).run(inputs)
