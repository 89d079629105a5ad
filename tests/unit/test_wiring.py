"""Wirings: what cannot be wired is refused, and every network is the same in training, as a float graph and as integers."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from taaf.export.frontend import float_graph, host_encoder
from taaf.export.passes import CompileReport, fold_batch_norm, quantise
from taaf.hw_sim.reference import run_reference
from taaf.models.config import NetworkConfig
from taaf.models.errors import ConfigError
from taaf.models.network import SpikingNet
from taaf.models.networks import find_network, names
from taaf.models.qat import QatSynapse
from taaf.models.wiring import Current, Neurons, Spikes, Wiring

MAP = (2, 8, 8)


def _open(x: Spikes) -> Spikes:
    """A current that ends nowhere, wired before what is returned."""
    x.conv("a", 4, 3)
    return x.conv("b", 4, 3).lif("b_lif")


def _twice(x: Spikes) -> Spikes:
    """One current into two populations."""
    current = x.conv("a", 4, 3)
    current.lif("one")
    return current.lif("two")


WRONG: dict[str, tuple[tuple[int, ...], bool, Callable[[Spikes], object], str]] = {
    "current returned": (MAP, False, lambda x: x.conv("a", 4, 3), r"returned Current; it must return spikes \(of \.lif"),
    "nothing returned": (MAP, False, lambda x: None, "returned NoneType"),
    "not the last": (MAP, False, lambda x: (y := x.conv("a", 4, 3).lif("l"), y.conv("b", 4, 3).lif("m"))[0], "returns l, but m was"),
    "dense on a map": (MAP, False, lambda x: x.dense("d", 4), r"d: reads input of shape \(2, 8, 8\); flatten\(\) it first"),
    "recurrent on a map": (MAP, False, lambda x: x.recurrent("d", 4), r"d: reads input of shape .* flatten\(\) it first"),
    "added to a recurrent current": (
        (9,), False, lambda x: (x.recurrent("r", 4) + x.dense("d", 4)).lif("l"), "r: a recurrent current goes straight into one"
    ),
    "conv on a row": ((9,), False, lambda x: x.conv("c", 4, 3), r"c: reads input of shape \(9,\); allowed \(C, H, W\)"),
    "pool on a row": ((9,), False, lambda x: x.max_pool("p"), r"allowed \(C, H, W\)"),
    "sum over a row": ((9,), False, lambda x: x.dense_over_map("p", 3), r"allowed \(C, H, W\)"),
    "even kernel": (MAP, False, lambda x: x.conv("c", 4, 2), r"c: kernel \(=2\) must be odd"),
    "window too large": (MAP, False, lambda x: x.max_pool("p", 11, 1, 0), "p: a 11x11 window is larger than the padded map"),
    "unequal sum": (MAP, False, lambda x: x.conv("a", 4, 3) + x.conv("b", 5, 3), r"a \+ b: \(4, 8, 8\) != \(5, 8, 8\)"),
    "unequal maps": (MAP, False, lambda x: x.beside(x.conv("a", 4, 3, 2).lif("l"), "b"), "do not lie beside each other"),
    "threshold": (MAP, False, lambda x: x.conv("a", 4, 3).lif("l", v_th=100), r"l: v_th \(=100\): allowed powers of two from 1 to"),
    "decay": (MAP, False, lambda x: x.conv("a", 4, 3).lif("l", v_decay=4097), r"l: v_decay \(=4097\): allowed 0 to 4096"),
    "no channels": (MAP, False, lambda x: x.conv("a", 0, 3), r"a: channels \(=0\): allowed 1 to 65536"),
    "half a stride": (MAP, False, lambda x: x.conv("a", 4, 3, 0.5), r"a: stride \(=0.5\): expected a whole number, found float"),
    "no features": (MAP, False, lambda x: x.flatten().dense("a", 0), r"a: features \(=0\)"),
    "padding": (MAP, False, lambda x: x.max_pool("a", 3, 2, 2), r"a: padding \(=2\): allowed 0 to 1"),
    "one name twice": (MAP, False, lambda x: x.conv("a", 4, 3).lif("l").conv("b", 4, 3).lif("l"), "l: two layers have this name"),
    "name of the input": (MAP, False, lambda x: x.conv("input", 4, 3).lif("l"), "input: two layers have this name"),
    "real, dense first": (MAP, True, lambda x: x.flatten().dense("d", 4).lif("l"), "first layer must be one convolution"),
    "real, two readers": (
        MAP, True, lambda x: (x.conv("a", 4, 3) + x.conv("b", 4, 3)).lif("l"), "first layer must be one convolution"
    ),
    "real, pooled first": (MAP, True, lambda x: x.max_pool("p").conv("a", 4, 3).lif("l"), "first layer must be one convolution"),
    "real, identity": (MAP, True, lambda x: x.through("a").lif("l"), "first layer must be one convolution"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit(case: str) -> None:
    """The layer is named."""
    shape, real, wire, mention = WRONG[case]
    with pytest.raises(ConfigError, match=mention):
        Wiring(shape, wire, real)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wire", "mention"), [(_open, "a: its current goes to 0 places"), (_twice, "a: its current goes to 2 places")]
)
def test_currents_end_in_one_population(wire: Callable[[Spikes], Spikes], mention: str) -> None:
    """Found when the network is built, whose weights need the threshold of what they feed."""
    with pytest.raises(ConfigError, match=mention):
        SpikingNet(Wiring(MAP, wire))


def test_types() -> None:
    """Spikes go into synapses, currents are added and end in neurons: anything else does not exist."""
    assert not any(
        hasattr(Current, name) for name in ("conv", "dense", "flatten", "max_pool", "beside", "recurrent", "through")
    )
    assert not hasattr(Spikes, "lif") and "__add__" not in vars(Spikes)
    with pytest.raises(TypeError):
        Wiring(MAP, lambda x: x.conv("a", 2, 3) + x)  # type: ignore[operator]
    with pytest.raises(TypeError):
        Wiring(MAP, lambda x: x + x)  # type: ignore[operator]


def test_readings_of_a_wiring() -> None:
    """Threshold and neurons of every synapse, and what is on the chip."""

    def wire(x: Spikes) -> Spikes:
        stem = x.conv("stem", 4, 3, stride=2).lif("stem_lif", v_th=64)
        outer = (stem.conv("a", 6, 3) + stem.conv("b", 6, 1)).lif("outer", v_th=256)
        return outer.flatten().dense("d", 5).lif("d_lif")

    spikes, real = Wiring((3, 9, 7), wire), Wiring((3, 9, 7), wire, real=True)
    assert spikes.output.shape == (5,) and spikes.operations["outer"].shape == (6, 5, 4)
    assert [spikes.fed(n).parameters.v_th_mant for n in ("stem", "a", "b", "d")] == [64, 256, 256, 128]
    outer = spikes.operations["outer"]
    assert isinstance(outer, Neurons) and [o.name for o in spikes.currents(outer)] == ["a", "b", "a_b"]
    assert (spikes.boundary, real.boundary, real.first_synapse) == ("input", "stem_lif", "stem")
    assert [o.name for o in spikes.on_chip] == ["stem", "stem_lif", "a", "b", "a_b", "outer", "flatten", "d", "d_lif"]
    assert [o.name for o in real.on_chip] == ["a", "b", "a_b", "outer", "flatten", "d", "d_lif"]
    net = SpikingNet(spikes)
    assert {n for n, _ in net.named_children()} == {"stem", "stem_lif", "a", "b", "outer", "d", "d_lif"}


BRANCHES = {
    "conv": {"network": "conv", "shape": [2, 12, 12], "channels": 4, "wide": 6, "features": 8},
    "dense": {"network": "dense", "shape": [20], "hidden": 12, "features": 8},
    "dense of a map": {"network": "dense", "shape": [2, 4, 3], "hidden": 12, "features": 8},
    "recurrent": {"network": "recurrent", "shape": [20], "hidden": 12, "features": 8},
    "resnet18": {"network": "resnet18", "shape": [2, 33, 20], "width": 2, "features": 6},
    "resnet18, real": {"network": "resnet18", "shape": [3, 33, 20], "width": 2, "features": 6, "scale": 8},
    "patch_stem": {"network": "patch_stem", "shape": [2, 13, 10], "channels": 16},
    "patch_stem, pooled": {
        "network": "patch_stem",
        "shape": [2, 13, 10],
        "channels": 16,
        "halvings": 2,
        "downsampling": "max_pool",
    },
    "patch_stem, real": {"network": "patch_stem", "shape": [3, 16, 9], "channels": 8, "scale": 32, "downsampling": "max_pool"},
}


def test_every_built_in_network_is_tested() -> None:
    assert {str(b["network"]) for b in BRANCHES.values()} == set(names())


@pytest.mark.parametrize("case", BRANCHES)
def test_training_equals_float_graph_equals_integers(case: str) -> None:
    """SLAYER's spikes of every population and of the output = the reference on the folded, quantised float graph, none silent.

    Real-valued inputs pass the integer encoder on the host. Seen failing with one threshold for all synapses of the wiring.
    """
    torch.manual_seed(1)
    rng = np.random.default_rng(2)
    branch = NetworkConfig.from_dict({"branches": {"a": {"steps": 6, **BRANCHES[case]}}, "head": {"type": "none"}}).branches[
        "a"
    ]
    net = SpikingNet(branch.wiring(), scale=branch.scale).eval()
    for part in net.modules():
        if isinstance(part, QatSynapse):
            part.offset.data.uniform_(0.0, 0.6)
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.3, 1.5)
    if branch.scale is None:
        spikes = (rng.random((3, *branch.input.shape, 6)) < 0.3).astype(np.uint8)
        x = torch.from_numpy(spikes).float()
    else:
        levels = rng.integers(-128, 128, (3, *branch.input.shape, 6)).astype(np.int8)
        x = torch.from_numpy(levels.astype(np.float32) / branch.scale)
        spikes = host_encoder(net)(levels)
    with torch.no_grad():
        np.testing.assert_array_equal(net.encode(x).numpy().reshape(spikes.shape), spikes)
        trained, output = {n: v.numpy() for n, v in net.trace(torch.from_numpy(spikes).float()).items()}, net(x).numpy()
    graph = quantise(fold_batch_norm(float_graph("a", net)), True, CompileReport())
    assert {lif.name for lif in graph.lifs()} <= set(trained) and graph.output in trained
    for i, window in enumerate(spikes):
        exact = run_reference(graph, window).spikes
        for name in (*(lif.name for lif in graph.lifs()), graph.output):
            np.testing.assert_array_equal(exact[name], trained[name][i], err_msg=name)
        np.testing.assert_array_equal(exact[graph.output], output[i])
    assert all(0 < v.mean() < 1 for v in trained.values()), {n: v.mean() for n, v in trained.items()}


def test_networks_by_name() -> None:
    """Built in, or a function anywhere; what cannot be found or called is refused by name."""
    assert find_network("conv").__module__ == "taaf.models.networks.conv"
    assert find_network("taaf.models.networks.dense:wire") is find_network("dense")
    for name, mention in (
        ("con", r"network \(='con'\): unknown; did you mean 'conv'\?"), ("no_such_module:f", "cannot be imported .ModuleNotFoundError"),
        ("taaf.models.networks.dense:f", "cannot be imported .AttributeError"), ("taaf.models.wiring:V_TH", "is int, not a function"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=mention):
            find_network(name)


def _fails(x: Spikes) -> Spikes:
    raise ValueError("my own")


def _returns_none(x: Spikes) -> None:
    return None


def test_functions_of_ones_own_that_fail() -> None:
    """One line that names the function, whatever it raises."""
    for function, mention in (
        ("_fails", "ValueError: my own"),
        ("_returns_none", "must return spikes"),
        ("_twice", "2 places"),
    ):
        table = {"network": f"{__name__}:{function}", "shape": list(MAP), "steps": 3}
        config = NetworkConfig.from_dict({"branches": {"a": table}, "head": {"type": "none"}})
        with pytest.raises(ConfigError, match=mention):
            SpikingNet(config.check().branches["a"].wiring())


def test_messages_name_the_branch() -> None:
    """A layer's name alone does not say in which of several branches it is."""
    branches = {"a": {"network": "dense", "shape": [9], "steps": 3}, "b": {"network": "conv", "shape": [9], "steps": 3}}
    with pytest.raises(ConfigError, match=r"^branches\.b: stem: reads input of shape \(9,\)"):
        NetworkConfig.from_dict({"branches": branches, "head": {"type": "none"}}).check()
