"""Where a stream's time steps come from: a recording in a file, standard input, or one client of a local socket."""

import contextlib
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from taaf.deploy.streaming.frames import FrameReader
from taaf.deploy.streaming.mailbox import Mailbox
from taaf.deploy.streaming.sliding import Sliding
from taaf.models.config import InputSpec
from taaf.models.errors import ConfigError, DataError
from taaf.models.files.npz import read_npz

MAX_RECORDING_BYTES = 1 << 33
_PIECE = 1 << 16
_SOCKET = "tcp://"


class Source:
    """Context manager: a thread that fills a mailbox with windows until the source ends, or it is left.

    Parameters
    ----------
    specs : mapping
        Modality -> shape and steps of a window (`taaf.export.bundle.reader.Bundle.specs`).
    hop : int
        Time steps between two windows.
    wait : bool
        See `Mailbox`.
    """

    def __init__(self, specs: Mapping[str, InputSpec], hop: int, wait: bool) -> None:
        self.specs, self.hop, self.mailbox = specs, hop, Mailbox(wait)
        self.refused_frames = self.late_frames = self.gap_steps = 0
        self._stop = threading.Event()
        self._wake = os.pipe()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "Source":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        for end in self._wake:
            os.close(end)

    def stop(self) -> None:
        """End the thread; the counts are final then."""
        if not self._stop.is_set():
            self._stop.set()
            self.mailbox.close()
            os.write(self._wake[1], b"x")
        self._thread.join()

    def _work(self) -> None:
        try:
            self.read()
        except BaseException as error:  # the main thread raises it
            self.mailbox.close(error)
        else:
            self.mailbox.close()

    def read(self) -> None:
        """Until the source ends, or ``_stop`` is set; runs in the thread."""
        raise NotImplementedError

    def _ready(self, descriptor: int) -> bool:
        """Wait until something can be read; False: the source is left."""
        poll = select.poll()  # select() takes no descriptors beyond 1023
        for one in (descriptor, self._wake[0]):
            poll.register(one, select.POLLIN)
        ready = [one for one, _ in poll.poll()]
        return not self._stop.is_set() and descriptor in ready


class Recording(Source):
    """Arrays {modality: (*shape, T)} as a source; ``step_s`` plays them at the speed of their clock."""

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        specs: Mapping[str, InputSpec],
        hop: int,
        wait: bool,
        step_s: float | None = None,
    ) -> None:
        super().__init__(specs, hop, wait)
        self._arrays, self._step_s = arrays, step_s
        longest = max(spec.steps for spec in specs.values())
        self.n_windows = max(0, (min(x.shape[-1] for x in arrays.values()) - longest) // hop + 1)
        self._longest = longest

    def read(self) -> None:
        begun = time.perf_counter()
        for k in range(self.n_windows):
            start = k * self.hop
            if self._step_s is not None:
                self._stop.wait(max(0.0, begun + (start + self._longest) * self._step_s - time.perf_counter()))
            window = {m: x[..., start : start + self.specs[m].steps] for m, x in self._arrays.items()}
            if self._stop.is_set() or not self.mailbox.put(start, window):
                return


class Bytes(Source):
    """Frames (`taaf.deploy.streaming.frames`) from a file descriptor."""

    def __init__(self, specs: Mapping[str, InputSpec], hop: int, wait: bool, descriptor: int) -> None:
        super().__init__(specs, hop, wait)
        self._descriptor = descriptor

    def read(self) -> None:
        self._frames(self._descriptor)

    def _frames(self, descriptor: int) -> None:
        reader, sliding = FrameReader(self.specs), Sliding({m: spec.steps for m, spec in self.specs.items()}, self.hop)
        try:
            while self._ready(descriptor):
                data = os.read(descriptor, _PIECE)
                for first, piece in reader.feed(data):
                    for start, window in sliding.push(first, piece):
                        if not self.mailbox.put(start, window):
                            return
                if not data:
                    reader.end()
                    return
        except ConnectionError:  # the client is gone; what was there is decided
            reader.refused += 1
        finally:
            self.refused_frames, self.late_frames, self.gap_steps = reader.refused, sliding.late, sliding.gap_steps


class Socket(Bytes):
    """Frames from the first client that connects; a second one is turned away."""

    def __init__(self, specs: Mapping[str, InputSpec], hop: int, wait: bool, host: str, port: int) -> None:
        super().__init__(specs, hop, wait, -1)
        self._listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listening.bind((host, port))
            self._listening.listen(1)
        except OSError as error:
            self._listening.close()
            raise ConfigError(f"--stream {_SOCKET}{host}:{port}: cannot listen there ({error.strerror or error})") from error
        self.address = self._listening.getsockname()

    def read(self) -> None:
        with self._listening:
            if not self._ready(self._listening.fileno()):
                return
            client, _ = self._listening.accept()
        with client:
            self._frames(client.fileno())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        with contextlib.suppress(OSError):
            self._listening.close()


def parse_address(text: str) -> tuple[str, int] | None:
    """Host and port of ``tcp://[HOST]:PORT``; the host is this machine's own unless one is named. None: no socket is meant."""
    if not text.startswith(_SOCKET):
        return None
    host, _, port = text.removeprefix(_SOCKET).rpartition(":")
    if not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65_535:
        raise ConfigError(f"--stream {text}: no port; allowed tcp://127.0.0.1:PORT, port 0 (any free one) to 65535")
    return host or "127.0.0.1", int(port)


def read_recording(path: Path, specs: Mapping[str, InputSpec], hop: int) -> dict[str, np.ndarray]:
    """Arrays (*shape, T) of an .npz file, one per modality.

    Raises
    ------
    DataError
        Naming the array that is missing or does not fit.
    """
    if not path.is_file():
        raise DataError(f"--stream {path}: no such file; allowed an .npz file, - (standard input) or tcp://127.0.0.1:PORT")
    try:
        arrays = read_npz(path, MAX_RECORDING_BYTES)
    except ValueError as error:
        raise DataError(f"--stream {path}: not a readable .npz file ({error})") from error
    found = {}
    for m, spec in specs.items():
        if m not in arrays:
            raise DataError(f"--stream {path}: no array {m!r}; it has {', '.join(ascii(a)[1:-1] for a in arrays) or 'none'}")
        x = arrays[m]
        if x.dtype.kind not in "buif" or x.shape[:-1] != tuple(spec.shape):
            wanted = ", ".join(map(str, spec.shape))
            raise DataError(f"--stream {path}: {m} is {x.dtype} {x.shape}; allowed numbers ({wanted}, steps)")
        found[m] = x
    longest = max(spec.steps for spec in specs.values())
    if (shortest := min(x.shape[-1] for x in found.values())) < longest:
        raise DataError(f"--stream {path}: {shortest} time steps; a window has {longest}")
    return found


def open_source(
    text: str,
    specs: Mapping[str, InputSpec],
    hop: int,
    *,
    late: str | None = None,
    step_s: float | None = None,
    pace: bool = False,
) -> Source:
    """The source that ``--stream`` names.

    Parameters
    ----------
    late : str, optional
        "drop" or "wait" where windows come too fast; by default a recording waits, unless it is paced, and the others drop.
    step_s : float, optional
        Duration of a time step.
    pace : bool
        Play a recording at the speed of its clock.
    """
    address = parse_address(text)
    if text == "-":
        if sys.stdin is None:
            raise ConfigError("--stream -: standard input is closed; connect it, or give a file or tcp://127.0.0.1:PORT")
        return Bytes(specs, hop, late == "wait", sys.stdin.fileno())
    if address is not None:
        return Socket(specs, hop, late == "wait", *address)
    wait = late == "wait" or (late is None and not pace)
    return Recording(read_recording(Path(text), specs, hop), specs, hop, wait, step_s if pace else None)
