"""One training step beside another checkout's, and training's neuron beside those of other libraries, all on one thread.

    uv run python tests/benchmarks/training_step.py [--against CHECKOUT] [--repeats 15]

``--against`` names a checkout with an environment of its own (``.venv``), e.g. a git worktree of an older commit: both train
the shipped configurations on the same batch of 50, step by step in turns, and print the ratio and whether the losses agree.
Peers run the layer shapes of the EAD-mini event branch, forward and backward, multi-step where the library has it;
SpikingJelly is left out with one line where it is missing (``uv pip install spikingjelly``). Neurons differ in detail (soft
or hard reset, float or integer state). Medians of CPU time, which neighbours on a shared machine change least, and of wall time.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import torch

CONFIGS = ("ead_mini", "scmrl_ead_mini")
SHAPES = [(8, 17, 17), (16, 9, 9), (16, 9, 9), (128,)]  # of one step's currents, layer by layer
BATCH, STEPS = 50, 8
Neurons = Callable[[torch.Tensor], torch.Tensor]  # currents (T, N, ...) -> spikes


def worker() -> None:
    """Train the configuration that stdin names, one step per line; answers loss, CPU and wall seconds."""
    import taaf.training
    from taaf.training.config import load_config
    from taaf.training.distributed import Ranks
    from taaf.training.sources import open_split
    from taaf.training.trainer import Trainer

    torch.set_num_threads(1)
    config = load_config(
        Path(taaf.training.__file__).parent / "configs" / f"{sys.stdin.readline().strip()}.toml",
        {"data": {"train_pairs": 2 * BATCH, "test_pairs": BATCH}},
    )
    trainer = Trainer(config, *(open_split(config.data, config.network.inputs, s) for s in ("train", "test")), Ranks.single())
    trainer.model.train()
    inputs, labels = trainer.train_set.batch(list(range(BATCH)))
    print("ready", flush=True)
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        loss, _ = trainer.step(inputs, labels)
        trainer.optimiser.zero_grad()
        loss.backward()
        trainer.optimiser.step()
        print(loss.item().hex(), time.process_time() - cpu, time.perf_counter() - wall, flush=True)


class Worker:
    """A `worker` in an environment of its own."""

    def __init__(self, python: Path | str, config: str) -> None:
        command = [str(python), __file__, "--worker"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.say(config)

    def say(self, line: str) -> list[str]:
        """One line there, one back."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        if not (answer := self.process.stdout.readline()):
            raise SystemExit(f"{self.process.args}: ended early")
        return answer.split()


def compare(config: str, pythons: dict[str, Path | str], repeats: int) -> None:
    """Steps of all checkouts in turns; prints medians and ratios."""
    workers = {name: Worker(python, config) for name, python in pythons.items()}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in workers}
    losses: dict[str, list[str]] = {name: [] for name in workers}
    for turn in range(repeats + 2):
        for name, one in workers.items():
            loss, cpu, wall = one.say("step")
            losses[name].append(loss)
            if turn >= 2:
                seconds[name].append((float(cpu), float(wall)))
    for one in workers.values():
        one.process.kill()
        one.process.wait()
    found = {name: tuple(statistics.median(t) for t in zip(*times, strict=True)) for name, times in seconds.items()}
    agree = len({tuple(values) for values in losses.values()}) == 1
    for name, (cpu, wall) in found.items():
        print(f"{config:15s} {name:13s} {1e3 * cpu:8.1f} ms CPU {1e3 * wall:8.1f} ms wall  "
              f"{found['taaf'][0] / cpu:5.2f} x CPU {found['taaf'][1] / wall:5.2f} x wall")  # fmt: skip
    if len(workers) > 1:
        print(f"{config:15s} losses of {repeats + 2} steps {'agree on every bit' if agree else 'DIFFER'}")


def ours(threshold: float) -> Neurons:
    from taaf.models.lif import LifParameters
    from taaf.models.slayer_lif import SlayerLif

    lif = SlayerLif(LifParameters(v_th_mant=64), 0.5, 1.0)
    return lambda currents: lif(currents.movedim((0, 1), (-1, 0)) / threshold).movedim((-1, 0), (0, 1))


def spikingjelly(threshold: float) -> Neurons:
    from spikingjelly.activation_based import functional, neuron

    node = neuron.LIFNode(2.0, decay_input=False, v_threshold=threshold, v_reset=0.0, step_mode="m")

    def run(currents: torch.Tensor) -> torch.Tensor:
        functional.reset_net(node)
        return node(currents)

    return run


def snntorch(threshold: float) -> Neurons:
    import snntorch as snn

    neuron = snn.Leaky(beta=0.5, threshold=threshold, reset_mechanism="zero")

    def run(currents: torch.Tensor) -> torch.Tensor:
        mem, out = neuron.init_leaky(), []
        for current in currents:
            spikes, mem = neuron(current, mem)
            out.append(spikes)
        return torch.stack(out)

    return run


def norse(threshold: float) -> Neurons:
    from norse.torch import LIFBoxCell
    from norse.torch.functional.lif_box import LIFBoxParameters

    cell = LIFBoxCell(LIFBoxParameters(tau_mem_inv=torch.tensor(500.0), v_th=torch.tensor(threshold)))

    def run(currents: torch.Tensor) -> torch.Tensor:
        state, out = None, []
        for current in currents:
            spikes, state = cell(current, state)
            out.append(spikes)
        return torch.stack(out)

    return run


def peers(repeats: int) -> None:
    """Forward and backward of one population per shape, ours beside the others."""
    rng = torch.Generator().manual_seed(0)
    currents = [torch.randn(STEPS, BATCH, *shape, generator=rng).requires_grad_() for shape in SHAPES]
    # ours lies in memory as it does in training: windows first, then time
    own = [x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for x in currents]
    runs: dict[str, Callable[[], None]] = {}
    for name, make in {"taaf": ours, "spikingjelly": spikingjelly, "snntorch": snntorch, "norse": norse}.items():
        try:
            layers = [make(1.0) for _ in SHAPES]

            def run(layers: list[Neurons] = layers, given: list[torch.Tensor] = own if make is ours else currents) -> None:
                for layer, x in zip(layers, given, strict=True):
                    layer(x).sum().backward()

            run()
        except ImportError as error:
            print(f"{name}: not run: {error}")
            continue
        runs[name] = run
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            begun = time.process_time()
            run()
            times[name].append(time.process_time() - begun)
    found = {name: statistics.median(t) for name, t in times.items()}
    for name, seconds in found.items():
        print(f"neurons {name:13s} {1e3 * seconds:8.2f} ms  taaf needs {found['taaf'] / seconds:5.2f} of it")


def main() -> None:
    """Measure and print."""
    from measuring import circumstances

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        ", ".join(
            f"{k} {v}" for k, v in circumstances("torch", "numba", "lava-dl", "spikingjelly", "snntorch", "norse").items()
        )
    )
    pythons: dict[str, Path | str] = {"taaf": sys.executable}
    if args.against:
        pythons[str(args.against)] = args.against / ".venv" / "bin" / "python"
    for config in CONFIGS:
        compare(config, pythons, args.repeats)
    peers(args.repeats)
    print("goals: <= 0.50 x of the step before fused neurons, <= 1.1 of every peer's neurons")


if __name__ == "__main__":
    worker() if "--worker" in sys.argv else main()
