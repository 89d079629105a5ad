"""Pictures by matplotlib, without a display."""

import logging
from typing import Any


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib Figure, in inches; matplotlib is imported here, because it takes a while."""
    import matplotlib

    matplotlib.use("Agg")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns if it cannot keep its own cache
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
