"""Backend ``sim``: the Lava runtime with stock NetX networks on the Loihi simulator, the head on a host process.

    RingBuffer (encoded spikes) -> netx.hdf5.Network, one per branch -> HostHeadProcess
                                     every layer -> RecorderProcess (measurement only)

With early exit the source is a process of ours that the head tells to fall silent; everything else stays the same.
Windows follow each other without a gap; every layer resets its neurons at its own phase (LIFReset).
"""

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from taaf.deploy.backends.base import BackendResult, joined
from taaf.deploy.lava.runtime import LavaRuntime, forgotten_afterwards, require_lava
from taaf.deploy.lava.streams import to_stream, to_windows
from taaf.export.bundle.reader import Bundle
from taaf.hw_sim.early_exit import cut
from taaf.hw_sim.engine import Activity
from taaf.models.errors import BackendUnavailableError, OutputError
from taaf.models.ir import Shape
from taaf.models.ir.stage import require_spikes


def run_sim(
    bundle: Bundle,
    inputs: dict[str, np.ndarray],
    time_limit_s: float,
    tick: Callable[[int], Any] = lambda _: None,
    confidence: float | None = None,
) -> BackendResult:
    """Run the windows of ``inputs`` ({branch: (N, *shape, T) uint8}); ``tick(n)`` is called as windows finish.

    Raises
    ------
    BackendUnavailableError
        If Lava cannot be imported.
    RuntimeFailedError
        If the runtime fails or exceeds ``time_limit_s``.
    """
    require_lava()
    if bundle.pipelined:
        return _run_once(bundle, inputs, time_limit_s, tick, confidence)
    n, begun = len(next(iter(inputs.values()))), time.perf_counter()
    parts = []
    for window in range(n):  # spikes that wait in synapses must not reach the next window
        left = max(time_limit_s - (time.perf_counter() - begun), 0.1)
        parts.append(_run_once(bundle, {b: x[window : window + 1] for b, x in inputs.items()}, left, tick, confidence))
    return joined(parts)


def _run_once(
    bundle: Bundle, inputs: dict[str, np.ndarray], time_limit_s: float, tick: Callable[[int], Any], confidence: float | None
) -> BackendResult:
    from lava.magma.core.run_configs import Loihi2SimCfg

    with (
        tempfile.TemporaryDirectory(prefix="taaf-sim-") as folder,
        contextlib.redirect_stdout(io.StringIO()),
        forgotten_afterwards(),
    ):
        try:
            network = LavaNetwork(bundle, inputs, Path(folder), confidence=confidence)
        except OSError as error:
            raise OutputError(
                f"{folder}: streams of the run cannot be written ({error.strerror or error}); free space, run fewer "
                "--samples, or set TMPDIR to another place"
            ) from error
        return network.run(Loihi2SimCfg(select_tag="fixed_pt"), time_limit_s, tick)


class LavaNetwork:
    """The process graph of a bundle for a given number of windows; compiles and runs once, as Lava does.

    With ``folder`` every layer is recorded there. ``on_chip`` puts lava-loihi's adapters between host and chip; then
    only what the host head receives is known.
    """

    def __init__(
        self,
        bundle: Bundle,
        inputs: dict[str, np.ndarray],
        folder: Path | None,
        on_chip: bool = False,
        confidence: float | None = None,
    ) -> None:
        from lava.lib.dl.netx.hdf5 import Network

        from taaf.deploy.lava.processes.host_head import HOST_HEADS

        if len(bundle.graphs) not in HOST_HEADS:
            raise BackendUnavailableError(
                f"{bundle.path}: {len(bundle.graphs)} branches; the host process has up to {max(HOST_HEADS)}"
            )
        self.bundle, self.guard = bundle, bundle.guard_steps if bundle.pipelined else 0
        self.window = self.guard + bundle.window_steps
        self.n_windows = len(next(iter(inputs.values())))
        self.delays = {name: len(graph.lifs()) for name, graph in bundle.graphs.items()}
        self.n_steps = self.n_windows * self.window + max(self.delays.values())
        self.rasters: dict[tuple[str, str], tuple[np.ndarray, int, Shape]] = {}
        self.head: Any = HOST_HEADS[len(bundle.graphs)](
            arrays=bundle.head.arrays, spec=bundle.head.head.spec(), n_windows=self.n_windows, window_steps=self.window,
            guard_steps=self.guard, delays=self.delays, shapes={b: graph.shapes[graph.output] for b, graph in bundle.graphs.items()},
            n_outputs=len(bundle.head.outputs), classes=bundle.head.head.classes, confidence=confidence,
        )  # fmt: skip
        self.inputs, self.confidence, self.folder = inputs, confidence, folder
        for i, (name, graph) in enumerate(bundle.graphs.items()):
            file = bundle.path / bundle.manifest["branches"][name]["file"]
            network = Network(net_config=str(file), reset_interval=self.window, reset_offset=1 + self.guard)
            network.net_config.f.close()  # stock NetX leaves the file open
            self._connect(self._source(name, network.inp.shape), network, getattr(self.head, f"in_{i}"), on_chip)
            if folder is None:
                continue
            for lif, layer in zip(graph.lifs(), network.layers, strict=True):
                self._record((name, lif.name), layer, graph.shapes[lif.name], folder)

    @staticmethod
    def _connect(source: Any, network: Any, port: Any, on_chip: bool) -> None:
        if not on_chip:
            source.s_out.connect(network.inp)
            network.out.connect(port)
            return
        from lava.proc import embedded_io  # lava-loihi

        kind = embedded_io.spike.PyToN3ConvAdapter if len(network.inp.shape) == 3 else embedded_io.spike.PyToNxAdapter
        inward, outward = kind(shape=network.inp.shape), embedded_io.spike.NxToPyAdapter(shape=network.out.shape)
        source.s_out.connect(inward.inp)
        inward.out.connect(network.inp)
        network.out.connect(outward.inp)
        outward.out.connect(port)

    def _source(self, branch: str, port: tuple[int, ...]) -> Any:
        from lava.proc.io.source import RingBuffer

        spikes = self.inputs[branch]
        require_spikes(self.bundle.graphs[branch], spikes, spikes.shape[1:-1])
        stream = to_stream(self.bundle.stream(branch, spikes), port, self.n_steps)
        if self.confidence is None:
            return RingBuffer(data=stream.astype(np.int32))
        from taaf.deploy.lava.processes.gated_source import GatedSourceProcess

        assert self.folder is not None, "early exit needs a folder for its streams"
        path = self.folder / f"{branch}.input.npy"
        np.save(path, np.moveaxis(stream, -1, 0).astype(np.uint8))
        source = GatedSourceProcess(shape=port, path=str(path), window_steps=self.window)
        self.head.decided_out.connect(source.decided_in)
        return source

    def _record(self, key: tuple[str, str], layer: Any, shape: Shape, folder: Path) -> None:
        from taaf.deploy.lava.processes.recorder import RecorderProcess

        path = folder / f"{key[0]}.{key[1]}.npy"
        raster = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(self.n_steps, *layer.out.shape))
        with path.open("r+b") as file:  # a full disk is found here, not as a SIGBUS in a Lava process
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        recorder = RecorderProcess(shape=layer.out.shape, path=str(path), n_steps=self.n_steps)
        layer.out.connect(recorder.a_in)
        delay = 1 + sum(branch == key[0] for branch, _ in self.rasters)
        self.rasters[key] = (raster, delay, shape)

    def run(self, run_config: Any, time_limit_s: float, tick: Callable[[int], Any]) -> BackendResult:
        """Execute and collect; see `run_sim`."""
        with LavaRuntime(self.head, run_config, time_limit_s) as runtime:
            done, started = 0, None
            fill = max(self.delays.values())
            for n in self._portions():
                runtime.run(n * self.window + (fill if done == 0 else 0))
                started = started or time.perf_counter()  # after the first portion: without compiling
                done += n
                tick(n)
            steps = None if self.confidence is None else runtime.read(self.head.exit_steps).astype(np.int64)
            logits = dict(zip(self.bundle.head.outputs, runtime.read(self.head.logits), strict=False))
            finished = time.perf_counter()
        layers: dict[str, dict[str, np.ndarray]] = {}
        for (branch, lif), entry in self.rasters.items():
            raster, delay, shape = entry
            layers.setdefault(branch, {})[lif] = to_windows(raster, delay, self.n_windows, self.window, shape)[
                ..., self.guard :
            ]
        features = {b: self.bundle.features_of(b, spikes[self.bundle.graphs[b].output]) for b, spikes in layers.items()}
        if steps is not None:
            self.inputs = {b: cut(x, steps + self.bundle.depth) for b, x in self.inputs.items()}
        activity = {b: self._activity(b, spikes) for b, spikes in layers.items()}
        seconds = finished - (started or finished)
        return BackendResult(features, logits, activity, layers, self.n_steps, seconds, steps)

    def _portions(self) -> list[int]:
        """Windows per Lava run call: one first (it also compiles), then a tenth of the rest each."""
        rest = self.n_windows - 1
        size = max(1, rest // 10)
        return [1, *[min(size, rest - k) for k in range(0, rest, size)]]

    def _activity(self, branch: str, spikes: dict[str, np.ndarray]) -> Activity:
        activity = Activity(self.n_windows, self.bundle.window_steps)
        activity.add(self.bundle.graphs[branch].input.name, self.inputs[branch].sum(axis=(0, -1), dtype=np.int64))
        for lif, raster in spikes.items():
            activity.add(lif, raster.sum(axis=(0, -1), dtype=np.int64))
        return activity
