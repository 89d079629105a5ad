"""Where the trainings of a study run: worker processes of dask, on this machine or on a cluster."""

import asyncio
import logging
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from taaf.models.errors import BackendUnavailableError, RuntimeFailedError

FIRST_WORKER_S = 60  # a cluster without any worker is given up after so long
CLOSE_S = 5
# Of a busy machine: a slow process is not a dead one. A worker that dies is noticed by its closed connection.
_PATIENT = {
    "distributed.comm.timeouts.connect": "300s",
    "distributed.comm.timeouts.tcp": "300s",
    "distributed.scheduler.worker-ttl": None,
}
_TIMEOUTS = (TimeoutError, asyncio.TimeoutError)  # on Python 3.10 they are two


@dataclass(frozen=True)
class Workers:
    """``jobs`` processes of this machine with one thread each, or those of the dask scheduler at the address ``scheduler``.

    The workers of a cluster (``dask worker ADDRESS --nthreads 1``) need the same packages as this process and must see the
    study's folder under the same path. Dask's connections are not authenticated: local ones are open to all users of this machine
    while a study runs, a cluster's to whoever reaches its address.
    """

    jobs: int = 2
    scheduler: str | None = None


def run_tasks(
    task: Callable[..., Any], work: Mapping[str, tuple[Any, ...]], workers: Workers, quiet: bool = True
) -> Iterator[tuple[str, Any]]:
    """Yield ``(name, task(*work[name]))`` as the tasks end.

    A task whose worker dies is given to another one, up to three times: a task must be able to go on with what it finds in
    its folder. Closing the iterator, also by Ctrl-C, ends local workers at once and cancels what has not begun on a cluster.

    Raises
    ------
    BackendUnavailableError
        If dask is not installed, or the cluster does not answer or has no workers.
    RuntimeFailedError
        If a task's workers died four times.
    Exception
        What a task raises.
    """
    with _client(workers) as client:
        from distributed import as_completed
        from distributed.scheduler import KilledWorker

        own = uuid.uuid4().hex  # keys are the scheduler's, which may serve other studies
        futures = [
            client.submit(task, *arguments, key=f"{name}@{own}", pure=False, priority=-i)  # in the order given
            for i, (name, arguments) in enumerate(work.items())
        ]
        try:
            for future in tqdm(as_completed(futures), "trainings", len(futures), disable=quiet or None):
                yield future.key.rpartition("@")[0], future.result()
        except KilledWorker as error:
            raise RuntimeFailedError(
                "a study's worker process died four times at one training (out of memory?); "
                "run the same command again, what is finished is kept"
            ) from error
        finally:
            client.cancel(futures)


@contextmanager
def _client(workers: Workers) -> Iterator[Any]:
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise BackendUnavailableError(
            f"dask.distributed, which runs a study's trainings, cannot be imported ({error}); pip install 'taaf[study]'"
        ) from error
    _be_silent()
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_PATIENT))
        if workers.scheduler is None:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="taaf-study-"))
            cluster = LocalCluster(
                n_workers=workers.jobs,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",  # its small web server: here only, at any free port
                memory_limit=0,  # dask would pause and kill workers by its own estimate
                local_directory=scratch,
                silence_logs=logging.CRITICAL,
            )
            stack.callback(cluster.close, timeout=CLOSE_S)
            client = stack.enter_context(Client(cluster))
            client.run(_leave_interrupts_to_parent)
        else:
            client = stack.enter_context(_connected(Client, workers.scheduler))
        yield client


def _connected(client: Callable[..., Any], address: str) -> Any:
    try:
        found = client(address, timeout=FIRST_WORKER_S / 4)
    except (OSError, ValueError, *_TIMEOUTS) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackendUnavailableError(
            f"--scheduler {address}: no dask scheduler answers ({reason}); start one with 'dask scheduler' or leave it out"
        ) from error
    try:
        found.wait_for_workers(1, timeout=FIRST_WORKER_S)
    except _TIMEOUTS as error:
        found.close()
        raise BackendUnavailableError(
            f"--scheduler {address}: has no workers; start some with 'dask worker {address} --nthreads 1'"
        ) from error
    return found


def _be_silent() -> None:
    """Dask's own log of lost workers and closed connections; what matters is raised."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)


def _leave_interrupts_to_parent() -> None:
    """In a local worker: Ctrl-C ends the study's own process, which ends the workers."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
