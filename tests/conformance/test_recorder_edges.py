"""Edges of the recorder: composition of maps, views, states, delays, joins at the output, the host part elsewhere."""

import numpy as np
import pytest
import torch
from recorder_checks import require_same_spikes
from torch import nn
from torch.nn import functional as F
from user_networks import NETWORKS, REFUSED, Blocks, built, examples, lif

from taaf.export.recorder import record
from taaf.export.recorder.maps import Conv, Map, Matrix, Scale, mixed, then, unrolled
from taaf.export.recorder.values import plain, reshaped_layout
from taaf.models.ir import Concat, Dense, Lif, Pool2d, RecurrentDense

pytestmark = [pytest.mark.needs_slayer, pytest.mark.usefixtures("one_thread")]
BY_NAME = {n.name: n for n in [*NETWORKS, *REFUSED]}


def _spikes(*shape: int, seed: int = 3, rate: float = 0.3) -> torch.Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < rate).float()


def _random_map(rng: np.random.Generator, shape: tuple[int, ...]) -> Map:
    channels = shape[0]
    kind = rng.integers(5)
    if kind == 0:
        return Scale(shape, 2.0)
    if kind == 1:
        return Matrix(shape, rng.integers(-3, 4, (5, int(np.prod(shape)))).astype(float), (5, 1, 1))
    groups = channels if kind == 2 else 1
    kernel, stride, padding, dilation = (
        tuple(int(n) for n in rng.integers(low, high, 2)) for low, high in ((1, 4), (1, 3), (0, 2), (1, 3))
    )
    weight = rng.integers(-3, 4, (channels if groups > 1 else 3, channels // groups, *kernel)).astype(float)
    conv = Conv(shape, weight, stride, padding, dilation, groups)  # type: ignore[arg-type]
    return conv if min(conv.out) > 0 else Scale(shape, 0.5)


@pytest.mark.parametrize("seed", range(40))
def test_composed_maps_equal_one_after_the_other(seed: int) -> None:
    """Pooling then convolution, depthwise, strided, dilated, padded, unrolled: by matrices of each alone."""
    rng = np.random.default_rng(seed)
    first = _random_map(rng, (3, 7, 6))
    second = _random_map(rng, first.out)
    both = first if isinstance(second, Scale) else then(first, second)
    wanted = unrolled(first).matrix if isinstance(second, Scale) else unrolled(second).matrix @ unrolled(first).matrix
    assert np.array_equal(unrolled(both).matrix, wanted)
    mix = rng.integers(-1, 2, (2, both.out[0])).astype(float)
    wanted = np.einsum("pc,cri->pri", mix, unrolled(both).matrix.reshape(both.out[0], -1, wanted.shape[1])).reshape(
        -1, wanted.shape[1]
    )
    assert np.array_equal(unrolled(mixed(both, mix)).matrix, wanted)


def test_pooling_and_convolution_become_one_convolution() -> None:
    pool = Conv((2, 8, 8), np.ones((2, 1, 2, 2)), (2, 2), groups=2)
    both = then(pool, Conv((2, 4, 4), np.ones((3, 2, 3, 3)), padding=(1, 1)))
    assert isinstance(both, Conv) and both.weight.shape == (3, 2, 6, 6) and both.stride == both.padding == (2, 2)


@pytest.mark.parametrize("seed", range(60))
def test_views_keep_track_of_windows_time_and_neurons(seed: int) -> None:
    """Random reshapes and permutations; wherever a layout is claimed, it leads back to the original tensor."""
    rng = np.random.default_rng(seed)
    shape, sizes = (2, 3, 4), (2, 2, 3, 4, 2) if seed % 2 else (1, 2, 3, 4, 5)
    x = torch.arange(int(np.prod(sizes))).reshape(sizes)
    original, layout, features = x, plain(shape), shape
    for _ in range(6):
        if rng.random() < 0.4:
            order = [int(i) for i in rng.permutation(x.dim())]
            x, layout = x.permute(order), tuple(layout[i] for i in order)
            continue
        cuts = (
            sorted(rng.choice(np.arange(1, x.dim()), size=int(rng.integers(0, x.dim())), replace=False)) if x.dim() > 1 else []
        )
        groups = np.split(np.array(x.shape), cuts)
        after = tuple(int(np.prod(g)) for g in groups) if rng.random() < 0.6 else tuple(sizes)
        found = reshaped_layout(layout, tuple(x.shape), after, (sizes[0], sizes[-1]))
        if found is None or len(after) > 6:
            continue
        x, (features, layout) = x.reshape(after), found
    if "NT" in layout:
        at = layout.index("NT")
        x = x.unflatten(at, (sizes[0], sizes[-1]))
        layout = (*layout[:at], "N", "T", *layout[at + 1 :])
    back = x.permute([layout.index(axis) for axis in plain(features)])
    assert torch.equal(back.reshape(sizes[0], -1, sizes[-1]), original.reshape(sizes[0], -1, sizes[-1]))


def test_a_longer_window_shows_what_delay_shift_hid() -> None:
    network = BY_NAME["conv chain with delay_shift and weight norm"]
    inputs = examples(network)
    recording = record(built(network), inputs)
    short, long = recording.trace(inputs), recording.trace({"event": F.pad(inputs["event"], (0, 4))})
    assert list(recording.lags["event"].values()) == [1, 2, 3, 4] and recording.output_lags == {"event": 4}
    assert list(short.steps["event"].values()) == [14, 13, 12, 11] and min(long.steps["event"].values()) >= 14
    for name, steps in short.steps["event"].items():
        assert np.array_equal(short.spikes["event"][name][..., :steps], long.spikes["event"][name][..., :steps])
        assert not short.spikes["event"][name][..., steps:].any()


def test_persistent_states_do_not_enter_and_are_kept() -> None:
    network = BY_NAME["bare synapses and neurons"]
    module, inputs = built(network), examples(network)
    module(inputs["audio"])
    states = [n.voltage_state for n in (module.lif1, module.lif2)]  # type: ignore[union-attr]
    assert all(s.any() for s in states)
    recording = record(module, inputs)
    assert np.array_equal(recording.trace(inputs).outputs[0], recording.trace(inputs).outputs[0])
    require_same_spikes(recording, inputs)
    assert module.lif1.voltage_state is states[0] and module.training  # type: ignore[union-attr]


def test_axonal_delays_are_delays_of_dense_layers() -> None:
    network = BY_NAME["nmnist tutorial"]
    module = built(network)
    graph = record(module, examples(network)).graphs["event"]
    delays = [n.delay for n in graph.nodes.values() if isinstance(n, Dense)]
    assert delays[0] is None
    for found, block in zip(delays[1:], module.blocks, strict=False):  # type: ignore[union-attr]
        assert found is not None and np.array_equal(found[0], block.delay.delay.detach().numpy() // 1)


class _Joined(nn.Module):
    """Two populations beside each other, pooled or fed back; ``how`` is the end."""

    def __init__(self, how: str) -> None:
        super().__init__()
        from lava.lib.dl.slayer.block import cuba

        self.how = how
        self.a, self.b = (cuba.Conv(lif(), 2, 2, 3, padding=1, weight_scale=4, delay_shift=False) for _ in range(2))
        self.rec = cuba.Recurrent(lif(), 144, 5, weight_scale=5, delay_shift=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.a(x), self.b(x)
        if self.how == "sum to recurrent":
            return self.rec((torch.cat([a, b], 1) + torch.cat([b, a], 1)).flatten(1, 3))
        joined = torch.cat([a, b], 1)
        if self.how == "pooled":
            return F.max_pool3d(joined, kernel_size=(2, 2, 1))
        return joined if self.how == "beside" else self.rec(joined.flatten(1, 3))


@pytest.mark.parametrize(
    ("how", "end"), [("beside", Concat), ("pooled", Pool2d), ("recurrent", Lif), ("sum to recurrent", Lif)]
)
def test_joins_of_spikes(how: str, end: type) -> None:
    torch.manual_seed(2)
    module, x = _Joined(how), _spikes(3, 2, 6, 6, 9)
    recording = record(module, {"event": x})
    graph = recording.graphs["event"]
    assert recording.host is None and isinstance(graph.nodes[graph.output], end)
    assert any(isinstance(n, RecurrentDense) for n in graph.nodes.values()) == ("recurrent" in how)
    require_same_spikes(recording, {"event": x})


class _Views(nn.Module):
    """Crops, pads, picks and scales between layers: all of it ends in the next weights."""

    def __init__(self) -> None:
        super().__init__()
        from lava.lib.dl.slayer.block import cuba

        self.a = cuba.Conv(lif(), 2, 4, 3, padding=1, weight_scale=5, delay_shift=False)
        self.b = cuba.Conv(lif(), 2, 3, 3, weight_scale=5, delay_shift=False)
        self.c = cuba.Dense(lif(), 36, 5, weight_scale=5, delay_shift=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)[:, ::2]
        x = F.pad(x, (0, 0, 1, 0, 0, 2))
        x = self.b(2 * x - x / 2 - 0.5 * x)
        left, right = x[:, :, :2], x[:, :, 4:]
        return self.c(torch.cat([left, right], 1).flatten(1, 3)[:, :36])


def test_views_between_layers_are_exact() -> None:
    torch.manual_seed(0)
    module, x = _Views(), _spikes(3, 2, 6, 6, 9, rate=0.5)
    require_same_spikes(record(module, {"event": x}), {"event": x})


def test_decays_of_a_map_lie_along_its_last_axis() -> None:
    """As SLAYER broadcasts them (which only runs where width and channels agree)."""
    from lava.lib.dl.slayer.block import cuba

    torch.manual_seed(1)
    own = lif(shared_param=False, current_decay=[0.3, 0.9], voltage_decay=[0.1, 0.6])
    module, x = Blocks(cuba.Conv(own, 2, 5, 3, padding=1, weight_scale=4)), _spikes(3, 2, 4, 5, 9)
    module(x)
    recording = record(module, {"event": x})
    assert recording.graphs["event"].shapes["blocks_0_lif"] == (100,)
    require_same_spikes(recording, {"event": x})


def test_host_part_can_be_traced_and_takes_other_numbers_of_windows() -> None:
    network = BY_NAME["two branches, own head"]
    module = built(network)
    recording = record(module, examples(network))
    assert recording.host is not None
    evidence = recording.trace(examples(network, 5, seed=4))
    features = tuple(torch.from_numpy(evidence.features[m]).float() for m in recording.modalities)
    with torch.no_grad():
        traced = torch.jit.trace(recording.host, tuple(f[:2] for f in features), check_trace=False)
        assert torch.equal(traced(*features), recording.host(*features))
        assert np.array_equal(recording.host(*features).numpy(), evidence.outputs[0])


def test_weight_norm_is_read_after_a_forward() -> None:
    """After load_state_dict the old weight is still in the attribute; what forward would use is recorded."""
    network = BY_NAME["conv chain with delay_shift and weight norm"]
    module, other = built(network), built(network, seed=5)
    module.load_state_dict(other.state_dict())  # type: ignore[union-attr]
    inputs = examples(network)
    require_same_spikes(record(module, inputs), inputs)
    assert hasattr(module.blocks[0].synapse, "weight_g")  # type: ignore[union-attr]


def test_one_module_used_twice_is_two_populations() -> None:
    network = BY_NAME["control flow on shapes"]
    graph = record(built(network), examples(network)).graphs["event"]
    once, again = graph.nodes["twice"], graph.nodes["twice_2"]
    assert {"twice_lif", "twice_lif_2"} <= set(graph.nodes)
    assert np.array_equal(once.weight, again.weight)  # type: ignore[attr-defined]


def test_masked_weights_are_recorded_and_stay_unmasked() -> None:
    """A block with a mask multiplies its weights in place at every forward; the user's are left alone."""
    from lava.lib.dl.slayer.block import cuba

    torch.manual_seed(0)
    mask = torch.rand(8, 30) < 0.5
    module, x = Blocks(cuba.Dense(lif(), 30, 8, weight_scale=4, mask=mask)), _spikes(3, 30, 9, rate=0.5)
    before = module.blocks[0].synapse.weight.detach().clone()  # type: ignore[union-attr]
    recording = record(module, {"event": x})
    dense = recording.graphs["event"].nodes["blocks_0"]
    assert isinstance(dense, Dense) and not dense.weight[~mask.numpy()].any() and dense.weight[mask.numpy()].any()
    require_same_spikes(recording, {"event": x})
    assert torch.equal(module.blocks[0].synapse.weight, before) and before[:, :, 0, 0, 0][~mask].all()  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["norm with delay_shift", "skip path with delay_shift", "nmnist tutorial", "deep supervision"])
def test_without_delay_shift(name: str) -> None:
    """The same as setting it in every block; all steps are known, and the module keeps what it has."""
    network = BY_NAME[name]
    module, inputs = built(network), examples(network)
    recording = record(module, inputs, delay_shift=False)
    require_same_spikes(recording, inputs)
    evidence = recording.trace(inputs)
    assert set(evidence.steps["event" if "event" in inputs else "audio"].values()) == {next(iter(inputs.values())).shape[-1]}
    blocks = [m for m in module.modules() if hasattr(m, "delay_shift")]  # type: ignore[union-attr]
    assert all(b.delay_shift for b in blocks)
    for block in blocks:
        block.delay_shift = False  # type: ignore[assignment]
    again = record(module, inputs).trace(inputs)
    assert all(np.array_equal(a, b) for a, b in zip(evidence.outputs, again.outputs, strict=True))
    if recording.host is not None:
        with torch.no_grad():
            answers = recording.host(*(torch.from_numpy(evidence.features[m]).float() for m in inputs))
        assert all(np.array_equal(a.numpy(), b) for a, b in zip(answers, evidence.outputs, strict=True))
