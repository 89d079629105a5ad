"""What needs no Lava works without it, on every Python; what does is refused in one line that names the Python it needs.

Where Lava is installed its import is blocked, so these tests mean the same everywhere.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import assert_refused
from small_graphs import CASES, random_spikes

from taaf.deploy.report import Request, deploy
from taaf.export.checkpointed import PROVEN, TrainedNetwork
from taaf.export.frontend import float_graphs
from taaf.export.passes import CompileReport, compile_graph
from taaf.export.targets.netx.read import read_netx
from taaf.export.targets.netx.write import write_netx
from taaf.hw_sim.engine import Engine
from taaf.models import zoo_path
from taaf.models.checkpoint import load_model
from taaf.models.fused_lif import host_lif
from taaf.models.slayer_lif import SlayerLif
from taaf.training.datasets.ead_mini import load_split

CONFTEST = Path(__file__).parents[1] / "conftest.py"
COUNTS = {  # spikes and effective SynOps of all test windows
    "event.stem_lif": (1_592_657, 20_217_231),
    "event.block1_lif": (1_460_385, 56_798_541),
    "event.block2_lif": (2_051_289, 155_080_959),
    "event.readout_lif": (432_453, 231_850_966),
    "audio.hidden_lif": (276_113, 49_178_917),
    "audio.readout_lif": (411_410, 34_365_589),
}
BLOCKED = ("lava", "lava.lib", "norse")


@pytest.fixture
def no_lava(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing Lava, lava-dl or norse fails."""
    for name in [*BLOCKED, *(m for m in sys.modules if m.split(".")[0] in BLOCKED)]:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("no_lava")
def test_checkpoints_load_compile_and_run(tmp_path: Path) -> None:
    """The shipped checkpoint compiles to the shipped networks, and its forward pass is what they do, spike by spike."""
    model, _ = load_model(zoo_path("ead_mini.pt"))
    windows = load_split("test", slice(12)).inputs()
    features = model.eval().features({m: torch.from_numpy(x.astype(np.float32)) for m, x in windows.items()})
    for name, graph in float_graphs(model).items():
        integers, chain = compile_graph(graph, saturate=True, report=CompileReport())
        write_netx(chain, tmp_path / f"{name}.net")
        found, shipped = read_netx(tmp_path / f"{name}.net", name), read_netx(zoo_path(f"ead_mini/{name}.net"), name)
        assert list(found.nodes) == list(shipped.nodes) and found.edges == shipped.edges
        for node, expected in zip(found.nodes.values(), shipped.nodes.values(), strict=True):
            for key, value in vars(expected).items():
                np.testing.assert_array_equal(getattr(node, key), value, err_msg=f"{name}.{node.name}.{key}")
        spikes = Engine(integers).run(windows[name], keep_all=True).spikes[integers.output]
        np.testing.assert_array_equal(features[name].detach().numpy(), spikes)


@pytest.mark.usefixtures("no_lava")
def test_host_part_decides_and_is_trained() -> None:
    """Spikes of the alignment, and their derivative, without norse."""
    current = torch.tensor([[[1.0, 1.5, 0.75], [1.0, 0.0, 0.75]]], requires_grad=True)  # (N, T, F)
    spikes = host_lif(current)
    assert spikes.tolist() == [[[0, 1, 0], [1, 0, 1]]]  # v > 1: (1, 1.5, 0.75), then (1.5, 0, 1.125)
    spikes.sum().backward()
    assert current.grad is not None and bool((current.grad != 0).all())


@pytest.mark.parametrize("case", CASES)
def test_netx_round_trip_runs_the_same(case: str, tmp_path: Path) -> None:
    """A graph written with `write_netx` and read again gives every spike of the one it was written from."""
    rng = np.random.default_rng(3)
    graph = CASES[case](rng)
    write_netx(graph, tmp_path / "net.net")
    spikes = random_spikes(rng, graph, n_windows=3, steps=7)
    wanted = Engine(graph).run(spikes, keep_all=True).spikes
    found = Engine(read_netx(tmp_path / "net.net", "net")).run(spikes, keep_all=True).spikes
    for name, expected in wanted.items():
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


def test_counts_of_the_shipped_bundle() -> None:
    """Spikes and SynOps of all 1 000 windows are these on every Python, torch and NumPy."""
    report = deploy(Request(zoo_path("ead_mini"), "fast"), lambda _: None, lambda _: None)
    assert report["agreement"]["exact"] and report["agreement"]["max_logit_difference"] < 1e-9
    found = {row["layer"]: (row["spikes_out"], row["effective_synops"]) for row in report["layers"]}
    assert found == COUNTS


def _blocked(module: str, *args: object) -> subprocess.CompletedProcess:
    block = "".join(f"sys.modules[{name!r}] = None; " for name in BLOCKED)
    script = f"import sys; {block}from {module} import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-c", script, *map(str, args)], capture_output=True, text=True, timeout=240)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "args"),
    [
        ("taaf.deploy.cli", ("--backend", "sim", "--samples", 2)),
        ("taaf.deploy.cli", ("--backend", "loihi2")),
        ("taaf.export.cli", ("net.py:build", "--to", "netx", "--out", "{tmp}/bundle", "--input", "windows.npz")),
    ],
)
def test_what_needs_lava_is_refused(module: str, args: tuple, tmp_path: Path) -> None:
    """Exit 3, one line that names the Python to use; nothing is left behind."""
    done = _blocked(module, *(str(a).replace("{tmp}", str(tmp_path)) for a in args))
    assert_refused(done, 3, "Python 3.10", "SLAYER" if "--out" in args else "--backend fast")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_exports_say_what_proved_them(tmp_path: Path) -> None:
    """Without lava-dl our own form of SLAYER's neurons proves an export, which the manifest and deployment say."""
    command = (zoo_path("ead_mini.pt"), "--to", "netx", "--out", tmp_path / "bundle", "--windows", 20, "--json")
    done = _blocked("taaf.export.cli", *command)
    assert done.returncode == 0, done.stderr
    assert all(layer["exact"] for layer in json.loads(done.stdout)["layers"])
    source = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["golden"]["source"]
    assert source == PROVEN[False] and "lava-dl is not installed" in source
    report = deploy(Request(tmp_path / "bundle", "fast"), lambda _: None, lambda _: None)
    assert report["agreement"]["exact"] and "(our form of the SLAYER forward," in report["agreement"]["with"]


@pytest.mark.needs_slayer
def test_lava_dl_proves_where_it_is_installed() -> None:
    """Every population of the exported network runs lava-dl's own neuron then."""
    network = TrainedNetwork(zoo_path("ead_mini.pt"))
    populations = [part for part in network.model.modules() if isinstance(part, SlayerLif)]
    assert network.proven_by == PROVEN[True] and len(populations) == 6 and all(part.runs_lava_dl for part in populations)


def test_no_skip_goes_unnoticed(tmp_path: Path) -> None:
    """The suite's own rule: the two markers skip only where Python has no Lava; any other skip is a failure everywhere."""
    shutil.copy(CONFTEST, tmp_path)
    tests = {name: f"@pytest.mark.{name}\ndef test_a(): pass\n" for name in ("needs_lava", "needs_slayer")}
    tests["plain"] = "def test_b(): pytest.skip('why')\n"
    for name, text in tests.items():
        (tmp_path / f"test_{name}.py").write_text(f"import pytest\n{text}")

    def outcome(name: str) -> str:
        command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", f"--rootdir={tmp_path}", f"test_{name}.py"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60).stdout.splitlines()[-1]

    old, shim = sys.version_info < (3, 11), bool(os.environ.get("TAAF_LAVA_ON_NEWER_PYTHON"))
    assert ("1 passed" if old or shim else "1 skipped") in outcome("needs_lava")
    assert ("1 passed" if old else "1 skipped") in outcome("needs_slayer")
    assert "1 failed" in outcome("plain")
