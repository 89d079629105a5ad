"""Backend ``fast``: the exact engine of hw_sim and the NumPy host head, in this process."""

import time

import numpy as np

from taaf.deploy.backends.base import BackendResult, pad_window
from taaf.export.bundle.reader import Bundle
from taaf.hw_sim.early_exit import anytime_logits, cut, exit_steps
from taaf.hw_sim.engine import Engine


def run_fast(bundle: Bundle, inputs: dict[str, np.ndarray], confidence: float | None = None) -> BackendResult:
    """Run all windows of ``inputs`` ({branch: (N, *shape, T) uint8}); counts include the idle steps of a window.

    With ``confidence`` the head decides as soon as it is that sure (`taaf.hw_sim.early_exit`), and the input of a window
    falls silent once the decision has reached the source, as on the Lava runtime.
    """
    engines = {name: Engine(graph) for name, graph in bundle.graphs.items()}
    padded = {name: pad_window(inputs[name], bundle.window_steps) for name in engines}
    started = time.perf_counter()
    results = {name: engine.run(padded[name]) for name, engine in engines.items()}
    features = {name: bundle.features_of(name, r.spikes[bundle.graphs[name].output]) for name, r in results.items()}
    steps = None
    if confidence is not None:
        steps, _ = exit_steps(anytime_logits(bundle.head.fused, features, bundle.window_steps), confidence)
        results = {name: engine.run(cut(padded[name], steps + bundle.depth)) for name, engine in engines.items()}
        features = {b: bundle.features_of(b, r.spikes[bundle.graphs[b].output]) for b, r in results.items()}
    seen = features if steps is None else {b: cut(f, steps) for b, f in features.items()}
    logits = bundle.head(seen).logits
    wall_s = time.perf_counter() - started
    n_steps = bundle.window_steps * len(next(iter(inputs.values())))
    return BackendResult(features, logits, {n: r.activity for n, r in results.items()}, {}, n_steps, wall_s, steps)
