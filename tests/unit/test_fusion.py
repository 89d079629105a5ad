"""Every fusion: torch and NumPy agree, and both equal a float64 formula written out here."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from taaf.export.netx_bundle import head_arrays, head_spec
from taaf.models.config import ModelConfig
from taaf.models.fusion import FUSIONS
from taaf.models.head import host_forward
from taaf.models.host_head import HostHead
from taaf.models.taaf import TaafSnn

F, C, T = 16, 10, 6
RNG = np.random.default_rng(5)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _lif(current: np.ndarray) -> np.ndarray:
    v, out = np.zeros_like(current[:, 0]), np.zeros_like(current)
    for t in range(current.shape[1]):
        v = v / 2 + current[:, t]
        out[:, t] = v > 1
        v[out[:, t] == 1] = 0
    return out


def _grid(w: np.ndarray) -> np.ndarray:
    return np.round(np.clip(w, -4, 4) * 64) / 64


def _film(p: dict, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    gamma, beta = np.split(y @ p["film_weight"].T + p["film_bias"], 2, axis=-1)
    return (gamma * x + beta) @ p["classifier_weight"].T + p["classifier_bias"]


def _gated(p: dict, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    gate = _sigmoid(y @ p["gate_weight"].T + p["gate_bias"])
    return (gate * (x @ p["value_weight"].T + p["value_bias"])) @ p["classifier_weight"].T + p["classifier_bias"]


def _weight_attention(p: dict, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    def score(name: str, own: np.ndarray, other: np.ndarray) -> np.ndarray:
        hidden = np.concatenate([own, other], -1) @ p[f"{name}_squeeze_weight"].T + p[f"{name}_squeeze_bias"]
        return hidden @ p[f"{name}_score_weight"].T + p[f"{name}_score_bias"]

    both = np.concatenate([x * score("first", x, y), y * score("second", y, x)], -1)
    return both @ p["classifier_weight"].T + p["classifier_bias"]


def _sca(p: dict, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    def cross(name: str, own: np.ndarray, other: np.ndarray) -> np.ndarray:
        w = {k: _grid(p[f"{name}_{k}_spiking_weight"]) for k in "qkvo"}
        q, k, v = _lif(own @ w["q"].T), _lif(other @ w["k"].T), _lif(other @ w["v"].T)
        mixed = np.zeros_like(own)
        for h in range(8):  # heads of F / 8 features, time steps as tokens, no softmax
            part = slice(h * F // 8, (h + 1) * F // 8)
            mixed[..., part] = np.einsum("ntf,nsf,nsg->ntg", q[..., part], k[..., part], v[..., part])
        return _lif(_lif(0.25 * mixed) @ w["o"].T)

    both = np.concatenate([cross("first", x, y), cross("second", y, x)], -1)
    return both @ p["classifier_weight"].T + p["classifier_bias"]


def _cmci(p: dict, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    current = x @ _grid(p["first_spiking_weight"]).T + y @ _grid(p["second_spiking_weight"]).T
    return _lif(current) @ p["classifier_weight"].T + p["classifier_bias"]


def _with_halves(fusion: str, p: dict, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    joint = {"film": _film, "gated": _gated, "weight_attention": _weight_attention, "sca": _sca, "cmci": _cmci}
    if fusion in joint:
        f, nothing = joint[fusion], np.zeros_like(x)
        return f(p, x, y), f(p, x, nothing), f(p, nothing, y)
    if fusion == "concat":
        w, b = p["classifier_weight"], p["classifier_bias"]
        return np.concatenate([x, y], -1) @ w.T + b, x @ w[:, :F].T + b / 2, y @ w[:, F:].T + b / 2
    if fusion == "sum":
        w, b = p["classifier_weight"], p["classifier_bias"]
        return (x + y) @ w.T + b, x @ w.T + b / 2, y @ w.T + b / 2
    one, two = x @ p["first_weight"].T + p["first_bias"], y @ p["second_weight"].T + p["second_bias"]
    return one + two, one, two


def _model(fusion: str, **changes: object) -> TaafSnn:
    torch.manual_seed(2)
    config = replace(ModelConfig(features=F, fusion=fusion, audio_hidden=16, event_channels=2, block_channels=2), **changes)
    model = TaafSnn(config).eval()
    for name, value in model.head.weights.items():
        if name.endswith("_spiking_weight"):
            value.data.normal_(0, 0.8)  # fires in a good part of the steps
    return model


@pytest.mark.parametrize("fusion", FUSIONS)
def test_fusion_is_its_formula(fusion: str) -> None:
    """Torch float64 outputs (fused and each modality alone) equal the formula to 1e-12."""
    head = _model(fusion).head.double()
    x, y = ((RNG.random((7, T, F)) < 0.4).astype(np.float64) for _ in range(2))
    p = {name: value.detach().numpy() for name, value in head.weights.items()}
    with torch.no_grad():
        found = head.outputs(torch.from_numpy(x), torch.from_numpy(y))
    for name, expected in zip(("fused", "first", "second"), _with_halves(fusion, p, x, y), strict=True):
        np.testing.assert_allclose(found[name].numpy(), expected, atol=1e-12, err_msg=f"{fusion} {name}")
    assert np.ptp(found["fused"].numpy()) > 1e-3  # the comparison is about something


@pytest.mark.parametrize("attention_on", ["logits", "features"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_numpy_head_equals_torch_head(fusion: str, attention_on: str) -> None:
    """The deployed float64 head equals torch's to 1e-9 in logits and alpha, and in every argmax."""
    model = _model(fusion, attention_on=attention_on)
    features = {"event": RNG.random((60, F, 8)) < 0.3, "audio": RNG.random((60, F, 12)) < 0.3}
    found = HostHead(head_arrays(model), head_spec(model))({m: x.astype(np.uint8) for m, x in features.items()})
    with torch.no_grad():
        given = {m: torch.from_numpy(x.astype(np.float64)) for m, x in features.items()}
        expected = host_forward(model.align.double(), model.head.double(), given)
    for u, logits in found.logits.items():
        np.testing.assert_allclose(logits, expected.decision(u).numpy(), atol=1e-9)
        np.testing.assert_allclose(found.alpha[u], expected.alpha[u].numpy(), atol=1e-9)
        np.testing.assert_array_equal(logits.argmax(1), expected.decision(u).numpy().argmax(1))


@pytest.mark.parametrize(
    "fusion",
    [pytest.param(f, marks=pytest.mark.needs_slayer) if f in ("sca", "cmci") else f for f in FUSIONS],  # and norse
)
def test_every_head_parameter_learns(fusion: str) -> None:
    """The fused and the unimodal readouts send a gradient to every parameter of the fusion and the attention."""
    model = _model(fusion)
    x, y = ((torch.rand(20, T, F) < 0.4).float() for _ in range(2))
    output = model.head(x, y)
    sum((output.decision(u) ** 2).sum() for u in output.logits).backward()
    silent = [n for n, p in model.head.weights.items() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_fixed_alignment_is_the_union_of_the_covered_steps() -> None:
    """Without learned alignment an aligned step spikes where any step it covers did; with T_in = T_out it is the identity."""
    for steps_in, steps_out in ((12, 6), (8, 6), (5, 5), (4, 3)):
        model = _model("concat", event_steps=steps_in, aligned_steps=steps_out, audio_steps=steps_out, alignment="fixed")
        x = (RNG.random((9, F, steps_in)) < 0.3).astype(np.float32)
        with torch.no_grad():
            found = model.align["event"](torch.from_numpy(x)).numpy()
        for out in range(steps_out):
            first, last = out * steps_in // steps_out, -(-(out + 1) * steps_in // steps_out)
            np.testing.assert_array_equal(found[:, out], x[:, :, first:last].max(-1))
        assert not any(p.requires_grad for p in model.align["event"].parameters())
