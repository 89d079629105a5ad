"""Room for one window between a source and the session that decides."""

import threading
import time
from dataclasses import dataclass

from taaf.deploy.streaming.sliding import Window


@dataclass(frozen=True)
class Arrived:
    """A window, the time step it starts at, and when its last step was there (`time.perf_counter`)."""

    start: int
    window: Window
    at: float


class Mailbox:
    """Holds the newest window; one that nobody took before the next came is dropped and counted, or the source waits.

    Parameters
    ----------
    wait : bool
        Let the source wait instead of dropping.
    """

    def __init__(self, wait: bool) -> None:
        self._wait, self._changed = wait, threading.Condition()
        self._held: Arrived | None = None
        self._closed = False
        self._error: BaseException | None = None
        self.dropped = 0

    def put(self, start: int, window: Window) -> bool:
        """Called by the source; False: nobody takes windows any more."""
        with self._changed:
            while self._wait and self._held is not None and not self._closed:
                self._changed.wait()
            if self._closed:
                return False
            self.dropped += self._held is not None
            self._held = Arrived(start, window, time.perf_counter())
            self._changed.notify_all()
        return True

    def close(self, error: BaseException | None = None) -> None:
        """No more windows come, or are wanted; ``error``: because of this, which `take` raises."""
        with self._changed:
            self._closed, self._error = True, self._error or error
            self._changed.notify_all()

    def take(self, block: bool) -> Arrived | None:
        """The window that is held; None: there is none now, or after ``block`` none will come."""
        with self._changed:
            while block and self._held is None and not self._closed:
                self._changed.wait(1.0)  # signals are met in between
            found, self._held = self._held, None
            self._changed.notify_all()
            if found is None and self._error is not None:
                raise self._error
        return found
