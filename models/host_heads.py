"""The host heads by the name a bundle's manifest gives them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from taaf.models.errors import BundleError
from taaf.models.host_head import AlignedHead, HostHead
from taaf.models.scmrl_host import ScmrlHostHead

HOST_HEADS: dict[str, Callable[[dict[str, np.ndarray], dict[str, Any]], AlignedHead]] = {
    "taaf": HostHead,
    "scmrl": ScmrlHostHead,
}


def host_head(arrays: dict[str, np.ndarray], spec: dict[str, Any]) -> AlignedHead:
    """The head of type ``spec["type"]`` ("taaf" where none is named); raises `BundleError` if there is no such head."""
    kind = spec.get("type", "taaf")
    if not isinstance(kind, str) or kind not in HOST_HEADS:
        raise BundleError(f"head: type {str(kind)[:40]!r} unknown; allowed {', '.join(HOST_HEADS)}")
    return HOST_HEADS[kind](arrays, spec)
