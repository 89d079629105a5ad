"""One owner for the Lava runtime: a failing or dying process, Ctrl-C or a time-out ends it in bounded time.

Stock Lava hangs in ``run()`` or ``stop()`` when a process dies, and leaves processes and shared memory behind. Here a
watchdog thread looks at every process ten times a second. When one is gone, or the time limit is over, it notes the
cause and sends SIGINT to this process, which interrupts whatever Lava call the main thread is blocked in; where it is in none,
the next call says the cause. Leaving the context stops Lava politely if it can and kills every child if it cannot.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from taaf.deploy.lava.newer_python import prepare
from taaf.models.errors import BackendUnavailableError, RuntimeFailedError
from taaf.models.lava_python import lava_remedy
from taaf.models.shell.limits import SHARED_MEMORY, name_limit, of_memory, raise_file_limit
from taaf.models.shell.pictures import allow_matplotlib

T = TypeVar("T")
_POLL_S = 0.1
_STOP_LIMIT_S = 5.0
_ONE_THREAD = "the Lava runtime must be used from the main thread (it relies on signals)"
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
            import lava.magma.compiler.compiler  # here, where no time limit can leave a module half imported
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
        Limit from entering on, for the time spent in calls; `allow` sets another.

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
        self._inside = False  # a Lava call, which a failure interrupts
        self._running = False  # steps that nobody waits for yet
        self._again = False  # send SIGINT (once more)
        self._ours = False  # a SIGINT that the watchdog sent because of a failure
        self._interrupted = self._left = False
        self._done = threading.Event()
        self._owner = os.getpid()
        self._previous: Any = None
        self._watchdog: threading.Thread | None = None

    def __enter__(self) -> "LavaRuntime":
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeFailedError(_ONE_THREAD)
        raise_file_limit()
        self.allow(self._limit_s)
        self._previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        self._watchdog = threading.Thread(target=self._watch, daemon=True)
        self._watchdog.start()
        return self

    def allow(self, time_limit_s: float, begun: float | None = None) -> None:
        """Another time limit, from now on or from ``begun`` (of `time.monotonic`)."""
        self._limit_s = time_limit_s
        self._deadline = (time.monotonic() if begun is None else begun) + time_limit_s

    def start(self) -> None:
        """Compile the network and start its processes."""
        with self._explained():
            self._process.create_runtime(self._config)

    def run(self, n_steps: int, wait: bool = True) -> None:
        """Run ``n_steps`` more time steps, after those that still run; ``wait``: return when they are done."""
        from lava.magma.core.run_conditions import RunSteps

        with self._explained():
            if self._process._runtime is None:
                self._process.create_runtime(self._config)
            self._finish()
            self._process.run(RunSteps(num_steps=n_steps, blocking=False))
            self._running = True
            if wait:
                self._finish()

    def wait(self) -> None:
        """Until no step runs."""
        with self._explained():
            self._finish()

    def until(self, answer: Callable[[], T]) -> T:
        """What a call returns that waits for an answer of the network; a failure ends it."""
        with self._explained():
            return answer()

    def _finish(self) -> None:
        if self._running:
            self._process.wait()
            self._running = False

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if error is None:
                self._stop_politely()
        finally:
            self._done.set()
            above = {s: h for s in self._previous if (h := signal.getsignal(s)) != self._on_signal}  # of a network begun later
            for number in self._previous:
                signal.signal(number, signal.SIG_IGN)  # cleaning up takes a moment and must not be torn
            self._kill_everything()
            if self._watchdog is not None:
                self._watchdog.join(_STOP_LIMIT_S)
            for number, handler in {**self._previous, **above}.items():
                signal.signal(number, handler)
            self._left = True

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what Lava raises, or our own interrupt, into the real cause."""
        if self._done.is_set():
            raise RuntimeFailedError(f"Lava runtime: {self._failure or 'was stopped'}; open it again")
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeFailedError(_ONE_THREAD)
        try:
            with _quiet_stdout():
                self._inside = True
                if self._failure is not None:  # since the last call
                    raise KeyboardInterrupt
                yield
        except KeyboardInterrupt:
            self._done.set()
            if self._failure is None:
                self._failure = "was interrupted"
                raise
            self._failure = self._child_exception() or self._failure
            raise RuntimeFailedError(f"Lava runtime: {self._failure}") from None
        except Exception as error:
            self._done.set()
            if self._interrupted and self._failure is None:  # the interrupt, as some library put it
                raise KeyboardInterrupt from None
            limit = name_limit(error) if isinstance(error, OSError) else None
            self._failure = limit or self._child_exception() or self._failure or f"{type(error).__name__}: {error}"
            raise RuntimeFailedError(f"Lava runtime: {self._failure}") from error
        finally:
            self._inside = False

    def _on_signal(self, number: int, frame: Any) -> None:
        if os.getpid() != self._owner:  # inherited by a forked Lava process: the parent decides, while it lives
            if number == signal.SIGTERM and os.getppid() != self._owner:
                os._exit(128 + number)
            return
        if self._left:  # below a network that was begun later and is still there
            previous = self._previous[number]
            if callable(previous):
                previous(number, frame)
            elif previous == signal.SIG_DFL:
                signal.signal(number, signal.SIG_DFL)
                os.kill(self._owner, number)
            return
        ours, self._ours = self._ours, False
        if ours and not self._inside:  # the call it was sent to interrupt is over; the next one says the cause
            return
        if frame is not None and frame.f_code.co_name in _FORK_HOOKS:  # an exception would be swallowed there
            self._again, self._ours = True, ours
            return
        self._interrupted = True
        raise KeyboardInterrupt

    def _watch(self) -> None:
        while not self._done.wait(_POLL_S):
            if self._failure is None and self._inside and time.monotonic() > self._deadline:
                self._failure = f"time limit of {self._limit_s:g} s exceeded; allow more with --time-limit or fewer --samples"
            if self._failure is None:
                self._failure = self._dead_child()
            if self._failure is not None and not self._done.wait(3 * _POLL_S) and self._inside:  # Lava may yet raise by itself
                self._again = self._ours = True
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
                self._finish()
                self._process.stop()
        except KeyboardInterrupt:
            if not too_late.is_set():
                raise
        finally:
            timer.cancel()
            timer.join(_STOP_LIMIT_S)

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
                multiprocessing.Process.close(actor)
            for end in (actor._cconn, actor._pconn):
                end.close()
            actor._is_done = True  # as Lava's own join says it
        runtime = self._process._runtime
        with contextlib.suppress(Exception):
            runtime.join()  # ends the threads of its ports
        manager = getattr(infrastructure.smm, "_manager", None)
        address, serving = str(getattr(manager, "address", "")), cast(Any, getattr(manager, "_process", None))
        with contextlib.suppress(Exception):
            infrastructure.smm.shutdown()
        with contextlib.suppress(AttributeError, ValueError, AssertionError):  # none, closed, or not ours
            if serving.is_alive():
                serving.kill()
                serving.join(2.0)
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
    if code == -signal.SIGKILL:
        return f" (killed by SIGKILL, as the system does when memory runs out{of_memory()})"
    if code == -signal.SIGBUS:
        return f" (killed by SIGBUS: {SHARED_MEMORY} or the folder of TMPDIR is full)"
    return f" (killed by {signal.Signals(-code).name})" if code and code < 0 else f" (exit code {code})"
