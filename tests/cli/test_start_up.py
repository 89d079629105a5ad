"""The fast backend answers without torch, which takes longer to import than the windows to run."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from taaf.models import zoo_path
from taaf.training.datasets.ead_mini import load_split

SCRIPT = "import sys; from taaf.deploy.cli import main; code = main(sys.argv[1:]); print(sorted(HEAVY & set(sys.modules))); sys.exit(code)"
HEAVY = "{'torch', 'lava', 'norse', 'matplotlib', 'onnxruntime', 'tensorboard', 'av'}"


@pytest.mark.parametrize(
    "options",
    [("--early-exit", "0.9", "--energy-study", "--report", "{tmp}/page.html"), ("--input", "{tmp}/windows.npz", "--json")],
    ids=lambda options: options[0],
)
def test_fast_needs_no_torch(options: tuple[str, ...], tmp_path: Path) -> None:
    """Whatever is asked of it: windows of the data set or of a file, details for the page, studies."""
    part = load_split("test", slice(3))
    np.savez(tmp_path / "windows.npz", labels=part.labels, **part.inputs())
    command = [
        zoo_path("ead_mini"),
        "--backend",
        "fast",
        "--samples",
        "3",
        *(o.replace("{tmp}", str(tmp_path)) for o in options),
    ]
    script = SCRIPT.replace("HEAVY", HEAVY)
    done = subprocess.run([sys.executable, "-c", script, *map(str, command)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stdout[-300:] + done.stderr
