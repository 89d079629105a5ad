"""Every fusion: torch and NumPy agree, and both equal a float64 formula written out here."""

import numpy as np
import pytest
import torch

from taaf.models.errors import ConfigError
from taaf.models.fusion import FUSIONS
from taaf.models.heads.base import Features
from taaf.models.heads.taaf import Options, TaafHead
from taaf.models.host_head import NUMPY_OPS, HostHead
from taaf.models.trainable_head import TORCH_OPS, TrainableHead

F, C, T = 16, 10, 6
PLACES = ("first", "second", "third")
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


def _cmci(p: dict, *hs: np.ndarray) -> np.ndarray:
    current = sum(h @ _grid(p[f"{name}_spiking_weight"]).T for name, h in zip(PLACES, hs, strict=False))
    return _lif(current) @ p["classifier_weight"].T + p["classifier_bias"]


def _softmax_gated(p: dict, *hs: np.ndarray) -> np.ndarray:
    scores = [h @ p[f"{n}_gate_weight"][0] + p[f"{n}_gate_bias"][0] for n, h in zip(PLACES, hs, strict=False)]
    e = [np.exp(s - np.max(scores, axis=0)) for s in scores]
    mixed = sum((k / sum(e))[..., None] * h for k, h in zip(e, hs, strict=True))
    return mixed @ p["classifier_weight"].T + p["classifier_bias"]


JOINT = {
    "film": _film, "gated": _gated, "weight_attention": _weight_attention, "sca": _sca, "cmci": _cmci,
    "softmax_gated": _softmax_gated,
}  # fmt: skip


def _expected(fusion: str, p: dict, hs: list[np.ndarray]) -> list[np.ndarray]:
    """All together, then each alone."""
    if fusion in JOINT:
        alone = [[h * (i == k) for i, h in enumerate(hs)] for k in range(len(hs))]
        return [JOINT[fusion](p, *given) for given in (hs, *alone)]
    if fusion == "concat":
        w, b, ends = p["classifier_weight"], p["classifier_bias"], np.cumsum([h.shape[-1] for h in hs])
        parts = [h @ w[:, end - h.shape[-1] : end].T + b / len(hs) for h, end in zip(hs, ends, strict=True)]
        return [np.concatenate(hs, -1) @ w.T + b, *parts]
    if fusion == "sum":
        w, b = p["classifier_weight"], p["classifier_bias"]
        return [sum(hs) @ w.T + b, *(h @ w.T + b / len(hs) for h in hs)]
    own = [h @ p[f"{name}_weight"].T + p[f"{name}_bias"] for name, h in zip(PLACES, hs, strict=False)]
    return [sum(own), *own]


def _head(
    fusion: str, sizes: tuple[int, ...] = (F, F), steps: tuple[int, ...] = (8, 12, 5), **options: object
) -> TrainableHead:
    torch.manual_seed(2)
    inputs = {f"m{i}": Features((n,), t) for i, (n, t) in enumerate(zip(sizes, steps, strict=False))}
    head = TrainableHead(TaafHead(inputs, C, Options(fusion=fusion, **options))).eval()  # type: ignore[arg-type]
    for name, value in head.weights.items():
        if name.endswith("_spiking_weight"):
            value.data.normal_(0, 0.8)  # fires in a good part of the steps
    return head


def _allowed(n: int) -> list[str]:
    return [name for name, fusion in FUSIONS.items() if n == 2 or not fusion.pairs_only]


CASES = [(f, (F,) * n) for n in (1, 2, 3) for f in _allowed(n)] + [(f, (F, 7, 9)) for f in ("concat", "sum_separate")]


@pytest.mark.parametrize(("fusion", "sizes"), CASES)
def test_fusion_is_its_formula(fusion: str, sizes: tuple[int, ...]) -> None:
    """Torch float64 and NumPy outputs (fused and each modality alone) equal the formula to 1e-12; one, two and three modalities."""
    head = _head(fusion, sizes).double()
    hs = [(RNG.random((7, T, n)) < 0.4).astype(np.float64) for n in sizes]
    p = {name: value.detach().numpy() for name, value in head.weights.items()}
    with torch.no_grad():
        in_torch = FUSIONS[fusion].outputs(TORCH_OPS, dict(head.weights.items()), [torch.from_numpy(h) for h in hs])
    in_numpy = FUSIONS[fusion].outputs(NUMPY_OPS, p, hs)
    expected = _expected(fusion, p, hs)
    assert len(in_torch) == len(in_numpy) == len(expected) == len(sizes) + 1
    for found, again, wanted in zip(in_torch, in_numpy, expected, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)
        np.testing.assert_allclose(again, wanted, atol=1e-12)
    assert np.ptp(in_numpy[0]) > 1e-3  # the comparison is about something


@pytest.mark.parametrize("attention_on", ["logits", "features"])
@pytest.mark.parametrize(("fusion", "sizes"), CASES)
def test_numpy_head_equals_torch_head(fusion: str, sizes: tuple[int, ...], attention_on: str) -> None:
    """The deployed float64 head equals torch's to 1e-9 in logits and alpha, and in every argmax."""
    head = _head(fusion, sizes, attention_on=attention_on)
    features = {m: RNG.random((60, x.size, x.steps)) < 0.3 for m, x in head.head.inputs.items()}
    found = HostHead({k: v.numpy() for k, v in head.arrays().items()}, head.head)(
        {m: x.astype(np.uint8) for m, x in features.items()}
    )
    with torch.no_grad():
        expected = head.deployed()({m: torch.from_numpy(x.astype(np.float64)) for m, x in features.items()})
    assert list(found.logits) == ["fused", *features]
    for u, logits in found.logits.items():
        np.testing.assert_allclose(logits, expected.decision(u).numpy(), atol=1e-9)
        np.testing.assert_allclose(found.alpha[u], expected.alpha[u].numpy(), atol=1e-9)
        np.testing.assert_array_equal(logits.argmax(1), expected.decision(u).numpy().argmax(1))


@pytest.mark.parametrize(
    ("fusion", "n"),
    [(f, n) for n in (2, 3) for f in _allowed(n)],
)
def test_every_head_parameter_learns(fusion: str, n: int) -> None:
    """The fused and the unimodal readouts send a gradient to every parameter of the fusion and the attention."""
    head = _head(fusion, (F,) * n, (T,) * n, aligned_steps=T, alignment="fixed")
    output = head({m: (torch.rand(20, F, T) < 0.4).float() for m in head.head.modalities})
    sum((output.decision(u) ** 2).sum() for u in output.logits).backward()
    silent = [k for k, p in head.weights.items() if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)]
    assert silent == [] and sum(p.requires_grad for p in head.weights.values()) >= 3


@pytest.mark.parametrize(
    ("fusion", "sizes", "mention"),
    [(f, (F,) * n, f"is defined for two branches, found {n}") for f in FUSIONS if FUSIONS[f].pairs_only for n in (1, 3)]
    + [("sum", (F, 7), "needs branches of one size, found 16, 7"), ("softmax_gated", (7, F, F), "branches of one size"),
       ("cmci", (F, 7), "branches of one size"), ("sums", (F, F), "did you mean 'sum'")],
)  # fmt: skip
def test_fusions_refuse_what_they_are_not_defined_for(fusion: str, sizes: tuple[int, ...], mention: str) -> None:
    """Another number of modalities, unequal sizes, no such fusion."""
    with pytest.raises(ConfigError, match=rf"head\.fusion \(='{fusion}'\).*{mention}"):
        _head(fusion, sizes)


def test_fixed_alignment_is_the_union_of_the_covered_steps() -> None:
    """Without learned alignment an aligned step spikes where any step it covers did; with T_in = T_out it is the identity."""
    for steps_in, steps_out in ((12, 6), (8, 6), (5, 5), (4, 3)):
        head = _head("concat", (F,), (steps_in,), aligned_steps=steps_out, alignment="fixed")
        x = (RNG.random((9, F, steps_in)) < 0.3).astype(np.float32)
        with torch.no_grad():
            found = head({"m0": torch.from_numpy(x)}).features["m0"].numpy()
        for out in range(steps_out):
            first, last = out * steps_in // steps_out, -(-(out + 1) * steps_in // steps_out)
            np.testing.assert_array_equal(found[:, out], x[:, :, first:last].max(-1))
        assert not any(p.requires_grad for n, p in head.weights.items() if n.startswith("align_"))
