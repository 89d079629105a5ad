"""Training's neurons and batch norm: bit-equal to lava-dl, norse and torch; formulas of integers where those are missing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import taaf.training
from taaf.models import fused_lif, fused_norm
from taaf.models.fused_lif import host_lif, slayer_lif
from taaf.models.lif import WEIGHT_MAX, WEIGHT_MIN, LifParameters
from taaf.models.qat import QatConv2d, QatDense, QatSynapse, round_ste
from taaf.models.slayer_lif import SlayerLif, prove_by_lava_dl
from taaf.training.config import load_config
from taaf.training.distributed import Ranks
from taaf.training.sources import open_split
from taaf.training.trainer import Trainer

V_THS = [2**k for k in range(17)]
POPULATIONS = st.builds(
    dict,
    i_decay=st.sampled_from([4096, 4095, 2048, 1, 17, 3000]) | st.integers(1, 4096),
    v_decay=st.sampled_from([2048, 0, 1, 4096, 1024, 17]) | st.integers(0, 4096),
    v_th=st.sampled_from(V_THS),
    width=st.sampled_from([0.5, 0.25, 1.0, 0.3, 7.0]),
    scale=st.sampled_from([1.0, 0.3, 2.0]),
    size=st.sampled_from([0.3, 1.0, 40.0, 1e5]),  # of the input, thresholds: up to voltages that float32 rounds
    grid=st.booleans(),
    time_last=st.booleans(),
    shape=st.sampled_from([(3, 5), (1, 1100), (2, 3, 4, 2)]),
    steps=st.integers(1, 12),
    seed=st.integers(0, 99),
)


def _population(p: dict) -> tuple[SlayerLif, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(p["seed"])
    lif = SlayerLif(LifParameters(p["i_decay"], p["v_decay"], p["v_th"]), p["width"], p["scale"])
    n, *inner = p["shape"]
    shape = (n, *inner, p["steps"]) if p["time_last"] else (n, p["steps"], *inner)
    x, grad = (torch.randn(shape, generator=rng) for _ in range(2))
    x = x * p["size"]
    x = torch.round(x * p["v_th"]) / p["v_th"] if p["grid"] else x
    return lif, *((a if p["time_last"] else a.movedim(1, -1)) for a in (x, grad))  # type: ignore[return-value]


def _results(lif: SlayerLif, x: torch.Tensor, grad: torch.Tensor, weight: torch.Tensor | None = None) -> list[torch.Tensor]:
    given = [a.detach().clone().requires_grad_() for a in (x, weight) if a is not None]
    spikes = lif(given[0]) if weight is None else lif.recurrent(*given)
    spikes.backward(grad)
    return [spikes.detach(), *(a.grad for a in given)]  # type: ignore[list-item]


def _assert_same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    for ours, theirs, what in zip(found, wanted, ("spikes", "gradient", "gradient of the weight"), strict=False):
        assert torch.equal(ours, theirs), f"{what}: {int((ours != theirs).sum())} of {ours.numel()} differ"


@pytest.mark.needs_slayer
@settings(max_examples=100, deadline=None)
@given(POPULATIONS)
def test_populations_equal_lava_dl(p: dict) -> None:
    """Every decay, threshold, width, layout and number of steps, from voltages near the threshold to ones that float32 rounds."""
    lif, x, grad = _population(p)
    found, eager = _results(lif, x, grad), lif(x)
    lif.by_lava_dl()
    _assert_same(found, _results(lif, x, grad))
    assert torch.equal(eager, found[0])


@pytest.mark.needs_slayer
@settings(max_examples=50, deadline=None)
@given(POPULATIONS)
def test_recurrent_populations_equal_lava_dl(p: dict) -> None:
    """With feedback: gradients pass the synapses only, and states are float32 between steps."""
    lif, x, grad = _population(p | {"shape": (3, 24)})
    weight = 2 * torch.round(torch.randn(24, 24, generator=torch.Generator().manual_seed(p["seed"])) * 20) / p["v_th"]
    found = _results(lif, x, grad, weight)
    lif.by_lava_dl()
    _assert_same(found, _results(lif, x, grad, weight))


@settings(max_examples=50, deadline=None)
@given(POPULATIONS)
def test_populations_equal_the_integers(p: dict) -> None:
    """Spikes of the chip's integers, and the surrogate's formula in float64, computed without lava-dl.

    Thresholds below 64 units of weight: from there on SLAYER fires at v = threshold.
    """
    lif, x, grad = _population(p | {"v_th": min(p["v_th"], 2048), "size": min(p["size"], 40.0), "grid": True})
    spikes, found = _results(lif, x, grad)
    (i_keep, v_keep), th = (4096 - d for d in (p["i_decay"], p["v_decay"])), lif.parameters_.v_th_mant
    u = v = np.zeros(x.shape[:-1], np.int64)
    slopes = []
    for t in range(x.shape[-1]):
        u = np.sign(u) * (np.abs(u) * i_keep >> 12) + 64 * np.rint(x[..., t].numpy().astype(np.float64) * th).astype(np.int64)
        v = np.sign(v) * (np.abs(v) * v_keep >> 12) + u
        slopes.append(p["scale"] * np.exp(-np.abs(v - 64 * th - 0.01) / (64 * th) / p["width"]))
        fired = v > 64 * th
        np.testing.assert_array_equal(spikes[..., t].numpy(), fired)
        v = v * ~fired
    a = b = np.zeros_like(slopes[0])
    for t in range(x.shape[-1])[::-1]:
        a = v_keep / 4096 * a + slopes[t] * grad[..., t].double().numpy()
        b = i_keep / 4096 * b + a
        np.testing.assert_allclose(found[..., t].double().numpy(), b, rtol=1e-3, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(POPULATIONS)
def test_other_devices_compute_the_same(p: dict) -> None:
    """The form in torch gives the compiled loops' spikes and gradients, with and without feedback."""
    lif, x, grad = _population(p | {"shape": (3, 24)})
    weight = 2 * torch.round(torch.randn(24, 24) * 20) / p["v_th"]
    wanted, fed = _results(lif, x, grad), _results(lif, x, grad, weight)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_lif, "LOOPS", {})
        _assert_same(_results(lif, x, grad), wanted)
        _assert_same(_results(lif, x, grad, weight), fed)


def _host_case(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(5)
    x, grad = (torch.randn(3, 7, 5, 300, generator=rng, dtype=dtype) for _ in range(2))
    return torch.round(x * 128) / 128, grad.swapaxes(1, 2).contiguous().swapaxes(1, 2)  # a gradient of another layout


def _norse_steps(current: torch.Tensor, at_threshold: bool) -> torch.Tensor:
    from norse.torch.functional.threshold import threshold

    def fire(x: torch.Tensor) -> torch.Tensor:
        return threshold(x, "super", torch.tensor(2.0))

    voltage, spikes = torch.zeros_like(current[:, 0]), []
    for now in current.unbind(1):
        voltage = 0.5 * voltage + now
        fired = 1 - fire(1.0 - voltage) if at_threshold else fire(voltage - 1.0)  # the derivative is even
        voltage = voltage * (1 - fired)
        spikes.append(fired)
    return torch.stack(spikes, 1)


@pytest.mark.parametrize("at_threshold", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [fused_lif._host_steps, pytest.param(_norse_steps, marks=pytest.mark.needs_slayer)])
def test_host_neuron_equals_its_steps(steps: Callable[..., torch.Tensor], dtype: torch.dtype, at_threshold: bool) -> None:
    """Spikes and gradients of norse's steps, and of our own for other devices, on every bit."""
    x, grad = _host_case(dtype)
    results = []
    for neuron in (host_lif, steps):
        given = x.clone().requires_grad_()
        spikes = neuron(given, at_threshold)
        spikes.backward(grad)
        results.append((spikes.detach(), given.grad))
    assert 0.05 < float(results[0][0].mean()) < 0.5
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*results, strict=True))  # type: ignore[arg-type]


def test_host_neurons_derivative() -> None:
    """SuperSpike's 1 / (|v - 1| + 1)^2, and through the reset: d s_2 / d x_1 of v_1 = 1.5, v_2 = 0.75 is 0.5 (1 - 1 - 1.5 d_1) d_2."""
    x = torch.tensor([[[1.5], [0.75]]], requires_grad=True)
    host_lif(x)[0, 1].backward()
    first, second = 1 / 1.5**2, 1 / 1.25**2
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.flatten().tolist(), [0.5 * (0 - 1.5 * first) * second, second], rtol=1e-6)


def test_only_float32() -> None:
    """SLAYER's states are rounded to float32: other types are refused."""
    with pytest.raises(TypeError, match="takes float32, found torch.float64"):
        slayer_lif(torch.zeros(1, 2, 3, dtype=torch.float64), SlayerLif(LifParameters(), 0.5, 1.0).fused)


@pytest.mark.parametrize("shape", [(60, 16, 9, 9), (300, 24), (5, 3, 50, 50), (1, 1), (6, 1, 4, 4)])
@pytest.mark.parametrize("same_layout", [True, False])
def test_batch_norm_equals_torch(shape: tuple[int, ...], same_layout: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moments of values on a grid, the normalised values and all gradients, on every bit, whatever the gradient's layout."""
    rng = torch.Generator().manual_seed(3)
    y = torch.round(torch.randn(shape, generator=rng) * 500) / 128
    grad = torch.randn(shape, generator=rng)
    grad = grad if same_layout else grad.transpose(0, -1).contiguous().transpose(0, -1)
    gain, offset = (torch.randn(shape[1], generator=rng) for _ in range(2))

    def results() -> list[torch.Tensor]:
        given = [a.clone().requires_grad_() for a in (y, gain, offset)]
        total, square = fused_norm.moments(given[0])
        n = y.numel() / shape[1]
        mean = total / n
        var = (square / n - mean * mean).clamp_min(0).float()
        z = fused_norm.normalise(given[0], mean.float(), given[1] / torch.sqrt(var + 1e-5), given[2])
        z.backward(grad)
        return [total, square, z, *(a.grad for a in given)]  # type: ignore[list-item]

    ours = results()
    monkeypatch.setattr(fused_norm, "_compiled", lambda y: False)
    for found, wanted in zip(ours, results(), strict=True):
        assert torch.equal(found, wanted)


def _chained(self: QatSynapse, scale: torch.Tensor | None = None) -> torch.Tensor:
    """`QatSynapse.integer_weight`, operation by operation."""
    by = (self.fold_scale() if scale is None else scale).reshape(-1, *[1] * (self.weight.dim() - 1))
    return 2 * round_ste((self.weight * by * self.v_th_mant / 2).clamp(WEIGHT_MIN / 2, WEIGHT_MAX / 2))


@pytest.mark.parametrize("shape", [(40, 24), (16, 8, 3, 3)])
@pytest.mark.parametrize("same_layout", [True, False])
def test_integer_weights_equal_their_operations(shape: tuple[int, ...], same_layout: bool) -> None:
    """Even integers, clipped ones among them, and gradients of weight and gain on every bit."""
    layer = QatDense(*shape[::-1], 128) if len(shape) == 2 else QatConv2d(shape[1], shape[0], shape[2], 1, 128)
    layer.weight.data.normal_(0, 0.8)
    layer.gain.data.uniform_(0.5, 2.0)
    grad = torch.randn(shape) if same_layout else torch.randn(shape[::-1]).permute(*range(len(shape))[::-1])
    results = []
    for integer_weight in (QatSynapse.integer_weight, _chained):
        found = integer_weight(layer)
        layer.zero_grad()
        (found / 128).backward(grad)
        results.append((found.detach(), layer.weight.grad, layer.gain.grad))
    assert not results[0][0][results[0][0] == 0].signbit().any()
    assert results[0][0].min() == WEIGHT_MIN and results[0][0].max() == WEIGHT_MAX
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*results, strict=True))  # type: ignore[arg-type]


def test_threads_change_nothing() -> None:
    """Windows on several threads: the same spikes, gradients and sums."""
    lif = SlayerLif(LifParameters(), 0.5, 1.0)
    x = torch.round(torch.randn(10, 32, 12, 12, 8) * 64) / 64
    grad, before = torch.randn_like(x), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append([*_results(lif, x, grad), *fused_norm.moments(x[..., 0].contiguous().repeat(5, 1, 1, 1))])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, several) for one, several in zip(*found, strict=True))


@pytest.mark.needs_slayer
@pytest.mark.parametrize("config", ["ead_mini", "scmrl_ead_mini"])
def test_trainings_end_with_the_same_weights(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    """Two epochs, one of them frozen, with our neurons and norm, and with lava-dl's, norse's and torch's: equal on every bit."""
    settings = {"data": {"train_pairs": 100, "test_pairs": 20}, "optimiser": {"epochs": 2, "freeze_epoch": 1}}
    resolved = load_config(Path(taaf.training.__file__).parent / "configs" / f"{config}.toml", settings)
    sets = [open_split(resolved.data, resolved.network.inputs, split) for split in ("train", "test")]
    weights = []
    for name in ("ours", "theirs"):
        trainer = Trainer(resolved, *sets, Ranks.single())
        if name == "theirs":
            assert prove_by_lava_dl(trainer.model)
            monkeypatch.setattr(fused_norm, "_compiled", lambda y: False)
            monkeypatch.setattr(fused_lif._HostLif, "apply", _norse_steps)
            monkeypatch.setattr(QatSynapse, "integer_weight", _chained)
        (tmp_path / name).mkdir()
        trainer.run(tmp_path / name)
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][key], wanted) for key, wanted in weights[1].items())
