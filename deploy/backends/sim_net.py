"""A bare NetX file on the Lava runtime: stock ``netx.hdf5.Network`` of that very file, every layer recorded, no head."""

import contextlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from taaf.deploy.lava.board import shared_array
from taaf.deploy.lava.runtime import LavaRuntime, forgotten_afterwards, require_lava
from taaf.deploy.lava.streams import to_stream, to_windows
from taaf.export.targets.netx.read import NetxFile
from taaf.models.errors import RuntimeFailedError


def run_net(
    path: Path, file: NetxFile, spikes: np.ndarray, time_limit_s: float, tick: Callable[[int], Any] = lambda _: None
) -> tuple[dict[str, np.ndarray], int, float]:
    """Run windows (N, *shape, T) from rest: back to back with resets, or one network each (see `Graph.has_memory`).

    Returns
    -------
    spikes : dict
        LIF name -> (N, *shape, T) uint8, of every layer.
    n_steps : int
        Time steps executed, filling the pipeline included.
    wall_s : float
        Time of it, with compiling.

    Raises
    ------
    BackendUnavailableError
        If Lava cannot be imported.
    RuntimeFailedError
        If the runtime fails or exceeds ``time_limit_s``.
    """
    require_lava()
    size = 1 if file.graph.has_memory else len(spikes)
    begun, n_steps = time.perf_counter(), 0
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(spikes), size):
        left = max(time_limit_s - (time.perf_counter() - begun), 0.1)
        found, steps = _run_once(path, file, spikes[start : start + size], left)
        parts.append(found)
        n_steps += steps
        tick(size)
    joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    return joined, n_steps, time.perf_counter() - begun


def _run_once(path: Path, file: NetxFile, spikes: np.ndarray, time_limit_s: float) -> tuple[dict[str, np.ndarray], int]:
    from lava.lib.dl.netx.hdf5 import Network
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.source import RingBuffer

    from taaf.deploy.lava.processes.recorder import RecorderProcess

    graph, (n, window) = file.graph, (len(spikes), spikes.shape[-1])
    lifs = graph.lifs()
    steps = n * window + len(lifs)
    with forgotten_afterwards(), contextlib.redirect_stdout(io.StringIO()):
        how: dict[str, Any] = {
            "num_layers": file.n_layers,
            "skip_layers": file.skip_layers,
            "reset_interval": window,
            "reset_offset": 1,
        }
        how["input_shape"] = tuple(reversed(graph.input.shape))  # for files that do not say it
        try:
            network = Network(net_config=str(path), **how)
        except Exception as error:
            raise RuntimeFailedError(f"{path}: stock NetX cannot load it ({type(error).__name__}: {error})") from error
        network.net_config.f.close()  # stock NetX leaves the file open
        source = RingBuffer(data=to_stream(spikes, network.inp.shape, steps).astype(np.int32))
        source.s_out.connect(network.inp)
        rasters = {}
        for lif, layer in zip(lifs, network.layers, strict=True):
            rasters[lif.name] = shared_array((steps, *layer.out.shape))
            layer.out.connect(RecorderProcess(raster=rasters[lif.name]).a_in)
        with LavaRuntime(source, Loihi2SimCfg(select_tag="fixed_pt"), time_limit_s) as runtime:
            runtime.run(steps)
        found = {
            name: to_windows(raster, i, n, window, graph.shapes[name]).copy()
            for i, (name, raster) in enumerate(rasters.items(), start=1)
        }
    return found, steps
