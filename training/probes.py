"""Linear probes: what a classifier of its own reads from the features of a trained branch.

The joint classifier is not trained to decide from one modality, so that its accuracy on one alone says little about the branch.
Here the branches are frozen in the integer form that is deployed, and for each

    min_(W, b)  sum_i CE(W x_i + b, y_i) + |W|^2 / (2 C)

is solved over the training part: multinomial logistic regression, L-BFGS of scikit-learn, features scaled to mean 0 and deviation 1.
x is every feature spike ("steps", F_m T_m values) or the time mean of each neuron ("rates", F_m values), which cannot tell early
spikes from late ones. C is the one of `STRENGTHS` with the best accuracy on the validation part, of equals the smallest; without a
validation part it is `FIXED`. The test part chooses nothing. "fused" is the probe of all features together.

Linear probing of jointly trained branches: Peng et al., CVPR 2022 (OGM-GE).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from taaf.models.heads.base import FUSED
from taaf.models.network import MultimodalSnn
from taaf.training.data import MultimodalDataset
from taaf.training.sources import Splits

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FIXED = 1e-2
MAX_ITERATIONS = 2000
TOLERANCE = 1e-3
Kind = Literal["steps", "rates"]
Part = tuple[np.ndarray, np.ndarray]  # features (N, F), labels (N,)


@dataclass(frozen=True)
class Probe:
    """Result of one probe; accuracies in percent.

    Attributes
    ----------
    features : int
        Values that it reads.
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
class FeatureSpikes:
    """What the deployed branches make of a part of a data set.

    Attributes
    ----------
    spikes : dict
        Modality -> (N, F_m, T_m) uint8 in {0, 1}.
    labels : numpy.ndarray
        (N,) int64.
    right : dict
        Output -> whether the head decides right, (N,) bool.
    """

    spikes: dict[str, np.ndarray]
    labels: np.ndarray
    right: dict[str, np.ndarray]

    def part(self, name: str, kind: Kind) -> Part:
        """What a probe of this modality, or of "fused", reads; and the labels."""
        chosen = self.spikes if name == FUSED else {name: self.spikes[name]}
        read = [x.mean(-1) if kind == "rates" else x.reshape(len(x), -1).astype(np.float64) for x in chosen.values()]
        return np.concatenate(read, 1), self.labels


def feature_spikes(model: MultimodalSnn, data: MultimodalDataset, batch_size: int = 250) -> FeatureSpikes:
    """Run the deployed form of a network on a part of a data set."""
    device = next(model.parameters()).device
    spikes: dict[str, list[np.ndarray]] = {m: [] for m in model.config.modalities}
    right: dict[str, list[np.ndarray]] = {u: [] for u in model.head.head.outputs}
    labels = []
    for indices in torch.arange(len(data)).split(batch_size):
        inputs, truth = data.batch(indices.tolist())
        features, output = model.predict({m: x.to(device) for m, x in inputs.items()})
        for m, x in features.items():
            spikes[m].append(x.to(torch.uint8).cpu().numpy())
        for u, found in right.items():
            found.append((output.decision(u).argmax(1).cpu() == truth).numpy())
        labels.append(truth.numpy())
    joined = ({name: np.concatenate(x) for name, x in parts.items()} for parts in (spikes, right))
    return FeatureSpikes(next(joined), np.concatenate(labels), next(joined))


def fit_probe(train: Part, test: Part, validation: Part | None = None) -> dict[str, Any]:
    """Fit one probe to features and labels of the parts. Returns ``strength`` and the accuracies, as of `Probe`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train[0])
    parts = {name: (scaler.transform(p[0]), p[1]) for name, p in (("train", train), ("test", test))}
    parts |= {} if validation is None else {"validation": (scaler.transform(validation[0]), validation[1])}
    probe = LogisticRegression(max_iter=MAX_ITERATIONS, tol=TOLERANCE, warm_start=True)
    best: dict[str, Any] = {}
    for strength in STRENGTHS if validation is not None else (FIXED,):
        probe.set_params(C=strength).fit(*parts["train"])  # starts from the solution for the stronger penalty
        found = {name: 100 * float(probe.score(*p)) for name, p in parts.items()}
        if not best or found["validation"] > best["validation"]:
            best = {"strength": strength, "validation": None} | found
    return best


def probe_model(
    model: MultimodalSnn, parts: Splits, kind: Kind = "steps", names: Sequence[str] | None = None
) -> dict[str, Probe]:
    """A probe of every branch, and of all together under "fused" where there are several.

    Parameters
    ----------
    model : MultimodalSnn
        Trained.
    parts : Splits
        Of its data set, as it was trained with.
    kind : str
        "steps" or "rates".
    names : sequence of str, optional
        Only these.
    """
    fit, judge = feature_spikes(model, parts.train), feature_spikes(model, parts.test)
    choose = None if parts.validation is None else feature_spikes(model, parts.validation)
    found = {}
    for name in names or (*([FUSED] if len(fit.spikes) > 1 else []), *fit.spikes):
        train, test = fit.part(name, kind), judge.part(name, kind)
        result = fit_probe(train, test, None if choose is None else choose.part(name, kind))
        own = 100 * float(judge.right[name].mean()) if name in judge.right else None
        found[name] = Probe(train[0].shape[1], **result, head=own)
    return found
