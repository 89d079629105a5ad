"""Users' networks, recorded: SLAYER, the reference and the engine agree on every spike of every population."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from recorder_checks import require_same_spikes
from torch import nn
from user_networks import NETWORKS, UserNetwork, built, examples

from taaf.export.recorder import record

pytestmark = [pytest.mark.needs_slayer, pytest.mark.usefixtures("one_thread")]


def _parts(module: Any) -> list[nn.Module]:
    roots = module.values() if isinstance(module, Mapping) else [module]
    return [part for root in roots for part in root.modules()]


def _fingerprint(module: Any) -> list[dict[str, Any]]:
    """Everything that a module holds, tensors by value, the rest by identity or value."""

    def content(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return (id(value), value.data_ptr(), value.detach().numpy().tobytes(), value.requires_grad)
        if isinstance(value, Mapping):
            return {key: content(v) for key, v in value.items()}
        return value if isinstance(value, int | float | str | tuple | bool | None) else id(value)

    return [{key: content(value) for key, value in vars(part).items()} for part in _parts(module)]


def _answer(module: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The module's own output in eval mode, from cleared states, without the recorder."""
    copied = copy.deepcopy(module)
    for part in _parts(copied):
        part.eval()
        for state in ("current_state", "voltage_state"):
            if hasattr(part, state):
                setattr(part, state, torch.zeros(1))
        if hasattr(part, "delay_buffer"):
            part.delay_buffer = None
    with torch.no_grad():
        if isinstance(copied, Mapping):
            out: Any = [copied[m](x) for m, x in inputs.items()]
            out = copied["head"](*out) if "head" in copied else out
        else:
            out = copied(*inputs.values())
    out = out.values() if isinstance(out, Mapping) else out
    return [out] if isinstance(out, torch.Tensor) else list(out)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
def test_users_network(network: UserNetwork) -> None:
    module, inputs = built(network), examples(network, 3, seed=7)
    before, answer = _fingerprint(module), _answer(module, inputs)
    recording = record(module, examples(network, 2, seed=8))
    require_same_spikes(recording, inputs)
    evidence = recording.trace(inputs)
    assert all(np.array_equal(a.numpy(), b) for a, b in zip(answer, evidence.outputs, strict=True))
    assert (recording.host is not None) == network.host
    if recording.host is not None:
        features = [torch.from_numpy(evidence.features[m]).float() for m in recording.modalities]
        found = recording.host(*features)
        found = list(found.values()) if isinstance(found, Mapping) else list(found) if isinstance(found, tuple) else [found]
        assert all(torch.equal(a, b) for a, b in zip(answer, found, strict=True))
    else:
        for (modality, graph), out in zip(recording.graphs.items(), answer, strict=True):
            lag, feature = recording.lags[modality].get(graph.output, 0), evidence.features[modality]
            steps = out.shape[-1] - lag
            assert np.array_equal(
                out[..., lag:].reshape(len(out), -1, steps).numpy(), feature[..., :steps].reshape(len(out), -1, steps)
            )
    assert _fingerprint(module) == before
