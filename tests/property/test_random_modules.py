"""Random modules of SLAYER parts with torch functions between them: recorded exactly, or refused for a reason that holds."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from user_networks import NOW, lif

from taaf.export.recorder import record
from taaf.hw_sim.engine import Engine
from taaf.models.errors import UnsupportedLayerError

pytestmark = [pytest.mark.needs_slayer, pytest.mark.usefixtures("one_thread")]
REASONS = (
    "needs weights of",
    "max pooling of something",
    "max pooling of a layer that was unrolled",
    "unrolled to a matrix it takes",
)

Step = Callable[[torch.Tensor], torch.Tensor]


class RandomModule(nn.Module):
    """Up to seven parts, drawn while the shapes of a first example pass through."""

    def __init__(self, rng: np.random.Generator, example: torch.Tensor) -> None:
        super().__init__()
        self.parts, self.steps, x = nn.ModuleList(), [], example  # type: ignore[var-annotated]
        for _ in range(6):
            step = self._draw(rng, x)
            if step is not None:
                self.steps.append(step)
                x = step(x)
        self.end = self._part(self._cuba().Dense(lif(), int(np.prod(x.shape[1:-1])), 6, weight_scale=6, **NOW))

    @staticmethod
    def _cuba() -> object:
        from lava.lib.dl.slayer.block import cuba

        return cuba

    def _part(self, part: nn.Module) -> nn.Module:
        self.parts.append(part)
        return part

    def _draw(self, rng: np.random.Generator, x: torch.Tensor) -> Step | None:
        cuba, c, (height, width) = self._cuba(), x.shape[1], x.shape[2:4]
        kind, a, b = int(rng.integers(8)), int(rng.integers(2)), int(rng.integers(2))
        fields = [tuple(int(n) for n in rng.integers(low, high, 2)) for low, high in ((1, 4), (1, 3), (0, 2), (1, 3))]
        kernel, stride, padding, dilation = fields
        if kind <= 1:
            reach = [n + 2 * p - d * (k - 1) for n, p, d, k in zip((height, width), padding, dilation, kernel, strict=True)]
            if min(reach) < 1:
                return None
            how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": c if a else 1}
            return self._part(cuba.Conv(lif(threshold=1 + b), c, c if a else 3, kernel, weight_scale=3, **how, **NOW))  # type: ignore[attr-defined]
        pooled: Step = (
            (lambda x: F.max_pool3d(x, (2, 2, 1))) if a else (lambda x: 4 * F.avg_pool3d(x, (2, 2, 1), padding=(b, 0, 0)))
        )
        functions: dict[int, Step | None] = {
            2: pooled if min(height, width) >= 2 else None,
            3: (lambda x: x + x) if a else (lambda x: 2 * x - x),
            4: lambda x: torch.cat([x, x], 1),
            5: lambda x: F.pad(x, (0, 0, -a if width > 2 else a, 1, b, 2)),
            6: (lambda x: x[:, : max(1, c // 2)]) if a else (lambda x: x[:, :, ::2]),
        }
        if kind in functions:
            return functions[kind]
        smaller = a or x.numel() > 10_000
        block, scale = (cuba.Pool, 0.8) if smaller else (cuba.Unpool, 1.2)  # type: ignore[attr-defined]
        return self._part(block(lif(), 2, weight_scale=scale, **NOW))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            x = step(x)
        return self.end(x.flatten(1, 3))


def test_random_modules() -> None:
    exact = spikes = 0
    for seed in range(24):
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        x = torch.from_numpy((rng.random((2, 2, 4 + seed % 4, 6, 6)) < 0.4).astype(np.float32))
        with torch.no_grad():
            module = RandomModule(rng, x)
        try:
            recording = record(module, {"event": x})
        except UnsupportedLayerError as refused:
            assert any(reason in str(refused) for reason in REASONS), f"seed {seed}: {refused}"
            continue
        graph, evidence = recording.graphs["event"], recording.trace({"event": x})
        found = Engine(graph).run(x.numpy().astype(np.uint8), keep_all=True).spikes
        for name, trained in evidence.spikes["event"].items():
            assert np.array_equal(trained, found[name]), f"seed {seed}: {name}"
        exact, spikes = exact + 1, spikes + int(evidence.features["event"].sum())
    assert exact >= 15 and spikes > 100  # most are neither refused nor silent
