"""Backend ``loihi2``: the same process graph with `Loihi2HwCfg`. Needs Intel's closed lava-loihi package and a chip.

Nobody has run this on a chip yet: it is written against the public interface of lava-nc 0.10.0, and refuses clearly
where lava-loihi or a board is missing. Spikes of inner layers are not recorded on a chip, so nothing is counted there.
"""

import importlib.util
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np

from taaf.deploy.backends.base import BackendResult
from taaf.deploy.lava.runtime import require_lava
from taaf.export.bundle.reader import Bundle
from taaf.models.errors import BackendUnavailableError

_INSTEAD = "use `--backend sim` (Loihi simulator) or `--backend fast`"


def require_chip() -> None:
    """Raise `BackendUnavailableError` that says what is missing: lava-loihi, or a way to reach a board."""
    require_lava()
    from lava.utils import loihi

    if not loihi.is_installed() or importlib.util.find_spec("lava.proc.embedded_io") is None:
        raise BackendUnavailableError(
            f"loihi2: Intel's lava-loihi package is not installed (it comes with INRC membership); {_INSTEAD}"
        )
    if loihi.host is None and shutil.which("sinfo") is None:
        raise BackendUnavailableError(f"loihi2: no board configured and no SLURM (`sinfo`) on this machine; {_INSTEAD}")


def run_loihi2(
    bundle: Bundle, inputs: dict[str, np.ndarray], time_limit_s: float, tick: Callable[[int], Any] = lambda _: None
) -> BackendResult:
    """Run on a chip; see `taaf.deploy.backends.sim.run_sim` for the parameters."""
    require_chip()
    from lava.magma.core.run_configs import Loihi2HwCfg

    from taaf.deploy.backends.sim import LavaNetwork

    network = LavaNetwork(bundle, inputs, folder=None, on_chip=True)
    return network.run(Loihi2HwCfg(select_tag="fixed_pt"), time_limit_s, tick)
