"""NetX files made by stock lava-dl: slayer blocks, their own ``export_hdf5``, and what they answer on given spikes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch


def _parameters(**more: object) -> dict:
    """A dictionary of one's own for every block: a recurrent one switches on ``persistent_state`` in what it is given."""
    return {"threshold": 1.0, "current_decay": 0.6, "voltage_decay": 0.3, "requires_grad": False, **more}


@dataclass(frozen=True)
class SlayerFile:
    """``trained[i]``: spikes (N, ..., T) of the i-th layer of neurons, i + 1 steps after the input that caused them."""

    path: Path
    spikes: np.ndarray
    trained: list[np.ndarray]


def make(
    path: Path, blocks: Callable[[], list], shape: tuple[int, ...], steps: int = 24, norm: bool = False, seed: int = 0
) -> SlayerFile:
    """Build, draw delays and decays, run on random spikes, export. The input layer is written as slayer users do."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = blocks()
    x = torch.from_numpy((rng.random((3, *shape, steps)) < 0.3).astype(np.float32))
    with torch.no_grad():
        for _ in range(3 if norm else 1):
            _forward(net, x)  # lets the blocks find their shapes
        for block in net:
            block.eval()
            _draw(block)
        answers = _forward(net, x)
    with h5py.File(path, "w") as file:
        layers = file.create_group("layer")
        first = layers.create_group("0")
        first.create_dataset("type", (1,), "S10", [b"input"])
        first.create_dataset("shape", data=np.array(shape))
        for i, block in enumerate(net, start=1):
            block.export_hdf5(layers.create_group(str(i)))
    trained = [a.numpy() for block, a in zip(net, answers, strict=True) if hasattr(block, "neuron")]
    return SlayerFile(path, x.numpy().astype(np.uint8), trained)


def _forward(net: list, x: torch.Tensor) -> list[torch.Tensor]:
    found = []
    for block in net:
        for state in ("current_state", "voltage_state"):  # recurrent blocks keep theirs between calls
            if hasattr(block, "neuron"):
                setattr(block.neuron, state, torch.zeros(1))
        x = block(x)
        found.append(x)
    return found


def _draw(block: object) -> None:
    """Whole delays up to eight steps, and other decays where there is one per neuron."""
    if getattr(block, "delay", None) is not None:
        delay = block.delay.delay
        delay.data = torch.randint(0, 9, delay.shape).float()
    neuron = getattr(block, "neuron", None)
    if neuron is not None and not neuron.shared_param:
        for decay in (neuron.current_decay, neuron.voltage_decay):
            decay.data = torch.randint(300, 3500, decay.shape).to(decay)


def convolutions() -> list:
    """Grouped, then dilated and strided convolution, dense layers with axonal delays."""
    from lava.lib.dl.slayer import block

    b = block.cuba
    return [
        b.Conv(_parameters(), 2, 4, 3, padding=1, groups=2, weight_scale=4),
        b.Conv(_parameters(), 4, 6, 3, stride=2, padding=2, dilation=2, weight_scale=4),
        b.Flatten(),
        b.Dense(_parameters(), 96, 20, weight_scale=3, delay=True),
        b.Dense(_parameters(), 20, 20, weight_scale=4, delay=True),
        b.Dense(_parameters(), 20, 7, weight_scale=4),
    ]


def own_decays() -> list:
    """Decays per neuron, delays, a recurrent layer."""
    from lava.lib.dl.slayer import block

    b = block.cuba
    return [
        b.Dense(_parameters(shared_param=False), 30, 20, weight_scale=4, delay=True),
        b.Recurrent(_parameters(), 20, 12, weight_scale=4),
        b.Dense(_parameters(shared_param=False), 12, 7, weight_scale=4),
    ]


def mean_norms() -> list:
    """slayer's own mean-only batch norm, which it exports as a bias."""
    from lava.lib.dl.slayer import block, neuron

    norm = neuron.norm.MeanOnlyBatchNorm
    return [block.cuba.Dense(_parameters(norm=norm), *size, weight_scale=4) for size in ((30, 20), (20, 10))]
