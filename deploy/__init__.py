"""Backends, Lava runtime owner, reports and the taaf-deploy command.

The face, imported when first used: `run` (a bundle on a backend, its report), `Request`, `Source` and `deploy`.

>>> from taaf import deploy
>>> deploy.run("bundle", backend="fast")["agreement"]["exact"]  # doctest: +SKIP
True
"""

from typing import TYPE_CHECKING

from taaf.models.shell.face import lazy_face

if TYPE_CHECKING:
    from taaf.deploy.session import Request, deploy, run
    from taaf.deploy.windows import Source

__all__ = [
    "Request",
    "Source",
    "deploy",
    "run",
]

__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "run": "taaf.deploy.session",
        "Request": "taaf.deploy.session",
        "Source": "taaf.deploy.windows",
        "deploy": "taaf.deploy.session",
    },
)
