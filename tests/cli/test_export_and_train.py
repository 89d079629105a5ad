"""taaf-train and taaf-export: the way from nothing to a bundle, and what they refuse."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from commands import assert_refused, run_command

from taaf.models import zoo_path

SHIPPED = zoo_path("ead_mini.pt")


class _Attack:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.path),))


def _damaged(kind: str, folder: Path) -> Path:
    path = folder / "bad.pt"
    if kind == "missing":
        return path
    if kind == "truncated":
        path.write_bytes(SHIPPED.read_bytes()[:20_000])
    elif kind == "text":
        path.write_text("hello")
    elif kind == "foreign":
        torch.save({"weight": torch.zeros(2)}, path)
    elif kind == "pickle":
        torch.save(_Attack(folder / "owned"), path)
    else:
        content = torch.load(SHIPPED, weights_only=True)
        if kind == "NaN":
            content["state"]["branches.event.stem.weight"][0, 0, 0, 0] = float("nan")
        elif kind == "shape":
            content["config"]["model"]["features"] = 64
        elif kind == "version":
            content["version"] = 99
        torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("kind", "mention"),
    [
        ("missing", "no such file"), ("truncated", "truncated"), ("text", "not a readable checkpoint"),
        ("foreign", "not a taaf checkpoint"), ("pickle", "not a readable checkpoint"),
        ("NaN", "branches.event.stem.weight holds 1 values that are NaN"), ("shape", "do not fit"), ("version", "version 99"),
    ],
)  # fmt: skip
def test_bad_checkpoints_are_refused(kind: str, mention: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Exit 2, one line naming the file, nothing executed, nothing written."""
    from taaf.export.cli import main

    path = _damaged(kind, tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    assert main([str(path), "--to", "netx", "--out", str(tmp_path / "bundle")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.strip().splitlines()) == 1
    assert str(path) in err and mention in err
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_all_zero_layer_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A layer that Lava cannot load is named; no bundle, no temporary folder."""
    from taaf.export.cli import main

    content = torch.load(SHIPPED, weights_only=True)
    content["state"]["branches.audio.hidden.weight"].zero_()
    torch.save(content, tmp_path / "zero.pt")
    assert main([str(tmp_path / "zero.pt"), "--to", "netx", "--out", str(tmp_path / "bundle")]) == 2
    assert "audio.hidden: all weights are zero" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["zero.pt"]


def test_existing_folder_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """--out pointing at something that is not a bundle is refused."""
    from taaf.export.cli import main

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    assert main([str(SHIPPED), "--to", "netx", "--out", str(tmp_path / "mine")]) == 2
    assert "exists and is not a bundle" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"


@pytest.mark.slow
@pytest.mark.needs_lava
def test_train_export_deploy_from_nothing(tmp_path: Path) -> None:
    """Two short epochs: checkpoint, verified bundle (also on Lava), exact deployment; a second training is refused."""
    run = tmp_path / "run"
    done = run_command("train", "--epochs", 2, "--limit", 300, "--out", run, "--json", "-q")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["epoch"] == 1
    stored = torch.load(run / "model.pt", weights_only=True)
    assert stored["config"]["optimiser"]["epochs"] == 2 and len((run / "metrics.jsonl").read_text().splitlines()) == 2
    assert_refused(run_command("train", "--epochs", 2, "--out", run), 2, "holds a training already")

    bundle = tmp_path / "bundle"
    done = run_command(
        "export", run / "model.pt", "--to", "netx", "--out", bundle, "--windows", 100, "--verify-lava", 2, "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert all(layer["exact"] for layer in result["layers"]) and len(result["layers"]) == 6
    assert result["lava"]["exact"] and result["lava"]["windows"] == 2
    done = run_command("deploy", bundle, "--backend", "fast", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["agreement"]["exact"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layers", "windows"), [("ead_mini", 6, 200), ("scmrl_ead_mini", 12, 20)])
def test_shipped_bundle_is_what_the_shipped_checkpoint_gives(name: str, layers: int, windows: int, tmp_path: Path) -> None:
    """Exporting the shipped checkpoint reproduces the shipped networks byte for byte; ✓ for every layer."""
    done = run_command("export", zoo_path(f"{name}.pt"), "--to", "netx", "--out", tmp_path / "bundle", "--windows", windows)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("✓") == layers + 1 and "✗" not in done.stdout
    for file in ("event.net", "audio.net"):
        assert (tmp_path / "bundle" / file).read_bytes() == (zoo_path(name) / file).read_bytes(), file
    made, shipped = (zipfile.ZipFile(folder / "head.npz") for folder in (tmp_path / "bundle", zoo_path(name)))
    assert [(n, made.read(n)) for n in made.namelist()] == [(n, shipped.read(n)) for n in shipped.namelist()]


def test_disagreement_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """If the recorded spikes of the trained model differ from what runs, deploy says so and fails."""
    import hashlib

    import numpy as np

    from taaf.deploy.cli import main

    bundle = tmp_path / "bundle"
    shutil.copytree(zoo_path("ead_mini"), bundle)
    golden = dict(np.load(bundle / "golden.npz"))
    golden["features_event"][0] ^= 0x80
    np.savez_compressed(bundle / "golden.npz", **golden)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["golden.npz"] = hashlib.sha256((bundle / "golden.npz").read_bytes()).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert main([str(bundle), "--backend", "fast", "--samples", "5"]) == 1
    out, err = capsys.readouterr()
    assert "BROKEN" in out and "1 of 12,800" in out and "disagrees" in err


@pytest.mark.parametrize(
    ("toml", "mention"),
    [
        ("[optimiser]\nepoch = 3\n", "did you mean 'epochs'?"), ("[loss]\nlam = 'x'\n", "expected float"),
        ("[optimizer]\nepochs = 3\n", "did you mean 'optimiser'?"), ("[loss\n", "not valid TOML"),
        ("[optimiser]\nbatch_size = 0\n", "allowed 1 to 1.04858e+06"),
        ("[loss]\nbalance = 'ogm'\n", "did you mean 'ogm_ge'?"),
        ("[loss]\nbalance = 'x'\n", "unknown; allowed: none, la, taaf, late_fusion, ogm_ge, pmr, pmr_paper, agm, cmci, misnet,"),
        ("[model]\nfeatures = 3\n", "[model]: networks are described in [branches.NAME] and [head]"),
        ("[branches.event]\nnetwork = 'con'\n", "branches.event.network (='con'): unknown; did you mean 'conv'?"),
        ("[branches.event]\nchannels = 8\n", "branches.event.network: missing"),
        ("[branches.event]\nnetwork = 'conv'\nwidth = 8\n", "branches.event.width: unknown key; did you mean 'wide'?"),
        ("[branches.Event]\nnetwork = 'conv'\n", "branches.Event: the name has to be up to 32 lower-case letters"),
        ("branches = 3\n", "expected one table per modality"), ("[head]\ntype = 'tafa'\n", "did you mean 'taaf'?"),
        ("[head]\nfusion = 7\n", "head.fusion (=7): expected str, found int"),
    ],
)  # fmt: skip
def test_bad_configurations(toml: str, mention: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Unknown key or table with a suggestion, wrong type, bad TOML, impossible value: exit 2, one line, no output folder."""
    from taaf.training.cli import main

    (tmp_path / "c.toml").write_text(toml)
    assert main(["--config", str(tmp_path / "c.toml"), "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1 and "c.toml" in err and mention in err
    assert not (tmp_path / "run").exists()
