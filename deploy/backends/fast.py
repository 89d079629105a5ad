"""Backend ``fast``: the exact engine of hw_sim and the NumPy host head, in this process."""

import time

import numpy as np

from taaf.deploy.backends.base import BackendResult, pad_window
from taaf.export.bundle import Bundle
from taaf.hw_sim.engine import Engine


def run_fast(bundle: Bundle, inputs: dict[str, np.ndarray]) -> BackendResult:
    """Run all windows of ``inputs`` ({branch: (N, *shape, T) uint8}); counts include the idle steps of a window."""
    engines = {name: Engine(graph) for name, graph in bundle.graphs.items()}
    padded = {name: pad_window(inputs[name], bundle.window_steps) for name in engines}
    started = time.perf_counter()
    results = {name: engine.run(padded[name]) for name, engine in engines.items()}
    features = {name: r.spikes[bundle.graphs[name].output][..., : bundle.input_steps(name)] for name, r in results.items()}
    logits = bundle.head(features).logits
    wall_s = time.perf_counter() - started
    n_steps = bundle.window_steps * len(next(iter(inputs.values())))
    return BackendResult(features, logits, {n: r.activity for n, r in results.items()}, {}, n_steps, wall_s)
