"""One owner for the Lava runtime: a failing or dying process, Ctrl-C or a time-out ends it in bounded time.

Stock Lava hangs in ``run()`` or ``stop()`` when a process dies, and leaves processes and shared memory behind. Here a
watchdog thread looks at every process ten times a second. When one is gone, or the time limit is over, it notes the
cause and sends SIGINT to this process, which interrupts whatever Lava call the main thread is blocked in. Leaving the
context stops Lava politely if it can and kills every child if it cannot.
"""

import contextlib
import io
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from taaf.models.errors import BackendUnavailableError, RuntimeFailedError

_POLL_S = 0.1
_STOP_LIMIT_S = 5.0


def require_lava() -> None:
    """Raise `BackendUnavailableError` with the remedy if the Lava runtime cannot be imported."""
    if "lava.magma.runtime" not in sys.modules:
        # Lava insists on choosing the start method at import; whoever made a lock before (tqdm) has chosen already.
        multiprocessing.set_start_method(None, force=True)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # it chats at import
        try:
            import lava.lib.dl.netx.hdf5
            import lava.magma.core.run_configs  # noqa: F401
        except Exception as error:
            raise BackendUnavailableError(
                f"the Lava runtime cannot be imported ({type(error).__name__}: {error}); it needs Python 3.10 and "
                "`uv sync`; `--backend fast` runs the same bundle without it"
            ) from error


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Keep Lava's prints off stdout (which carries results) by sending them to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


class LavaRuntime:
    """Context manager around one Lava network.

    Parameters
    ----------
    process
        Any process of the network; running it runs all that are connected.
    run_config
        Lava run configuration.
    time_limit_s : float
        Limit for everything between entering and leaving.

    Raises
    ------
    RuntimeFailedError
        From any method or on leaving: names the process that died and its real exception, or the time limit.
    KeyboardInterrupt
        After clean-up, if the user pressed Ctrl-C.
    """

    def __init__(self, process: Any, run_config: Any, time_limit_s: float) -> None:
        self._process, self._config, self._limit_s = process, run_config, time_limit_s
        self._failure: str | None = None
        self._done = threading.Event()
        self._owner = os.getpid()
        self._previous: Any = None
        self._watchdog: threading.Thread | None = None

    def __enter__(self) -> "LavaRuntime":
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeFailedError("the Lava runtime must be used from the main thread (it relies on signals)")
        self._deadline = time.monotonic() + self._limit_s
        self._previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        self._watchdog = threading.Thread(target=self._watch, daemon=True)
        self._watchdog.start()
        return self

    def run(self, n_steps: int) -> None:
        """Run ``n_steps`` more time steps; compiles the network and starts its processes the first time."""
        from lava.magma.core.run_conditions import RunSteps

        with self._explained():
            self._process.run(RunSteps(num_steps=n_steps, blocking=True), self._config)

    def read(self, var: Any) -> np.ndarray:
        """Value of a Var (20 us per element)."""
        with self._explained():
            value: np.ndarray = var.get()
        return value

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if error is None:
                self._stop_politely()
        finally:
            self._done.set()
            self._kill_everything()
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what Lava raises, or our own interrupt, into the real cause."""
        try:
            with _quiet_stdout():
                yield
        except KeyboardInterrupt:
            if self._failure:
                raise RuntimeFailedError(self._failure) from None
            raise
        except RuntimeFailedError:
            raise
        except Exception as error:
            cause = self._failure or self._child_failure(finished=True) or f"{type(error).__name__}: {error}"
            raise RuntimeFailedError(f"Lava runtime: {cause}") from error

    def _on_signal(self, number: int, _frame: Any) -> None:
        if os.getpid() != self._owner:  # inherited by a forked Lava process: the parent decides
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        raise KeyboardInterrupt

    def _watch(self) -> None:
        while not self._done.wait(_POLL_S):
            if time.monotonic() > self._deadline:
                self._failure = (
                    f"time limit of {self._limit_s:g} s exceeded; allow more with --time-limit or run fewer --samples"
                )
            else:
                self._failure = self._child_failure(finished=False)
            if self._failure:
                self._done.wait(_POLL_S)  # let the child's exception arrive
                self._failure = self._child_failure(finished=False) or self._failure
                if not self._done.is_set():
                    os.kill(self._owner, signal.SIGINT)
                return

    def _infrastructure(self) -> Any:
        runtime = getattr(self._process, "_runtime", None)
        return getattr(runtime, "_messaging_infrastructure", None)

    def _child_failure(self, finished: bool) -> str | None:
        """Which child is gone, and why; with ``finished`` only children that left an exception count."""
        infrastructure = self._infrastructure()
        if infrastructure is None:
            return None
        names = self._names()
        gone: list[str] = []
        for index, actor in enumerate(list(infrastructure.actors)):
            name = names[index] if index < len(names) else "runtime service"
            with contextlib.suppress(ValueError, OSError, EOFError, AssertionError):
                if actor.exception:
                    raised = actor.exception[0]
                    return f"process {name} failed: {type(raised).__name__}: {raised}"
            if not finished and not _alive(actor):
                gone.append(f"process {name} died{_exit_reason(actor)}")
        manager = getattr(getattr(infrastructure.smm, "_manager", None), "_process", None)
        if not finished and manager is not None and not _alive(manager):
            gone.append("the shared-memory manager died")
        return gone[0] if gone else None

    def _names(self) -> list[str]:
        builders = self._process._runtime._executable.proc_builders
        return [f"{type(p).__name__} ({p.name})" for p in builders]

    def _stop_politely(self) -> None:
        """Lava's own stop, with a limit; a child that is already gone would make it wait for ever."""
        self._deadline = min(self._deadline, time.monotonic() + _STOP_LIMIT_S)
        if self._infrastructure() is None or self._failure:
            return
        self._done.set()  # children may leave from here on
        timer = threading.Timer(_STOP_LIMIT_S, os.kill, (self._owner, signal.SIGINT))
        timer.daemon = True
        timer.start()
        interrupted = False
        try:
            with _quiet_stdout():
                self._process.stop()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            timer.cancel()
        if interrupted and timer.finished.is_set() is False:
            raise KeyboardInterrupt

    def _kill_everything(self) -> None:
        """Leave no child, no shared memory, and no runtime that would stop itself again when collected."""
        infrastructure = self._infrastructure()
        if infrastructure is None:
            return
        for actor in infrastructure.actors:
            with contextlib.suppress(ValueError):  # closed: it was joined by Lava
                actor.kill()
        for actor in infrastructure.actors:
            with contextlib.suppress(ValueError, AssertionError):
                _call_of_process_join(actor, 2.0)
        runtime = self._process._runtime
        with contextlib.suppress(Exception):
            infrastructure.smm.shutdown()
        with contextlib.suppress(Exception):
            runtime._watchdog_manager.stop()
        runtime._is_started = runtime._is_running = False


def _call_of_process_join(actor: Any, timeout_s: float) -> None:
    """multiprocessing's join with a limit (Lava's own override takes none)."""
    multiprocessing.Process.join(actor, timeout_s)


def _alive(process: Any) -> bool:
    try:
        alive: bool = process.is_alive()
    except (ValueError, AssertionError):  # closed, or not our child
        return True
    return alive


def _exit_reason(actor: Any) -> str:
    try:
        code = actor.exitcode
    except ValueError:
        return ""
    return f" (killed by {signal.Signals(-code).name})" if code and code < 0 else f" (exit code {code})"
