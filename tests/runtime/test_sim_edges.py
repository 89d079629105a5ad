"""The sim backend where pipelines are awkward: windows shorter than the chains, unequal depths, chains that start flat."""

from pathlib import Path

import numpy as np
import pytest
from small_graphs import chain_of, weights

from taaf.deploy.backends.base import joined, split
from taaf.deploy.backends.fast import run_fast
from taaf.deploy.backends.sim import SimBackend, run_sim
from taaf.export.bundle.reader import Bundle
from taaf.export.limits import check_limits
from taaf.export.targets.netx.write import write_netx
from taaf.hw_sim.early_exit import anytime_logits, cut
from taaf.hw_sim.engine import Engine
from taaf.models.errors import GraphError
from taaf.models.host_head import HostHead, leading_probability
from taaf.models.ir import Dense, Flatten, Graph, Input, Lif, Node

pytestmark = pytest.mark.needs_lava
MODALITIES = ("event", "audio")


def _layers(rng: np.random.Generator, n: int, *sizes: int) -> list[Node]:
    nodes: list[Node] = []
    for i, size in enumerate(sizes):
        bias = rng.integers(0, 25, size).astype(np.int32)
        nodes += [Dense(f"d{i}", weights(rng, size, n)), Lif(f"l{i}", v_th_mant=30, bias=bias)]
        n = size
    return nodes


def _bundle(folder: Path, window: int) -> Bundle:
    """What `run_sim` reads of a bundle: one flat start and one layer against five layers."""
    rng = np.random.default_rng(3)
    event = [Input("input", (2, 3, 4)), Flatten("flatten"), *_layers(rng, 24, 5)]
    audio = [Input("input", (6,)), *_layers(rng, 6, 7, 7, 7, 7, 5)]
    graphs: dict[str, Graph] = {"event": chain_of(*event), "audio": chain_of(*audio)}
    for name, graph in graphs.items():
        check_limits(graph)
        write_netx(graph, folder / f"{name}.net")
    arrays = {f"align_{m}_weight": rng.uniform(0.2, 1, (2, window, 3)) for m in MODALITIES}
    arrays |= {f"align_{m}_bias": np.full(2, -0.2) for m in MODALITIES}
    arrays |= {"classifier_weight": rng.normal(0, 1, (3, 10)), "classifier_bias": np.zeros(3)}
    branches = {m: {"file": f"{m}.net", "input_steps": window} for m in MODALITIES}
    manifest = {"branches": branches, "labels": ["a", "b", "c"], "window_steps": window}
    inputs = {m: {"shape": [5], "steps": window} for m in MODALITIES}
    spec = {"type": "taaf", "classes": 3, "inputs": inputs, "aligned_steps": 2}
    return Bundle(folder, manifest, graphs, HostHead(arrays | {"query": np.eye(3), "key": np.eye(3)}, spec), {})


@pytest.mark.parametrize("window", [1, 2, 4])
def test_short_windows(window: int, tmp_path: Path) -> None:
    """Every spike of every layer and every logit, five biased layers against one; also in a network that paused in between."""
    bundle = _bundle(tmp_path, window)
    rng = np.random.default_rng(4)
    inputs = {m: (rng.random((7, *g.input.shape, window)) < 0.5).astype(np.uint8) for m, g in bundle.graphs.items()}
    w = list(split(inputs))
    with SimBackend(bundle, None, True, 60) as backend:  # type: ignore[arg-type]
        whole = backend.run(inputs, 60)
        (alone,) = backend.answers([w[0]])
        paused = [alone, *backend.answers([w[1], None, None, w[2], w[3], w[4], None, w[5]])]
        next(backend.answers([w[3], w[2], None]))  # nobody waits for the second
        results = (whole, joined([*paused, *backend.answers([w[6]])], 0.0))
    assert whole.n_steps == 7 * window + 5
    for result in results:
        for name, graph in bundle.graphs.items():
            exact = Engine(graph).run(inputs[name], keep_all=True).spikes
            for lif, expected in exact.items():
                np.testing.assert_array_equal(result.layers[name][lif], expected, err_msg=f"{name}.{lif}")
            assert exact[graph.output].any() and not exact[graph.output].all()
        expected_logits = bundle.head(result.features).logits
        for output in ("fused", *MODALITIES):
            np.testing.assert_allclose(result.logits[output], expected_logits[output], atol=1e-9)


def test_inputs_that_are_no_spikes(tmp_path: Path) -> None:
    """Counts of events are refused before Lava turns each of them into one spike."""
    bundle = _bundle(tmp_path, 2)
    inputs = {m: np.full((1, *g.input.shape, 2), 3, np.uint8) for m, g in bundle.graphs.items()}
    with pytest.raises(GraphError, match=r"net\.input: input holds values other than 0 and 1 \(up to 3\)"):
        run_sim(bundle, inputs, 60)  # type: ignore[arg-type]


@pytest.mark.parametrize("window", [2, 9])
def test_early_exit_equals_the_engine(window: int, tmp_path: Path) -> None:
    """Decision steps, logits and every spike behind the silenced input; 9 steps leave room to silence, 2 do not."""
    bundle = _bundle(tmp_path, window)
    rng = np.random.default_rng(5)
    inputs = {m: (rng.random((8, *g.input.shape, window)) < 0.5).astype(np.uint8) for m, g in bundle.graphs.items()}
    full = run_fast(bundle, inputs)  # type: ignore[arg-type]
    first = anytime_logits(bundle.head.fused, full.features, window)[0]
    confidence = float(np.median(leading_probability(first)))  # half of the windows stop at once
    found = run_sim(bundle, inputs, 60, confidence=confidence)  # type: ignore[arg-type]
    expected = run_fast(bundle, inputs, confidence)  # type: ignore[arg-type]
    assert found.exit_steps is not None and expected.exit_steps is not None
    np.testing.assert_array_equal(found.exit_steps, expected.exit_steps)
    assert len(set(expected.exit_steps.tolist())) > 1
    for u, logits in expected.logits.items():
        np.testing.assert_allclose(found.logits[u], logits, atol=1e-9)
    for name, graph in bundle.graphs.items():
        silenced = cut(inputs[name], expected.exit_steps + bundle.depth)
        assert (silenced.sum() < inputs[name].sum()) == (window == 9)
        for lif, spikes in Engine(graph).run(silenced, keep_all=True).spikes.items():
            np.testing.assert_array_equal(found.layers[name][lif], spikes, err_msg=f"{name}.{lif}")
        for node, counts in expected.activity[name].spikes.items():
            np.testing.assert_array_equal(found.activity[name].spikes[node], counts)
