"""Formats that networks are exported to, one package each. A package with a module ``command`` is a target: its ``export(args)``
is what ``taaf-export model.pt --to NAME`` calls."""

import argparse
import importlib
import pkgutil
from collections.abc import Callable


def target_names() -> list[str]:
    """The targets."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.ispkg)


def find_target(name: str) -> Callable[[argparse.Namespace], int]:
    """What exports to this target; returns the exit code."""
    export: Callable[[argparse.Namespace], int] = importlib.import_module(f"{__name__}.{name}.command").export
    return export
