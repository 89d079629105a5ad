"""Files that stock lava-dl exports give, on engine and reference, exactly the spikes of the slayer network they came from."""

from pathlib import Path

import numpy as np
import pytest
import slayer_files
from engines import run_engines
from timeline import on_lava_time

from taaf.export.targets.netx.read import read_netx_file
from taaf.hw_sim.reference import run_reference

pytestmark = pytest.mark.needs_slayer


@pytest.mark.parametrize(("blocks", "shape"), [("convolutions", (2, 8, 8)), ("own_decays", (30,))])
@pytest.mark.parametrize("seed", range(2))
def test_engine_equals_slayer(blocks: str, shape: tuple[int, ...], seed: int, tmp_path: Path) -> None:
    """Grouped and dilated convolutions, axonal delays, decays per neuron, recurrence: layer i is i steps later in slayer."""
    made = slayer_files.make(tmp_path / "x.net", getattr(slayer_files, blocks), shape, seed=seed)
    graph = read_netx_file(made.path, "x").graph
    fast = run_engines(graph, made.spikes).spikes
    exact = run_reference(graph, made.spikes[0]).spikes
    for later, (lif, trained) in enumerate(zip(graph.lifs(), made.trained, strict=True), start=1):
        ours = fast[lif.name]
        assert 0.02 < ours.mean() < 0.9
        np.testing.assert_array_equal(ours[..., :-later], trained.reshape(ours.shape)[..., later:], err_msg=lif.name)
        np.testing.assert_array_equal(ours[0], exact[lif.name])


def test_mean_only_norm(tmp_path: Path) -> None:
    """Its bias is exported right. In slayer it acts from step 0 in every layer, which the file cannot say: a note does."""
    made = slayer_files.make(tmp_path / "x.net", slayer_files.mean_norms, (30,), norm=True)
    file = read_netx_file(made.path, "x")
    assert all(lif.bias is not None and lif.bias.any() for lif in file.graph.lifs())
    assert "act while the pipeline fills" in file.notes[-1]
    for spikes, *trained in zip(made.spikes, *made.trained, strict=True):
        trace = on_lava_time(file.graph, spikes, lambda _: [1])
        for lif, expected in zip(file.graph.lifs(), trained, strict=True):
            np.testing.assert_array_equal(trace.spikes[lif.name][..., 1:], expected[..., 1:])
