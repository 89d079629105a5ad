"""taaf-deploy --stream: decide the windows of a stream as they come, one line of JSON each, and say at the end how it went."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from taaf.deploy.session import TIME_LIMIT_S, Decision, Session, Window
from taaf.deploy.streaming.mailbox import Arrived
from taaf.deploy.streaming.sources import Recording, Socket, Source, open_source, parse_address
from taaf.deploy.streaming.statistics import Statistics
from taaf.models.config import InputSpec
from taaf.models.errors import ConfigError, TaafError

LOOPBACK = ("127.", "localhost")


@dataclass(frozen=True)
class StreamRequest:
    """What the user asked for; see ``taaf-deploy --help``."""

    bundle: Path
    backend: str
    source: str
    hop: int | None = None
    step_ms: float | None = None
    pace: bool = False
    late: str | None = None
    samples: int | None = None
    early_exit: float | None = None
    time_limit_s: float | None = None


def stream(request: StreamRequest, say: Callable[[dict[str, Any]], bool], note: Callable[[str], Any]) -> dict[str, Any]:
    """Decide until the source ends, ``say`` returns False, ``samples`` are decided, or the user interrupts.

    Parameters
    ----------
    say : callable
        Takes a decision as plain data.
    note : callable
        Takes a line for the user.

    Returns
    -------
    dict
        `taaf.deploy.streaming.statistics.Statistics.report`.
    """
    session = Session(
        request.bundle,
        request.backend,
        early_exit=request.early_exit,
        count=False,
        time_limit_s=request.time_limit_s or TIME_LIMIT_S,
    )
    if not session.bundle.head.decides:
        raise ConfigError(f"--stream: {session.bundle.path} has no head that decides")
    specs = session.bundle.specs()
    hop = request.hop or max(spec.steps for spec in specs.values())
    step_s = None if request.step_ms is None else request.step_ms / 1e3
    if request.pace and step_s is None:
        raise ConfigError("--pace: needs the duration of a time step, --step-ms")
    live = request.source == "-" or parse_address(request.source) is not None
    if live and request.pace:
        raise ConfigError("--pace: only for a recording in a file; a live source comes at its own speed")
    opened = partial(open_source, request.source, specs, hop, late=request.late, step_s=step_s, pace=request.pace)
    recording = None if live else opened()  # what is wrong with a file is said before the network is compiled
    statistics = Statistics(hop, step_s)
    try:
        with session:
            limit = request.time_limit_s or TIME_LIMIT_S
            session.run(
                session.bundle.encode(_silence(specs)), time_limit_s=limit
            )  # a first window takes longer: kernels are compiled
            with recording or opened() as source:  # a socket opened earlier would live on in Lava's processes
                note(_began(request, source, hop))
                decide(session, source, statistics, say, note, request.samples)
    except KeyboardInterrupt:
        note("interrupted")
    return statistics.report()


def decide(
    session: Session, source: Source, statistics: Statistics, say: Callable[[dict[str, Any]], bool], note: Callable[[str], Any],
    samples: int | None = None,
) -> None:  # fmt: skip
    """Decide what an entered source gives, and count it in ``statistics``; see `stream`."""
    waiting: dict[int, Arrived] = {}  # by the number the session gives them

    def windows() -> Iterator[Window | None]:
        n = first = session.n_windows
        while True:
            arrived = source.mailbox.take(block=False)
            if arrived is None:
                yield None  # what is in flight is answered now
                begun = time.perf_counter()
                try:
                    arrived = source.mailbox.take(block=True)
                finally:  # also where a signal ends the wait
                    statistics.waited_s += time.perf_counter() - begun
                if arrived is None:
                    return
            if n == first:  # the clock begins with the first window
                statistics.begun, statistics.waited_s = arrived.at, 0.0
            waiting[n] = arrived
            n += 1
            yield arrived.window

    def refused(index: int, error: TaafError) -> None:
        arrived = waiting.pop(index)
        statistics.refused_windows += 1
        if statistics.refused_windows <= 10:
            note(f"window at step {arrived.start}: {str(error).partition(': ')[2]}")

    try:
        for decision in session.stream(windows(), refused):
            arrived = waiting.pop(decision.index)
            latency = time.perf_counter() - arrived.at
            statistics.windows += 1
            statistics.latencies.add(latency)
            if not say(_line(decision, arrived, latency, statistics.step_s)) or statistics.windows == samples:
                return
    finally:
        statistics.ended = time.perf_counter()
        source.stop()
        statistics.dropped = source.mailbox.dropped
        statistics.refused_frames, statistics.late_frames = source.refused_frames, source.late_frames
        statistics.gap_steps = source.gap_steps


def _line(decision: Decision, arrived: Arrived, latency: float, step_s: float | None) -> dict[str, Any]:
    found: dict[str, Any] = {"window": decision.index, "start_step": arrived.start}
    if step_s is not None:
        found["start_s"] = round(arrived.start * step_s, 6)
    return {
        **found, "decided_at": round(time.time(), 6), "label": decision.label, "name": decision.name,
        "probability": float(decision.probabilities[decision.label]), "steps": decision.steps, "latency_s": round(latency, 6),
        "probabilities": [round(float(p), 6) for p in decision.probabilities],
    }  # fmt: skip


def _silence(specs: dict[str, InputSpec]) -> dict[str, np.ndarray]:
    return {m: np.zeros((1, *spec.shape, spec.steps), np.int8 if spec.scale else np.uint8) for m, spec in specs.items()}


def _began(request: StreamRequest, source: Source, hop: int) -> str:
    if isinstance(source, Recording):
        return f"{request.source}: {source.n_windows} windows, one every {hop} steps"
    if isinstance(source, Socket):
        host, port = source.address
        beyond = (
            "" if host.startswith(LOOPBACK) else "; it can be reached from other machines, and nobody is asked who they are"
        )
        return f"listening on tcp://{host}:{port} for one client{beyond}"
    return "reading standard input"


def json_lines(file: Any) -> Callable[[dict[str, Any]], bool]:
    """Writes decisions as NDJSON; returns False once nobody reads them."""

    def say(found: dict[str, Any]) -> bool:
        file.write(json.dumps(found) + "\n")
        file.flush()
        return getattr(file, "error", None) is None

    return say


def to_stderr(prog: str, quiet: bool) -> Callable[[str], None]:
    """Notes for the user."""
    return lambda text: None if quiet else print(f"{prog}: {text}", file=sys.stderr, flush=True)
