"""Where in the user's own code something happened, and refusals that begin with it."""

import linecache
import sys
import traceback
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
        if _is_users(path):
            return _written(path, frame.f_lineno)
        frame = frame.f_back
    return None


def place_of(error: Exception) -> tuple[str | None, bool]:
    """The user's line that an error passed through last, and whether our own code raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    ran = next((i for i, f in enumerate(frames) if f.filename.startswith(_HERE) and f.name == "run_module"), 0)
    users = [f for f in frames[ran:] if _is_users(f.filename)]
    place = _written(users[-1].filename, users[-1].lineno or 0) if users else None
    return place, frames[-1].filename.startswith(_HERE)


def _is_users(path: str) -> bool:
    return not any(part in path for part in _LIBRARIES) and not path.startswith("<")


def _written(path: str, number: int) -> str:
    line = linecache.getline(path, number).strip()
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
    return f"{Path(path).name}:{number}: `{line}`"


def refusal(where: str, reason: str) -> UnsupportedLayerError:
    """The error for ``reason``; it starts with the user's line, or with ``where`` if there is none."""
    return UnsupportedLayerError(f"{user_place() or where}: {reason}")


class NoExactForm(Exception):
    """An operation on recorded values that no chip layer computes; its result belongs to the host."""
