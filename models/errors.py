"""Errors a user can meet.

Every message says where, what was found, what is allowed and what to do. The command line tools print
the message as one line and leave with ``exit_code``; anything that is not a `TaafError` is a bug of ours.
"""

import difflib
from collections.abc import Iterable

MAX_MESSAGE = 2000


def did_you_mean(found: str, allowed: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest allowed one, or all of them.

    >>> did_you_mean("siern", ["siren", "dog_bark"])
    "did you mean 'siren'?"
    >>> did_you_mean("x", ["siren", "dog_bark"])
    'allowed: siren, dog_bark'
    """
    names = list(allowed)
    spelled = {name.lower(): name for name in names}
    near = difflib.get_close_matches(found.lower(), spelled, n=1)
    between = "; " if any("," in name for name in names) else ", "
    return f"did you mean {spelled[near[0]]!r}?" if near else f"allowed: {between.join(names) or 'none'}"


class TaafError(Exception):
    """Base class. ``exit_code``: 1 verification failed, 2 bad input, 3 backend unavailable."""

    exit_code = 2

    def __str__(self) -> str:
        text = super().__str__()
        return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}…"  # a foreign file may name things at length


class ConfigError(TaafError):
    """A configuration file or command line option is wrong."""


class CheckpointError(TaafError):
    """A checkpoint cannot be read, is foreign, or holds values that are not finite."""


class DataError(TaafError):
    """A data set file is missing, changed or has the wrong shape."""


class OutputError(TaafError):
    """A result cannot be written: the disk is full, or the folder may not be written to."""


class BundleError(TaafError):
    """A deployment bundle is missing a file, was tampered with, or does not fit its manifest."""


class FileBusyError(TaafError):
    """A file is open in another process that may be writing it."""


class GraphError(TaafError):
    """A graph is not well formed (dangling edge, shape mismatch, cycle)."""


class UnsupportedLayerError(TaafError):
    """A layer has no exact equivalent on the target."""


class LimitExceededError(TaafError):
    """A value lies outside what the integer hardware can hold."""


class ParityError(TaafError):
    """Two executions that must agree on every spike did not."""

    exit_code = 1


class TrainingFailedError(TaafError):
    """Training diverged."""


class BackendUnavailableError(TaafError):
    """The requested backend (Lava runtime, Loihi chip) is not present on this machine."""

    exit_code = 3


class RuntimeFailedError(TaafError):
    """The Lava runtime died, raised, or ran into its time limit."""

    exit_code = 3
