"""Weights that make a network of spiking ResNet18 branches behave like a trained one, without training it.

Weights stay random. Layer by layer, from the input on, the batch norms get the statistics of their own currents, and the
offset of each neuron population is found by bisection so that the population fires at the wanted rate, with exactly the
integer weights and biases that are exported. What comes out is an ordinary checkpoint; nothing in it has learned anything.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from taaf.models.errors import ConfigError, TrainingFailedError
from taaf.models.qat import BIAS_LIMIT, QatSynapse, batch_moments, over_time
from taaf.models.resnet import SpikingResNet18
from taaf.models.taaf import TaafSnn
from taaf.training.config import TrainConfig
from taaf.training.data import PairDataset

TARGET_RATE = 0.12
ALLOWED_RATES = (0.05, 0.20)
N_SAMPLES = 8
_OFFSETS = (-8.0, 8.0)  # thresholds
_HALVINGS = 12  # to 1/256 of a threshold


@dataclass(frozen=True)
class PopulationRate:
    """Mean rate (spikes per neuron and step) of one population; ``silent``: share of its channels that never fired."""

    layer: str
    rate: float
    silent: float

    def __str__(self) -> str:
        silent = f", {100 * self.silent:.1f} % of the channels silent" if self.silent else ""
        return f"{self.layer:24s} {100 * self.rate:5.2f} %{silent}"

    @property
    def problem(self) -> str | None:
        """What is wrong with it, or None."""
        low, high = ALLOWED_RATES
        if low <= self.rate <= high:
            return None
        kind = "dead" if self.rate == 0 else "nearly dead" if self.rate < low else "saturated"
        return f"{self.layer} is {kind}: fires at {100 * self.rate:.2g} % (allowed {100 * low:g}-{100 * high:g} %)"


def calibrated(config: TrainConfig, train_set: PairDataset, test_set: PairDataset) -> tuple[TaafSnn, list[PopulationRate]]:
    """A random network calibrated on the first training samples, and its rates on the first test samples."""
    torch.manual_seed(config.optimiser.seed)
    model = TaafSnn(config.model)
    first, second, _ = train_set.batch(range(min(N_SAMPLES, len(train_set))))
    calibrate(model, first, second)
    first, second, _ = test_set.batch(range(min(N_SAMPLES, len(test_set))))
    return model, list(population_rates(model, first, second))


@torch.no_grad()
def calibrate(model: TaafSnn, *inputs: torch.Tensor) -> None:
    """Set all batch norms of both branches from real-valued inputs (N, C, H, W, T), in place.

    Raises
    ------
    ConfigError
        If a branch is not a spiking ResNet18.
    """
    model.eval()
    for (name, branch), x in zip(model.branches.items(), inputs, strict=True):
        if not isinstance(branch, SpikingResNet18):
            raise ConfigError(f"calibration: branch {name!r} is not 'resnet18'; set model.first_branch and audio_branch")
        _calibrate_branch(branch, x)


def _calibrate_branch(net: SpikingResNet18, x: torch.Tensor) -> None:
    spikes = _population(net.stem, net.stem_lif, net.levels(x))
    spikes = _population(net.pool, net.pool_lif, spikes)
    for block in net.blocks:
        inner = _population(block.conv1, block.lif1, spikes)
        if block.shortcut is not None:
            _statistics(block.shortcut, spikes)
        spikes = _population(block.conv2, block.lif2, inner, block.around(spikes))
    _population(net.readout, net.readout_lif, spikes.sum((2, 3)))


def _statistics(synapse: QatSynapse, x: torch.Tensor) -> None:
    """The batch norm's running statistics := those of this input."""
    flat = x.movedim(-1, 1).flatten(0, 1)
    mean, var = batch_moments(synapse.linear(flat, synapse.weight))
    synapse.running_mean.copy_(mean)
    synapse.running_var.copy_(var)


def _population(synapse: QatSynapse, lif: nn.Module, x: torch.Tensor, around: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Calibrate one population; returns its spikes."""
    _statistics(synapse, x)
    synapse.offset.zero_()
    current = over_time(synapse, x) + around
    low, high = _OFFSETS
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if float(lif(current + middle).mean()) < TARGET_RATE:
            low = middle
        else:
            high = middle
    limit = BIAS_LIMIT / synapse.v_th_mant
    synapse.offset.copy_((synapse.offset + (low + high) / 2).clamp(-limit, limit))
    spikes: torch.Tensor = lif(over_time(synapse, x) + around)
    return spikes


@torch.no_grad()
def population_rates(model: TaafSnn, *inputs: torch.Tensor) -> Iterator[PopulationRate]:
    """Rates of every population of both branches, encoder included, on given inputs; N samples at a time."""
    model.eval()
    for (name, branch), x in zip(model.branches.items(), inputs, strict=True):
        assert isinstance(branch, SpikingResNet18)
        stem = branch.encode(x)
        for layer, spikes in {"stem_lif": stem, **branch.trace(stem)}.items():
            per_channel = spikes.mean([d for d in range(spikes.dim()) if d != 1])
            yield PopulationRate(f"{name}.{layer}", float(per_channel.mean()), float((per_channel == 0).float().mean()))


def require_alive(rates: list[PopulationRate]) -> None:
    """Raise `TrainingFailedError` that names every population outside the allowed rates."""
    if problems := [p for r in rates if (p := r.problem)]:
        raise TrainingFailedError(
            f"calibration: {'; '.join(problems)}; nothing was written: calibrate on inputs that vary, or with another seed"
        )
