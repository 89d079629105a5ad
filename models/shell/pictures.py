"""Pictures by matplotlib, without a display and whatever the environment says about one."""

import contextlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

_VARIABLE = "MPLBACKEND"  # of a notebook it names a module that other environments do not have


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib Figure, in inches; matplotlib is imported here, because it takes a while."""
    allow_matplotlib()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns if it cannot keep its own cache
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")  # saved by the file's suffix; needs no backend


def allow_matplotlib() -> None:
    """Drop a ``MPLBACKEND`` with which matplotlib cannot be imported; call it before importing matplotlib, Lava or Norse.

    A backend that is there is left alone: in a notebook the pictures are the user's.
    """
    wanted = os.environ.get(_VARIABLE, "")
    if not wanted or "matplotlib" in sys.modules:
        return
    if wanted.startswith("module://"):
        found = _is_there(wanted.removeprefix("module://"))
    else:
        names = {point.name for point in entry_points(group="matplotlib.backend")}
        found = wanted in names or _is_there(f"matplotlib.backends.backend_{wanted.lower()}")
    if not found:
        os.environ[_VARIABLE] = "agg"


def _is_there(module: str) -> bool:
    """Whether a module exists, without importing matplotlib itself."""
    top, *rest = module.split(".")
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(top)
        if spec is not None and rest and spec.submodule_search_locations:
            path = os.path.join(next(iter(spec.submodule_search_locations)), *rest)
            return os.path.exists(f"{path}.py") or os.path.isdir(path)
        return spec is not None and not rest
    return False


@contextlib.contextmanager
def without_display() -> Iterator[None]:
    """For the time of a command: matplotlib draws into files only."""
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = "agg"
    try:
        yield
    finally:
        os.environ.pop(_VARIABLE)
        if before is not None:
            os.environ[_VARIABLE] = before
