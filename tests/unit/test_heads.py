"""Heads: torch and NumPy agree, both equal a float64 formula written out here, and descriptions that say nonsense are refused."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from taaf.models.errors import BundleError, ConfigError
from taaf.models.heads import as_stored, find_head, head_of, names
from taaf.models.heads.base import Features, Head
from taaf.models.heads.none import NoHead
from taaf.models.heads.rate import Options as RateOptions
from taaf.models.heads.rate import RateHead
from taaf.models.heads.taaf import Options as TaafOptions
from taaf.models.heads.taaf import TaafHead
from taaf.models.host_head import HostHead
from taaf.models.trainable_head import TrainableHead

RNG = np.random.default_rng(4)


def _inputs(*sizes_and_steps: tuple[int, int]) -> dict[str, Features]:
    return {f"m{i}": Features((size,), steps) for i, (size, steps) in enumerate(sizes_and_steps)}


def _spikes(head: Head, n: int = 40, rate: float = 0.3) -> dict[str, np.ndarray]:
    return {m: (RNG.random((n, x.size, x.steps)) < rate).astype(np.uint8) for m, x in head.inputs.items()}


def _both(head: Head, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The readouts in NumPy, which are those of torch in float64."""
    torch.manual_seed(0)
    trainable = TrainableHead(head)
    host = HostHead({k: v.numpy() for k, v in trainable.arrays().items()}, head.spec())
    assert type(host.head) is type(head) and host.head.spec() == head.spec()
    with torch.no_grad():
        expected = trainable.deployed()({m: torch.from_numpy(f).double() for m, f in features.items()})
    found = host(features)
    assert list(found.logits) == list(expected.logits) == list(head.outputs)
    for u, logits in found.logits.items():
        np.testing.assert_allclose(logits, expected.decision(u).numpy(), atol=1e-12)
        np.testing.assert_allclose(found.alpha[u], expected.alpha[u].numpy(), atol=1e-12)
        np.testing.assert_array_equal(logits.argmax(1), expected.decision(u).numpy().argmax(1))
    return found.logits


@pytest.mark.parametrize("counted", [(), (1, 1, 1), (4, 2, 1)])
@pytest.mark.parametrize("inputs", [_inputs((6, 7)), _inputs((3, 7), (12, 5)), _inputs((6, 4), (3, 9), (9, 1))], ids=len)
def test_rate_counts_spikes(inputs: dict[str, Features], counted: tuple[int, ...]) -> None:
    """Sums over the neurons of a class, one after the other, and over the counted steps of each; modalities add up; in loops."""
    head = RateHead(inputs, 3, RateOptions(counted[: len(inputs)]))
    features = _spikes(head)
    found = _both(head, features)
    total = np.zeros((40, 3))
    for i, (m, x) in enumerate(features.items()):
        own, per_class = np.zeros((40, 3)), x.shape[1] // 3
        for neuron in range(x.shape[1]):
            for step in range(x.shape[2]):
                own[:, neuron // per_class] += x[:, neuron, step] if not counted or step < counted[i] else 0
        np.testing.assert_array_equal(found[m], own)
        total += own
    np.testing.assert_array_equal(found["fused"], total)
    assert np.ptp(total) > 0


def test_rate_decides_for_the_first_of_equals() -> None:
    """Silence is class 0; a tie is its first class; in torch too."""
    head = RateHead(_inputs((3, 2)), 3, RateOptions())
    x = np.array(
        [[[0, 0], [0, 0], [0, 0]], [[0, 0], [1, 0], [0, 1]], [[1, 0], [1, 1], [1, 1]], [[0, 1], [0, 0], [1, 0]]], np.uint8
    )
    logits = _both(head, {"m0": x})["fused"]
    assert logits.argmax(1).tolist() == torch.from_numpy(logits).argmax(1).tolist() == [0, 1, 1, 0]
    assert HostHead({}, head).n_macs() == 0 and head.arrays() == head.projections() == {}


@pytest.mark.parametrize(
    ("sizes", "classes", "mention"), [(((6, 4), (5, 4)), 3, "m1 has 5 feature"), (((6, 4),), 0, "multiples of classes")]
)
def test_rate_needs_as_many_neurons_per_class(sizes: tuple, classes: int, mention: str) -> None:
    with pytest.raises(ConfigError, match=mention):
        RateHead(_inputs(*sizes), classes, RateOptions())


def test_no_head_gives_features_only() -> None:
    """Nothing is decided, and nothing costs anything."""
    head = NoHead(
        _inputs((6, 4), (5, 3)), 0, head_of({"type": "none", "classes": 0, "inputs": {"a": {"shape": [2], "steps": 1}}}).options
    )
    assert _both(head, _spikes(head)) == {} and head.outputs == ()
    host = HostHead({}, head)
    assert not host.decides and host.n_macs() == 0 and head.stages()


def _lif(current: np.ndarray) -> np.ndarray:
    v, out = np.zeros_like(current[:, 0]), np.zeros_like(current)
    for t in range(current.shape[1]):
        v = v / 2 + current[:, t]
        out[:, t] = v > 1
        v[v > 1] = 0
    return out


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    ("attention_on", "attention_weights"),
    [("logits", "separate"), ("features", "separate"), ("logits", "shared"), ("features", "shared")],
)
@pytest.mark.parametrize("inputs", [_inputs((6, 7)), _inputs((6, 7), (4, 12)), _inputs((6, 4), (3, 9), (8, 1))], ids=len)
def test_taaf_of_any_number_of_modalities(inputs: dict[str, Features], attention_on: str, attention_weights: str) -> None:
    """Alignment (Conv1d over features, LIF), concatenation, attention with W^Q_u, W^K_u of every output u, or one pair, and readout
    in NumPy loops, float64. Seen failing with the joint output's pair for all.
    """
    aligned_steps, classes = 5, 4
    options = TaafOptions(aligned_steps, attention_on=attention_on, attention_weights=attention_weights)  # type: ignore[arg-type]
    head = TaafHead(inputs, classes, options)
    features = _spikes(head)
    found = _both(head, features)
    torch.manual_seed(0)
    a = {k: v.numpy() for k, v in TrainableHead(head).arrays().items()}
    aligned = {}
    for m, x in features.items():
        current = np.zeros((len(x), aligned_steps, x.shape[1]))
        padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (0, 0)))
        for out in range(aligned_steps):
            for step in range(x.shape[2]):
                for k in range(3):
                    current[:, out] += a[f"align_{m}_weight"][out, step, k] * padded[:, k : k + x.shape[1], step]
            current[:, out] += a[f"align_{m}_bias"][out]
        aligned[m] = _lif(current)
        assert 0 < aligned[m].mean() < 1
    w, b = a["classifier_weight"], a["classifier_bias"]
    ends = dict(zip(inputs, np.cumsum([x.size for x in inputs.values()]), strict=True))
    logits = {m: h @ w[:, ends[m] - h.shape[-1] : ends[m]].T + b / len(inputs) for m, h in aligned.items()}
    logits = {"fused": np.concatenate(list(aligned.values()), -1) @ w.T + b, **logits}
    for u, o in logits.items():
        seen = o if attention_on == "logits" else np.concatenate([h * (u in ("fused", m)) for m, h in aligned.items()], -1)
        own = f"_{u}" if attention_weights == "separate" else ""
        q, k = seen @ a[f"query{own}"], seen @ a[f"key{own}"]
        alpha = _softmax(q @ k.transpose(0, 2, 1) / math.sqrt(classes)).mean(1)
        np.testing.assert_allclose(found[u], (alpha[..., None] * o).sum(1), atol=1e-12)
    assert head.mac_parts()["alignment"] == sum(3 * aligned_steps * x.steps * x.size for x in inputs.values())
    assert head.mac_parts()["fusion"] == aligned_steps * classes * sum(x.size for x in inputs.values())


def test_attention_starts_as_linear_layers_do() -> None:
    """Separate pairs are uniform within 1 / sqrt(D), D inputs; shared ones nearly the identity; uniform attention has none of its own."""
    inputs = _inputs((300, 3), (200, 3))
    torch.manual_seed(0)
    for on, n_in in (("logits", 40), ("features", 500)):
        arrays = TrainableHead(TaafHead(inputs, 40, TaafOptions(3, attention_on=on))).weights  # type: ignore[arg-type]
        pairs = [v for k, v in arrays.items() if k.startswith(("query_", "key_"))]
        assert len(pairs) == 6 and all(v.shape == (n_in, 40) for v in pairs)
        for value in pairs:
            assert 0.97 < float(value.abs().max()) * n_in**0.5 <= 1 and abs(float(value.std()) * (3 * n_in) ** 0.5 - 1) < 0.1
    shared = TrainableHead(TaafHead(inputs, 40, TaafOptions(3, attention_weights="shared"))).weights
    assert float((shared["query"] - torch.eye(40)).abs().max()) < 0.2
    assert not any(k.startswith(("query", "key")) for k in TaafHead(inputs, 4, TaafOptions(3, attention="uniform")).arrays())


def test_files_that_do_not_say_have_shared_attention() -> None:
    """A head's description without attention_weights was written before there was a choice; other heads have nothing unsaid."""
    head = TaafHead(_inputs((6, 7), (4, 12)), 3, TaafOptions(attention_weights="shared"))
    spec = head.spec()
    assert spec.pop("attention_weights") == "shared" and head_of(spec).spec() == head.spec()
    assert head_of({**spec, "attention_weights": "separate"}).options.attention_weights == "separate"
    assert (
        as_stored({"type": "rate"}) == {"type": "rate"}
        and as_stored({"type": ["taaf"]}) == {"type": ["taaf"]}
        and as_stored(3) == 3
    )


def test_only_what_is_asked_for() -> None:
    """``which`` leaves outputs out and changes none."""
    for head in (TaafHead(_inputs((6, 7), (4, 12)), 3, TaafOptions()), RateHead(_inputs((6, 7), (3, 5)), 3, RateOptions())):
        host = HostHead({k: v.numpy() for k, v in TrainableHead(head).arrays().items()}, head)
        features = _spikes(head)
        whole, part = host(features), host(features, ("m1",))
        assert list(part.logits) == ["m1"] and list(whole.logits) == ["fused", "m0", "m1"]
        np.testing.assert_array_equal(part.logits["m1"], whole.logits["m1"])
        np.testing.assert_array_equal(host.fused(features), whole.logits["fused"])


def test_names_of_branches() -> None:
    """The joint output's name is taken; no branches are no head."""
    with pytest.raises(ConfigError, match=r"branches\.fused: this name is taken"):
        TaafHead({"fused": Features((3,), 2)}, 2, TaafOptions())
    with pytest.raises(ConfigError, match="at least one"):
        TaafHead({}, 2, TaafOptions())
    assert names() == ["none", "onnx", "rate", "scmrl", "taaf"]
    with pytest.raises(ConfigError, match=r"head\.type \(='tafa'\): unknown; did you mean 'taaf'"):
        find_head("tafa")


RATE: dict[str, Any] = {"type": "rate", "classes": 2, "inputs": {"a": {"shape": [4], "steps": 3}}}


@pytest.mark.parametrize(
    ("change", "mention"),
    [
        ({"type": "x"}, r"type \(='x'\): unknown; allowed: none, onnx, rate, scmrl, taaf"), ({"type": ["taaf"]}, "unknown|TypeError"),
        ({"type": None}, "unknown|TypeError"), ({"type": "base"}, "unknown"), ({"type": "../taaf"}, "unknown"),
        ({"classes": True}, "classes .=True.: allowed 0 to 65536"), ({"classes": -1}, "classes"), ({"classes": 10**9}, "classes"),
        ({"classes": "2"}, "classes"), ({"classes": 3}, "a has 4 feature neurons; allowed multiples of classes"),
        ({"inputs": {}}, "at least one"), ({"inputs": []}, "AttributeError"), ({"inputs": {"a": 3}}, "TypeError"),
        ({"inputs": {"a": {"shape": [4]}}}, "KeyError 'steps'"), ({"inputs": {"a": {"shape": 4, "steps": 3}}}, "TypeError"),
        ({"inputs": {"a": {"shape": [4, -1], "steps": 3}}}, r"inputs\.a: shape \[4, -1\]"),
        ({"inputs": {"a": {"shape": [True], "steps": 3}}}, r"inputs\.a"), ({"inputs": {"a": {"shape": [4], "steps": 0}}}, r"inputs\.a"),
        ({"inputs": {"a": {"shape": [1 << 25], "steps": 3}}}, r"inputs\.a"),
        ({"inputs": {"a": {"shape": ["4"], "steps": 3}}}, "inputs|TypeError"),
        ({"inputs": {"fused": {"shape": [4], "steps": 3}}}, "this name is taken"),
        ({"counted_steps": [-1]}, r"counted_steps \(=\[-1\]\): expected whole numbers from 1"),
        ({"counted_steps": [3, 3]}, "allowed one number per branch, up to its steps: "),
        ({"counted_steps": [99]}, "allowed one number per branch, up to its steps: "),
        ({"counted": 1}, r"head\.counted: unknown key; did you mean 'counted_steps'"),
        ({"type": "taaf", "fusion": "film"}, "is defined for two branches, found 1"), ({"type": "taaf", "fusion": 3}, "expected str"),
        ({"type": "taaf", "aligned_steps": 0}, "aligned_steps"), ({"type": "taaf"}, "classifier_weight.* missing; export the bundle again"),
    ],
)  # fmt: skip
def test_descriptions_that_are_garbage(change: dict[str, Any], mention: str) -> None:
    """One line that says what of the description is wrong."""
    assert HostHead({}, RATE).outputs == ("fused", "a")
    with pytest.raises(BundleError, match=mention) as error:
        HostHead({}, {**RATE, **change})
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
