"""Linear probes against a float64 minimisation, what chooses their strength, and each modality alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import taaf_config, taaf_tables

from taaf.models.errors import ConfigError
from taaf.models.heads.rate import Options as RateOptions
from taaf.models.network import MultimodalSnn
from taaf.training import probes
from taaf.training.config import TrainConfig, from_dict
from taaf.training.data import InMemory
from taaf.training.probes import Part, feature_spikes, fit_probe, probe_model
from taaf.training.single_modality import alone
from taaf.training.sources import Splits
from taaf.training.studies.measures import branch_probes

N_CLASSES = 3


def _part(n: int, seed: int, features: int = 6) -> Part:
    """Rates of neurons of which the first few tell the class, with noise; one neuron is silent."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % N_CLASSES
    x = rng.random((n, features)) + 0.4 * np.eye(features)[labels]
    x[:, -1] = 0.0
    return x, labels


def _reference(train: Part, test: Part, strength: float) -> float:
    """Accuracy of the minimiser of sum_i CE + |W|^2 / (2 C) on scaled features, by L-BFGS in float64."""
    mean, deviation = train[0].mean(0), train[0].std(0)
    scaled = [torch.tensor((x - mean) / np.where(deviation > 0, deviation, 1)) for x, _ in (train, test)]
    w = torch.zeros((scaled[0].shape[1] + 1, N_CLASSES), dtype=torch.float64, requires_grad=True)
    truth = torch.tensor(train[1])
    optimiser = torch.optim.LBFGS([w], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        scores = scaled[0] @ w[:-1] + w[-1]
        log_p = scores - scores.exp().sum(1, keepdim=True).log()
        loss = -log_p[torch.arange(len(truth)), truth].sum() + (w[:-1] ** 2).sum() / (2 * strength)
        loss.backward()
        return loss

    optimiser.step(closure)
    found = (scaled[1] @ w[:-1] + w[-1]).argmax(1).detach().numpy()
    return 100 * float((found == test[1]).mean())


@pytest.mark.parametrize("strength", [1e-3, 1e-1, 10.0])
def test_probe_is_its_formula(strength: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As accurate as the minimiser of its objective on 1 000 samples, but for one of them."""
    monkeypatch.setattr(probes, "FIXED", strength)
    train, test = _part(120, 0), _part(1000, 1)
    found = fit_probe(train, test)
    assert found["test"] == pytest.approx(_reference(train, test, strength), abs=0.11)
    assert found["train"] == pytest.approx(_reference(train, train, strength), abs=0.9)
    assert found["strength"] == strength and found["validation"] is None and 40 < found["test"] < 95


def test_the_validation_part_chooses_the_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best on it, of equals the strongest penalty; labels of the test part change nothing but their own accuracy."""
    train, test, validation = _part(30, 2, 40), _part(400, 3, 40), _part(90, 4, 40)
    each = {}
    for c in probes.STRENGTHS:
        monkeypatch.setattr(probes, "FIXED", c)
        each[c] = fit_probe(train, validation)["test"]
    best = min(c for c, accuracy in each.items() if accuracy == max(each.values()))
    found = fit_probe(train, test, validation)
    assert found["strength"] == best and found["validation"] == pytest.approx(each[best])
    assert len(set(each.values())) > 1 and best != max(probes.STRENGTHS)
    shuffled = fit_probe(train, (test[0], np.roll(test[1], 1)), validation)
    assert {k: v for k, v in shuffled.items() if k != "test"} == {k: v for k, v in found.items() if k != "test"}
    assert shuffled["test"] != found["test"]


@pytest.fixture(scope="module")
def network() -> MultimodalSnn:
    torch.manual_seed(3)
    model = MultimodalSnn(taaf_config(channels=2, wide=2, hidden=16, features=8))
    for name, value in model.named_parameters():
        if name.endswith("offset"):
            value.data.fill_(0.3)
    return model


def _data(n: int, seed: int = 0) -> InMemory:
    rng = np.random.default_rng(seed)
    inputs = {"event": rng.random((n, 2, 34, 34, 8)) < 0.1, "audio": rng.random((n, 160, 12)) < 0.2}
    names = tuple("0123456789")
    return InMemory({m: x.astype(np.uint8) for m, x in inputs.items()}, np.arange(n) % 10, names)


def test_features_are_the_deployed_spikes(network: MultimodalSnn) -> None:
    """Spikes of the integer form whatever the mode, in batches; every spike, or its mean over time; "fused" is all side by side."""
    data = _data(7)
    network.train()
    found = feature_spikes(network, data, batch_size=3)
    assert network.training
    features, output = network.predict(data.batch(range(7))[0])
    for m, x in features.items():
        np.testing.assert_array_equal(found.spikes[m], x.numpy())
        assert 0 < x.mean() < 1 and found.spikes[m].dtype == np.uint8
        np.testing.assert_array_equal(found.part(m, "steps")[0], x.numpy().reshape(7, -1))
        np.testing.assert_allclose(found.part(m, "rates")[0], x.numpy().mean(-1))
    assert found.part("fused", "rates")[0].shape == (7, 16) and found.part("fused", "steps")[0].shape == (7, 8 * 8 + 8 * 12)
    for u, right in found.right.items():
        np.testing.assert_array_equal(right, output.decision(u).argmax(1).numpy() == np.arange(7))
    np.testing.assert_array_equal(found.labels, np.arange(7))


@pytest.mark.parametrize("validated", [True, False])
def test_probes_of_a_network(network: MultimodalSnn, validated: bool) -> None:
    """One per branch and one of all; beside the accuracy of the head's own output."""
    parts = Splits(_data(40), _data(20, 1) if validated else None, _data(30, 2))
    found = probe_model(network, parts, "rates")
    assert list(found) == ["fused", "event", "audio"] and [p.features for p in found.values()] == [16, 8, 8]
    judge = feature_spikes(network, parts.test)
    for u, p in found.items():
        assert p.head == pytest.approx(100 * judge.right[u].mean()) and 0 <= p.test <= 100 and p.train > 10
        assert (p.validation is not None) == validated and (validated or p.strength == probes.FIXED)
    only = probe_model(network, parts, "rates", ["audio"])
    assert only == {"audio": found["audio"]}


def test_columns_of_a_study(network: MultimodalSnn, tmp_path: Path) -> None:
    """A checkpoint's own data set and validation part."""
    from small_networks import trained

    trained(tmp_path, network, data={"train_pairs": 30, "test_pairs": 20, "validation": 0.02})
    found = branch_probes(tmp_path / "model.pt")
    assert list(found) == ["probe_event", "probe_audio"] and all(x % 5 == pytest.approx(0) for x in found.values())


def test_each_modality_alone() -> None:
    """Its branch, a linear classifier and the loss of the one output; all else as it was."""
    tables = taaf_tables(fusion="film")
    config = from_dict({**tables, "loss": {"balance": "pmr", "beta": 0.7}, "optimiser": {"method": "sgd", "seed": 5}})
    found = alone(config, "audio")
    assert found.network.modalities == ("audio",) and found.network.branches["audio"] == config.network.branches["audio"]
    assert found.network.build_head().outputs == ("fused", "audio") and found.network.head.options.fusion == "concat"
    assert (found.loss.balance, found.loss.beta) == ("none", 0.0) and found.optimiser == config.optimiser
    assert from_dict(found.to_dict()) == found and alone(found, "audio") == found


def test_counting_alone() -> None:
    """Heads that count keep their loss, and the steps of the branch that stays."""
    tables: Any = taaf_tables(features=20)
    tables["head"] = {"type": "rate", "classes": 10, "counted_steps": [7, 11]}
    found = alone(from_dict({**tables, "loss": {"balance": "readout"}}), "audio")
    assert found.network.head.options == RateOptions((11,)) and found.loss.balance == "readout"


def test_no_such_branch() -> None:
    with pytest.raises(ConfigError, match=r"--only audoi: no such branch; did you mean 'audio'\?"):
        alone(TrainConfig(), "audoi")
