"""The comparison that every recorded network must pass: SLAYER, reference and engine, every spike."""

import numpy as np
import torch

from taaf.export.recorder import Recording
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.reference import run_reference
from taaf.models.ir.stage import require_integer_stage


def require_same_spikes(recording: Recording, inputs: dict[str, torch.Tensor]) -> None:
    """Every spike of every population that SLAYER shows, on two windows by the reference, on all by the engine."""
    evidence = recording.trace(inputs)
    for modality, graph in recording.graphs.items():
        require_integer_stage(graph)
        spikes = inputs[modality].numpy().astype(np.uint8)
        fast = Engine(graph).run(spikes, keep_all=True).spikes
        slow = [run_reference(graph, window).spikes for window in spikes[:2]]
        assert set(evidence.spikes[modality]) == {lif.name for lif in graph.lifs()}
        for name, trained in evidence.spikes[modality].items():
            known = evidence.steps[modality][name]
            assert known > spikes.shape[-1] // 2 and trained.shape == (len(spikes), *graph.shapes[name], spikes.shape[-1])
            assert 0 < trained[..., :known].mean() < 1, name
            assert np.array_equal(trained[..., :known], fast[name][..., :known]), name
            for one, window in zip(slow, trained, strict=False):
                assert np.array_equal(one[name][..., :known], window[..., :known]), name
        known = evidence.feature_steps[modality]
        assert np.array_equal(evidence.features[modality][..., :known], fast[graph.output][..., :known])
