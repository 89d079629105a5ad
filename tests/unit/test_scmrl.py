"""S-CMRL's host head: equations written out in NumPy, torch = NumPy in every spike, costs, refusals."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scmrl_nets import SPIKES, small_config, small_tables
from small_networks import AUDIO, EVENT

from taaf.export.frontend import float_graphs, host_encoders
from taaf.export.netx_bundle import windows_to_verify
from taaf.models import host_head, qat, trainable_head
from taaf.models.config import NetworkConfig
from taaf.models.cross_modal import nearly
from taaf.models.errors import BundleError, ConfigError
from taaf.models.heads.alignment import align
from taaf.models.heads.scmrl import Options, ScmrlHead
from taaf.models.host_head import NUMPY_OPS, HostHead
from taaf.models.network import MultimodalSnn
from taaf.models.trainable_head import TORCH_OPS
from taaf.training import config as config_module
from taaf.training.config import load_config

INPUTS = {"event": {"shape": [2, 10, 10], "steps": 6}, "audio": {"shape": [1, 16, 8], "steps": 6}}


def _network(audio: tuple[int, ...] = (1, 16, 8), **changes: Any) -> MultimodalSnn:
    """4 event and 2 or 3 audio tokens, batch norms with statistics under which everything fires."""
    torch.manual_seed(2)
    inputs = {**INPUTS, "audio": {"shape": list(audio), "steps": 6}}
    model = MultimodalSnn(small_config(inputs, **{"channels": 16, "aligned_steps": 3} | changes)).eval()
    for name, part in model.head.projections.items():
        assert isinstance(part, qat.QatSynapse)
        part.offset.data.normal_(1.2 if name[-2:] in ("_q", "_k", "_v") else 0.3, 0.2)
        part.running_mean.normal_(0, 0.1)
        part.running_var.uniform_(0.2, 0.6)
    return model


def _host(model: MultimodalSnn) -> tuple[HostHead, ScmrlHead]:
    """The head as it is deployed, from its description."""
    host = HostHead({k: v.numpy() for k, v in model.head.arrays().items()}, model.head.head.spec())
    assert isinstance(host.head, ScmrlHead)
    return host, host.head


def _features(head: ScmrlHead, n: int = 12, rate: float = 0.3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {m: (rng.random((n, x.size, x.steps)) < rate).astype(np.uint8) for m, x in head.inputs.items()}


def _membranes(current: np.ndarray, theta: float = 0.5, at: bool = False) -> np.ndarray:
    """The public code's neuron on (T, ...): m <- m + (I - m) / 2, a spike and m <- 0 where m >= theta (``at``) or above it.

    With theta = 1/2 and no ``at`` it is v = 2 m <- v / 2 + I, which fires above 1: the host neuron.
    """
    m, out = np.zeros(current.shape[1:]), np.zeros_like(current)
    for t, now in enumerate(current):
        m = m + (now - m) / 2
        out[t] = m >= theta if at else m > theta
        m[out[t] > 0] = 0
    return out


class _ByHand:
    """S-CMRL and its comparisons for one window, per step, token and head."""

    def __init__(self, a: dict[str, np.ndarray], head: ScmrlHead, aligned: dict[str, np.ndarray]) -> None:
        self.a, self.o, self.width, self.x = a, head.options, head.channels, {}
        self.inner: list[float] = []  # how often the inner neurons of each attention fired
        for m, flat in aligned.items():
            maps = flat.reshape(len(flat), 2, self.width, -1)
            self.x[m] = np.array(
                [[maps[t, 0, :, i] + maps[t, 1, :, i] for i in range(maps.shape[3])] for t in range(len(maps))]
            )

    def layer(self, name: str, x: np.ndarray) -> np.ndarray:
        return _membranes(np.einsum("oc,tnc->tno", self.a[f"{name}_weight"], x) + self.a[f"{name}_bias"])

    def mlp(self, name: str, x: np.ndarray) -> np.ndarray:
        return x + self.layer(f"{name}_mlp2", self.layer(f"{name}_mlp1", x))

    def attention(self, name: str, own: np.ndarray, other: np.ndarray, temporal: bool) -> np.ndarray:
        """SCSA or TCSA, (T, n, C)."""
        q, k, v = (self.layer(f"{name}_{r}", own if r == "q" else other) for r in "qkv")
        mixed, d = np.zeros_like(q), self.width // self.o.attention_heads
        (steps, n, _), n_other = own.shape, other.shape[1]
        for h, t, i in itertools.product(range(self.o.attention_heads), range(steps), range(n)):
            c, j = slice(h * d, (h + 1) * d), math.floor(i * n_other / n)
            seen = [(u, j) for u in range(steps)] if temporal else [(t, j) for j in range(n_other)]
            mixed[t, i, c] = 0.25 * sum((q[t, i, c] @ k[u, j, c]) * v[u, j, c] for u, j in seen)
        inner = _membranes(mixed, self.o.attention_threshold, self.o.attention_at_threshold)
        self.inner.append(float(inner.mean()))
        return self.layer(f"{name}_o", inner)

    def branch(self, m: str, other: str) -> np.ndarray:
        """x_res, (T, n, C)."""
        own, given = self.x[m], self.x[other]
        steps, n, _ = own.shape
        found = {k: self.attention(f"{m}_{k}", own, given, k == "temporal") for k in ("spatial", "temporal")
                 if self.o.attention_kind in (k, "spatiotemporal")}  # fmt: skip
        if len(found) == 2:
            power = 2 ** round(math.log2(n * steps))
            unit = 2 ** (9 + math.ceil(math.log2(n * steps)))  # 1 / (n T) is 512 to 1023 of it
            share = 1 / power if self.o.residual_layer == "spiking" else round(unit / (n * steps)) / unit
            one, two = found["spatial"].sum(1), found["temporal"].sum(0)  # (T, C), (n, C)
            found["ccssa"] = share * one[:, None] * two[None]
        last = list(found.values())[-1]
        return self.layer(f"{m}_residual", last) if self.o.residual_layer == "spiking" else last

    def features(self) -> list[np.ndarray]:
        """f of both modalities, (T, C)."""
        found = []
        for m, other in zip(self.x, reversed(list(self.x)), strict=True):
            own = self.x[m]
            if self.o.cross_modal == "weight_attention":
                p = {r: self.a[f"{m}_{r}"] for r in ("squeeze_weight", "squeeze_bias", "score_weight", "score_bias")}
                p = {r: np.round(np.clip(w, -4, 4) * 64) / 64 for r, w in p.items()}
                means = np.concatenate([self.x[u].sum(1) / 2 ** round(math.log2(self.x[u].shape[1])) for u in (m, other)], 1)
                w = (means @ p["squeeze_weight"].T + p["squeeze_bias"]) @ p["score_weight"].T + p["score_bias"]
                own = np.round(np.clip(w, -4, 4) * 64)[:, :, None] / 64 * own
            elif self.o.cross_modal != "none":
                residual = self.branch(m, other)
                own = residual if self.o.cross_modal == "attention" else own + self.o.residual_alpha * residual
            found.append(self.mlp(m, own).mean(1))
        return found

    def decide(self) -> np.ndarray:
        """The fused readout."""
        if self.o.cross_modal == "cmci":
            first, second = self.x.values()
            pairs = [math.floor(i * second.shape[1] / first.shape[1]) for i in range(first.shape[1])]
            w = self.a["fused_current_weight"]
            current = first @ w[:, : self.width].T + second[:, pairs] @ w[:, self.width :].T + self.a["fused_current_bias"]
            return self.read("readout_fused", self.mlp("fused", _membranes(current)).mean(1))
        first, second = self.features()
        return self.read("classifier", np.concatenate([first, second], 1) if self.o.fusion == "concat" else first + second)

    def read(self, name: str, f: np.ndarray) -> np.ndarray:
        return (f @ self.a[f"{name}_weight"].T + self.a[f"{name}_bias"]).mean(0)


CASES: list[dict[str, Any]] = [
    {},
    {"cross_modal": "attention"},
    {"cross_modal": "none"},
    {"fusion": "concat", "residual_alpha": 0.25},
    {"audio": (1, 24, 8)},
    {"attention_threshold": 0.5},
    {"attention_at_threshold": False},
    {"attention_kind": "spatial"},
    {"attention_kind": "temporal", "audio": (1, 24, 8)},
    {"residual_layer": "none"},
    {"residual_layer": "none", "cross_modal": "attention", "attention_kind": "spatial"},
    {"residual_alpha": 0.0},
    {"cross_modal": "weight_attention", "audio": (1, 24, 8)},
    {"cross_modal": "cmci", "audio": (1, 24, 8)},
]


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_equations(changes: dict[str, Any]) -> None:
    """The NumPy head against loops over steps, tokens and heads, with the public code's neuron in its own units.

    Seen failing with ceil for floor in the pairing of tokens, with 0.5 for 0.25, with sums over the wrong axis in CCSSA, with k and v
    of the own modality, with theta for 2 theta, with means of the other modality first, and with CMCI's second tokens unpaired.
    """
    model = _network(**changes)
    head, described = _host(model)
    arrays, features = head.arrays, _features(described)
    aligned = align(NUMPY_OPS, arrays, {m: f.astype(np.float64) for m, f in features.items()})
    hands = [_ByHand(arrays, described, {m: x[i] for m, x in aligned.items()}) for i in range(12)]
    expected = np.stack([hand.decide() for hand in hands])
    assert all(0 < rate < 1 for rate in np.mean([hand.inner for hand in hands], axis=0))
    assert np.ptp(expected, axis=0).max() > 1e-2
    np.testing.assert_allclose(head.fused(features), expected, atol=1e-12)
    np.testing.assert_array_equal(head(features).logits["fused"], head.fused(features))
    if not changes:
        alone = [_ByHand(arrays, described, {m: x[i] * (m == "audio") for m, x in aligned.items()}) for i in range(2)]
        np.testing.assert_allclose(head(features).logits["audio"][:2], [x.decide() for x in alone], atol=1e-12)


def test_cmci_reads_a_modality_out_alone() -> None:
    """O_m = W_m mean_i (x + MLP_m(x)) + b_m, whatever the other modality sends. Seen failing with the fused readout for both."""
    head, described = _host(_network(cross_modal="cmci"))
    features = _features(described)
    aligned = align(NUMPY_OPS, head.arrays, {m: f.astype(np.float64) for m, f in features.items()})
    found = head({**features, "event": 1 - features["event"]}).logits["audio"]
    for i in range(12):
        hand = _ByHand(head.arrays, described, {m: x[i] for m, x in aligned.items()})
        np.testing.assert_allclose(found[i], hand.read("readout_audio", hand.mlp("audio", hand.x["audio"]).mean(1)), atol=1e-12)


@pytest.mark.parametrize(
    "lif", [host_head.host_lif, lambda *a, **k: trainable_head.host_lif(torch.from_numpy(a[0]), **k).numpy()]
)
@pytest.mark.parametrize(("theta", "at"), [(1.0, True), (1.0, False), (0.5, True), (0.5, False)])
def test_attention_neuron(lif: Callable[..., np.ndarray], theta: float, at: bool) -> None:
    """The host neuron on I / (2 theta) is the public code's on I = 0.25 (q k^T) v, ties included. Seen failing without ``at``."""
    products = np.random.default_rng(3).integers(0, 12, (50, 6, 40))
    current = 0.25 * products
    expected = np.stack([_membranes(one, theta, at) for one in current])
    np.testing.assert_array_equal(lif(current / (2 * theta), at_threshold=at), expected)
    assert (expected != np.stack([_membranes(one, theta, not at) for one in current])).mean() > 0.02
    eight = np.full((1, 1, 1), 0.25 * 8 * theta)
    assert lif(eight / (2 * theta), at_threshold=at).item() == at


def test_raw_mean_is_within_a_thousandth() -> None:
    """1 / (n T) has ten significant bits, so CCSSA stays a short dyadic number."""
    for terms in range(1, 2000):
        value = nearly(1 / terms)
        assert abs(value * terms - 1) <= 2**-10 and value * 2.0 ** (10 + math.ceil(math.log2(terms))) % 1 == 0


def _recording(lif: Callable[..., Any], found: list[np.ndarray]) -> Callable[..., Any]:
    def recorded(current: Any, **how: Any) -> Any:
        spikes = lif(current, **how)
        found.append(np.asarray(spikes))
        return spikes

    return recorded


@pytest.mark.parametrize(
    ("changes", "populations"),
    [
        ({}, 26),
        ({"fusion": "concat", "alignment": "learned"}, 26),
        ({"attention_threshold": 0.5, "attention_kind": "temporal"}, 16),
        ({"residual_layer": "none", "aligned_steps": 5}, 24),
        ({"cross_modal": "weight_attention"}, 4),
    ],
    ids=str,
)
def test_numpy_head_equals_torch_head(changes: dict[str, Any], populations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every host spike equal, every output within 1e-9, every decision the same; float32 torch fires the same, too.

    Seen failing with the projections folded in float64 (``_Folded`` of a ``double()`` layer), which rounds some weights the other way.
    """
    model = _network(**changes)
    for part in model.head.modules():
        if isinstance(part, qat.QatSynapse):  # every weight near a tie, so that another rounding shows
            scale = part.fold_scale().detach()[:, None]
            part.weight.data.copy_((torch.randint(-40, 40, part.weight.shape) + 0.5) / 64 / scale)
    in_torch: list[np.ndarray] = []
    in_numpy: list[np.ndarray] = []
    monkeypatch.setattr(trainable_head, "TORCH_OPS", replace(TORCH_OPS, lif=_recording(TORCH_OPS.lif, in_torch)))
    monkeypatch.setattr(host_head, "NUMPY_OPS", replace(NUMPY_OPS, lif=_recording(NUMPY_OPS.lif, in_numpy)))
    head, described = _host(model)
    features = _features(described)
    with torch.no_grad():
        output = model.head.deployed()({m: torch.from_numpy(f).double() for m, f in features.items()})
    found = head(features)
    assert len(in_torch) == len(in_numpy) == 2 + 3 * populations  # alignment; outputs
    for one, two in zip(in_torch, in_numpy, strict=True):
        np.testing.assert_array_equal(one, two)
    assert sum(bool(x.any()) for x in in_numpy[2 : 2 + populations]) >= populations - 2
    for u, logits in found.logits.items():
        expected = output.decision(u).numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-9)
        np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1))
    in_double = list(in_torch)
    in_torch.clear()
    with torch.no_grad():
        model.head({m: torch.from_numpy(f).float() for m, f in features.items()})
    for one, two in zip(in_torch, in_double, strict=True):
        np.testing.assert_array_equal(one, two)


def test_windows_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tokens are computed a few windows at a time, with the same result. Seen failing with every other block left out."""
    head, described = _host(_network())
    features = _features(described, 5)
    whole = head.fused(features)
    assert described.block_windows == (1 << 24) // (2 * 3 * 4**2)  # heads x steps x tokens squared
    monkeypatch.setattr(ScmrlHead, "block_windows", 2)
    np.testing.assert_array_equal(head.fused(features), whole)
    assert len(head(features).logits["audio"]) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention_kind": "spatial"},
        {"residual_layer": "none"},
        {"cross_modal": "cmci"},
        {"cross_modal": "weight_attention"},
    ],
    ids=str,
)
def test_macs_are_those_of_the_matrices(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Projections counted where they happen; products of the attention written out. Seen failing with one of k, v left out."""
    head, described = _host(_network(audio=(1, 16, 4), **changes))
    counted = {"mlp": 0, "attention projections": 0}
    plain = HostHead._project

    def project(self: HostHead, name: str, x: np.ndarray) -> np.ndarray:
        kind = "mlp" if "mlp" in name else "attention projections"
        counted[kind] += int(np.prod(x.shape[:-1])) * self.arrays[f"{name}_weight"].size
        return plain(self, name, x)

    monkeypatch.setattr(HostHead, "_project", project)
    head.fused(_features(described, 1))
    parts = described.mac_parts()
    n, m, c, t = described.tokens["event"], described.tokens["audio"], 16, 3
    assert n != m
    weighed, alone = changes.get("cross_modal") == "weight_attention", changes.get("cross_modal") == "cmci"
    counted["attention projections"] += 2 * t * (2 * c * c + c) * weighed
    assert {k: parts[k] for k in counted} == counted
    products = 2 * t * n * m * c * 2 + ((n + m) * t * t * c * 2 + (n + m) * t * c) * (
        changes.get("attention_kind") != "spatial"
    )
    assert parts["attention products"] == (0 if alone else t * (n + m) * c if weighed else products)
    assert parts["alignment"] == 3 * t * 6 * 2 * c * (n + m) and parts["readout"] == t * (1 if alone else 2) * c * 10
    assert head.n_macs() == sum(parts.values())
    assert len(described.stages()) == 3


@pytest.mark.parametrize(
    ("change", "mention"),
    [
        ({"type": "mystery"}, r"type \(='mystery'\): unknown; allowed: none, onnx, rate, scmrl, taaf"), ({"inputs": 4}, "AttributeError"),
        ({"inputs": {"event": {"shape": [16, 2, 2], "steps": 6}, "audio": {"shape": [16, 0, 1], "steps": 6}}}, "inputs.audio: shape"),
        ({"inputs": {"event": {"shape": [16, 2, 2], "steps": 6}}}, "is defined for two branches"),
        ({"inputs": {"event": {"shape": [16, 2, 2]}}}, "KeyError 'steps'"), ({"attention_heads": 3}, r"attention_heads \(=3\)"),
        ({"cross_modal": "both"}, r"cross_modal \(='both'\): unknown"), ({"residual_alpha": math.inf}, "residual_alpha"),
        ({"mlp_ratio": 5}, "event_mlp1_weight has shape"), ({"attention_heads": True}, "expected int"), ({"fusion": "film"}, "fusion"),
        ({"classes": -1}, "classes"), ({"tokens": 4}, "head.tokens: unknown key"),
        ({"attention_threshold": 0.75}, r"attention_threshold \(=0.75\): allowed multiples of 0.5 from 0.5 to 1"),
        ({"attention_kind": "both"}, r"attention_kind \(='both'\): unknown"), ({"cross_modal": "cmci"}, "fused_current_weight.* missing"),
    ],
)  # fmt: skip
def test_refused_heads(change: dict[str, Any], mention: str) -> None:
    """A manifest that does not describe the arrays is refused by name."""
    host, head = _host(_network())
    with pytest.raises(BundleError, match=mention):
        HostHead(host.arrays, head.spec() | change)


STEM = {"network": "patch_stem", "shape": [2, 34, 34], "steps": 8}


@pytest.mark.parametrize(
    ("tables", "mention"),
    [
        (small_tables(attention="taaf"), "head.attention: unknown key"), (small_tables(fusion="film"), "allowed: sum, concat"),
        (small_tables(channels=20), "channels.*multiples of 8"), (small_tables(halvings=5), "halvings.*allowed 1 to 4"),
        ({**small_tables(), "branches": {"event": {**STEM, "stages": 2}}}, r"halvings \(=3\): .*allowed 1 to stages \(=2\)"),
        (small_tables(residual_alpha=0.3), "residual_alpha.*multiples of 0.015625"),
        (small_tables(attention_heads=3), r"attention_heads \(=3\): must divide the tokens' channels \(=16\)"),
        ({**small_tables(), "branches": {"event": EVENT, "audio": AUDIO}}, r"two branches .*found event \(128,\), audio \(128,\)"),
        ({**small_tables(), "branches": {"event": STEM, "audio": {**STEM, "channels": 16}}}, "token maps .* of one C"),
        ({**small_tables(), "branches": {"event": STEM}}, "two branches"),
        ({**small_tables(), "branches": dict.fromkeys(("a", "b", "c"), STEM)}, "two branches"),
        ({**small_tables(), "branches": {"event": STEM, "audio": {**STEM, "shape": [40]}}}, r"conv1: reads input .*allowed \(C, H, W\)"),
    ],
)  # fmt: skip
def test_refused_configurations(tables: dict[str, Any], mention: str) -> None:
    """Settings that do not go together are named."""
    with pytest.raises(ConfigError, match=mention):
        NetworkConfig.from_dict(tables).check()


@pytest.mark.parametrize("how", ["stride", "max_pool"])
def test_shallow_stem(how: str) -> None:
    """Two convolutions of C/2 and C that halve the map: 28 px give 7 x 7 tokens; the shipped configuration has it."""
    table = {
        "network": "patch_stem",
        "shape": [2, 28, 28],
        "steps": 4,
        "channels": 16,
        "stages": 2,
        "halvings": 2,
        "downsampling": how,
    }
    wiring = NetworkConfig.from_dict({"branches": {"event": table}, "head": {"type": "none"}}).branches["event"].wiring()
    assert wiring.output.shape == (32, 7, 7)
    model = MultimodalSnn(
        small_config({"event": {**table, "network": "patch_stem"}, "audio": {"shape": [1, 64, 1], "steps": 4}})
    )
    branch = model.branches["event"]
    assert {n: tuple(getattr(branch, n).weight.shape[:2]) for n in ("conv1", "conv2", "position")} == {
        "conv1": (8, 2), "conv2": (16, 8), "position": (16, 16)}  # fmt: skip
    head = load_config(Path(config_module.__file__).parent / "configs/scmrl_ead.toml", {}).network.build_head()
    assert isinstance(head, ScmrlHead) and head.tokens == {"event": 49, "audio": 16}


def _checked_windows(config: NetworkConfig) -> int:
    model, steps = MultimodalSnn(config), {m: spec.steps for m, spec in config.inputs.items()}
    found = SimpleNamespace(graphs=float_graphs(model), encoders=host_encoders(model), steps=steps)
    return windows_to_verify(found)  # type: ignore[arg-type]


def test_stems_of_real_numbers() -> None:
    """The shipped configuration's frames and spectrograms, and events beside a spectrogram; checked windows are bounded."""
    shipped = load_config(Path(config_module.__file__).parent / "configs/scmrl_urbansound8k_av.toml", {}).network.check()
    assert {m: x.shape for m, x in shipped.inputs.items()} == {"visual": (3, 224, 224), "audio": (1, 257, 250)}
    head = shipped.build_head()
    assert isinstance(head, ScmrlHead) and head.tokens == {"visual": 14 * 14, "audio": 17 * 16}
    assert {m: x.scale for m, x in shipped.inputs.items()} == {"visual": 32, "audio": 8}
    pooled = {m: {**b.to_dict(), "downsampling": "max_pool"} for m, b in shipped.branches.items()}
    original = NetworkConfig.from_dict({**shipped.to_dict(), "branches": pooled})
    assert 50 < _checked_windows(original) < 200 < _checked_windows(shipped) < 400
    assert _checked_windows(small_config()) > 1000
    mixed = small_config({**SPIKES, "audio": {"shape": [1, 257, 188], "steps": 12, "scale": 8}}).check()
    assert {m: b.scale for m, b in mixed.branches.items()} == {"event": None, "audio": 8}
    assert Options().fusion == "sum" and NetworkConfig.from_dict({**mixed.to_dict(), "head": {"type": "taaf"}}).check()
