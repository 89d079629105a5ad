"""A bundle as a Lava network that stays up: compiled and forked once, it answers windows as they come.

    FeedProcess (encoded spikes) -> netx.hdf5.Network, one per branch -> host head
                                     every layer -> RecorderProcess (measurement only)

Stock NetX resets its layers at fixed phases, so time is cut into slots of one window (`taaf.deploy.lava.board`). Windows that are there
at once follow each other without a gap; behind the last one idle slots let the pipeline run empty, so that its answer need not
wait for another window. Every layer resets its neurons at its own phase of each slot (LIFReset), idle slots included: what a
window meets does not depend on what came before it, nor on how long the network had nothing to do.
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from taaf.deploy.lava.board import Board
from taaf.deploy.lava.runtime import LavaRuntime, forgotten_afterwards
from taaf.deploy.lava.streams import to_stream, to_windows
from taaf.export.bundle.reader import Bundle
from taaf.models.errors import BackendUnavailableError
from taaf.models.ir.stage import require_spikes

Spikes = dict[str, np.ndarray]
_END = object()


@dataclass(frozen=True)
class Answer:
    """One window's: logits (outputs, classes), steps seen, and what was recorded, branch -> LIF -> (1, *shape, W) uint8."""

    logits: np.ndarray
    seen: int
    layers: dict[str, Spikes]


class LavaNetwork:
    """Context manager.

    Parameters
    ----------
    run_config
        Lava run configuration.
    time_limit_s : float
        Limit of compiling; `runtime` takes those of answers.
    record : bool
        Record every layer; costs a process per layer.
    on_chip : bool
        Put lava-loihi's adapters between host and chip; nothing is recorded then.
    confidence : float, optional
        Early exit.

    Raises
    ------
    BackendUnavailableError
        If the bundle has more branches than the host process has ports.
    RuntimeFailedError
        If a process dies or fails, there is no memory, or a time limit is over.
    """

    def __init__(
        self, bundle: Bundle, run_config: Any, time_limit_s: float, *, record: bool, on_chip: bool = False, confidence: float | None = None,
    ) -> None:  # fmt: skip
        from taaf.deploy.lava.processes.host_head import HOST_HEADS

        if len(bundle.graphs) not in HOST_HEADS:
            raise BackendUnavailableError(
                f"{bundle.path}: {len(bundle.graphs)} branches; the host process has up to {max(HOST_HEADS)}"
            )
        self.bundle, self.guard = bundle, bundle.guard_steps if bundle.pipelined else 0
        self.window = self.guard + bundle.window_steps
        self.delays = {name: len(graph.lifs()) for name, graph in bundle.graphs.items()}
        self.fill = max(self.delays.values())  # time steps from the end of a window to its answer
        self.behind = -(-self.fill // self.window)  # slots that are begun while a window is not answered
        self.n_steps = 0  # executed, or begun
        self._rasters: dict[tuple[str, str], tuple[np.ndarray, int]] = {}
        self._record, self._on_chip, self._confidence = record, on_chip, confidence
        with contextlib.redirect_stdout(io.StringIO()), forgotten_afterwards():  # NetX prints
            process = self._build()
            self.runtime = LavaRuntime(process, run_config, time_limit_s)

    def __enter__(self) -> "LavaNetwork":
        with forgotten_afterwards():
            self.runtime.__enter__()
            try:
                self.board.open()
                self.runtime.start()
            except BaseException as error:
                self.__exit__(type(error), error, None)
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.runtime.__exit__(kind, error, trace)
        finally:
            self.board.close()

    def _build(self) -> Any:
        from lava.lib.dl.netx.hdf5 import Network

        from taaf.deploy.lava.processes.host_head import HOST_HEADS

        bundle, networks = self.bundle, {}
        for name in bundle.graphs:
            file = bundle.path / bundle.manifest["branches"][name]["file"]
            networks[name] = Network(net_config=str(file), reset_interval=self.window, reset_offset=1 + self.guard)
            networks[name].net_config.f.close()  # stock NetX leaves the file open
        head = bundle.head
        self._ports = {name: network.inp.shape for name, network in networks.items()}
        self.board = Board(2 * self.behind + 1, self.window, self._ports, (len(head.outputs), head.head.classes))
        process: Any = HOST_HEADS[len(bundle.graphs)](
            arrays=head.arrays, spec=head.head.spec(), board=self.board, guard_steps=self.guard, delays=self.delays,
            shapes={b: graph.shapes[graph.output] for b, graph in bundle.graphs.items()}, confidence=self._confidence,
        )  # fmt: skip
        for i, (name, network) in enumerate(networks.items()):
            self._connect(name, network, process, getattr(process, f"in_{i}"))
        return process

    def _connect(self, branch: str, network: Any, head: Any, port: Any) -> None:
        from taaf.deploy.lava.processes.feed import FeedProcess
        from taaf.deploy.lava.processes.recorder import RecorderProcess

        source = FeedProcess(slots=self.board.inputs[branch])
        if self._confidence is not None:
            head.decided_out.connect(source.decided_in)
        if self._on_chip:
            from lava.proc import embedded_io  # lava-loihi

            kind = embedded_io.spike.PyToN3ConvAdapter if len(network.inp.shape) == 3 else embedded_io.spike.PyToNxAdapter
            inward, outward = kind(shape=network.inp.shape), embedded_io.spike.NxToPyAdapter(shape=network.out.shape)
            source.s_out.connect(inward.inp)
            inward.out.connect(network.inp)
            network.out.connect(outward.inp)
            outward.out.connect(port)
            return
        source.s_out.connect(network.inp)
        network.out.connect(port)
        if self._record:
            lifs = self.bundle.graphs[branch].lifs()
            for delay, (lif, layer) in enumerate(zip(lifs, network.layers, strict=True), start=1):
                raster = self.board.raster(layer.out.shape)
                layer.out.connect(RecorderProcess(raster=raster).a_in)
                self._rasters[branch, lif.name] = (raster, delay)

    def answers(self, windows: Iterator[Spikes | None]) -> Iterator[Answer]:
        """The answers to encoded windows ({branch: (1, *shape, T)}), in order.

        None says that there is no window at present. A window that another one follows is answered once that one has run. One
        that None or the end follows is answered at once: as soon as the head has decided where nothing is recorded, and the rest of
        its slots runs while the caller goes on.
        """
        waiting: list[int] = []  # slots
        window = next(windows, _END)
        while window is not _END:
            following = next(windows, _END)
            if isinstance(window, dict):
                waiting.append(self._put(window))
                if isinstance(following, dict):
                    self._advance(self.window)
                    while waiting and (waiting[0] + 1) * self.window + self.fill <= self.n_steps:
                        yield self._answer(waiting.pop(0))
                else:
                    yield from self._empty(waiting)
                    waiting = []
            window = following

    def _put(self, window: Spikes) -> int:
        """Fill the next slot, once it is due."""
        ready = {}
        for branch, spikes in window.items():
            require_spikes(self.bundle.graphs[branch], spikes, spikes.shape[1:-1])
            stream = to_stream(self.bundle.stream(branch, spikes), self._ports[branch], self.window)
            ready[branch] = np.moveaxis(stream, -1, 0)
        self.runtime.wait()
        self._advance(-self.n_steps % self.window)  # the rest of an idle slot
        slot = self.n_steps // self.window
        self.board.put(slot, ready)
        return slot

    def _empty(self, waiting: list[int]) -> Iterator[Answer]:
        """Run the slot that was filled last, and idle ones until all are answered."""
        for k in range(1, self.behind + 1):
            self.board.put(waiting[-1] + k, None)
        rest = self.behind * self.window - self.fill
        if not self._rasters:
            self._advance(self.window + self.fill + rest, wait=False)
            yield from map(self._answer, waiting)
            return
        self._advance(self.window + self.fill)
        answers = [self._answer(slot) for slot in waiting]
        self._advance(rest, wait=False)
        yield from answers

    def _advance(self, n_steps: int, wait: bool = True) -> None:
        if n_steps:
            self.runtime.run(n_steps, wait)
            self.n_steps += n_steps

    def _answer(self, slot: int) -> Answer:
        while self.runtime.until(self.board.wait) != slot:  # one that nobody asked for any more
            pass
        logits, seen = self.board.decision(slot)
        layers: dict[str, Spikes] = {}
        for (branch, lif), (raster, delay) in self._rasters.items():
            rows = self.board.rows(raster, slot, delay)
            spikes = to_windows(rows, 0, 1, self.window, self.bundle.graphs[branch].shapes[lif])
            layers.setdefault(branch, {})[lif] = spikes[..., self.guard :]
        return Answer(logits, seen, layers)
