"""What happens to a sample that cannot be read: stop at the first, or skip it and say so."""

import logging

from taaf.models.errors import DataError

_LOG = logging.getLogger("taaf.datasets")


class BadSamples:
    """Policy for bad samples of one data set, and the count of what was skipped.

    Parameters
    ----------
    on_bad : {"stop", "skip"}
        ``stop`` raises the first error; ``skip`` logs one warning line per bad sample (file and reason) and goes on.

    Raises
    ------
    DataError
        If ``on_bad`` is anything else.
    """

    def __init__(self, on_bad: str) -> None:
        if on_bad not in ("stop", "skip"):
            raise DataError(
                f"on_bad (={on_bad!r}): allowed 'stop' (raise the first error) and 'skip' (warn and drop the sample)"
            )
        self.on_bad = on_bad
        self.n_skipped = 0

    def report(self, error: DataError | str) -> None:
        """Raise ``error`` as a `DataError` under ``stop``; count and log it as one line under ``skip``."""
        message = " ".join(str(error).split())
        if self.on_bad == "stop":
            raise DataError(message)
        self.n_skipped += 1
        _LOG.warning("skipped: %s", message)

    def require_some(self, n_left: int, what: str) -> None:
        """Raise `DataError` if skipping has left nothing of ``what``."""
        if not n_left:
            raise DataError(f"{what}: no usable sample is left ({self.n_skipped} skipped); check the files named above")
