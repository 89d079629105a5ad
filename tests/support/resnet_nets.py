"""Narrow spiking ResNet18 networks: all eight blocks, a few channels, small maps."""

import numpy as np
import torch

from taaf.export.frontend import float_graphs
from taaf.export.passes import CompileReport, compile_graph
from taaf.models.config import ModelConfig
from taaf.models.ir import Graph
from taaf.models.taaf import TaafSnn
from taaf.training.calibrate import calibrate
from taaf.training.datasets.generated import GeneratedPairs

TWIN = ModelConfig(
    first_name="visual", first_branch="resnet18", audio_branch="resnet18", features=6, classes=6, event_steps=3, audio_steps=3,
    aligned_steps=3, resnet_width=2, frame_size=33, audio_bins=40, audio_frames=24,
)  # fmt: skip


def calibrated_twin(config: ModelConfig = TWIN, samples: int = 4) -> TaafSnn:
    """A narrow random network whose layers fire; needs SLAYER."""
    torch.manual_seed(3)
    model = TaafSnn(config)
    first, second, _ = GeneratedPairs(config, "train").batch(range(samples))
    calibrate(model, first, second)
    return model.eval()


def compiled(model: TaafSnn) -> tuple[dict[str, Graph], dict[str, Graph], CompileReport]:
    """Integer graphs before relay lowering, chains, and the compiler's report."""
    report = CompileReport()
    pairs = {name: compile_graph(graph, True, report) for name, graph in float_graphs(model).items()}
    return {n: p[0] for n, p in pairs.items()}, {n: p[1] for n, p in pairs.items()}, report


def levels_of(model: TaafSnn, n: int) -> dict[str, np.ndarray]:
    """Test inputs of a network as input levels, int8 (N, C, H, W, T)."""
    from taaf.training.config import DataConfig
    from taaf.training.sources import open_windows

    return open_windows(DataConfig(set="generated"), model.config, "test", limit=n).inputs
