"""Quantisation-aware layers, attention and host head."""

import numpy as np
import pytest
import torch
from small_networks import taaf_config

from taaf.export.frontend import float_graphs
from taaf.export.passes import CompileReport, compile_graph
from taaf.models.errors import BundleError
from taaf.models.fusion import FUSIONS
from taaf.models.heads.alignment import align
from taaf.models.heads.taaf import TaafHead
from taaf.models.host_head import NUMPY_OPS, HostHead
from taaf.models.network import MultimodalSnn
from taaf.models.qat import QatConv2d, QatDense
from taaf.models.trainable_head import TORCH_OPS, TrainableHead


@pytest.fixture(scope="module")
def model() -> MultimodalSnn:
    """A random network with non-trivial batch-norm statistics."""
    torch.manual_seed(3)
    net = MultimodalSnn(taaf_config())
    for name, value in net.named_buffers():
        if name.endswith("running_mean"):
            value.normal_(0, 0.2)
        if name.endswith("running_var"):
            value.uniform_(0.3, 2)
    for part in net.modules():
        if isinstance(part, QatConv2d | QatDense):
            part.offset.data.normal_(0, 0.3)
    for m in ("event", "audio"):
        net.head.weights[f"align_{m}_weight"].data.normal_(0, 0.4)
    return net.eval()


def _arrays(model: MultimodalSnn) -> dict[str, np.ndarray]:
    """What is deployed of the head."""
    return {name: value.numpy() for name, value in model.head.arrays().items()}


def test_paper_equation_4(model: MultimodalSnn) -> None:
    """The halves add up: O_f = O_m1 + O_m2, each with half the bias."""
    h = torch.randint(0, 2, (2, 3, 6, 128)).float()
    o = FUSIONS["concat"].outputs(TORCH_OPS, dict(model.head.weights.items()), [h[0], h[1]])
    weight, bias = model.head.weights["classifier_weight"], model.head.weights["classifier_bias"]
    torch.testing.assert_close(o[0], torch.cat([h[0], h[1]], -1) @ weight.T + bias)
    torch.testing.assert_close(o[1], h[0] @ weight[:, :128].T + bias / 2)
    torch.testing.assert_close(o[1] + o[2], o[0])


def test_paper_equations_5_to_7(model: MultimodalSnn) -> None:
    """alpha = mean over queries of softmax over keys of Q K^T / sqrt(C); non-negative, sums to 1."""
    logits = torch.randn(4, 6, 10, dtype=torch.float64)
    head = model.head
    q, k = (logits.numpy() @ w.detach().double().numpy() for w in (head.weights["query_audio"], head.weights["key_audio"]))
    scores = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(10))
    expected = (scores / scores.sum(2, keepdims=True)).mean(1)
    taaf = head.head
    assert isinstance(taaf, TaafHead)
    with torch.no_grad():
        found = taaf.alpha(TORCH_OPS, dict(head.deployed().weights.items()), logits, "audio").numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(found.sum(1), 1)
    uniform = taaf_config(attention="uniform").build_head()
    assert isinstance(uniform, TaafHead)
    np.testing.assert_array_equal(uniform.alpha(TORCH_OPS, {}, logits).numpy(), np.full((4, 6), 1 / 6))


@pytest.mark.parametrize(
    ("attention", "weights"), [("taaf", "separate"), ("uniform", "separate"), ("taaf", "shared"), ("uniform", "shared")]
)
def test_host_head_equals_torch_head(attention: str, weights: str) -> None:
    """NumPy float64 head = torch float64 head to 1e-9 and in argmax, on random feature spikes."""
    rng = np.random.default_rng(0)
    features = {"event": rng.random((50, 128, 8)) < 0.3, "audio": rng.random((50, 128, 12)) < 0.3}
    torch.manual_seed(3)
    twin = TrainableHead(taaf_config(attention=attention, attention_weights=weights).build_head()).double()
    head = HostHead({name: value.numpy() for name, value in twin.arrays().items()}, twin.head.spec())
    output = head({m: f.astype(np.uint8) for m, f in features.items()})
    twin = twin.deployed()
    with torch.no_grad():
        expected = twin({m: torch.from_numpy(f.astype(np.float64)) for m, f in features.items()})
    for u, logits in output.logits.items():
        np.testing.assert_allclose(logits, expected.decision(u).numpy(), atol=1e-9)
        np.testing.assert_array_equal(logits.argmax(1), expected.decision(u).numpy().argmax(1))


def test_alignment_spikes_do_not_depend_on_precision(model: MultimodalSnn) -> None:
    """float32 torch, float64 torch and NumPy give identical alignment spikes."""
    rng = np.random.default_rng(1)
    x = (rng.random((200, 128, 12)) < 0.4).astype(np.float32)
    weights = dict(model.head.weights.items())
    with torch.no_grad():
        single = align(TORCH_OPS, weights, {"audio": torch.from_numpy(x)})["audio"].numpy()
        double = align(TORCH_OPS, weights, {"audio": torch.from_numpy(x).double()})["audio"].numpy()
    assert 0.02 < single.mean() < 0.9
    np.testing.assert_array_equal(single, double)
    np.testing.assert_array_equal(align(NUMPY_OPS, _arrays(model), {"audio": x.astype(np.float64)})["audio"], double)


def test_compiler_quantises_as_training_does(model: MultimodalSnn) -> None:
    """fold_batch_norm + quantise give exactly the integers of the training forward, for every synapse group."""
    for name, graph in float_graphs(model).items():
        integer, _ = compile_graph(graph, saturate=True, report=CompileReport())
        for part_name, part in model.branches[name].named_children():
            if isinstance(part, QatConv2d | QatDense):
                weight = part.integer_weight().detach().numpy()
                np.testing.assert_array_equal(integer.nodes[part_name].weight, weight)
                assert (weight % 2 == 0).all() and weight.min() >= -256 and weight.max() <= 254
        event = model.branches["event"]
        if name == "event":
            bias = (event.block2.integer_bias() + event.shortcut.integer_bias()).detach().numpy()
            np.testing.assert_array_equal(integer.nodes["block2_lif"].bias, bias)


def test_frozen_training_is_the_deployed_forward(model: MultimodalSnn) -> None:
    """A frozen synapse computes the same in train and eval mode; an unfrozen one uses batch statistics."""
    layer = model.branches["audio"].hidden
    x = (torch.rand(30, 160) < 0.2).float()
    with torch.no_grad():
        expected = layer.eval()(x)
        layer.frozen = True
        assert torch.equal(layer.train()(x), expected)
        layer.frozen = False
        assert not torch.equal(layer.train()(x), expected)
    layer.eval()


@pytest.mark.parametrize(
    ("change", "mention"),
    [
        (lambda a: a.pop("key_audio"), "key_audio missing"),
        (lambda a: a.update(query_fused=np.zeros((3, 3))), "query_fused has shape"),
        (lambda a: a.update(classifier_bias=np.full(10, np.inf)), "classifier_bias holds"),
    ],
)
def test_host_head_refuses_bad_arrays(model: MultimodalSnn, change: object, mention: str) -> None:
    """Missing, misshapen or infinite arrays are named."""
    arrays = _arrays(model)
    change(arrays)  # type: ignore[operator]
    with pytest.raises(BundleError, match=mention):
        HostHead(arrays, model.head.head.spec())
