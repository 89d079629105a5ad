"""Backend ``loihi2``: the same process graph with `Loihi2HwCfg`. Needs Intel's closed lava-loihi package and a chip.

Nobody has run this on a chip yet: it is written against the public interface of lava-nc 0.10.0, and refuses clearly
where lava-loihi or a board is missing. Spikes of inner layers are not recorded on a chip, so nothing is counted there.
"""

import importlib.util
import shutil
from typing import Any

from taaf.deploy.backends.sim import SimBackend
from taaf.deploy.lava.runtime import require_lava
from taaf.export.bundle.reader import Bundle
from taaf.models.errors import BackendUnavailableError, ConfigError

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


class ChipBackend(SimBackend):
    """See `taaf.deploy.backends.base.Backend`; refuses where there is no chip, and early exit."""

    on_chip = True

    def __init__(self, bundle: Bundle, confidence: float | None, record: bool, time_limit_s: float) -> None:
        if confidence is not None:
            raise ConfigError("early exit: not on backend loihi2; allowed with sim and fast")
        require_chip()
        super().__init__(bundle, None, False, time_limit_s)

    def run_config(self) -> Any:
        """Lava's run configuration."""
        from lava.magma.core.run_configs import Loihi2HwCfg

        return Loihi2HwCfg(select_tag="fixed_pt")
