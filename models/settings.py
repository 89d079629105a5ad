"""Settings: a table of a configuration file becomes typed keyword arguments, or one line that names the nearest allowed value.

What a setting may be is said once, where it is declared: by the default and the annotation of a dataclass's field or of a
function's keyword argument. ``Literal[...]`` lists the allowed values, ``Annotated[int, Range(0, 8)]`` an interval; whole
numbers are otherwise 1 to `MAX_SIZE`, other numbers above 0 and up to `MAX_NUMBER`.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from taaf.models.errors import ConfigError, did_you_mean

MAX_SIZE = 1 << 16  # of a whole number that nothing else limits
MAX_NUMBER = 1e9  # of any other
T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """Allowed numbers, both ends included; ``grid``: only multiples of it; ``power_of_two``: only those."""

    low: float
    high: float
    grid: float = 0.0
    power_of_two: bool = False

    def problem(self, value: float) -> str | None:
        """What is allowed, if ``value`` is not."""
        fits = self.low <= value <= self.high and not (self.grid and value / self.grid % 1)
        if fits and not (self.power_of_two and (value != int(value) or int(value) & (int(value) - 1))):
            return None
        kind = "powers of two from " if self.power_of_two else f"multiples of {self.grid:g} from " if self.grid else ""
        return f"allowed {kind}{self.low:g} to {self.high:g}"


Fraction = Annotated[float, Range(0.0, 1.0)]
Count = Annotated[int, Range(0, MAX_SIZE)]  # may be 0
NotNegative = Annotated[float, Range(0.0, MAX_NUMBER)]


def keywords(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword settings of a function or dataclass: those with a default, except positional-only ones."""
    return {
        name: p.replace(annotation=_hints(target).get(name, Any))
        for name, p in inspect.signature(target).parameters.items()
        if p.default is not inspect.Parameter.empty and p.kind is not p.POSITIONAL_ONLY
    }


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(target, include_extras=True)
    except (NameError, TypeError):  # of a user's function, whose annotations need not be importable here
        return {}


def read_settings(target: Callable[..., Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check a table against the keyword settings of ``target`` and complete it with the defaults.

    Parameters
    ----------
    target : callable
        A dataclass or function whose keyword arguments are the settings.
    values : mapping
        The table.
    where : str
        Its name in messages, e.g. ``my.toml: branches.event``.

    Raises
    ------
    ConfigError
        Naming the key that is unknown or holds what is not allowed.

    Examples
    --------
    >>> def wire(x, *, channels: int = 8): ...
    >>> read_settings(wire, {"channels": 4}, "branches.event")
    {'channels': 4}
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: found {type(values).__name__}, expected a table")
    known = keywords(target)
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{where}.{key}: unknown key; {did_you_mean(key, known)}")
        if problem := _problem(known[key], value):
            raise ConfigError(f"{where}.{key} (={_short(value)}): {problem}")
    return {key: _converted(values.get(key, p.default), p) for key, p in known.items()}


def read_dataclass(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """`read_settings` for a dataclass, and the instance."""
    return kind(**read_settings(kind, values, where))


def _short(value: Any) -> str:
    return repr(value)[:40]


def _converted(value: Any, parameter: inspect.Parameter) -> Any:
    if type(parameter.default) is float and type(value) is int:
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def _problem(parameter: inspect.Parameter, value: Any) -> str | None:
    annotation, default = parameter.annotation, parameter.default
    if get_origin(annotation) is Literal:
        allowed = get_args(annotation)
        return None if value in allowed else f"unknown; {did_you_mean(str(value), map(str, allowed))}"
    kind = type(default)
    if kind in (int, float):
        return _number_problem(annotation, kind, value)
    if kind in (bool, str) and type(value) is not kind:
        return f"expected {kind.__name__}, found {type(value).__name__}"
    if kind is tuple and not (isinstance(value, list | tuple) and all(type(n) is int and 1 <= n <= MAX_SIZE for n in value)):
        return f"expected whole numbers from 1 to {MAX_SIZE} in brackets"
    return None


def _number_problem(annotation: Any, kind: type, value: Any) -> str | None:
    if type(value) not in ((int,) if kind is int else (int, float)):
        return f"expected {kind.__name__}, found {type(value).__name__}"
    if type(value) is float and not math.isfinite(value):
        return "must be finite"
    ranges = [r for r in get_args(annotation)[1:] if isinstance(r, Range)] if get_origin(annotation) is Annotated else []
    if ranges:
        return ranges[0].problem(value)
    if kind is int:
        return Range(1, MAX_SIZE).problem(value)
    return None if 0 < value <= MAX_NUMBER else f"must be above 0, up to {MAX_NUMBER:g}"
