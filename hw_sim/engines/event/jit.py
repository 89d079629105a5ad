"""When and where kernels are compiled: each at its first call, for one fixed signature, kept in the user's cache folder.

The folder's name holds a hash of the kernels' sources, so that machine code never outlives them. ``NUMBA_CACHE_DIR`` is
respected; a folder that cannot be written means that every process compiles for itself.
"""

import hashlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

_SOURCES = ("jit.py", "kernels.py", "vectors.py")
_LOCK = threading.RLock()
_OPTIONS: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy"}
log = logging.getLogger("taaf.engine")


def cache_folder() -> Path:
    """The platform's folder for caches (XDG on Linux, Library/Caches on macOS, LOCALAPPDATA on Windows), and ours in it."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(b"".join(Path(__file__).with_name(name).read_bytes() for name in _SOURCES)).hexdigest()
    return base / "taaf" / f"kernels-{digest[:16]}"


def _usable() -> Path | None:
    if numba.config.CACHE_DIR:
        return Path(numba.config.CACHE_DIR)
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: no home folder
        return None


_FOLDER = _usable()
_said = _FOLDER is not None and any(_FOLDER.rglob("*.nbc"))


def _say_once() -> None:
    global _said  # noqa: PLW0603
    if not _said:
        where = "not kept: no cache folder can be written" if _FOLDER is None else f"kept in {_FOLDER}"
        log.warning("compiling the event engine's kernels, once per machine (%s)", where)
        _said = True


class Kernel:
    """A function that Numba compiles at its first call, for one signature; other types of arrays are refused."""

    def __init__(self, function: Callable[..., Any], signature: str) -> None:
        self._function, self._signature = function, signature
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, *args: Any) -> Any:
        if self._compiled is None:
            self._compile()
        assert self._compiled is not None
        return self._compiled(*args)

    def _compile(self) -> None:
        with _LOCK:
            if self._compiled is None:
                _say_once()
                self._compiled = _jit(self._function, self._signature)


def kernel(signature: str) -> Callable[[Callable[..., Any]], Kernel]:
    """Decorator: a `Kernel` of this signature."""
    return lambda function: Kernel(function, signature)


def inlined(function: Callable[..., Any]) -> Any:
    """A function that only kernels call."""
    return numba.njit(**_OPTIONS)(function)


def _jit(function: Callable[..., Any], signature: str) -> Callable[..., Any]:
    given = numba.config.CACHE_DIR
    try:
        if _FOLDER is not None:
            numba.config.CACHE_DIR = str(_FOLDER)
        compiled: Callable[..., Any] = numba.njit(signature, cache=_FOLDER is not None, **_OPTIONS)(function)
        return compiled
    finally:
        numba.config.CACHE_DIR = given
