"""What lies in a file's place when a download went wrong: a Git LFS pointer, or a web page.

No reader takes one for its own format, and each would complain about bytes. So whatever refuses a file asks here first.
"""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from taaf.models.errors import TaafError

_LOOK_AT = 1024  # a pointer has about 130 bytes
_POINTER = re.compile(rb"version https://(git-lfs\.github\.com|hawser\.github\.com)/spec/")
_ANNEX = re.compile(rb"/annex/objects/|(\.\./)*\.git/annex/objects/")
_PAGE = re.compile(rb"\s*(<!--.*?-->\s*)?(<\?xml[^>]*>\s*)?(<!doctype\s+html|<html[\s>]|<head[\s>])", re.IGNORECASE | re.DOTALL)

P = ParamSpec("P")
R = TypeVar("R")


def placeholder(path: Path) -> str | None:
    """What lies in the place of the file and what to do, or None if it is something else or cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(_LOOK_AT)
    except OSError:
        return None
    if _POINTER.match(start):
        return "a Git LFS pointer, not the file itself; run `git lfs pull` in its repository"
    if _ANNEX.match(start):
        return "a git-annex pointer, not the file itself; run `git annex get` (or `datalad get`) in its repository"
    if _PAGE.match(start.removeprefix(b"\xef\xbb\xbf")):
        return "a web page (HTML) that was saved under this name, not the file itself; download it again and look at the page"
    return None


def naming_placeholders(read: Callable[Concatenate[Path, P], R]) -> Callable[Concatenate[Path, P], R]:
    """Decorator of a reader ``read(path, ...)``: an error of it about a placeholder says that it is one, in the same class."""

    def wrapped(path: Path, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return read(path, *args, **kwargs)
        except (TaafError, ValueError) as error:
            if (what := placeholder(path)) is None:
                raise
            where = f"{path}: " if isinstance(error, TaafError) else ""
            raise type(error)(f"{where}{what}") from error

    functools.update_wrapper(wrapped, read)
    return wrapped
