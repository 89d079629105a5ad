"""S-CMRL's host head: equations written out in NumPy, torch = NumPy in every spike, costs, refusals."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scmrl_nets import small_config

from taaf.export.netx_bundle import head_arrays, head_spec, windows_to_verify
from taaf.models import qat, scmrl, scmrl_host
from taaf.models.config import ModelConfig
from taaf.models.errors import BundleError, CheckpointError
from taaf.models.head import deployed_forward
from taaf.models.host_head import HostHead, host_lif
from taaf.models.host_heads import host_head
from taaf.models.scmrl_host import ScmrlHostHead
from taaf.models.taaf import TaafSnn
from taaf.training import config as config_module
from taaf.training.config import load_config

TINY = {"event_size": 10, "audio_inputs": 32, "token_channels": 8, "event_steps": 6, "audio_steps": 6, "aligned_steps": 3}


def _network(**changes: Any) -> TaafSnn:
    """4 event and 1 or 2 audio tokens, batch norms with statistics under which everything fires."""
    torch.manual_seed(2)
    model = TaafSnn(small_config(**{**TINY, **changes})).eval()
    for part in model.head.modules():
        if isinstance(part, qat.QatSynapse):
            part.offset.data.normal_(0.3, 0.2)
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.2, 0.6)
    return model


def _features(config: ModelConfig, n: int = 12, rate: float = 0.3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    sizes = {m: 2 * config.token_channels * h * w for m, (h, w) in config.token_maps.items()}
    steps = dict(zip(config.modalities, (config.event_steps, config.audio_steps), strict=True))
    return {m: (rng.random((n, sizes[m], steps[m])) < rate).astype(np.uint8) for m in sizes}


def _by_hand(a: dict[str, np.ndarray], c: ModelConfig, aligned: dict[str, np.ndarray]) -> np.ndarray:
    """Fused readout of one window, per step, token and head; ``aligned`` (T, F) per modality."""

    def layer(name: str, x: np.ndarray) -> np.ndarray:
        return fire(np.einsum("oc,tnc->tno", a[f"{name}_weight"], x) + a[f"{name}_bias"])

    def fire(current: np.ndarray) -> np.ndarray:
        v, out = np.zeros(current.shape[1:]), np.zeros_like(current)
        for t, now in enumerate(current):
            v = v / 2 + now
            out[t] = v > 1
            v[v > 1] = 0
        return out

    width, d = c.token_channels, c.token_channels // c.attention_heads
    x = {}
    for m, flat in aligned.items():
        maps = flat.reshape(len(flat), 2 * width, -1)
        x[m] = np.stack([[maps[t, :width, i] + maps[t, width:, i] for i in range(maps.shape[2])] for t in range(len(maps))])
    f = {}
    for m, other in zip(x, reversed(list(x)), strict=True):
        (steps, n, _), n_other = x[m].shape, x[other].shape[1]
        mixed = x[m]
        if c.cross_modal != "none":
            spatial, temporal = (
                [layer(f"{m}_{kind}_{r}", x[m if r == "q" else other]) for r in "qkv"] for kind in ("spatial", "temporal")
            )
            s, e = np.zeros((steps, n, width)), np.zeros((steps, n, width))
            for h in range(c.attention_heads):
                part = slice(h * d, (h + 1) * d)
                for t in range(steps):
                    for i in range(n):
                        q, k, v = spatial
                        s[t, i, part] = 0.25 * sum((q[t, i, part] @ k[t, j, part]) * v[t, j, part] for j in range(n_other))
                        q, k, v = temporal
                        j = math.floor(i * n_other / n)
                        e[t, i, part] = 0.25 * sum((q[t, i, part] @ k[u, j, part]) * v[u, j, part] for u in range(steps))
            scsa, tcsa = layer(f"{m}_spatial_o", fire(s)), layer(f"{m}_temporal_o", fire(e))
            power = 2 ** round(math.log2(n * steps))
            ccssa = np.array([[scsa[t].sum(0) * tcsa[:, i].sum(0) / power for i in range(n)] for t in range(steps)])
            residual = layer(f"{m}_residual", ccssa)
            assert residual.any() and not residual.all()
            mixed = residual if c.cross_modal == "attention" else x[m] + c.residual_alpha * residual
        f[m] = (mixed + layer(f"{m}_mlp2", layer(f"{m}_mlp1", mixed))).mean(1)
    first, second = f.values()
    joined = np.concatenate([first, second], 1) if c.fusion == "concat" else first + second
    return (joined @ a["classifier_weight"].T + a["classifier_bias"]).mean(0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cross_modal": "attention"},
        {"cross_modal": "none"},
        {"fusion": "concat", "residual_alpha": 0.25},
        {"audio_levels": 8},
    ],
    ids=str,
)
def test_equations(changes: dict[str, Any]) -> None:
    """The NumPy head against loops over steps, tokens and heads.

    Seen failing with ceil for floor in the pairing of tokens, with 0.5 for 0.25, with sums over the wrong axis in CCSSA, and
    with k and v of the own modality.
    """
    model = _network(**changes)
    c, arrays, features = model.config, head_arrays(model), _features(model.config)
    head = host_head(arrays, head_spec(model))
    assert isinstance(head, ScmrlHostHead)
    aligned = {m: head.align(m, f) for m, f in features.items()}
    expected = np.stack([_by_hand(arrays, c, {m: x[i] for m, x in aligned.items()}) for i in range(12)])
    assert np.ptp(expected, axis=0).max() > 1e-2
    np.testing.assert_allclose(head.fused(features), expected, atol=1e-12)
    np.testing.assert_array_equal(head(features).logits["fused"], head.fused(features))
    silenced = {m: x * (m == "audio") for m, x in aligned.items()}
    alone = np.stack([_by_hand(arrays, c, {m: x[i] for m, x in silenced.items()}) for i in range(2)]) if not changes else None
    if alone is not None:
        np.testing.assert_allclose(head(features).logits["audio"][:2], alone, atol=1e-12)


def _recording(lif: Callable[[Any], Any], found: list[np.ndarray]) -> Callable[[Any], Any]:
    def recorded(current: Any) -> Any:
        spikes = lif(current)
        found.append(np.asarray(spikes))
        return spikes

    return recorded


@pytest.mark.parametrize("changes", [{}, {"fusion": "concat", "alignment": "learned"}], ids=str)
def test_numpy_head_equals_torch_head(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every host spike equal, every output within 1e-9, every decision the same; float32 torch fires the same, too.

    Seen failing with the projections folded in float64 (``head.double()``), which rounds some weights the other way.
    """
    model = _network(**changes)
    for part in model.head.modules():
        if isinstance(part, qat.QatSynapse):  # every weight near a tie, so that another rounding shows
            scale = part.fold_scale().detach()[:, None]
            part.weight.data.copy_((torch.randint(-40, 40, part.weight.shape) + 0.5) / 64 / scale)
    in_torch: list[np.ndarray] = []
    in_numpy: list[np.ndarray] = []
    monkeypatch.setattr(scmrl, "host_lif", _recording(scmrl.host_lif, in_torch))
    monkeypatch.setattr(scmrl_host, "host_lif", _recording(host_lif, in_numpy))
    features = _features(model.config)
    with torch.no_grad():
        output = deployed_forward(model.align, model.head, {m: torch.from_numpy(f) for m, f in features.items()})
    found = host_head(head_arrays(model), head_spec(model))(features)
    assert len(in_torch) == len(in_numpy) == 3 * 2 * 13  # outputs, modalities, LIF populations
    for one, two in zip(in_torch, in_numpy, strict=True):
        np.testing.assert_array_equal(one, two)
    assert sum(bool(x.any()) for x in in_numpy[:26]) >= 24
    for u, logits in found.logits.items():
        expected = output.decision(u).numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-9)
        np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1))
    in_double = list(in_torch)
    in_torch.clear()
    with torch.no_grad():
        model.head(*(model.align[m](torch.from_numpy(f).float()) for m, f in features.items()))
    for one, two in zip(in_torch, in_double, strict=True):
        np.testing.assert_array_equal(one, two)


def test_windows_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tokens are computed a few windows at a time, with the same result. Seen failing with every other block left out."""
    model = _network()
    head, features = host_head(head_arrays(model), head_spec(model)), _features(model.config, 5)
    whole = head.fused(features)
    monkeypatch.setattr(scmrl_host, "_BLOCK_VALUES", 2 * 2 * 3 * 4**2)  # 2 windows x heads x steps x tokens squared
    np.testing.assert_array_equal(head.fused(features), whole)


def test_macs_are_those_of_the_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Projections counted where they happen; products of the attention written out. Seen failing with one of k, v left out."""
    model = _network(audio_inputs=64)
    head = host_head(head_arrays(model), head_spec(model))
    assert isinstance(head, ScmrlHostHead)
    counted = {"mlp": 0, "attention projections": 0}
    plain = ScmrlHostHead._project

    def project(self: ScmrlHostHead, name: str, x: np.ndarray) -> np.ndarray:
        kind = "mlp" if "mlp" in name else "attention projections"
        counted[kind] += int(np.prod(x.shape[:-1])) * self.arrays[f"{name}_weight"].size
        return plain(self, name, x)

    monkeypatch.setattr(ScmrlHostHead, "_project", project)
    head.fused(_features(model.config, 1))
    parts = head.mac_parts({"event": 6, "audio": 6})
    assert {k: parts[k] for k in counted} == counted
    n, m, c, t = head.tokens["event"], head.tokens["audio"], 8, 3
    assert n != m
    products = 2 * t * n * m * c * 2 + (n + m) * t * t * c * 2 + (n + m) * t * c
    assert parts["attention products"] == products
    assert head.n_macs({"event": 6, "audio": 6}) == sum(parts.values())


@pytest.mark.parametrize(
    ("change", "mention"),
    [
        ({"type": "mystery"}, "type 'mystery' unknown; allowed taaf, scmrl"), ({"tokens": 4}, "tokens.event"),
        ({"tokens": {"event": 4, "audio": 0}}, "tokens.audio"), ({"attention_heads": 3}, "attention_heads 3"),
        ({"cross_modal": "both"}, "cross_modal 'both' unknown"), ({"residual_alpha": math.inf}, "residual_alpha"),
        ({"mlp_ratio": 5}, "event_mlp1_weight has shape"), ({"token_channels": True}, "token_channels"), ({"fusion": "film"}, "fusion"),
    ],
)  # fmt: skip
def test_refused_heads(change: dict[str, Any], mention: str) -> None:
    """A manifest that does not describe the arrays is refused by name."""
    model = _network()
    with pytest.raises(BundleError, match=mention):
        host_head(head_arrays(model), head_spec(model) | change)


def test_a_manifest_without_type_is_taaf() -> None:
    """What older bundles hold keeps its head."""
    model = TaafSnn(ModelConfig())
    assert "type" not in head_spec(model)
    assert type(host_head(head_arrays(model), head_spec(model))) is HostHead


@pytest.mark.parametrize(
    ("change", "mention"),
    [
        ({"head": "taaf"}, "2 patch stems"), ({"audio_branch": "dense"}, "two branches"), ({"fusion": "film"}, "allows concat, sum"),
        ({"attention": "taaf"}, "averages over time"), ({"token_channels": 20}, "multiple of 8"),
        ({"attention_heads": 3}, "attention_heads"),
        ({"stem_halvings": 5}, "4 convolutions"), ({"audio_levels": 3}, "audio_levels"), ({"residual_alpha": 0.3}, "multiple of 1/64"),
    ],
)  # fmt: skip
def test_refused_configurations(change: dict[str, Any], mention: str) -> None:
    """Settings that do not go together are named."""
    with pytest.raises(CheckpointError, match=mention):
        ModelConfig.from_dict({**small_config().to_dict(), **change})


def test_stems_of_real_numbers() -> None:
    """The shipped configuration's frames and spectrograms, and events beside a spectrogram; checked windows are bounded."""
    shipped = load_config(Path(config_module.__file__).parent / "configs/scmrl_urbansound8k_av.toml", {}).model
    assert shipped.problem() is None
    assert shipped.input_shapes == {"visual": (3, 224, 224), "audio": (1, 257, 250)}
    assert shipped.token_maps == {"visual": (14, 14), "audio": (17, 16)} and shipped.input_scales == {"visual": 32, "audio": 8}
    assert 50 < windows_to_verify(shipped) < 200 and windows_to_verify(small_config()) > 1000
    mixed = small_config(audio_branch="sps_real")
    assert mixed.problem() is None and mixed.input_scales == {"audio": 8}
    assert mixed.input_shapes["event"] == (2, 34, 34)
    assert ModelConfig(first_branch="sps_real").problem() is not None  # head "taaf"


def test_older_checkpoints_describe_taaf() -> None:
    """A configuration from before S-CMRL is read as it was."""
    old = {k: v for k, v in ModelConfig().to_dict().items() if k not in small_config().to_dict() or k not in (
        "head", "cross_modal", "residual_alpha", "token_channels", "stem_halvings", "attention_heads", "mlp_ratio", "audio_levels"
    )}  # fmt: skip
    assert ModelConfig.from_dict(old) == ModelConfig() and ModelConfig().head == "taaf"
