"""Built-in networks of a branch, one file each: a function ``wire`` from input spikes to feature spikes; its keyword arguments
are the network's settings in ``[branches.NAME]``.

A new file here is a new network, found by its name. A network of one's own needs no file here: ``network = "module:function"``
names a function of the same form anywhere on the import path.
"""

import importlib
import pkgutil
from collections.abc import Callable

from taaf.models.errors import ConfigError, did_you_mean
from taaf.models.wiring import Spikes

Wire = Callable[..., Spikes]


def names() -> list[str]:
    """The built-in networks."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def find_network(name: str, where: str = "network") -> Wire:
    """The function of a built-in network, or of ``module:function``.

    Raises
    ------
    ConfigError
        If there is none; the message names the nearest.
    """
    if ":" in name:
        return _imported(name, where)
    if name not in names():
        raise ConfigError(f"{where} (={name[:40]!r}): unknown; {did_you_mean(name, [*names(), 'module:function'])}")
    wire: Wire = importlib.import_module(f"{__name__}.{name}").wire
    return wire


def _imported(name: str, where: str) -> Wire:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever the user's module does when it is imported
        raise ConfigError(f"{where} (={name[:80]!r}): cannot be imported ({type(error).__name__}: {error})") from error
    if not callable(found):
        raise ConfigError(f"{where} (={name[:80]!r}): is {type(found).__name__}, not a function from spikes to spikes")
    wire: Wire = found
    return wire
