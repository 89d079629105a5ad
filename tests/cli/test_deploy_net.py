"""taaf-deploy FILE.net: files made by stock lava-dl through the executable, and what is refused, each with one line."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import slayer_files
from commands import assert_refused, run_command
from slayer_files import SlayerFile

from taaf.deploy.cli import main

pytestmark = pytest.mark.needs_slayer  # which writes the files


@pytest.fixture(scope="module")
def convolutions(tmp_path_factory: pytest.TempPathFactory) -> SlayerFile:
    """Grouped and dilated convolutions, axonal delays; a spikes.npy beside it."""
    return _made(tmp_path_factory.mktemp("convolutions"), slayer_files.convolutions, (2, 8, 8))


@pytest.fixture(scope="module")
def own_decays(tmp_path_factory: pytest.TempPathFactory) -> SlayerFile:
    """Decays per neuron, delays, recurrence."""
    return _made(tmp_path_factory.mktemp("decays"), slayer_files.own_decays, (30,))


def _made(folder: Path, blocks: Callable[[], list], shape: tuple[int, ...]) -> SlayerFile:
    made = slayer_files.make(folder / "x.net", blocks, shape)
    np.save(folder / "spikes.npy", made.spikes)
    return made


@pytest.mark.parametrize("which", ["convolutions", "own_decays"])
def test_fast_gives_what_slayer_gave(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """--output holds the trained network's spikes; counts follow from them; no accuracy and no cited figure."""
    made: SlayerFile = request.getfixturevalue(which)
    spikes, target = made.path.with_name("spikes.npy"), tmp_path / "out.npy"
    done = run_command("deploy", made.path, "--backend", "fast", "--input", spikes, "--output", target, "--json")
    assert done.returncode == 0, done.stderr
    report, out, later = json.loads(done.stdout), np.load(target), len(made.trained)
    np.testing.assert_array_equal(out[..., :-later], made.trained[-1].reshape(out.shape)[..., later:])
    assert report["kind"] == "netx" and report["agreement"]["exact"] and report["agreement"]["reference"]["windows"] == 3
    assert report["layers"][-1]["spikes_out"] == out.sum() and report["totals"]["spikes_in"] == made.spikes.sum()
    assert not {"accuracy_percent", "paper", "host_macs_per_window"} & set(report)
    if which == "own_decays":
        _check_counts(made, report["layers"][0])
    assert report["input"] | {"sha256": ""} == {
        "generated": False,
        "file": str(spikes),
        "sha256": "",
        "shape": list(made.spikes.shape[1:-1]),
    }


def _check_counts(made: SlayerFile, layer: dict) -> None:
    """One operation per spike and non-zero synapse it reaches, whenever it becomes due; counted here by hand."""
    with h5py.File(made.path) as file:
        weight, delay = file["layer/1/weight"][()], file["layer/1/delay"][()]
    assert delay.max() > 4 and layer["effective_synops"] == int((made.spikes.sum((0, 2)) * (weight != 0).sum(0)).sum())
    assert layer["neuron_updates"] == 20 * 24 * 3 and layer["dense_synops"] == weight.size * 24 * 3


@pytest.mark.parametrize("which", ["convolutions", "own_decays"])
def test_sim_runs_the_file_on_lava(which: str, request: pytest.FixtureRequest) -> None:
    """Stock NetX loads the file itself; every spike of every layer equals the engine's, each window alone."""
    made: SlayerFile = request.getfixturevalue(which)
    done = run_command(
        "deploy", made.path, "--backend", "sim", "--input", made.path.with_name("spikes.npy"), "--samples", 2, "--steps", 14, "--json"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    lava, depth = report["agreement"]["lava"], len(made.trained)
    assert report["agreement"]["exact"] and lava["windows"] == lava["networks"] == 2 and len(lava["layer_mismatches"]) == depth
    assert lava["neuron_steps_compared"] == sum(t[0, ..., 0].size for t in made.trained) * 14 * 2
    assert report["time_steps"] == 2 * (14 + depth)


def test_generated_input_is_called_so(convolutions: SlayerFile, capsys: pytest.CaptureFixture) -> None:
    """The text says what the spikes are, and keeps measured and estimated apart; in process."""
    options = ["--backend", "fast", "--samples", "2", "--steps", "9", "--rate", "0.4", "--seed", "3"]
    assert main([str(convolutions.path), *options]) == 0
    text = capsys.readouterr().out
    for mention in ("Bernoulli spikes at rate 0.4, seed 3: not data", "Measured, per window", "Estimated, per window", "dense"):
        assert mention in text
    assert "accuracy" not in text and "18.5" not in text and "host head" not in text
    assert "integer reference = exact engine: every spike of every layer, 2 windows" in text


def _put(key: str, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if f"layer/{key}" in file:
            del file[f"layer/{key}"]
        if value is not None:
            file[f"layer/{key}"] = value

    return change


def _without_input(file: h5py.File) -> None:
    del file["layer/0"]
    for i in range(1, len(file["layer"]) + 1):
        file.move(f"layer/{i}", f"layer/{i - 1}")


FILES = {
    "delay of a convolution": (_put("1/delay", np.ones(4)), "layer/1: a convolution with delays; NetX ignores them"),
    "delay beyond 62": (_put("4/delay", np.full(20, 63.0)), "layer/4: delays of 63..63 steps; allowed 0..62"),
    "delay of half a step": (_put("4/delay", np.full(20, 0.5)), "layer/4: delays that are not whole steps"),
    "delay of another size": (_put("4/delay", np.ones(19)), "layer/4: delays (19,) for weights (20, 96)"),
    "delay and bias": (_put("4/bias", np.ones(20)), "layer/4: delays together with a bias"),
    "affine with neurons": (_put("6/neuron/vThMant", (1 << 18) - 1), "layer/6: vThMant 262143 (slayer's Affine)"),
    "affine without neurons": (_put("6/neuron", None), "layer/6: no neuron group (slayer's Affine"),
    "graded spikes": (_put("6/neuron/gradedSpike", True), "layer/6: graded spikes"),
    "scaling norm": (_put("6/neuron/weight_exp", np.ones(7)), "layer/6: weight_exp (slayer's WgtScaleBatchNorm)"),
    "bias with fractions": (_put("6/bias", np.full(7, 0.3)), "layer/6: a bias that is not whole numbers"),
    "refractory": (_put("6/neuron/refDelay", 2), "layer/6: refDelay 2; NetX ignores it"),
    "weight exponent": (_put("6/neuron/wgtExp", 1), "layer/6: wgtExp 1; NetX ignores it"),
    "sigma-delta": (_put("6/neuron/type", np.bytes_("SDNN")), "layer/6: neuron type 'SDNN'"),
    "adaptive": (_put("6/neuron/type", np.bytes_("ALIF")), "layer/6: neuron type 'ALIF'"),
    "complex weights": (_put("6/weight", None), "layer/6: complex weights"),
    "pooling": (_put("2/type", np.bytes_("pool")), "layer/2: type 'pool' is not implemented in NetX"),
    "average": (_put("6/type", np.bytes_("average")), "layer/6: type 'average' is not implemented in NetX; run the layers"),
    "unknown type": (_put("6/type", np.bytes_("denseish")), "layer/6: layer type 'denseish' is not supported; NetX skips it"),
    "second input": (_put("2/type", np.bytes_("input")), "layer/2: an input layer behind others"),
    "input neurons of another kind": (_put("0/neuron/type", np.bytes_("SDNN")), "layer/0: neuron type 'SDNN'"),
    "no input layer": (_without_input, "layer/0: no input layer gives the input's shape"),
    "flat twice": (_put("5/type", np.bytes_("flatten")), "layer/5: flattens what is flat already"),
    "another shape": (_put("1/shape", np.array([4, 8, 9])), "shape (4, 8, 9) in the file, its layer gives (4, 8, 8)"),
    "odd weights": (_put("6/weight", np.ones((7, 20))), "x.layer6: 140 odd weights"),
    "large weights": (_put("6/weight", np.full((7, 20), 300.0)), "x.layer6: weights 300..300 (allowed -256..254)"),
    "weights with fractions": (_put("6/weight", np.full((7, 20), 0.5)), "not integers"),
    "decays of another size": (_put("6/neuron/iDecay", np.full(3, 9)), "i_decay (3,) is neither one value nor (7,)"),
    "decay of 0": (_put("6/neuron/iDecay", 0), "x.layer6_lif: i_decay 0 (allowed 1..4096)"),
}


@pytest.mark.parametrize("name", FILES)
def test_refused_files(name: str, convolutions: SlayerFile, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """What stock Lava would run otherwise than it was trained, or not at all. (In process, to be quick.)"""
    change, mention = FILES[name]
    target = tmp_path / "x.net"
    target.write_bytes(convolutions.path.read_bytes())
    with h5py.File(target, "r+") as file:
        change(file)
        if name == "complex weights":
            file["layer/6/weight/real"] = np.ones((7, 20))
    assert main([str(target), "--backend", "fast"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.strip().splitlines()) == 1 and mention in err, err


def test_recurrent_layer_with_delays(own_decays: SlayerFile, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """NetX forgets the exponent of the weights there."""
    target = tmp_path / "x.net"
    target.write_bytes(own_decays.path.read_bytes())
    with h5py.File(target, "r+") as file:
        file["layer/2/delay"] = np.zeros(12)
    assert main([str(target), "--backend", "sim"]) == 2
    assert "layer/2: a recurrent layer with delays" in capsys.readouterr().err


def test_early_spikes_are_refused_on_lava_only(own_decays: SlayerFile, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A bias that fires while the pipeline fills, with a recurrence to carry it: not from rest on Lava, exact on the engine."""
    target = tmp_path / "x.net"
    target.write_bytes(own_decays.path.read_bytes())
    with h5py.File(target, "r+") as file:
        file["layer/2/bias"] = np.full(12, 33.0)
    assert main([str(target), "--backend", "sim"]) == 2
    assert (
        "x.layer2: a bias of 33 in layer2_lif can make spikes before the window starts (allowed 32)" in capsys.readouterr().err
    )
    assert main([str(target), "--backend", "fast", "--samples", "1"]) == 0
    assert "biases (layer2_lif) act from the first step" in capsys.readouterr().out


REQUESTS = {
    "no such file": (["--input", "none.npy"], "none.npy: no such file"),
    "wrong shape": (["--input", "shape.npy"], "shape (3, 8, 8, 5); allowed (windows, 2, 8, 8, steps) or (2, 8, 8, steps)"),
    "not binary": (["--input", "two.npy"], "values other than 0 and 1 (up to 2)"),
    "pickle": (["--input", "pickle.npy"], "pickle.npy: not a readable .npy"),
    "two arrays": (["--input", "pair.npz"], "pair.npz: holds a, b; allowed one array"),
    "more than there is": (["--input", "one.npy", "--steps", "9"], "one.npy has 1 windows of 5 steps"),
    "rate of given spikes": (["--input", "one.npy", "--rate", "0.1"], "--rate, --seed: only for generated spikes"),
    "no folder for the output": (["--output", "none/out.npy"], "folder none does not exist"),
    "options of a bundle": (["--early-exit"], "--early-exit: only with a bundle"),
    "split": (["--split", "human"], "--split: only with a bundle"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_refused_requests(
    name: str, convolutions: SlayerFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Wrong inputs and options, one line each."""
    monkeypatch.chdir(tmp_path)
    np.save("shape.npy", np.zeros((3, 8, 8, 5)))
    np.save("one.npy", np.zeros((2, 8, 8, 5), bool))
    np.save("two.npy", np.full((2, 8, 8, 5), 2))
    np.save("pickle.npy", np.array([{}]), allow_pickle=True)
    np.savez("pair.npz", a=np.zeros(1), b=np.zeros(1))
    extra, mention = REQUESTS[name]
    assert main([str(convolutions.path), "--backend", "fast", *extra]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.strip().splitlines()) == 1 and mention in err, err


def test_refused_paths(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A missing file, a text, an option that needs a .net file."""
    (tmp_path / "text.net").write_text("layer")
    for arguments, mention in (
        ([str(tmp_path / "none.net")], "none.net: no such file"),
        ([str(tmp_path / "text.net")], "text.net: not a readable NetX file"),
        (["--rate", "0.5"], "--rate: only with a .net file"),
    ):
        assert main([*arguments, "--backend", "fast"]) == 2
        out, err = capsys.readouterr()
        assert out == "" and len(err.strip().splitlines()) == 1 and mention in err


def test_chip_that_is_not_there(convolutions: SlayerFile) -> None:
    """Exit 3 through the executable."""
    assert_refused(run_command("deploy", convolutions.path, "--backend", "loihi2"), 3, "lava-loihi")
