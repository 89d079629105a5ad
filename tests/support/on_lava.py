"""Run a chain on the stock Lava runtime through a NetX file, every layer recorded."""

import tempfile
from pathlib import Path

import numpy as np
from engines import run_engines

from taaf.deploy.lava.board import shared_array
from taaf.deploy.lava.runtime import LavaRuntime, require_lava
from taaf.export.passes import CompileReport
from taaf.export.targets.netx.write import write_netx
from taaf.hw_sim.reference import run_reference
from taaf.models.ir import Graph


def run_on_lava(graph: Graph, spikes: np.ndarray, reset_offset: int = 1) -> dict[str, np.ndarray]:
    """Windows back to back; returns LIF name -> (N, *shape, T) uint8."""
    require_lava()
    from lava.lib.dl.netx.hdf5 import Network
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.source import RingBuffer

    from taaf.deploy.lava.processes.recorder import RecorderProcess

    n, window = len(spikes), spikes.shape[-1]
    lifs = graph.lifs()
    steps = n * window + len(lifs)
    stream = np.moveaxis(spikes, 0, -2).reshape(*graph.input.shape, n * window)
    stream = np.concatenate([stream, np.zeros((*graph.input.shape, len(lifs)), np.uint8)], axis=-1).astype(np.int32)
    with tempfile.TemporaryDirectory() as folder:
        write_netx(graph, Path(folder) / "net.net")
        network = Network(net_config=f"{folder}/net.net", reset_interval=window, reset_offset=reset_offset)
        flat = len(network.inp.shape) == 1  # also where the chain starts with flattening
        source = RingBuffer(data=stream.reshape(-1, steps) if flat else stream.transpose(2, 1, 0, 3))
        source.s_out.connect(network.inp)
        rasters = {}
        for lif, layer in zip(lifs, network.layers, strict=True):
            rasters[lif.name] = shared_array((steps, *layer.out.shape))
            layer.out.connect(RecorderProcess(raster=rasters[lif.name]).a_in)
        with LavaRuntime(source, Loihi2SimCfg(select_tag="fixed_pt"), 60) as runtime:
            runtime.run(steps)
        found = {}
        for delay, lif in enumerate(lifs, start=1):
            rows = rasters[lif.name][delay : delay + n * window]
            rows = rows.transpose(0, 3, 2, 1) if rows.ndim == 4 else rows
            found[lif.name] = np.moveaxis(rows.reshape(n, window, *graph.shapes[lif.name]), 1, -1)
        return found


def assert_chain_agrees(
    integer: Graph, chain: Graph, report: CompileReport, spikes: np.ndarray, trained: dict[str, np.ndarray]
) -> None:
    """Training's spikes of every population, none silent, = reference before lowering; then every layer of the chain, relays
    included, = engine = Lava, for input (N, *shape, T)."""
    traces = [run_reference(integer, window).spikes for window in spikes]
    before = {name: np.stack([t[name] for t in traces]) for name in traces[0]}
    assert {lif.name for lif in integer.lifs()} <= set(before) and integer.output in trained
    for name, expected in trained.items():
        assert expected.any(), name
        np.testing.assert_array_equal(before[name], expected, f"{integer.name}.{name}")
    fast, on_lava = run_engines(chain, spikes).spikes, run_on_lava(chain, spikes)
    for lif, exact in report.expected(chain, before).items():
        np.testing.assert_array_equal(fast[lif], exact, f"engine: {chain.name}.{lif}")
        np.testing.assert_array_equal(on_lava[lif], exact, f"Lava: {chain.name}.{lif}")
    np.testing.assert_array_equal(fast[chain.output], before[integer.output])
