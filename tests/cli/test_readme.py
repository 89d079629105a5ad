"""The README's claims that can be run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.needs_slayer
def test_stock_lava_script_runs_without_taaf() -> None:
    """The README's script loads each .net of the bundle with stock lava-dl only."""
    (script,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    script += "\nimport sys\nassert not any(m.split('.')[0] == 'taaf' for m in sys.modules), 'taaf was imported'\n"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("|Dense") == 3 and done.stdout.count("|Conv") == 3


def test_readme_names_the_two_commands() -> None:
    """The two commands a newcomer types stand in the README, and the gate runs exactly the README's test command."""
    assert "uv run taaf-deploy --backend sim" in README
    assert "uv run pytest" in README
    assert '"$UV" run pytest\n' in (ROOT / ".ci/run").read_text(encoding="utf-8")
