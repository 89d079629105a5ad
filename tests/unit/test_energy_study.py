"""The energy study: multiply-accumulates from an independent count, energies and rates by hand, SynOps that add up."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import assert_refused, run_command
from torch import nn

from taaf.deploy.cli import main
from taaf.export.bundle.reader import read_bundle
from taaf.export.frontend import host_encoders
from taaf.export.passes import CompileReport, to_chain
from taaf.hw_sim.counters import count
from taaf.hw_sim.energy import load_chip
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.mapper.workload import Part, Workload, measured_parts, paper_network, resnet18
from taaf.hw_sim.study import ann_nj, closest, energy_nj, rate_for, readings, study, sweep, terms
from taaf.models import zoo_path
from taaf.models.errors import GraphError
from taaf.models.ir import Conv2d, Flatten, Graph, Input, Lif, Sum
from taaf.models.ir.nodes import Dense

HAND = Workload(
    "hand", {"a": 2}, {"a": (Part("s", "first", 100, 30.0), Part("j", "join", 40, 8.0), Part("b", "binary", 60, 12.0),
    Part("r", "extra", 0, 5.0))}, True, {"a": 10}, 4, 7.0,
)  # fmt: skip


class _Block(nn.Module):
    """He et al. 2016, Fig. 2."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.Conv2d(n_in, n_out, 3, stride, 1), nn.ReLU(), nn.Conv2d(n_out, n_out, 3, 1, 1))
        changes = stride != 1 or n_in != n_out
        self.around = nn.Conv2d(n_in, n_out, 1, stride) if changes else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.main(x) + self.around(x))


def _torch_macs(channels: int, height: int, width: int, pool: nn.Module) -> int:
    """What PyTorch's own counter says of ResNet18 (2 flops per multiply-accumulate); without allocating anything."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        blocks = [_Block(a, b, s) for a, b, s in ((64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2),
                                                 (256, 256, 1), (256, 512, 2), (512, 512, 1))]  # fmt: skip
        net = nn.Sequential(
            nn.Conv2d(channels, 64, 7, 2, 3),
            nn.ReLU(),
            pool,
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(512, 128),
        )
        counter = FlopCounterMode(display=False)
        with counter:
            net.to("meta")(torch.empty(1, channels, height, width))
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def test_macs_of_the_twin_equal_pytorchs_count() -> None:
    """Both branches, with the paper's max pooling and with the chip's strided convolution; 3 passes give 49.9 mJ within 1 %.

    Seen failing with 5x5 instead of 7x7 stems, and with a side rounded down.
    """
    shapes = {"visual": (3, 224, 224), "audio": (1, 257, 188)}
    for kind, pool in (("max", lambda: nn.MaxPool2d(3, 2, 1)), ("conv", lambda: nn.Conv2d(64, 64, 3, 2, 1))):
        work = paper_network(pool=kind)
        for branch, shape in shapes.items():
            assert sum(p.macs for p in work.parts[branch]) == _torch_macs(*shape, pool()), (kind, branch)
    paper = paper_network()
    assert paper.macs() == 3 * sum(_torch_macs(*s, nn.MaxPool2d(3, 2, 1)) for s in shapes.values())
    assert paper.macs() == pytest.approx(10.85e9, rel=0.01) and ann_nj(paper) / 1e6 == pytest.approx(49.91, rel=0.01)
    assert ann_nj(paper, elementwise=True) / 1e6 == pytest.approx(49.91, rel=0.001)


def test_elementwise_operations_by_hand() -> None:
    """A 2-wide network on 16 x 16: every normalised value twice, every activation and pooled value once."""
    side = {1: 8, 2: 4}  # stem, pooled
    maps = [2 * 4 * 4] * 4 + [4 * 2 * 2] * 4 + [8 * 1] * 4 + [16 * 1] * 4  # two convolutions per block
    shortcuts = 4 * 2 * 2 + 8 + 16
    stem = 2 * side[1] ** 2
    expected = 2 * (stem + sum(maps) + shortcuts) + (stem + sum(maps)) + stem + 16
    assert resnet18(3, 16, 16, base=2).elementwise == expected
    assert resnet18(3, 16, 16, base=2, features=5).neurons == sum(maps) + 5


def test_energies_by_hand() -> None:
    """Every reading of a four-part network, from the constants of the cited papers written out here.

    Seen failing with the first layer's MACs of one pass instead of two.
    """
    by_key = {r.key: r for r in readings()}
    expected = {
        "fp32_binary": 200 * 4.6 + (8 + 12 + 5) * 0.9,
        "fp32_sew": (200 + 80) * 4.6 + (12 + 5) * 0.9,
        "fp32_sew_body": 80 * 4.6 + (12 + 5) * 0.9,
        "int8_binary": 200 * 0.23 + 25 * 0.03,
        "int8_sew": 280 * 0.23 + 17 * 0.03,
        "loihi1_synapses": 25 * 23.6,
        "loihi1": 25 * 23.6 + 40 * 81.0 + 7 * 1.7,
    }
    assert {k: energy_nj(r, HAND) for k, r in by_key.items()} == pytest.approx({k: v / 1000 for k, v in expected.items()})
    at_half = 200 * 4.6 + 0.5 * (80 + 120) * 0.9
    assert energy_nj(by_key["fp32_binary"], HAND, 0.5) == pytest.approx(at_half / 1000)
    spiking = Workload("s", {"a": 2}, HAND.parts, False, {"a": 10}, 4, 7.0)  # binary input: the first layer accumulates
    assert energy_nj(by_key["fp32_binary"], spiking) == pytest.approx((30 + 25) * 0.9 / 1000)
    assert energy_nj(by_key["loihi1_synapses"], spiking) == pytest.approx((30 + 25) * 23.6 / 1000)
    assert HAND.rate == pytest.approx(20 / 200) and spiking.rate == pytest.approx(50 / 400)
    assert set(terms(by_key["loihi1"], HAND)) == {"MAC", "SynOp", "neuron update", "spike"}


def test_rate_at_which_a_figure_is_met() -> None:
    """The energy at that rate is the figure; none where more is needed at rate 0; above 1 where binary spikes cannot."""
    paper = paper_network()
    found = {r.key: rate_for(r, paper, 18.5e6) for r in readings()}
    for r in readings():
        if found[r.key] is not None:
            assert energy_nj(r, paper, found[r.key]) == pytest.approx(18.5e6)
    assert found["fp32_sew"] is None and found["fp32_binary"] > 1 and found["int8_binary"] > 1
    assert found["loihi1_synapses"] == pytest.approx(18.5e-3 / (23.6e-12 * (paper.macs() - paper.macs("first"))))
    assert found["loihi1_synapses"] == pytest.approx(0.076, abs=5e-4) and found["fp32_sew_body"] < 0.02
    assert closest({"a": 1.0, "b": 18.0, "c": 0.0}, 18.5) == "b"


def test_sweep_is_the_same_arithmetic() -> None:
    """T scales everything; rate 1 is the ceiling; twice the side is about four times the work."""
    s = sweep(0.1)
    at = {p["value"]: p for p in s["steps"]}
    for key, nj in at[1]["energy_nj"].items():
        assert at[6]["energy_nj"][key] == pytest.approx(6 * nj)
    ceiling = next(p for p in s["rate"] if p["value"] == 1.0)["energy_nj"]
    assert ceiling == pytest.approx({r.key: energy_nj(r, paper_network(), 1.0) for r in readings()})
    sizes = {p["value"]: p["macs"] for p in s["resolution"]}
    assert 3.5 < sizes[1.0] / sizes[0.5] < 4.5 and sizes[1.0] == paper_network().macs()


def _residual(identity: bool, seed: int = 3) -> tuple[Graph, Graph, CompileReport]:
    """Two blocks, the second with an identity or a 1x1/2 shortcut; before and after relay lowering."""
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return 2 * rng.integers(-40, 60, shape).astype(np.int32)

    stride, n = (1, 1), 4
    second = (1, 1) if identity else (2, 2)
    shortcut = (128 * np.eye(n, dtype=np.int32))[:, :, None, None] if identity else weights(n, n, 1, 1)
    nodes = [
        Input("input", (3, 9, 9)), Conv2d("stem", weights(n, 3, 3, 3), (1, 1), (1, 1)), Lif("stem_lif", v_th_mant=128),
        Conv2d("c1", weights(n, n, 3, 3), stride, (1, 1)), Lif("l1", v_th_mant=128),
        Conv2d("c2", weights(n, n, 3, 3), (1, 1), (1, 1)), Conv2d("s1", weights(n, n, 1, 1), stride), Sum("j1"), Lif("b1", v_th_mant=128),
        Conv2d("d1", weights(n, n, 3, 3), second, (1, 1)), Lif("l2", v_th_mant=128),
        Conv2d("d2", weights(n, n, 3, 3), (1, 1), (1, 1)), Conv2d("s2", shortcut, second), Sum("j2"), Lif("b2", v_th_mant=128),
        Flatten("flat"), Dense("read", weights(5, n * (81 if identity else 25))), Lif("out", v_th_mant=512),
    ]  # fmt: skip
    edges = [
        ("input", "stem"), ("stem", "stem_lif"), ("stem_lif", "c1"), ("c1", "l1"), ("l1", "c2"), ("c2", "j1"), ("stem_lif", "s1"),
        ("s1", "j1"), ("j1", "b1"), ("b1", "d1"), ("d1", "l2"), ("l2", "d2"), ("d2", "j2"), ("b1", "s2"), ("s2", "j2"), ("j2", "b2"),
        ("b2", "flat"), ("flat", "read"), ("read", "out"),
    ]  # fmt: skip
    graph = Graph("g", nodes, edges)
    report = CompileReport()
    return graph, to_chain(graph, report), report


@pytest.mark.parametrize("identity", [True, False])
def test_parts_of_a_lowered_network_are_those_before(identity: bool) -> None:
    """SynOps add up to the counters' total; roles, MACs and SynOps are the same before and after relay lowering.

    Seen failing with the shortcut's SynOps left in the main path, and with relays taken for ordinary channels.
    """
    graph, lowered, report = _residual(identity)
    x = (np.random.default_rng(0).random((4, 3, 9, 9, 6)) < 0.3).astype(np.uint8)
    ran, ran_lowered = Engine(graph).run(x).activity, Engine(lowered).run(x).activity
    before = {p.name: p for p in measured_parts(graph, ran)}
    after = {p.name: p for p in measured_parts(lowered, ran_lowered, report.relays_of(lowered))}
    for parts, g, activity in ((before, graph, ran), (after, lowered, ran_lowered)):
        total = math.fsum(p.synops or 0 for p in parts.values()) * 4
        assert total == pytest.approx(sum(c.effective_synops for c in count(g, activity))) and total > 0
    renamed = {"c2_shortcut": "s1", "d2_shortcut": "s2"}
    kept = {renamed.get(n, n): (p.role, p.macs, p.synops) for n, p in after.items() if not n.endswith("_relays")}
    assert kept == {n: (p.role, p.macs, p.synops) for n, p in before.items()}
    roles = {n: p.role for n, p in before.items()}
    assert roles["stem"] == "first" and roles["c1"] == "binary" and roles["d1"] == roles["read"] == "join"
    assert roles["s1"] == "binary" and roles["s2"] == ("extra" if identity else "join")
    assert after["d1_relays"].synops == ran.spikes["b1"][:, :: 1 if identity else 2, :: 1 if identity else 2].sum() / 4
    with pytest.raises(GraphError, match="relay channels"):
        measured_parts(lowered, ran_lowered, {"l1": 99})


def test_study_of_the_shipped_model_adds_up(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """--json: SynOps of the parts are the report's total; the FP32 reading is the energy table's; all sources are told."""
    assert main(["--backend", "fast", "--samples", "30", "--energy-study", "--json", "--plot", str(tmp_path / "s.svg")]) == 0
    report = json.loads(capsys.readouterr().out)
    s = report["energy_study"]
    assert sum(s["split"]["synops"].values()) == pytest.approx(report["totals"]["effective_synops"] / 30)
    by_key = {r["key"]: r for r in s["readings"]}
    fp32 = next(e for e in report["energy"] if e["convention"] == "cmos45_fp32")
    loihi = next(e for e in report["energy"] if e["convention"] == "loihi1_davies2018")
    assert by_key["fp32_binary"]["measured"]["energy_nj"] == pytest.approx(fp32["snn_nj"])
    assert by_key["loihi1"]["measured"]["energy_nj"] == pytest.approx(loihi["snn_nj"])
    assert not s["is_paper_scale"] and all(r["source"] and r["says"] for r in s["readings"])
    assert s["ann_twin"]["inferences_if_mj"] == pytest.approx(1e9, rel=0.01)
    assert (tmp_path / "s.svg").read_text().lstrip().startswith("<?xml")


def test_encoders_on_the_host_are_the_first_layer() -> None:
    """Their MACs are charged in every 45 nm reading and in none of Loihi's; what reads their spikes accumulates."""
    from taaf.deploy.studies.energy_study import energy_study

    graph, _, _ = _residual(False)
    x = (np.random.default_rng(0).random((4, 3, 9, 9, 6)) < 0.3).astype(np.uint8)
    activity = {"g": Engine(graph).run(x).activity}
    without, with_encoder = (energy_study("n", {"g": graph}, activity, {"g": 6}, {}, e) for e in ({}, {"g": 1000}))
    assert with_encoder["split"]["macs"]["first"] == 6 * 1000 and with_encoder["split"]["synops"]["first"] == 0
    assert sum(with_encoder["split"]["synops"].values()) == pytest.approx(sum(without["split"]["synops"].values()))
    for a, b in zip(without["readings"], with_encoder["readings"], strict=True):
        mac = {"fp32_binary": 4.6, "fp32_sew": 4.6, "int8_binary": 0.23, "int8_sew": 0.23}.get(a["key"], 0)
        assert b["measured"]["energy_nj"] - a["measured"]["energy_nj"] == pytest.approx(6 * mac)


def test_parts_of_the_compiled_resnet_are_the_architectures() -> None:
    """All eight blocks of a narrow twin, as compiled with relays: the roles and MACs that `resnet18` computes without weights.

    Seen failing with the second block's input taken for binary in `resnet18`, and with relays charged as MACs.
    """
    from resnet_nets import TWIN, calibrated_twin, compiled, levels_of

    model = calibrated_twin()
    _, chains, report = compiled(model)
    encoders = host_encoders(model)
    inputs = levels_of(model, 2)
    shapes = {m: spec.shape for m, spec in TWIN.inputs.items()}
    for branch, graph in chains.items():
        activity = Engine(graph).run(encoders[branch](inputs[branch])).activity
        relays = report.relays_of(graph)
        found = {p.name: (p.role, p.macs) for p in measured_parts(graph, activity, relays, "binary")}
        wanted = {p.name: (p.role, p.macs) for p in resnet18(*shapes[branch], base=2, features=6, pool="conv").parts}
        assert encoders[branch].n_macs == wanted.pop("stem")[1]
        assert found.pop("readout")[0] == wanted.pop("readout")[0]  # sums over the map, where ResNet18 averages first
        renamed = {n.replace("_conv2_shortcut", "_shortcut"): v for n, v in found.items() if v[0] != "extra"}
        assert renamed == wanted and sum(v == ("extra", 0) for v in found.values()) == 8 + 5  # relays, identity shortcuts


def test_closest_reading_and_the_papers_size() -> None:
    """A network with the paper's parts at rates of 5 to 20 %: SEW adds without the first layer come closest, at every rate."""
    for rate in (0.05, 0.1, 0.2):
        parts = {
            b: tuple(Part(p.name, p.role, p.macs, rate * 3 * p.macs) for p in ps) for b, ps in paper_network().parts.items()
        }
        base = paper_network()
        work = Workload("x", base.steps, parts, True, base.neurons, 3, rate * base.updates)
        s = study(work, load_chip("taaf_paper"))
        assert s["is_paper_scale"] and s["rate"] == pytest.approx(rate) and s["closest"] == "fp32_sew_body"
        for r in s["readings"]:
            assert r["measured"]["energy_nj"] == pytest.approx(r["paper_network"]["energy_nj"])


def test_bad_requests(tmp_path: Path) -> None:
    """--plot needs exactly one study and a suffix it can write; relays that do not fit the network are refused."""
    assert_refused(run_command("deploy", "--backend", "fast", "--plot", tmp_path / "x.png"), 2, "--energy-study")
    both = ("--energy-study", "--early-exit", "--plot", tmp_path / "x.png")
    assert_refused(run_command("deploy", "--backend", "fast", *both), 2, "both")
    assert_refused(
        run_command("deploy", "--backend", "fast", "--energy-study", "--plot", tmp_path / "x.pdf"), 2, ".pdf", ".svg"
    )
    bundle = tmp_path / "b"
    shutil.copytree(zoo_path("ead_mini"), bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["branches"]["event"]["relays"] = {"block1_lif": 9999}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert read_bundle(bundle).manifest["branches"]["event"]["relays"]
    assert_refused(
        run_command("deploy", bundle, "--backend", "fast", "--samples", "2", "--energy-study"), 2, "9999 relay channels"
    )
