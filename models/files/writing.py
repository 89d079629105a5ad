"""Writing results: a file appears complete under its name, or not at all."""

import contextlib
import hashlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from taaf.models.errors import OutputError


@contextlib.contextmanager
def written_at_once(path: Path, suffix: str = ".tmp", durable: bool = True) -> Iterator[Path]:
    """A temporary file beside ``path``, which becomes ``path`` when the block ends and is removed when it fails.

    ``durable``: also after a power failure (not for what can be made again, one by one, in thousands).

    Raises
    ------
    OutputError
        If it cannot be written (full disk, no permission).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{suffix}")
    try:
        yield temporary
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # the content before the name
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another place"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_at_once(path: Path, content: bytes | str) -> None:
    """Write a whole file; raises as `written_at_once`."""
    with written_at_once(path) as temporary:
        temporary.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM for a moment; the first of them is raised again at the end of the block.

    Blocking them in this thread would not do: another thread (of torch) would take them, and Python acts in this one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    previous = {n: signal.signal(n, lambda number, _frame: held.append(number)) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if held:
        signal.raise_signal(held[0])


def replace_folder(new: Path, target: Path) -> None:
    """Put the folder ``new`` in the place of ``target``, which may exist: afterwards either is whole.

    ``target`` is moved aside first and comes back if the new one cannot take its place.
    """
    aside = new.with_name(new.name + ".old")
    with undisturbed():
        if target.exists():
            os.rename(target, aside)
        try:
            os.rename(new, target)
        except OSError:
            if aside.exists():
                os.rename(aside, target)
            raise
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """A folder to fill that takes the place of ``out`` when the block ends, or vanishes.

    Raises
    ------
    OutputError
        If it cannot be written (full disk, no permission); nothing is left then.
    """
    make_folder(out.parent)
    try:
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    try:
        os.chmod(stage, 0o755)
        yield stage
        replace_folder(stage, out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror or error}); nothing was left there") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Create a folder and its parents; raises `OutputError` if that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{error.filename or path}: cannot be created ({error.strerror}); choose another place") from error


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
