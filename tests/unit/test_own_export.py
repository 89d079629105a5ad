"""A user's network on its way to a bundle: which classes, which windows, which names, and recordings that do not fit together."""

import io
import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import assert_refused, run_in_process
from torch import nn

from taaf import deploy, export
from taaf.export.cli import main
from taaf.export.own_code import load_weights
from taaf.export.recorded import RecordedNetwork
from taaf.export.verify import shown_of
from taaf.models.checkpoint import read_checkpoint
from taaf.models.errors import BundleError, CheckpointError, ConfigError, DataError
from taaf.models.files.writing import sha256

pytestmark = pytest.mark.needs_slayer
N, STEPS = 6, 8
NEURON = {"threshold": 1.0, "current_decay": 0.5, "voltage_decay": 0.25}


def _net(outputs: int = 4, blocks: int = 2, delay_shift: bool = False, behind: Callable[[Any], Any] = lambda x: x) -> nn.Module:
    from taaf.models.slayer_lif import require_lava_dl

    require_lava_dl()
    from lava.lib.dl import slayer

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = [5, *[6] * (blocks - 1), outputs]
            pairs = pairwise(sizes)
            self.blocks = nn.Sequential(
                *(slayer.block.cuba.Dense(NEURON, a, b, weight_scale=6, delay_shift=delay_shift) for a, b in pairs)
            )

        def forward(self, x: torch.Tensor) -> Any:
            return behind(self.blocks(x))

    torch.manual_seed(3)
    return Net()


def _windows(steps: int = STEPS) -> np.ndarray:
    return (np.random.default_rng(0).random((N, 5, steps)) < 0.5).astype(np.uint8)


def test_every_output_neuron_is_a_class_unless_names_say_otherwise(tmp_path: Path) -> None:
    """Windows that show only the first classes do not join neurons; names do."""
    labels = np.arange(N) % 2
    network = export.record_network(_net(), {"imu": _windows()}, labels)
    spikes = network.evidence["imu"][network.graphs["imu"].output].rows(slice(None))
    assert network.label_names == ["0", "1", "2", "3"] and spikes.any()
    np.testing.assert_array_equal(network.logits["fused"], spikes.sum(-1))
    grouped = export.record_network(_net(), {"imu": _windows()}, labels, label_names=["a", "b"])
    np.testing.assert_array_equal(grouped.logits["fused"], spikes.reshape(N, 2, -1).sum(-1))
    one_more = export.record_network(_net(), {"imu": _windows()}, labels, label_names=["a", "b", "c"])
    assert one_more.label_names == ["a", "b", "c", "3"]
    export.to_bundle(network, out=tmp_path / "b")
    found = export.to_bundle(
        {"imu": _net()}, {"imu": _windows()}, labels, out=tmp_path / "c", label_names=["x", "y", "z", "zz"]
    )
    assert set(found.accuracy) == {"fused", "imu"}


@pytest.mark.parametrize(
    ("labels", "names", "mention"),
    [
        (np.full(N, 4), None, r"labels go up to 4, there are 4 classes \(output neurons\)"),
        (np.full(N, 2), ["a", "b"], r"labels go up to 2, there are 2 classes \(names\)"),
        (np.zeros(N, int), list("abcde"), "names lists 5 classes, head rate decides between 4"),
        (np.zeros(N, int), ["a\n", "b", "c", "d"], "names: .*printable"),
    ],
)
def test_labels_and_names_that_do_not_fit(labels: np.ndarray, names: list[str] | None, mention: str) -> None:
    with pytest.raises(DataError, match=mention):
        export.record_network(_net(), {"imu": _windows()}, labels, label_names=names)


@pytest.mark.parametrize("name", ["../x", "a.b", "IMU", ""])
def test_names_of_modalities_become_names_of_files(name: str) -> None:
    for model in (_net(), {name: _net()}):
        with pytest.raises(ConfigError, match="a modality is named"):
            export.record_network(model, {name: _windows()})


def test_windows_in_which_slayer_shows_nothing() -> None:
    """With delay_shift a window of as many steps as blocks would be compared at no step."""
    with pytest.raises(DataError, match="windows of 3 steps, and SLAYER's delay_shift hides 3"):
        export.record_network(_net(blocks=3, delay_shift=True), {"imu": _windows(3)}, head="none")
    shown = export.record_network(_net(blocks=3, delay_shift=True), {"imu": _windows(4)}, head="none")
    assert min(x.shape[-1] for x in shown.evidence["imu"].values()) == 2


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_rate_counts_what_leaves_the_module(blocks: int, tmp_path: Path) -> None:
    """With delay_shift SLAYER's last blocks steps never leave it; branches of other depth and steps hide others."""
    nets = {"a": _net(blocks=blocks, delay_shift=True), "b": _net(), "c": _net(blocks=1, delay_shift=True)}
    inputs = {"a": _windows(), "b": _windows(), "c": _windows(5)}
    with torch.no_grad():
        own = {m: net(torch.from_numpy(inputs[m]).float()).sum(-1).numpy() for m, net in nets.items()}
    network = export.record_network(nets, inputs, np.arange(N) % 4)
    assert network.head.head.options.counted_steps == (STEPS - blocks, STEPS, 4)
    for m, counts in own.items():
        np.testing.assert_array_equal(network.logits[m], counts)
    np.testing.assert_array_equal(network.logits["fused"], sum(own.values()))
    assert all(c.ok for c in export.to_bundle(network, out=tmp_path / "b").checks)


@pytest.mark.parametrize(
    ("behind", "mention"),
    [
        (lambda x: x.mean(-1) / (0 * x.sum()), "logits of window 0 are NaN or infinite"),
        (lambda x: x.mean(-1) - x.mean(-1).mean(0, keepdim=True), "otherwise on a window alone than on a batch"),
    ],
)
def test_heads_that_cannot_decide_window_by_window(behind: Callable[[Any], Any], mention: str) -> None:
    with pytest.raises(ConfigError, match=mention):
        export.record_network(_net(behind=behind), {"imu": _windows()}, np.zeros(N, int))


def test_a_pool_at_the_end_is_compared_with_slayers(tmp_path: Path) -> None:
    """Of neurons that pool: what SLAYER's module gives there, under the pool's name."""
    from lava.lib.dl import slayer

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = slayer.block.cuba.Conv(NEURON, 1, 2, 3, padding=1, weight_scale=6, delay_shift=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.max_pool3d(self.conv(x), (2, 2, 1))

    windows = (np.random.default_rng(0).random((2, 1, 4, 4, STEPS)) < 0.4).astype(np.uint8)
    network = export.record_network(Net(), {"event": windows}, head="none")
    assert export.to_bundle(network, out=tmp_path / "b").checks[-1].spikes > 0
    pool = network.graphs["event"].output
    kept = network.evidence["event"][pool]
    assert shown_of({pool: kept.bits}, f"{pool}_lif") is kept.bits
    network.save(tmp_path / "r.pt")
    again = RecordedNetwork.load(tmp_path / "r.pt")
    assert [type(n) for n in again.graphs["event"].nodes.values()] == [type(n) for n in network.graphs["event"].nodes.values()]
    network.evidence["event"][pool] = type(kept)(kept.bits ^ 1, kept.shape)
    with pytest.raises(Exception, match=f"{pool}_lif .*SLAYER"):
        export.to_bundle(network, out=tmp_path / "c")


def test_some_of_the_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--windows of a recording: the first ones, with their decisions."""
    network = export.record_network(_net(), {"imu": _windows()}, np.arange(N) % 4)
    network.save(tmp_path / "r.pt")
    monkeypatch.chdir(tmp_path)
    assert main(["r.pt", "--to", "netx", "--out", "b", "--windows", "2", "-q"]) == 0
    golden = np.load(tmp_path / "b" / "golden.npz")
    np.testing.assert_array_equal(golden["logits"], network.logits["fused"][:2])


def _spoilt(change: Callable[[dict[str, Any]], Any], folder: Path) -> Path:
    export.record_network(_net(), {"imu": _windows()}, np.arange(N) % 4).save(folder / "r.pt")
    content = torch.load(folder / "r.pt", weights_only=True)
    change(content)
    torch.save(content, folder / "r.pt")
    return folder / "r.pt"


LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no evidence": (lambda c: c["evidence"]["imu"].clear(), "no evidence"),
    "evidence of no step": (lambda c: [x["shape"].__setitem__(-1, 0) for x in c["evidence"]["imu"].values()], "no evidence"),
    "evidence of one neuron": (lambda c: [x["shape"].__setitem__(1, 1) for x in c["evidence"]["imu"].values()], "no evidence"),
    "size": (lambda c: c["inputs"]["imu"].__setitem__("shape", [N, 5, 10**12]), "its windows are"),
    "steps": (lambda c: c["steps"].__setitem__("imu", 10**9), "1000000000 steps"),
    "tolerance": (lambda c: c.__setitem__("logit_tolerance", 1e9), "logit_tolerance"),
    "NaN": (lambda c: c.__setitem__("logit_tolerance", float("nan")), "logit_tolerance"),
    "decisions": (lambda c: c["logits"].__setitem__("imu", c["logits"]["imu"][:2]), "its logits are not those"),
    "labels": (lambda c: c.__setitem__("labels", c["labels"] + 4), "labels: .*expected 6 class indices below 4"),
    "names": (lambda c: c["label_names"].pop(), "names 3 classes, the head has 4"),
    "modality": (lambda c: [c[k].__setitem__("x", c[k]["imu"]) for k in ("graphs", "inputs")], "not of the same modalities"),
}  # fmt: skip


@pytest.mark.parametrize("case", LIES)
def test_recordings_that_do_not_fit_together(case: str, tmp_path: Path) -> None:
    change, mention = LIES[case]
    with pytest.raises(CheckpointError, match=mention):
        RecordedNetwork.load(_spoilt(change, tmp_path))


def test_weights_that_are_none(tmp_path: Path) -> None:
    net, inputs = _net(), {"imu": _windows()}
    with pytest.raises(CheckpointError, match="no such file"):
        load_weights(net, tmp_path / "no.pt", inputs)
    (tmp_path / "x.safetensors").write_bytes((20).to_bytes(8, "little") + b'{"w": {}}           ')
    with pytest.raises(CheckpointError, match="a safetensors file"):
        load_weights(net, tmp_path / "x.safetensors", inputs)
    net(torch.from_numpy(inputs["imu"]).float())
    state = net.state_dict()
    first = next(k for k, v in state.items() if v.is_floating_point() and v.dim() > 1)
    torch.save(state | {first: state[first] * float("nan")}, tmp_path / "nan.pt")
    with pytest.raises(CheckpointError, match=f"{first} holds values that are NaN"):
        load_weights(net, tmp_path / "nan.pt", inputs)


Arrays = dict[str, np.ndarray]
WINDOWS: dict[str, tuple[str, Callable[[Arrays], Any], str]] = {
    "float": ("windows.npz", lambda a: a.update(imu=a["imu"].astype(float)), "imu is float64"),
    "fewer": ("windows.npz", lambda a: a.update(imu=a["imu"][:2]), "no 6 windows of 8 steps"),
    "none": ("windows.npz", lambda a: a.update(imu=a["imu"][:0]), "no 6 windows of 8 steps"),
    "number": ("windows.npz", lambda a: a.update(imu=np.uint8(3)), r"imu is uint8 \(\)"),
    "class": ("golden.npz", lambda a: a.update(labels=a["labels"] + 9), r"golden labels 9\.\.12, the manifest names 4"),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "bundle"
    export.to_bundle(_net(), {"imu": _windows()}, np.arange(N) % 4, out=folder)
    return folder


@pytest.mark.parametrize("case", WINDOWS)
def test_bundles_whose_windows_lie(case: str, bundle: Path, tmp_path: Path) -> None:
    """Sums are right, the arrays are not those of the manifest."""
    name, change, mention = WINDOWS[case]
    shutil.copytree(bundle, tmp_path / "b")
    arrays = dict(np.load(bundle / name))
    change(arrays)
    np.savez(tmp_path / "b" / name, **arrays)  # type: ignore[arg-type]
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = sha256(tmp_path / "b" / name)
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=mention):
        deploy.run(tmp_path / "b", "fast")


def test_data_of_a_bundle_is_a_table(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "b")
    manifest = json.loads((bundle / "manifest.json").read_text()) | {"data": []}
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="data: expected an object"):
        deploy.run(tmp_path / "b", "fast")


def test_what_is_no_checkpoint_is_recognised(bundle: Path, tmp_path: Path) -> None:
    """A bundle, a folder of a training, Python code, a damaged archive."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.pt").touch()
    (tmp_path / "nets.py").write_text("def build(): ...")
    whole = io.BytesIO()
    np.savez(whole, x=np.zeros(3))
    (tmp_path / "cut.pt").write_bytes(b"\x00" * 50 + whole.getvalue()[-60:])
    for path, mention in (
        (bundle, "a bundle, exported already; run it with `taaf-deploy`"), (tmp_path / "run", "give .*run/model.pt"),
        (tmp_path / "nets.py", "name the function in it .*nets.py:FUNCTION"), (tmp_path / "cut.pt", "not a readable checkpoint"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=mention):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("options", "mention"),
    [
        (("nets.py:build",), "record FILE.py:FUNCTION with --record FILE.pt first"),
        (("--branch", "imu=imu.net"), "give the bundle of --branch"), (("b", "--inputs", "w.npz"), "--inputs: not with --fit"),
        (("b", "--weights", "w.pt"), "--weights: not with --fit"),
    ],
)  # fmt: skip
def test_fitting_takes_files(options: tuple[str, ...], mention: str) -> None:
    assert_refused(run_in_process(main, "--fit", "loihi2", *options), 2, mention)


def test_branches_of_files_say_what_does_not_fit(bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", imu=_windows()[:, :3])
    for branch, mention in (
        (f"imu={bundle / 'imu.net'}", "imu is (3,) per step"),
        (f"={bundle / 'imu.net'}", "every NAME once"),
    ):
        command = ("--branch", branch, "--inputs", tmp_path / "w.npz", "--to", "netx", "--out", tmp_path / "b")
        assert_refused(run_in_process(main, *command), 2, mention)
