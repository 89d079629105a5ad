"""Run one command of taaf in this process and strike at a chosen stage.

    stage_script.py COMMAND STAGE STRIKE MARKER [arguments of the command]

STRIKE is SIGINT or SIGTERM (to this process), "group" (SIGINT to the whole process group, as Ctrl-C on a terminal does),
"child:K" (SIGKILL to child K of this process) or "raise:NAME" (an exception inside the Lava process model of that name).
MARKER gets a line when the strike falls; "children" is printed into it too.
"""

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

# stage -> (module, what is called there, at which call); ("import", name of the module, 1) strikes when it is imported
STAGES: dict[str, tuple[str, str, int]] = {
    "train import": ("import", "torch.nn.modules.conv", 1),
    "train load": ("taaf.training.datasets.ead_mini", "simulate_events", 1),
    "train epoch": ("taaf.training.strategies.step", "TrainingStep.forward", 8),
    "train evaluate": ("taaf.training.trainer", "evaluate", 2),
    "train checkpoint": ("taaf.models.files.writing", "os.replace", 3),
    "train curves": ("taaf.training.studies.curves", "plot_runs", 1),
    "export import": ("import", "torch.nn.modules.conv", 1),
    "export load": ("taaf.training.datasets.ead_mini", "simulate_events", 1),
    "export compile": ("taaf.export.netx_bundle", "compile_graph", 2),
    "export write": ("taaf.export.netx_bundle", "write_netx", 2),
    "export verify": ("taaf.export.verify", "run_reference", 5),
    "export lava": ("subprocess", "Popen.communicate", 1),
    "export rename": ("taaf.models.files.writing", "os.rename", 2),
    "deploy import": ("import", "lava.magma.core.run_configs", 1),
    "deploy load": ("taaf.training.datasets.ead_mini", "simulate_events", 1),
    "deploy compile": ("lava.magma.compiler.compiler", "Compiler.compile", 1),
    "deploy start": ("lava.magma.runtime.runtime", "Runtime.start", 1),
    "deploy run": ("taaf.deploy.lava.runtime", "LavaRuntime.run", 2),
    "deploy collect": ("taaf.deploy.lava.board", "Board.decision", 2),
    "deploy stop": ("taaf.deploy.lava.runtime", "LavaRuntime._stop_politely", 1),
    "deploy compare": ("taaf.deploy.report", "_agreement", 1),
    "deploy report": ("taaf.models.files.writing", "os.replace", 1),
}


def children() -> list[int]:
    """Child processes of this one, in the order they were started."""
    return [int(p) for p in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]


def strike(how: str, marker: Path) -> None:
    """Do it, once."""
    if marker.exists():
        return
    marker.write_text(f"{time.time()}\n{len(children())}\n")
    if how == "group":
        os.killpg(os.getpgid(0), signal.SIGINT)
    elif how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how.startswith("child:"):
        os.kill(children()[int(how[6:])], signal.SIGKILL)
    elif how.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, how))
    if how.startswith("SIG") or how == "group":
        time.sleep(0)


class _AtImport:
    """Strikes when a module is looked for."""

    def __init__(self, name: str, act: Callable[[], None]) -> None:
        self.name, self.act = name, act

    def find_spec(self, name: str, *_rest: Any) -> None:
        if name == self.name:
            self.act()


def prepare(stage: str, act: Callable[[], None]) -> None:
    """Arrange for ``act`` to be called at the stage."""
    module, path, at = STAGES[stage]
    if module == "import":
        sys.meta_path.insert(0, _AtImport(path, act))
        return
    if module.startswith("lava") or "deploy.lava" in module:
        from taaf.deploy.lava.runtime import require_lava

        require_lava()
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original, calls = getattr(owner, name), [0]

    @wraps(original)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            act()
        return original(*args, **kwargs)

    setattr(owner, name, replaced)


def raise_inside(model: str, marker: Path) -> None:
    """Make ``run_spk`` of the process model with this class name fail at time step 5; lists the names in the marker."""
    from taaf.deploy.lava.runtime import require_lava

    require_lava()
    from lava.magma.core.model.py.model import AbstractPyProcessModel

    original = AbstractPyProcessModel.start

    def start(self: Any) -> None:
        with marker.open("a") as file:
            file.write(f"{time.time()} {type(self).__name__}\n")
        if type(self).__name__ == model:
            run_spk = self.run_spk

            def failing() -> None:
                if self.time_step >= 5:
                    raise ValueError(f"planted in {model}")
                run_spk()

            self.run_spk = failing
        original(self)

    AbstractPyProcessModel.start = start


def few_windows() -> None:
    """Let the exporter verify on 20 windows only."""
    from taaf.training.datasets import ead_mini

    load = ead_mini.load_split
    ead_mini.load_split = lambda name, indices=None, *rest: load(name, slice(20) if indices is None else indices, *rest)


def main() -> int:
    """Entry point; returns the command's exit code."""
    command, stage, how, marker_name, *arguments = sys.argv[1:]
    marker = Path(marker_name)
    if how.startswith("raise:"):
        raise_inside(how[6:], marker)
    elif stage != "none":
        prepare(stage, lambda: strike(how, marker))
    if command == "export" and "import" not in stage:
        few_windows()
    cli = importlib.import_module(f"taaf.{ {'train': 'training'}.get(command, command) }.cli")
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
