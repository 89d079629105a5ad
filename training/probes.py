"""Linear probes: what a classifier of its own reads from the features of a trained branch.

The joint classifier is not trained to decide from one modality, so that its accuracy on one alone says little about the branch.
Here the branches are frozen in the integer form that is deployed, and for each

    x_m = (1 / T_m) sum_t s_m(t)                              (F_m,), s_m the feature spikes; then scaled to mean 0, deviation 1
    min_(W, b)  sum_i CE(W x_i + b, y_i) + |W|^2 / (2 C)      over the training part

is solved (multinomial logistic regression, L-BFGS of scikit-learn). C is the one of `STRENGTHS` with the best accuracy on the
validation part, of equals the smallest; without a validation part it is `FIXED`. The test part chooses nothing. "fused" is the
probe of all features together. Linear probing of jointly trained branches: Peng et al., CVPR 2022 (OGM-GE).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taaf.models.checkpoint import load_model
from taaf.models.heads.base import FUSED
from taaf.models.network import MultimodalSnn
from taaf.training.config import from_dict
from taaf.training.data import MultimodalDataset
from taaf.training.sources import open_splits

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FIXED = 1e-2
MAX_ITERATIONS = 2000
Part = tuple[np.ndarray, np.ndarray]  # features (N, F), labels (N,)


@dataclass(frozen=True)
class Probe:
    """Result of one probe; accuracies in percent.

    Attributes
    ----------
    features : int
        F_m.
    strength : float
        C; a large one is a weak penalty.
    test, train : float
        Of the probe.
    validation : float or None
        Of the probe, where there is a validation part.
    head : float or None
        On the test part, of the network's own output for this modality.
    """

    features: int
    strength: float
    test: float
    train: float
    validation: float | None
    head: float | None


@dataclass(frozen=True)
class Rates:
    """Of one part of a data set.

    Attributes
    ----------
    rates : dict
        Modality -> mean spikes per step of every feature neuron, (N, F_m) float64 in 0..1.
    labels : numpy.ndarray
        (N,) int64.
    head : dict
        Output -> whether the head decides right, (N,) bool.
    """

    rates: dict[str, np.ndarray]
    labels: np.ndarray
    head: dict[str, np.ndarray]

    def part(self, name: str) -> Part:
        """Features of a modality, or of "fused": all side by side; and the labels."""
        return np.concatenate(list(self.rates.values()), 1) if name == FUSED else self.rates[name], self.labels


def feature_rates(model: MultimodalSnn, data: MultimodalDataset, batch_size: int = 250) -> Rates:
    """What the deployed branches make of a part of a data set."""
    device = next(model.parameters()).device
    rates: dict[str, list[np.ndarray]] = {m: [] for m in model.config.modalities}
    head: dict[str, list[np.ndarray]] = {u: [] for u in model.head.head.outputs}
    labels = []
    for indices in torch.arange(len(data)).split(batch_size):
        inputs, truth = data.batch(indices.tolist())
        features, output = model.predict({m: x.to(device) for m, x in inputs.items()})
        for m, spikes in features.items():
            rates[m].append(spikes.double().mean(-1).cpu().numpy())
        for u, right in head.items():
            right.append((output.decision(u).argmax(1).cpu() == truth).numpy())
        labels.append(truth.numpy())
    return Rates(
        {m: np.concatenate(x) for m, x in rates.items()},
        np.concatenate(labels),
        {u: np.concatenate(x) for u, x in head.items()},
    )


def probe_features(train: Part, test: Part, validation: Part | None = None) -> dict[str, Any]:
    """Fit one probe to features and labels of the parts. Returns ``strength`` and the accuracies, as of `Probe`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fitted(strength: float) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=MAX_ITERATIONS)).fit(*train)

    def percent(probe: Any, part: Part) -> float:
        return 100 * float(probe.score(*part))

    strength, probe, chosen = FIXED, None, None
    if validation is not None:
        for candidate in STRENGTHS:
            found = fitted(candidate)
            accuracy = percent(found, validation)
            if chosen is None or accuracy > chosen:
                strength, probe, chosen = candidate, found, accuracy
    probe = probe or fitted(strength)
    return {"strength": strength, "test": percent(probe, test), "train": percent(probe, train), "validation": chosen}


def probe_model(
    model: MultimodalSnn, train: MultimodalDataset, test: MultimodalDataset, validation: MultimodalDataset | None = None
) -> dict[str, Probe]:
    """A probe of every branch, and of all together under "fused" where there are several.

    Parameters
    ----------
    model : MultimodalSnn
        Trained.
    train, test, validation : MultimodalDataset
        Parts of its data set; ``train`` and ``validation`` as it was trained with.
    """
    fit, judge = feature_rates(model, train), feature_rates(model, test)
    choose = None if validation is None else feature_rates(model, validation)
    found = {}
    for name in (*([FUSED] if len(fit.rates) > 1 else []), *fit.rates):
        chosen_on = None if choose is None else choose.part(name)
        result = probe_features(fit.part(name), judge.part(name), chosen_on)
        own = 100 * float(judge.head[name].mean()) if name in judge.head else None
        found[name] = Probe(fit.part(name)[0].shape[1], **result, head=own)
    return found


def probe_checkpoint(path: Path) -> dict[str, float]:
    """Test accuracies in percent of the probes of a checkpoint of one's own making: ``probe_<modality>``, ``probe_fused``."""
    model, content = load_model(path, own_code=True)
    parts = open_splits(from_dict(content["config"]).data, model.config.inputs)
    return {f"probe_{u}": p.test for u, p in probe_model(model, parts.train, parts.test, parts.validation).items()}
