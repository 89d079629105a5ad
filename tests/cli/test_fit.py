"""taaf-export --fit: the answer before any run, on every kind of file, and in one line where there is none."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from commands import assert_refused, run_command

from taaf.export.cli import main
from taaf.export.targets.netx.write import write_netx
from taaf.models import zoo_path
from taaf.models.ir import Dense, Graph, Input, Lif


@pytest.fixture(scope="module")
def too_wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense layer of 5,000 inputs: more axons than a core of Loihi 1 takes."""
    wide = np.full((5000, 3), 64, np.int32)
    nodes = [Input("input", (3,)), Dense("w0", wide), Lif("wide"), Dense("w1", wide.T.copy()), Lif("narrow")]
    graph = Graph("net", nodes, [(a.name, b.name) for a, b in pairwise(nodes)])
    path = tmp_path_factory.mktemp("fit") / "wide.net"
    write_netx(graph, path)
    return path


def test_the_shipped_bundle_fits() -> None:
    """Default model; text names layers, cores, the binding limit and where the limits come from; Loihi 2 without energy."""
    done = run_command("export", "--fit", "loihi2")
    assert done.returncode == 0, done.stderr
    assert "fits: 6 cores on 1 chip, allowed 1" in done.stdout
    for words in ("event.readout_lif", "assumed", "1.094 mJ", "no official energy"):
        assert words in done.stdout
    one = run_command("export", "--fit", "loihi1", zoo_path("ead_mini") / "event.net", "--json")
    found = json.loads(one.stdout)
    assert (found["schema_version"], found["fits"], found["mapping"]["n_chips"]) == (1, True, 1)
    assert found["mapping"]["limits"]["input axons"] == 4096


def test_what_does_not_fit(too_wide: Path, tmp_path: Path) -> None:
    """Exit code 1: the limit, what was found, what is allowed, the layer, and a proposal that fits; cores in the file.

    Seen failing: exit code 0 with a violation.
    """
    report = tmp_path / "fit.json"
    done = run_command("export", "--fit", "loihi1", too_wide, "--out", report)
    assert done.returncode == 1 and done.stderr == ""
    assert "DOES NOT FIT" in done.stdout
    assert "input axons: 5,000 on a core that holds a single neuron, allowed 4,096" in done.stdout
    assert "alone with 6/8 of its channels" in done.stdout
    content = json.loads(report.read_text())
    assert content["findings"][0]["limit"] == "input axons"
    cores = content["mapping"]["cores"]
    assert sum(c["neurons"] for c in cores) == 5003
    assert {"layer", "x", "y", "chip", "utilisation"} <= set(cores[0])
    assert run_command("export", "--fit", "loihi2", too_wide).returncode == 0


@pytest.mark.parametrize(
    ("args", "mentions"),
    [
        (["--fit", "loihi2", "nowhere.pt"], ["nowhere.pt"]),
        (["--fit", "loihi2", "x.nir"], ["x.nir", "--to netx"]),
        (["--fit", "loihi2", "x.pt", "--to", "netx"], ["--to", "--fit"]),
        (["x.pt", "--to", "netx", "--chips", "2"], ["--chips", "--fit"]),
        (["x.pt"], ["--to netx", "--fit"]),
        (["--fit", "loihi2", "--out", "/proc/nowhere/fit.json"], ["--out", "/proc/nowhere"]),
    ],
)
def test_refused_in_one_line(args: list[str], mentions: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and one line that names the culprit."""
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and all(word in err for word in mentions), err


def test_damaged_file(tmp_path: Path) -> None:
    """A finding, not a crash."""
    broken = tmp_path / "broken.net"
    broken.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert_refused(run_command("export", "--fit", "loihi1", broken), 2, "broken.net")
