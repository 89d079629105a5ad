"""The host head process gets every window whole, however far one branch is ahead of the other."""

import numpy as np
import pytest

from taaf.deploy.lava.runtime import LavaRuntime, require_lava
from taaf.models.host_head import MODALITIES, HostHead

pytestmark = pytest.mark.needs_lava


def _head(rng: np.random.Generator, steps: dict[str, int], features: int, classes: int) -> dict[str, np.ndarray]:
    arrays = {f"align_{m}_weight": rng.uniform(0.2, 1, (2, steps[m], 3)) for m in MODALITIES}
    arrays |= {f"align_{m}_bias": np.full(2, -0.2) for m in MODALITIES}
    arrays |= {"classifier_weight": rng.normal(0, 1, (classes, 2 * features)), "classifier_bias": rng.normal(0, 1, classes)}
    return arrays | {"query": np.eye(classes), "key": np.eye(classes)}


@pytest.mark.parametrize(
    ("window", "steps", "delays"),
    [
        (1, {"event": 1, "audio": 1}, {"event": 1, "audio": 5}),
        (2, {"event": 2, "audio": 1}, {"event": 6, "audio": 1}),
        (3, {"event": 2, "audio": 3}, {"event": 1, "audio": 5}),
        (4, {"event": 4, "audio": 3}, {"event": 3, "audio": 3}),
    ],
)
def test_branches_of_any_depth(window: int, steps: dict[str, int], delays: dict[str, int]) -> None:
    """Two buffered windows were too few where the delays differ by more than a window."""
    require_lava()
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.source import RingBuffer

    from taaf.deploy.lava.processes.host_head import HostHeadProcess

    rng = np.random.default_rng(0)
    n, n_features, classes = 6, 5, 3
    arrays = _head(rng, steps, n_features, classes)
    spec = {"fusion": "concat", "attention": "taaf", "attention_on": "logits", "features": n_features, "classes": classes}
    spikes = {m: (rng.random((n, n_features, window)) < 0.5).astype(np.int32) for m in MODALITIES}
    head = HostHeadProcess(
        arrays=arrays, spec=spec, n_windows=n, window_steps=window, input_steps=steps, delays=delays,
        shapes=dict.fromkeys(MODALITIES, (n_features,)), classes=classes,
    )  # fmt: skip
    total = n * window + max(delays.values())
    for m, port in zip(MODALITIES, (head.first_in, head.second_in), strict=True):
        stream = np.ones((n_features, total), np.int32)  # what arrives before the first window is noise
        stream[:, delays[m] : delays[m] + n * window] = np.moveaxis(spikes[m], 0, 1).reshape(n_features, -1)
        RingBuffer(data=stream).s_out.connect(port)
    with LavaRuntime(head, Loihi2SimCfg(select_tag="fixed_pt"), 60) as runtime:
        runtime.run(total)
        logits = dict(zip(("fused", *MODALITIES), (head.fused_logits, head.first_logits, head.second_logits), strict=True))
        found = {u: runtime.read(v) for u, v in logits.items()}
        assert runtime.read(head.windows_done)[0] == n
    expected = HostHead(arrays, spec)({m: spikes[m][..., : steps[m]] for m in MODALITIES}).logits
    for u in found:
        assert len(np.unique(expected[u].round(6), axis=0)) > 1
        np.testing.assert_allclose(found[u], expected[u], atol=1e-9)
