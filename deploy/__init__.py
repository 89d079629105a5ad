"""Backends, Lava runtime owner, reports and the taaf-deploy command.

The face, imported when first used: `Session` (a bundle opened once, answering windows: `Decision`), `run` (a bundle on a backend, its
report), `Request`, `Source` and `deploy`.

>>> from taaf import deploy
>>> deploy.run("bundle", backend="fast")["agreement"]["exact"]  # doctest: +SKIP
True
"""

from typing import TYPE_CHECKING

from taaf.models.shell.face import lazy_face

if TYPE_CHECKING:
    from taaf.deploy.report import Request, deploy, run
    from taaf.deploy.session import Decision, Session
    from taaf.deploy.windows import Source

__all__ = [
    "Decision",
    "Request",
    "Session",
    "Source",
    "deploy",
    "run",
]

__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "Session": "taaf.deploy.session",
        "Decision": "taaf.deploy.session",
        "run": "taaf.deploy.report",
        "Request": "taaf.deploy.report",
        "Source": "taaf.deploy.windows",
        "deploy": "taaf.deploy.report",
    },
)
