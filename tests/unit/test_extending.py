"""A toy network, head, modality, data set, target, chip and neuron, each one file (and at most a row), without touching the package."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import taaf.export.targets
import taaf.models.heads
import taaf.models.networks
from taaf.export.cli import main as export_main
from taaf.hw_sim import chips
from taaf.hw_sim.mapper import chip_limits
from taaf.hw_sim.mapper.mapping import map_graphs
from taaf.models.config import NetworkConfig
from taaf.models.errors import ConfigError
from taaf.models.ir import Dense, Graph, Input, Lif
from taaf.models.network import MultimodalSnn
from taaf.training.config import DataConfig
from taaf.training.sources import open_split

NETWORK = '''"""Toy."""

def wire(x, *, wide: int = 6):
    return x.flatten().dense("only", wide).lif("only_lif")
'''
HEAD = '''"""Toy: the first class whose neuron ever fired."""

from taaf.models.heads.base import Head, StepOutputs

class FirstHead(Head):
    kind = "first"

    def run(self, ops, arrays, project, features, which=None):
        found = {m: x.sum(-1)[:, None] for m, x in features.items()}
        logits = {"fused": sum(found.values()), **found}
        return StepOutputs(logits, {u: ops.ones_like(o[..., 0]) for u, o in logits.items()})

    def mac_parts(self):
        return {}

    def stages(self):
        return [("first", "toy")]

HEAD = FirstHead
'''
DATA = '''"""Toy."""

import numpy as np

class Set:
    modalities, label_names = ("radar",), ("a", "b")

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return np.full((3, 5), i % 2, np.float32), i % 2

def build(split):
    return Set()
'''
TARGET = "def export(args):\n    print('toy target', args.model)\n    return 0\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_network_head_modality_and_data_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by listing, or by name on the import path."""
    (folder / "toy_net.py").write_text(NETWORK)
    (folder / "first.py").write_text(HEAD)
    (folder / "toy_data.py").write_text(DATA)
    monkeypatch.setattr(taaf.models.networks, "__path__", [*taaf.models.networks.__path__, str(folder)])
    monkeypatch.setattr(taaf.models.heads, "__path__", [*taaf.models.heads.__path__, str(folder)])
    tables = {
        "branches": {"radar": {"network": "toy_net", "shape": [3], "steps": 5, "wide": 2}},
        "head": {"type": "first", "classes": 2},
    }
    config = NetworkConfig.from_dict(tables).check()
    data = open_split(DataConfig(set="toy_data:build"), config.inputs, "test")
    inputs, labels = data.batch(range(4))
    assert data.modalities == ("radar",) and labels.tolist() == [0, 1, 0, 1]
    model = MultimodalSnn(config)
    assert model.head.head.kind == "first" and model.branches["radar"].wiring.output.shape == (2,)
    with pytest.raises(ConfigError, match="did you mean 'wide'"):
        NetworkConfig.from_dict({**tables, "branches": {"radar": {"network": "toy_net", "wid": 2}}})
    other = tables | {"branches": {"radar": {"network": "toy_net:wire", "shape": [3], "steps": 5}}}
    assert NetworkConfig.from_dict(other).check().branches["radar"].wiring().output.shape == (6,)
    assert inputs["radar"].shape == (4, 3, 5)
    for name in ("toy_net", "taaf.models.networks.toy_net", "taaf.models.heads.first", "toy_data"):
        sys.modules.pop(name, None)


def test_target(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    (folder / "toychip").mkdir()
    (folder / "toychip" / "__init__.py").write_text("")
    (folder / "toychip" / "command.py").write_text(TARGET)
    monkeypatch.setattr(taaf.export.targets, "__path__", [*taaf.export.targets.__path__, str(folder)])
    assert export_main(["some.pt", "--to", "toychip"]) == 0
    assert capsys.readouterr().out == "toy target some.pt\n"


def test_chip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file of limits, listed and mapped onto."""
    shipped = Path(chips.__file__).parent / "limits"
    text = (shipped / "loihi1.toml").read_text()
    assert "neurons = 1024" in text
    (folder / "toy.toml").write_text(text.replace("neurons = 1024", "neurons = 8"))
    monkeypatch.setattr(chip_limits, "_FOLDER", folder)
    graph = Graph("net", [Input("i", (4,)), Dense("d", np.full((40, 4), 2, np.int32)), Lif("l")], [("i", "d"), ("d", "l")])
    assert map_graphs({"net": graph}, "toy").n_cores == 5
    assert chips.chip_names() == ["loihi1", "loihi2"]


class PlainLif(nn.Module):
    """A user's own neuron: tau 0.5, threshold 1, hard reset, on SLAYER's grid of weights."""

    def forward(self, current: torch.Tensor) -> torch.Tensor:
        v, out = torch.zeros_like(current[..., 0]), []
        for now in torch.round(current * 4096).unbind(-1):
            v = torch.trunc(v / 2) + now
            fired = (v > 4096).to(now.dtype)
            v = v * (1 - fired)
            out.append(fired)
        return torch.stack(out, -1)


@pytest.mark.needs_slayer
def test_neuron() -> None:
    """A handler and a row in the recorder's registry; what it claims is compared with the user's own neuron."""
    from lava.lib.dl.slayer import synapse
    from lava.lib.dl.slayer.neuron import cuba

    from taaf.export.recorder import record
    from taaf.export.recorder.modules import Kind, put_neurons, registry
    from taaf.hw_sim.engine import Engine

    equal = cuba.Neuron(threshold=1.0, current_decay=1.0, voltage_decay=0.5)
    registry()[PlainLif] = Kind(
        lambda recorder, leaf: put_neurons(recorder, leaf, equal, leaf.value, leaf.name, None), "neurons"
    )
    try:
        torch.manual_seed(0)
        net = nn.Sequential(synapse.Dense(12, 9, weight_scale=2, pre_hook_fx=equal.quantize_8bit), PlainLif())
        x = (torch.rand(3, 12, 20) < 0.4).float()
        recording = record(net, {"event": x})
        graph, found = recording.graphs["event"], recording.trace({"event": x})
        (name,) = found.spikes["event"]
        exact = Engine(graph).run(x.numpy().astype(np.uint8), keep_all=True).spikes[name]
        np.testing.assert_array_equal(found.spikes["event"][name], exact)
        np.testing.assert_array_equal(net(x).detach().numpy(), exact)
        assert 0.02 < exact.mean() < 0.9
    finally:
        del registry()[PlainLif]
