"""Weights that make a network behave like a trained one, without training it.

Weights stay random. Layer by layer, from the input on, the batch norms get the statistics of their own currents, and the
offset of each neuron population is found by bisection so that the population fires at the wanted rate, with exactly the
integer weights and biases that are exported. What comes out is an ordinary checkpoint; nothing in it has learned anything.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from taaf.models.errors import ConfigError, TrainingFailedError
from taaf.models.lif import BIAS_LIMIT
from taaf.models.network import MultimodalSnn, SpikingNet
from taaf.models.qat import QatSynapse, batch_moments
from taaf.models.wiring import Convolution, FullyConnected, Neurons, Operation, Recurrence
from taaf.training.config import TrainConfig
from taaf.training.data import MultimodalDataset

TARGET_RATE = 0.12
ALLOWED_RATES = (0.05, 0.20)
N_SAMPLES = 8
_OFFSETS = (-8.0, 8.0)  # thresholds
_NAMED = 10  # populations in a message, which has an end
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


def calibrated(
    config: TrainConfig, train_set: MultimodalDataset, test_set: MultimodalDataset
) -> tuple[MultimodalSnn, list[PopulationRate]]:
    """A random network calibrated on the first training samples, and its rates on the first test samples."""
    torch.manual_seed(config.optimiser.seed)
    model = MultimodalSnn(config.network.completed(train_set.specs()).check())
    calibrate(model, train_set.batch(range(min(N_SAMPLES, len(train_set))))[0])
    return model, list(population_rates(model, test_set.batch(range(min(N_SAMPLES, len(test_set))))[0]))


@torch.no_grad()
def calibrate(model: MultimodalSnn, inputs: dict[str, torch.Tensor]) -> None:
    """Set all batch norms of all branches from inputs (N, *shape, T), in place.

    Raises
    ------
    ConfigError
        If a branch has recurrent synapses, whose current depends on what is calibrated.
    """
    model.eval()
    for name, net in model.branches.items():
        assert isinstance(net, SpikingNet)
        if any(isinstance(o, Recurrence) for o in net.wiring.operations.values()):
            raise ConfigError(f"calibration: branch {name!r} is recurrent; train it instead")
        x = net.shaped(inputs[name])
        values = {"input": x if net.scale is None else net.levels(x)}
        for operation in list(net.wiring.operations.values())[1:]:
            if isinstance(operation, Convolution | FullyConnected):
                given = values[operation.sources[0]]
                over_map = isinstance(operation, FullyConnected) and operation.over_map
                _statistics(_synapses(net, operation), given.sum((2, 3)) if over_map else given)
            elif isinstance(operation, Neurons):
                _find_offset(net, operation, values)
            values[operation.name] = net.value(operation, values)


def _synapses(net: SpikingNet, operation: Operation) -> QatSynapse:
    part = net.get_submodule(operation.name)
    assert isinstance(part, QatSynapse)
    return part


def _find_offset(net: SpikingNet, neurons: Neurons, values: dict[str, torch.Tensor]) -> None:
    """The offset of the first synapses that feed a population, for the wanted rate; their currents in ``values`` follow."""
    current, lif = values[neurons.sources[0]], net.get_submodule(neurons.name)
    low, high = _OFFSETS
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if float(lif(current + middle).mean()) < TARGET_RATE:
            low = middle
        else:
            high = middle
    path = net.wiring.currents(neurons)
    weighted = [o for o in path if isinstance(o, Convolution | FullyConnected)]
    if not weighted:
        raise ConfigError(
            f"calibration: {neurons.name} is fed by no weights, so that nothing sets its rate; train the network instead"
        )
    first = _synapses(net, weighted[0])
    limit = BIAS_LIMIT / first.v_th_mant
    first.offset.copy_((first.offset + (low + high) / 2).clamp(-limit, limit))
    for operation in path:
        values[operation.name] = net.value(operation, values)


def _statistics(synapse: QatSynapse, x: torch.Tensor) -> None:
    """The batch norm's running statistics := those of this input, without offset."""
    flat = x.movedim(-1, 1).flatten(0, 1)
    mean, var = batch_moments(synapse.linear(flat, synapse.weight))
    synapse.running_mean.copy_(mean)
    synapse.running_var.copy_(var)
    synapse.offset.zero_()


@torch.no_grad()
def population_rates(model: MultimodalSnn, inputs: dict[str, torch.Tensor]) -> Iterator[PopulationRate]:
    """Rates of every population of all branches, encoder included, on given inputs."""
    model.eval()
    for name, net in model.branches.items():
        assert isinstance(net, SpikingNet)
        entered = net.encode(inputs[name])
        found = net.trace(entered)
        encoder = {} if net.scale is None else {net.wiring.boundary: entered}
        populations = {o.name: found[o.name] for o in net.wiring.on_chip if isinstance(o, Neurons)}
        for layer, spikes in {**encoder, **populations}.items():
            per_channel = spikes.mean([d for d in range(spikes.dim()) if d != 1])
            yield PopulationRate(f"{name}.{layer}", float(per_channel.mean()), float((per_channel == 0).float().mean()))


def require_alive(rates: list[PopulationRate]) -> None:
    """Raise `TrainingFailedError` that names the populations outside the allowed rates, the first of them if they are many."""
    if problems := [p for r in rates if (p := r.problem)]:
        rest = [f"and {len(problems) - _NAMED} more"] if len(problems) > _NAMED else []
        raise TrainingFailedError(
            f"calibration: {'; '.join(problems[:_NAMED] + rest)}; nothing was written: calibrate on inputs that vary, or with another seed"
        )
