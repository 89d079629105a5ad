"""Backend ``sim``: the Lava runtime with stock NetX networks on the Loihi simulator, the head on a host process.

The network is compiled and forked once (`taaf.deploy.lava.network`) and answers window after window. Where spikes wait in synapses
over the end of a window (recurrent layers, axonal delays), which no reset of Lava's clears, every window gets a network of its own.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any

import numpy as np

from taaf.deploy.backends.base import BackendResult, Spikes, joined, split
from taaf.deploy.lava.network import Answer, LavaNetwork
from taaf.deploy.lava.runtime import require_lava
from taaf.export.bundle.reader import Bundle
from taaf.hw_sim.early_exit import cut
from taaf.hw_sim.engine import Activity


class SimBackend:
    """See `taaf.deploy.backends.base.Backend`; the other parameters are those of `taaf.deploy.lava.network.LavaNetwork`."""

    on_chip = False

    def __init__(self, bundle: Bundle, confidence: float | None, record: bool, time_limit_s: float) -> None:
        require_lava()
        self.bundle, self.confidence, self.record, self.time_limit_s = bundle, confidence, record, time_limit_s
        self._network: LavaNetwork | None = None

    def run_config(self) -> Any:
        """Lava's run configuration."""
        from lava.magma.core.run_configs import Loihi2SimCfg

        return Loihi2SimCfg(select_tag="fixed_pt")

    def __enter__(self) -> "SimBackend":
        if self.bundle.pipelined:
            self._network = self._new(self.time_limit_s).__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._network is not None:
            self._network.__exit__(kind, error, trace)

    def _new(self, time_limit_s: float) -> LavaNetwork:
        how: dict[str, Any] = {"record": self.record, "on_chip": self.on_chip, "confidence": self.confidence}
        return LavaNetwork(self.bundle, self.run_config(), time_limit_s, **how)

    def run(self, inputs: Spikes, time_limit_s: float, tick: Callable[[int], Any] = lambda _: None) -> BackendResult:
        """All windows of ``inputs``, one directly behind the other."""
        begun, limit = time.perf_counter(), time.monotonic()
        if self._network is not None:
            self._network.runtime.allow(time_limit_s, limit)
        parts = []
        for part in self._answers(split(inputs), lambda: time_limit_s + limit - time.monotonic()):
            parts.append(part)
            tick(1)
        return joined(parts, time.perf_counter() - begun)

    def answers(self, windows: Iterable[Spikes | None]) -> Iterator[BackendResult]:
        """One result per window, each within the time limit."""
        network, limit = self._network, self.time_limit_s

        def limited() -> Iterator[Spikes | None]:
            for window in windows:
                if network is not None:
                    network.runtime.allow(limit)
                yield window

        return self._answers(limited(), lambda: limit)

    def _answers(self, windows: Iterator[Spikes | None], left_s: Callable[[], float]) -> Iterator[BackendResult]:
        fed: list[Spikes] = []

        def noted() -> Iterator[Spikes | None]:
            for window in windows:
                if window is not None:
                    fed.append(window)
                yield window

        if self._network is not None:
            for answer in self._network.answers(noted()):
                yield self._result(self._network, fed.pop(0), answer, last=not fed)
            return
        for window in windows:
            if window is not None:
                with self._new(max(left_s(), 0.1)) as network:
                    (answer,) = network.answers(iter([window]))
                yield self._result(network, window, answer, last=True)

    def _result(self, network: LavaNetwork, window: Spikes, answer: Answer, last: bool) -> BackendResult:
        bundle = self.bundle
        logits = {u: answer.logits[i : i + 1] for i, u in enumerate(bundle.head.outputs)}
        features = {b: bundle.features_of(b, spikes[bundle.graphs[b].output]) for b, spikes in answer.layers.items()}
        steps = None if self.confidence is None else np.array([answer.seen])
        if steps is not None:
            window = {b: cut(x, steps + bundle.depth) for b, x in window.items()}
        activity = {b: self._activity(b, window[b], spikes) for b, spikes in answer.layers.items()}
        n_steps = network.window + (network.fill if last else 0)
        return BackendResult(features, logits, activity, answer.layers, n_steps, 0.0, steps)

    def _activity(self, branch: str, window: np.ndarray, spikes: Spikes) -> Activity:
        activity = Activity(1, self.bundle.window_steps)
        activity.add(self.bundle.graphs[branch].input.name, window.sum(axis=(0, -1), dtype=np.int64))
        for lif, raster in spikes.items():
            activity.add(lif, raster.sum(axis=(0, -1), dtype=np.int64))
        return activity


def run_sim(
    bundle: Bundle,
    inputs: Spikes,
    time_limit_s: float,
    tick: Callable[[int], Any] = lambda _: None,
    confidence: float | None = None,
) -> BackendResult:
    """Open the backend for the windows of ``inputs`` ({branch: (N, *shape, T) uint8}), every layer recorded; ``tick(n)`` is called
    as windows finish.

    Raises
    ------
    BackendUnavailableError
        If Lava cannot be imported.
    RuntimeFailedError
        If the runtime fails or exceeds ``time_limit_s``.
    """
    begun = time.monotonic()
    with SimBackend(bundle, confidence, True, time_limit_s) as backend:
        return backend.run(inputs, time_limit_s - (time.monotonic() - begun), tick)
