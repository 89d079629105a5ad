"""Where in the user's own code something happened, and refusals that begin with it."""

import linecache
import sys
from pathlib import Path
from types import FrameType

import torch

import taaf.models.errors
from taaf.models.errors import UnsupportedLayerError

_HERE = str(Path(__file__).parent)
_LIBRARIES = (str(Path(torch.__file__).parent), f"{Path('lava/lib')}", str(Path(taaf.models.errors.__file__).parent), _HERE)
_LONGEST = 100


def user_place() -> str | None:
    """``my_nets.py:42: `x = torch.sigmoid(x)` `` of the innermost frame that is neither torch's, lava's nor ours.

    None where the user's module has no code of its own (a ``Sequential`` of blocks).
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_HERE) and frame.f_code.co_name == "run_module":
            return None
        if not any(part in path for part in _LIBRARIES) and not path.startswith("<"):
            line = linecache.getline(path, frame.f_lineno).strip()
            line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
            return f"{Path(path).name}:{frame.f_lineno}: `{line}`"
        frame = frame.f_back
    return None


def refusal(where: str, reason: str) -> UnsupportedLayerError:
    """The error for ``reason``; it starts with the user's line, or with ``where`` if there is none."""
    return UnsupportedLayerError(f"{user_place() or where}: {reason}")


class NoExactForm(Exception):
    """An operation on recorded values that no chip layer computes; its result belongs to the host."""
