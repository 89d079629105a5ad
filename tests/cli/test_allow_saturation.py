"""taaf-export --allow-saturation from checkpoint to deployment: refused by name, or reported, verified and counted."""

import json
from pathlib import Path

import pytest
import torch

from taaf.models import zoo_path
from taaf.training.datasets.ead_mini import LABELS, load_split


def test_a_layer_that_may_saturate(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """One feature neuron with full inhibition from all inputs could wrap; on the data it does not, so SLAYER agrees."""
    from taaf.deploy.cli import main as deploy
    from taaf.export.checkpointed import TrainedNetwork
    from taaf.export.cli import build_parser
    from taaf.export.cli import main as export
    from taaf.export.netx_bundle import export_netx

    content = torch.load(zoo_path("ead_mini.pt"), weights_only=True)
    content["state"]["branches.event.readout.weight"][0] = -1e4
    checkpoint, out = tmp_path / "wild.pt", tmp_path / "bundle"
    torch.save(content, checkpoint)
    assert export([str(checkpoint), "--to", "netx", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "event.readout_lif: u could reach -21," in error and "within 12 steps in 1 of 128 neurons" in error
    assert "--allow-saturation" in error and not out.exists()

    assert build_parser().parse_args(["x", "--to", "netx", "--allow-saturation"]).allow_saturation
    split = load_split("test")
    inputs = {m: x[:20] for m, x in split.inputs().items()}
    result = export_netx(
        TrainedNetwork(checkpoint),
        out,
        inputs,
        split.labels[:20],
        list(LABELS),
        data={"set": "ead-mini"},
        allow_saturation=True,
    )
    assert all(c.ok for c in result.checks)
    assert any(line.startswith("--allow-saturation: event.readout_lif: u could reach") for line in result.report)
    manifest = json.loads((out / "manifest.json").read_text())
    proven = {row["layer"]: row["proven"] for row in manifest["branches"]["event"]["intervals"]}
    assert manifest["allow_saturation"] is True and [n for n, ok in proven.items() if not ok] == ["event.readout_lif"]

    assert deploy([str(out), "--backend", "fast", "--samples", "20"]) == 0
    assert "event.readout_lif may leave 24 bits" in capsys.readouterr().out
    manifest["allow_saturation"] = False
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert deploy([str(out), "--backend", "fast", "--samples", "20"]) == 2
    assert "event.readout_lif: u could reach" in capsys.readouterr().err
