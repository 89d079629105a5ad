"""Heads, one torch-free file each: their settings, what they compute and what that costs. A new file here is a new head."""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from taaf.models.errors import BundleError, ConfigError, TaafError, did_you_mean
from taaf.models.heads.base import Features, Head
from taaf.models.settings import read_dataclass

_NOT_HEADS = ("alignment", "base")
MAX_CLASSES = 1 << 16
MAX_FEATURES = 1 << 24


def names() -> list[str]:
    """The heads."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NOT_HEADS)


def find_head(name: str, where: str = "head.type") -> type[Head]:
    """The head of this name; raises `ConfigError` that names the nearest if there is none."""
    if name not in names():
        raise ConfigError(f"{where} (={str(name)[:40]!r}): unknown; {did_you_mean(str(name), names())}")
    head: type[Head] = importlib.import_module(f"{__name__}.{name}").HEAD
    return head


def as_stored(table: Any) -> Any:
    """The settings of a head in a file, with what older files meant where they do not name a setting (`Head.unsaid`)."""
    kind = table.get("type", "taaf") if isinstance(table, Mapping) else None
    return {**find_head(kind).unsaid, **table} if kind in names() else table


def head_of(spec: Mapping[str, Any]) -> Head:
    """The head that a bundle's manifest describes (`Head.spec`).

    Raises
    ------
    BundleError
        If the description is not understood.
    """
    try:
        kind = find_head(spec["type"], "type")
        inputs = {m: _features(m, x) for m, x in spec["inputs"].items()}
        classes = spec["classes"]
        if type(classes) is not int or not 0 <= classes <= MAX_CLASSES:
            raise BundleError(f"classes (={str(classes)[:40]}): allowed 0 to {MAX_CLASSES}")
        told = {k: v for k, v in as_stored(spec).items() if k not in ("type", "inputs", "classes", "file", "modalities")}
        return kind(inputs, classes, read_dataclass(kind.options_type, told, "head"))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BundleError(
            f"head: {type(error).__name__} {str(error)[:60]} in its description; export the bundle again"
        ) from error
    except TaafError as error:
        raise BundleError(f"head: {error}; export the bundle again") from error


def _features(name: str, told: Mapping[str, Any]) -> Features:
    shape, steps = told["shape"], told["steps"]
    found = Features(tuple(shape), steps)
    if not all(type(n) is int and n > 0 for n in (*shape, steps)) or found.size > MAX_FEATURES:
        raise BundleError(f"inputs.{name}: shape {str(shape)[:60]}, steps {str(steps)[:20]}; allowed whole numbers from 1")
    return found
