"""export/README.md: its script runs to the end of the Lava simulator, its network can be wired, its table names every network."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tomli

import taaf.export

GUIDE = (Path(taaf.export.__file__).parent / "README.md").read_text(encoding="utf-8")


def _blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", GUIDE, flags=re.DOTALL)


@pytest.mark.needs_slayer
@pytest.mark.needs_lava
@pytest.mark.slow
def test_a_users_script_ends_on_the_lava_runtime(tmp_path: Path) -> None:
    """Own SLAYER module, own training loop, own windows."""
    script = _blocks("python")[0]
    assert len([line for line in script.splitlines() if line.strip()]) <= 40
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 3
    event, imu = (
        rng.random((12, *shape)) < 0.1 + 0.15 * labels.reshape(-1, *[1] * len(shape)) for shape in ((2, 8, 8, 10), (12, 14))
    )
    np.savez(tmp_path / "windows.npz", event=event.astype(np.uint8), imu=imu.astype(np.uint8), labels=labels)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("True {'fused': ") and last.endswith("Loihi 1 (Davies 2018)")
    manifest = (tmp_path / "bundle" / "manifest.json").read_text()
    assert '"onnx"' in manifest and (tmp_path / "bundle" / "imu.net").is_file()


def test_the_guides_configuration_and_wiring() -> None:
    from taaf.models.config import NetworkConfig
    from taaf.models.wiring import Wiring

    (toml,) = _blocks("toml")
    config = NetworkConfig.from_dict(tomli.loads(toml)).check()
    assert config.modalities == ("event",)
    space: dict = {}
    exec(_blocks("python")[1], space)
    assert Wiring((2, 34, 34), space["pyramid"]).output.shape == (64,)


@pytest.mark.needs_slayer
def test_the_table_names_every_network_that_is_tested() -> None:
    from user_networks import NETWORKS

    table = GUIDE[GUIDE.index("| network |") : GUIDE.index("Refused, because")].lower()
    missing = [n.name for n in NETWORKS if not all(word in table for word in re.findall(r"[a-z0-9]{3,}", n.name.lower()))]
    assert not missing and len(NETWORKS) >= 20
