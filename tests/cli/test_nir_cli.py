"""taaf-export with NIR on one side, as a user runs it."""

import json
from pathlib import Path

import nir
import nir_nets
import numpy as np
import pytest
from commands import assert_refused, run_command

from taaf.deploy.lava.runtime import require_lava
from taaf.export.cli import main
from taaf.export.targets.netx.read import read_netx
from taaf.models import zoo_path
from taaf.models.files.writing import sha256


def test_checkpoint_to_nir_to_netx_is_the_shipped_network(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """model.pt -> backbone.nir -> NetX gives the shipped bundle's networks byte for byte, float = integer on every spike."""
    nir_path, out = tmp_path / "backbone.nir", tmp_path / "backbone"
    assert main([str(zoo_path("ead_mini.pt")), "--to", "nir", "--out", str(nir_path)]) == 0
    assert "✓ event: 12 nodes, reading back gives the identical integer graph" in capsys.readouterr().out
    rng = np.random.default_rng(0)
    x = {"event": (rng.random((2, 2, 34, 34, 10)) < 0.1), "audio": (rng.random((2, 160, 10)) < 0.2)}
    np.savez(tmp_path / "x.npz", labels=np.array([1, 2]), **{k: v.astype(np.uint8) for k, v in x.items()})
    command = [str(nir_path), "--to", "netx", "--out", str(out), "--calibrate", str(tmp_path / "x.npz"), "--json"]
    assert main(command) == 0
    shown = json.loads(capsys.readouterr().out)
    report = json.loads((out / "report.json").read_text())
    assert shown == {"schema_version": 1, "out": str(out), "report": report}
    assert sorted(p.name for p in out.iterdir()) == ["audio.net", "event.net", "report.json"]
    for name, branch in report["branches"].items():
        assert sha256(out / f"{name}.net") == sha256(zoo_path("ead_mini") / f"{name}.net") == branch["sha256"]
        assert all(line["differing"] == 0 for line in branch["deviation"]["layers"])
        assert branch["deviation"]["accuracy"]["float"] == branch["deviation"]["accuracy"]["integer"]


def test_bundle_to_nir(tmp_path: Path) -> None:
    """A bundle's networks, relays and all."""
    assert main([str(zoo_path("ead_mini")), "--to", "nir", "--out", str(tmp_path / "x.nir"), "--json"]) == 0
    graph = nir.read(tmp_path / "x.nir")
    assert {"event.stem_lif", "audio.readout_lif"} < set(graph.nodes) and graph.metadata["dt"] == 1e-3


def test_two_files_through_the_executable(tmp_path: Path) -> None:
    """Two foreign backbones with generated inputs: said so in text and report; the folder is replaced when run again."""
    one = nir_nets.write(tmp_path / "event.nir", nir_nets.small(0))
    two = nir_nets.write(tmp_path / "audio.nir", nir_nets.small(5))
    assert main([str(one), "--to", "netx", "--reset", "hard", "--out", str(tmp_path / "net")]) == 0
    done = run_command(
        "export", one, "--second", two, "--to", "netx", "--reset", "hard", "--dt", 1e-3, "--out", tmp_path / "net"
    )
    assert done.returncode == 0, done.stderr
    for words in ("time step 0.001 s (given)", "generated: independent spikes of rate 0.2",
                  "event.b: LIF (reset hard) -> i_decay 4096, v_decay 1024",
                  "weights clipped", "% of neuron-steps differ", "same decision", "✓ audio.net: engine = integer reference"):  # fmt: skip
        assert words in done.stdout, (words, done.stdout)
    report = json.loads((tmp_path / "net/report.json").read_text())
    assert [b["file"] for b in report["branches"].values()] == ["event.net", "audio.net"]
    assert "not the task's data" in report["calibration"]["source"] and "the chip resets to zero" in report["notes"][0]
    graph = read_netx(tmp_path / "net/event.net", "event")
    assert [lif.v_th_mant for lif in graph.lifs()] == [q["v_th_mant"] for q in report["branches"]["event"]["quantisation"]]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["audio.nir", "event.nir", "net"]


@pytest.mark.needs_lava
def test_written_networks_load_in_stock_lava(tmp_path: Path) -> None:
    """lava-dl's Network takes the file."""
    require_lava()
    from lava.lib.dl.netx.hdf5 import Network

    path = nir_nets.write(tmp_path / "event.nir", nir_nets.small(0))
    assert main([str(path), "--to", "netx", "--reset", "hard", "--out", str(tmp_path / "net"), "--json"]) == 0
    assert len(Network(net_config=str(tmp_path / "net/event.net"), reset_interval=8, reset_offset=1).layers) == 2


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Exit 2, one line, nothing written."""
    path = nir_nets.write(tmp_path / "a.nir", nir_nets.small())
    (tmp_path / "bad.nir").write_bytes(path.read_bytes()[:900])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("precious")
    np.savez(tmp_path / "shape.npz", inputs=np.zeros((2, 11, 5), np.uint8))
    np.savez(tmp_path / "values.npz", inputs=np.full((2, 12, 5), 2, np.uint8))
    np.savez(tmp_path / "labels.npz", inputs=np.zeros((2, 12, 5), np.uint8), labels=np.zeros(3, int))
    np.savez(tmp_path / "names.npz", other=np.zeros(3))
    np.savez(tmp_path / "pickle.npz", inputs=np.array([{}], object))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04")
    before = sorted(p.name for p in tmp_path.iterdir())
    cases = [
        ([tmp_path / "no.nir"], "no.nir: no such file"), ([tmp_path / "bad.nir"], "bad.nir: not a readable NIR file"),
        ([path, "--second", path], "branch 'a' comes twice"), ([path, "--dt", "0"], "time step 0"),
        ([path, "--dt", "1"], "a.b: tau = 0.004 is 0.004 time steps of 1"),
        ([path, "--verify-lava", "1"], "--verify-lava: runs bundles only"),
        ([path, "--out", tmp_path / "mine"], "mine: exists and is not a network folder"),
        ([path, "--calibrate", tmp_path / "no.npz"], "no.npz: no such file"),
        ([path, "--calibrate", tmp_path / "broken.npz"], "broken.npz: not a readable .npz"),
        ([path, "--calibrate", tmp_path / "pickle.npz"], "pickle.npz: not a readable .npz"),
        ([path, "--calibrate", tmp_path / "shape.npz"], "inputs is uint8 (2, 11, 5); allowed numbers (N, 12, T)"),
        ([path, "--calibrate", tmp_path / "values.npz"], "a.input: input holds values other than 0 and 1"),
        ([path, "--calibrate", tmp_path / "labels.npz"], "labels int64 (3,); allowed whole numbers (2,)"),
        ([path, "--calibrate", tmp_path / "names.npz"], "no array 'a'; found other"),
        ([zoo_path("ead_mini.pt"), "--dt", "1e-3"], "--dt: needs a .nir file"), ([path], "how its neurons reset"),
        ([zoo_path("ead_mini.pt"), "--reset", "hard"], "--reset: needs a .nir file"),
        ([zoo_path("ead_mini.pt"), "--second", path], "--second: needs a .nir file"),
    ]  # fmt: skip
    for arguments, mention in cases:
        foreign = arguments[0].suffix == ".nir" and mention != "how its neurons reset"
        given = [*map(str, arguments), "--to", "netx", *(["--reset", "hard"] if foreign else [])]
        out = [] if "--out" in given else ["--out", str(tmp_path / "net")]
        assert main([*given, *out]) == 2, mention
        stdout, err = capsys.readouterr()
        assert stdout == "" and len(err.strip().splitlines()) == 1 and mention in err, (mention, err)
        assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert (tmp_path / "mine/thesis.tex").read_text() == "precious"
    for out, mention in (
        ("x.h5", "a NIR file ends in .nir"),
        ("mine", "ends in .nir"),
        ("text.nir", "exists and is not a NIR file"),
    ):
        (tmp_path / "text.nir").write_text("precious")
        assert main([str(zoo_path("ead_mini.pt")), "--to", "nir", "--out", str(tmp_path / out)]) == 2
        assert mention in capsys.readouterr().err
    assert_refused(run_command("export", path, "--to", "nir"), 2, "is NIR already")


def test_soft_reset_is_said_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The text names the reset that became a hard one, per layer, with the spikes that differ; a readout is named, too."""
    graph = nir_nets.chain(
        (12,), nir.Linear(nir_nets.weights(0, 10, 12)), nir_nets.lif(10), nir.Linear(nir_nets.weights(1, 4, 10)),
        nir.LI(nir_nets.full(4, 4e-3), nir_nets.full(4, 1), nir_nets.full(4, 0)),
    )  # fmt: skip
    path = nir_nets.write(tmp_path / "a.nir", graph)
    assert main([str(path), "--to", "netx", "--reset", "subtract-next", "--out", str(tmp_path / "net")]) == 0
    shown = capsys.readouterr().out
    for words in ("a.b: LIF (reset subtract-next) ->", "warning: b: reset subtract-next became a hard reset",
                  "c (Linear), d (LI) come after and are the host's: a.readout.nir"):  # fmt: skip
        assert words in shown
    assert sorted(p.name for p in (tmp_path / "net").iterdir()) == ["a.net", "a.readout.nir", "report.json"]
    (layer,) = json.loads((tmp_path / "net/report.json").read_text())["branches"]["a"]["deviation"]["layers"]
    assert layer["differing_fraction"] > 0.03


def test_silent_network_is_said_to_be_silent(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A wrong time step gives a network that never fires: a warning, not silence."""
    path = nir_nets.write(tmp_path / "a.nir", nir_nets.small())
    assert main([str(path), "--to", "netx", "--reset", "hard", "--dt", "1e-6", "--out", str(tmp_path / "net")]) == 0
    assert "warning: a.d never fires in the float run: is the time step right" in capsys.readouterr().out
