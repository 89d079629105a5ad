"""The host head process gets every window whole, however many branches there are and however far one is ahead of another."""

from typing import Any

import numpy as np
import pytest

from taaf.deploy.lava.board import Board
from taaf.deploy.lava.runtime import LavaRuntime, require_lava
from taaf.models.host_head import HostHead

pytestmark = pytest.mark.needs_lava
N_FEATURES, CLASSES = 6, 3


def _head(rng: np.random.Generator, kind: str, steps: dict[str, int]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and description."""
    inputs = {m: {"shape": [N_FEATURES], "steps": n} for m, n in steps.items()}
    spec: dict[str, Any] = {"type": kind, "classes": CLASSES, "inputs": inputs}
    if kind == "rate":
        return {}, spec
    arrays = {f"align_{m}_weight": rng.uniform(0.2, 1, (2, n, 3)) for m, n in steps.items()}
    arrays |= {f"align_{m}_bias": np.full(2, -0.2) for m in steps}
    arrays |= {"classifier_weight": rng.normal(0, 1, (CLASSES, N_FEATURES * len(steps))), "classifier_bias": np.arange(3) / 7}
    return arrays | {"query": np.eye(CLASSES), "key": np.eye(CLASSES)}, {**spec, "aligned_steps": 2}


@pytest.mark.parametrize(
    ("kind", "window", "steps", "delays"),
    [
        ("taaf", 1, {"event": 1, "audio": 1}, {"event": 1, "audio": 5}),
        ("taaf", 2, {"event": 2, "audio": 1}, {"event": 6, "audio": 1}),
        ("taaf", 3, {"event": 2, "audio": 3, "touch": 1}, {"event": 1, "audio": 5, "touch": 2}),
        ("rate", 4, {"event": 4, "audio": 3}, {"event": 3, "audio": 3}),
        ("taaf", 2, {"only": 2}, {"only": 3}),
    ],
)
def test_branches_of_any_depth(kind: str, window: int, steps: dict[str, int], delays: dict[str, int]) -> None:
    """Two buffered windows were too few where the delays differ by more than a window."""
    require_lava()
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.source import RingBuffer

    from taaf.deploy.lava.processes.host_head import HOST_HEADS

    rng = np.random.default_rng(0)
    n = 6
    arrays, spec = _head(rng, kind, steps)
    spikes = {m: (rng.random((n, N_FEATURES, window)) < 0.5).astype(np.int32) for m in steps}
    board = Board(n, window, {}, (1 + len(steps), CLASSES))
    board.taken[:] = 1
    board.open()
    head: Any = HOST_HEADS[len(steps)](
        arrays=arrays, spec=spec, board=board, guard_steps=0, delays=delays, shapes=dict.fromkeys(steps, (N_FEATURES,))
    )
    total = n * window + max(delays.values())
    sources = []
    for i, m in enumerate(steps):
        stream = np.ones((N_FEATURES, total), np.int32)  # what arrives before the first window is noise
        stream[:, delays[m] : delays[m] + n * window] = np.moveaxis(spikes[m], 0, 1).reshape(N_FEATURES, -1)
        sources.append(RingBuffer(data=stream))
        sources[-1].s_out.connect(getattr(head, f"in_{i}"))
    with LavaRuntime(head, Loihi2SimCfg(select_tag="fixed_pt"), 60) as runtime:
        runtime.run(total)
    assert [board.wait() for _ in range(n)] == list(range(n))
    found = np.stack([board.decision(slot)[0] for slot in range(n)], axis=1)
    board.close()
    expected = HostHead(arrays, spec)({m: spikes[m][..., : steps[m]] for m in steps}).logits
    assert list(expected) == ["fused", *steps] and found.shape == (1 + len(steps), n, CLASSES)
    for logits, wanted in zip(found, expected.values(), strict=True):
        assert len(np.unique(wanted.round(6), axis=0)) > 1
        np.testing.assert_allclose(logits, wanted, atol=1e-9)
