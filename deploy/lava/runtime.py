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
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from taaf.deploy.lava.newer_python import prepare
from taaf.models.errors import BackendUnavailableError, RuntimeFailedError
from taaf.models.lava_python import lava_remedy
from taaf.models.shell.pictures import allow_matplotlib

_POLL_S = 0.1
_STOP_LIMIT_S = 5.0
_FORK_HOOKS = ("_acquireLock", "_releaseLock", "_prepareFork", "_afterFork", "_after_fork")  # of logging and threading


def require_lava() -> None:
    """Raise `BackendUnavailableError` with the remedy if the Lava runtime cannot be imported."""
    if "lava.magma.runtime" not in sys.modules:
        # Lava insists on choosing the start method at import; whoever made a lock before (tqdm) has chosen already.
        multiprocessing.set_start_method(None, force=True)
    allow_matplotlib()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # it chats at import
        try:
            prepare()
            import lava.lib.dl.netx.hdf5
            import lava.magma.core.run_configs  # noqa: F401
        except Exception as error:
            raise BackendUnavailableError(
                f"the Lava runtime cannot be imported ({type(error).__name__}: {error}); {lava_remedy()}; "
                "`--backend fast` runs the same bundle without it"
            ) from error


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Drop Lava's prints: stdout carries results, and errors are explained by us."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def forgotten_afterwards() -> Iterator[None]:
    """Let Lava forget the processes and variables made in this block: its registers hold them, and their data, for ever."""
    from lava.magma.core.process.process import ProcessServer
    from lava.magma.core.process.variable import VarServer

    registers = (ProcessServer().processes, VarServer().vars)
    known = [len(register) for register in registers]
    try:
        yield
    finally:
        for register, n in zip(registers, known, strict=True):
            del register[n:]


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
        self._again = False  # send SIGINT (once more)
        self._interrupted = False
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
            for number in self._previous:
                signal.signal(number, signal.SIG_IGN)  # cleaning up takes a moment and must not be torn
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
            if self._failure is None:
                raise
            self._done.set()
            raise RuntimeFailedError(f"Lava runtime: {self._child_exception() or self._failure}") from None
        except Exception as error:
            self._done.set()
            if self._interrupted and self._failure is None:  # the interrupt, as some library put it
                raise KeyboardInterrupt from None
            cause = self._child_exception() or self._failure or f"{type(error).__name__}: {error}"
            raise RuntimeFailedError(f"Lava runtime: {cause}") from error

    def _on_signal(self, number: int, frame: Any) -> None:
        if os.getpid() != self._owner:  # inherited by a forked Lava process: the parent decides
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if frame is not None and frame.f_code.co_name in _FORK_HOOKS:  # an exception would be swallowed there
            self._again = True
            return
        self._interrupted = True
        raise KeyboardInterrupt

    def _watch(self) -> None:
        while not self._done.wait(_POLL_S):
            if self._failure is None and time.monotonic() > self._deadline:
                self._failure = f"time limit of {self._limit_s:g} s exceeded; allow more with --time-limit or fewer --samples"
            if self._failure is None:
                self._failure = self._dead_child()
            if self._failure is not None and not self._done.wait(3 * _POLL_S):  # Lava may yet raise by itself
                self._again = True
            if self._again and not self._done.is_set():
                self._again = False
                os.kill(self._owner, signal.SIGINT)

    def _infrastructure(self) -> Any:
        runtime = getattr(self._process, "_runtime", None)
        return getattr(runtime, "_messaging_infrastructure", None)

    def _named_actors(self) -> list[tuple[str, Any]]:
        infrastructure = self._infrastructure()
        if infrastructure is None:
            return []
        builders = self._process._runtime._executable.proc_builders
        names = [f"{type(p).__name__} ({p.name})" for p in builders]
        actors = list(infrastructure.actors)
        return list(zip([*names, *["runtime service"] * len(actors)], actors, strict=False))

    def _dead_child(self) -> str | None:
        """Name and exit status of a process that is gone."""
        for name, actor in self._named_actors():
            if not _alive(actor):
                return f"process {name} died{_exit_reason(actor)}"
        infrastructure = self._infrastructure()
        manager = getattr(getattr(getattr(infrastructure, "smm", None), "_manager", None), "_process", None)
        if manager is not None and not _alive(manager):
            return "the shared-memory manager died"
        return None

    def _child_exception(self) -> str | None:
        """The exception a process left behind. Main thread only: two readers of one pipe could block each other."""
        for name, actor in self._named_actors():
            with contextlib.suppress(ValueError, OSError, EOFError):
                if actor.exception:
                    raised = actor.exception[0]
                    return f"process {name} failed: {type(raised).__name__}: {raised}"
        return None

    def _stop_politely(self) -> None:
        """Lava's own stop, with a limit; a child that is already gone would make it wait for ever."""
        self._done.set()  # children may leave from here on
        if self._infrastructure() is None or self._failure is not None:
            return
        too_late = threading.Event()

        def give_up() -> None:
            too_late.set()
            os.kill(self._owner, signal.SIGINT)

        timer = threading.Timer(_STOP_LIMIT_S, give_up)
        timer.daemon = True
        timer.start()
        try:
            with _quiet_stdout():
                self._process.stop()
        except KeyboardInterrupt:
            if not too_late.is_set():
                raise
        finally:
            timer.cancel()

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
                multiprocessing.Process.join(actor, 2.0)  # Lava's own join has no limit
        runtime = self._process._runtime
        address = str(getattr(getattr(infrastructure.smm, "_manager", None), "address", ""))
        with contextlib.suppress(Exception):
            infrastructure.smm.shutdown()
        if (socket_folder := Path(address).parent).name.startswith("pymp-"):  # a manager that was killed leaves it
            shutil.rmtree(socket_folder, ignore_errors=True)
        with contextlib.suppress(Exception):
            runtime._watchdog_manager.stop()
        runtime._is_started = runtime._is_running = False


def _alive(process: Any) -> bool:
    if process._popen is None:  # not started yet
        return True
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
