"""Run cache jobs in worker processes, in order, surviving a decoder that takes its process down."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from multiprocessing.synchronize import Event
from typing import TYPE_CHECKING

from taaf.models.errors import DataError
from taaf.models.shell.limits import of_memory

if TYPE_CHECKING:
    from taaf.training.datasets.cache import Job

_MAX_CHUNK = 32
_stop: Event | None = None  # of this worker process


def run_in_processes(jobs: "Sequence[Job]", workers: int) -> "Iterator[str | None]":
    """Result of every job (`Job.run`), in the order of ``jobs``.

    If a worker process dies (a crash in a decoder library, out of memory), the jobs in flight are run again one by one
    and the one that kills its process gets a message. Closing the iterator, also by Ctrl-C, ends the workers after the
    sample they are at.

    Raises
    ------
    DataError
        If worker processes cannot start at all.
    """
    size = max(1, min(_MAX_CHUNK, len(jobs) // (8 * workers)))
    waiting = deque(list(jobs[i : i + size]) for i in range(0, len(jobs), size))
    n_suspects = 0
    pool = _Pool(workers)
    try:
        running: deque[tuple[list[Job], Future[list[str | None]]]] = deque()
        while waiting or running:
            while waiting and len(running) < (1 if n_suspects else 2 * workers):
                running.append((waiting[0], pool.submit(waiting.popleft())))
            chunk, future = running.popleft()
            try:
                yield from future.result()
            except BrokenProcessPool:
                pool.close()
                pool = _Pool(workers)
                if n_suspects:  # it ran alone
                    why = f"a crash, or out of memory{of_memory()}"
                    yield f"{chunk[0].item.sources[0]}: decoding it ends the process ({why}); replace the file"
                else:
                    suspects = [*chunk, *(job for later, _ in running for job in later)]
                    running.clear()
                    waiting.extendleft([job] for job in reversed(suspects))
                    n_suspects = len(suspects)
                    continue
            n_suspects = max(0, n_suspects - 1)
    finally:
        pool.close()


class _Pool:
    """A process pool whose workers end with their parent and stop between two samples."""

    def __init__(self, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(self._stop,))
        try:
            self._executor.submit(os.getpid).result()
        except BrokenProcessPool as error:
            self.close()
            raise DataError(
                "worker processes cannot start; guard the script with if __name__ == '__main__': or use workers=1"
            ) from error
        except BaseException:
            self.close()
            raise

    def submit(self, chunk: "list[Job]") -> "Future[list[str | None]]":
        return self._executor.submit(_run_chunk, chunk)

    def close(self) -> None:
        self._stop.set()
        self._executor.shutdown(wait=True, cancel_futures=True)


def _begin(stop: Event) -> None:
    global _stop  # noqa: PLW0603 - one per process, set once
    _stop = stop
    stay_with_parent()


def stay_with_parent() -> None:
    """In a new worker: leave Ctrl-C to the parent, and leave with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


def _run_chunk(chunk: "list[Job]") -> "list[str | None]":
    results = []
    for job in chunk:
        if _stop is not None and _stop.is_set():
            break
        results.append(job.run())
    return results
