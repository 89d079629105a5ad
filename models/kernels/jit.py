"""When and where kernels are compiled: each at its first call, for fixed signatures, kept in the user's cache folder.

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
from functools import cached_property
from pathlib import Path
from typing import Any

import numba

_LOCK = threading.RLock()
_OPTIONS: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy"}
log = logging.getLogger("taaf.kernels")


class Kernel:
    """A function that Numba compiles at its first call, for given signatures; other types of arrays are refused."""

    def __init__(self, compiler: "Compiler", function: Callable[..., Any], signatures: tuple[str, ...]) -> None:
        self._compiler, self._function, self._signatures = compiler, function, signatures
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, *args: Any) -> Any:
        if self._compiled is None:
            with _LOCK:
                if self._compiled is None:
                    self._compiled = self._compiler.compiled(self._function, self._signatures)
        return self._compiled(*args)


class Compiler:
    """Compiles the kernels of some files, which share a folder of the cache.

    Parameters
    ----------
    what : str
        Names the kernels where their first compilation is announced, once per machine.
    sources : str
        Files that their machine code is made of.
    """

    def __init__(self, what: str, *sources: str) -> None:
        self.what, self._sources, self._said = what, sources, False

    def kernel(self, *signatures: str) -> Callable[[Callable[..., Any]], Kernel]:
        """Decorator: a `Kernel` of these signatures."""
        return lambda function: Kernel(self, function, signatures)

    def cache_folder(self) -> Path:
        """The platform's folder for caches (XDG on Linux, Library/Caches on macOS, LOCALAPPDATA on Windows), and ours in it."""
        if sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        elif sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        digest = hashlib.sha256(b"".join(Path(name).read_bytes() for name in (__file__, *self._sources))).hexdigest()
        return base / "taaf" / f"kernels-{digest[:16]}"

    def usable(self) -> Path | None:
        """The folder that machine code is kept in; None where none can be written."""
        if numba.config.CACHE_DIR:
            return Path(numba.config.CACHE_DIR)
        try:
            folder = self.cache_folder()
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except (OSError, RuntimeError):  # RuntimeError: no home folder
            return None

    @cached_property
    def _folder(self) -> Path | None:
        folder = self.usable()
        self._said = folder is not None and any(folder.rglob("*.nbc"))
        return folder

    def compiled(self, function: Callable[..., Any], signatures: tuple[str, ...]) -> Callable[..., Any]:
        """Machine code of a function, from the cache where it is there."""
        folder, given = self._folder, numba.config.CACHE_DIR
        if not self._said:
            where = "not kept: no cache folder can be written" if folder is None else f"kept in {folder}"
            log.warning("compiling %s, once per machine (%s)", self.what, where)
            self._said = True
        try:
            if folder is not None:
                numba.config.CACHE_DIR = str(folder)
            made: Callable[..., Any] = numba.njit(list(signatures), cache=folder is not None, **_OPTIONS)(function)
            return made
        finally:
            numba.config.CACHE_DIR = given


def inlined(function: Callable[..., Any]) -> Any:
    """A function that only kernels call."""
    return numba.njit(**_OPTIONS)(function)
