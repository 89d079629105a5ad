"""Standard output and error of a command: whatever becomes of their text, the work and its result go on.

A terminal or pipe may know fewer characters than we print, its reader may have left, its disk may be full, or it may be closed
from the start. None of that may end an export before its bundle is written; what went wrong is told by the exit code.
"""

import codecs
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

_ERRORS = "taaf.spelled"
_SPELLED = {"✓": "ok", "✗": "FAILED", "…": "...", "×": "x", "–": "-", "±": "+-", "’": "'", "“": '"', "”": '"', "·": "*",
            "µ": "u", "→": "->", "←": "<-"}  # fmt: skip


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Characters that an encoding does not have, in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    spelled = (_SPELLED.get(c) or c.encode("ascii", "backslashreplace").decode("ascii") for c in text)
    return "".join(spelled), error.end


codecs.register_error(_ERRORS, _spell)


class Outlet:
    """A text stream that does not raise; ``error`` is the first `OSError` that lost some of its text."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        if self.error is None and self._stream is not None:
            try:
                self._write(text)
            except OSError as error:
                self.error = error
        return len(text)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError as error:
            self._stream.write(text.encode(error.encoding, _ERRORS).decode(error.encoding))
        except ValueError:  # closed by somebody: nobody wants it
            self._stream = None

    def flush(self) -> None:
        if self.error is None and self._stream is not None:
            try:
                self._stream.flush()
            except OSError as error:
                self.error = error
            except ValueError:
                self._stream = None

    def give_up(self) -> None:
        """Flush, or drop what cannot be written: Python would complain about it when it ends."""
        self.flush()
        if self.error is not None:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def isatty(self) -> bool:
        return self._stream is not None and bool(self._stream.isatty())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def outlets() -> Iterator[tuple[Outlet, Outlet]]:
    """`sys.stdout` and `sys.stderr` as `Outlet`; file descriptors 0 to 2 that are closed are opened on nothing.

    (A result would otherwise be opened as descriptor 1, and what a C library prints would be written into it.)
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    before = sys.stdout, sys.stderr
    out, err = Outlet(sys.stdout), Outlet(sys.stderr)
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
    try:
        yield out, err
    finally:
        out.give_up()
        err.give_up()
        sys.stdout, sys.stderr = before
