"""Narrow spiking ResNet18 networks: all eight blocks, a few channels, small maps."""

from typing import Any

import numpy as np
import torch

from taaf.export.frontend import float_graphs
from taaf.export.passes import CompileReport, compile_graph
from taaf.models.config import NetworkConfig
from taaf.models.ir import Graph
from taaf.models.network import MultimodalSnn
from taaf.training.calibrate import calibrate
from taaf.training.datasets.generated import GeneratedPairs


def twin_tables(width: int = 2, features: int = 6) -> dict[str, Any]:
    """Frames of 33 x 33 and spectrograms of 40 x 24, three steps each."""
    own = {"network": "resnet18", "steps": 3, "width": width, "features": features}
    visual, audio = {**own, "shape": [3, 33, 33], "scale": 32}, {**own, "shape": [1, 40, 24], "scale": 8}
    return {
        "branches": {"visual": visual, "audio": audio}, "head": {"type": "taaf", "classes": 6, "aligned_steps": 3}
    }  # fmt: skip


def twin(width: int = 2, features: int = 6) -> NetworkConfig:
    """`twin_tables` as a configuration."""
    return NetworkConfig.from_dict(twin_tables(width, features))


TWIN = twin()


def calibrated_twin(config: NetworkConfig = TWIN, samples: int = 4) -> MultimodalSnn:
    """A narrow random network whose layers fire; needs SLAYER."""
    torch.manual_seed(3)
    model = MultimodalSnn(config)
    inputs, _ = GeneratedPairs(config.inputs, "train").batch(range(samples))
    calibrate(model, inputs)
    return model.eval()


def compiled(model: MultimodalSnn) -> tuple[dict[str, Graph], dict[str, Graph], CompileReport]:
    """Integer graphs before relay lowering, chains, and the compiler's report."""
    report = CompileReport()
    pairs = {name: compile_graph(graph, True, report) for name, graph in float_graphs(model).items()}
    return {n: p[0] for n, p in pairs.items()}, {n: p[1] for n, p in pairs.items()}, report


def levels_of(model: MultimodalSnn, n: int) -> dict[str, np.ndarray]:
    """Test inputs of a network as input levels, int8 (N, C, H, W, T)."""
    from taaf.training.config import DataConfig
    from taaf.training.sources import open_windows

    return open_windows(DataConfig(set="generated"), model.config.inputs, "test", limit=n).inputs
