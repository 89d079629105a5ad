"""Ways to execute a bundle, found by name; each is one file and one row here."""

import importlib
from typing import TYPE_CHECKING

from taaf.models.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from taaf.deploy.backends.base import Backend

BACKENDS = {
    "sim": "taaf.deploy.backends.sim:SimBackend",
    "fast": "taaf.deploy.backends.fast:FastBackend",
    "loihi2": "taaf.deploy.backends.loihi2:ChipBackend",
}


def backend_of(name: str) -> "type[Backend]":
    """The class of a backend; raises `ConfigError` if there is none of that name."""
    if name not in BACKENDS:
        raise ConfigError(f"backend {name!r}: unknown; {did_you_mean(str(name), BACKENDS)}")
    module, attribute = BACKENDS[name].split(":")
    found: type[Backend] = getattr(importlib.import_module(module), attribute)
    return found
