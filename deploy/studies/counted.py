"""Effective SynOps of a trained checkpoint, counted by the exact engine: what training studies cannot count themselves."""

from pathlib import Path

from taaf.export.bundle.reader import in_shape
from taaf.export.checkpointed import TrainedNetwork
from taaf.export.passes import CompileReport, compile_graph
from taaf.hw_sim.counters import count
from taaf.hw_sim.engine import Engine
from taaf.training.config import from_dict
from taaf.training.sources import open_windows

WINDOWS = 200


def synops_per_window(checkpoint: Path) -> dict[str, float]:
    """Mean over the first `WINDOWS` windows of the test part, all branches, relays of stock NetX included."""
    network = TrainedNetwork(checkpoint, own_code=True)
    config = from_dict(network.provenance["config"])
    windows = open_windows(config.data, config.network.inputs, "test", limit=WINDOWS)
    total = 0
    for modality, graph in network.graphs.items():
        _, chain = compile_graph(graph, True, CompileReport())
        ran = Engine(chain).run(in_shape(windows.inputs[modality][:WINDOWS], chain.input.shape))
        total += sum(layer.effective_synops for layer in count(chain, ran.activity))
    return {"synops_per_window": total / min(WINDOWS, len(windows))}
