"""The trainable network: branches that run on the chip, and a head on the host.

    spikes of each modality (N, *shape, T_m) -> branch -> feature spikes (N, *shape', T_m) -> head -> logits per step

A branch is a `SpikingNet` of a wiring (`taaf.models.networks`) or a torch module of the user's.
"""

from functools import singledispatch

import torch
from torch import nn
from torch.nn import functional

from taaf.models import wiring as w
from taaf.models.config import BranchConfig, NetworkConfig, NeuronConfig
from taaf.models.encoder import LEVELS
from taaf.models.errors import ConfigError
from taaf.models.heads.base import StepOutputs
from taaf.models.qat import QatConv2d, QatDense, QatRecurrent, over_time
from taaf.models.slayer_lif import SlayerLif
from taaf.models.trainable_head import TrainableHead


class SpikingNet(nn.Module):
    """Trainable form of a `Wiring`; (N, *shape, T) -> spikes that leave it, (N, *shape', T).

    Parameters
    ----------
    wiring : Wiring
        Its synapses and neurons become submodules of the same names.
    neuron : NeuronConfig
        Surrogate derivative of all neurons.
    scale : int, optional
        Levels per unit of a real-valued input, a power of two up to 64; without it the input is spikes.

    Examples
    --------
    >>> from taaf.models.networks.dense import wire
    >>> net = SpikingNet(w.Wiring((20,), wire))
    >>> net(torch.zeros(3, 20, 5)).shape
    torch.Size([3, 128, 5])
    """

    def __init__(self, wiring: w.Wiring, neuron: NeuronConfig | None = None, scale: int | None = None) -> None:
        super().__init__()
        self.wiring, self.scale = wiring, scale
        neuron = neuron or NeuronConfig()
        for operation in wiring.operations.values():
            if (part := _part(operation, wiring)) is not None:
                self.add_module(operation.name, part)
        for operation in wiring.operations.values():
            if isinstance(operation, w.Neurons):
                part = SlayerLif(operation.parameters, neuron.surrogate_width, neuron.surrogate_scale)
                self.add_module(operation.name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.trace(self.encode(x))[self.wiring.output.name]

    def shaped(self, x: torch.Tensor) -> torch.Tensor:
        """The input in the wiring's shape, where it comes in another with as many values (C order)."""
        return x.reshape(len(x), *self.wiring.operations["input"].shape, x.shape[-1])

    def levels(self, x: torch.Tensor) -> torch.Tensor:
        """A real-valued input as its encoder takes it: multiples of 1 / scale, -128 to 127 of them."""
        assert self.scale is not None
        return torch.round(x * self.scale).clamp(*LEVELS) / self.scale

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Host part: input (N, *shape, T) -> spikes that enter the chip; of an input of spikes only its shape changes."""
        x = self.shaped(x)
        if self.scale is None:
            return x
        values = {"input": self.levels(x)}
        for name in (self.wiring.first_synapse, self.wiring.boundary):
            values[name] = self.value(self.wiring.operations[name], values)
        return values[self.wiring.boundary]

    def trace(self, spikes: torch.Tensor) -> dict[str, torch.Tensor]:
        """Chip part: every spiking value by name, (N, ..., T) each, for the spikes that enter the chip."""
        values = {self.wiring.boundary: spikes}
        for operation in self.wiring.on_chip:
            values[operation.name] = self.value(operation, values)
        kept = (w.Neurons, w.Beside, w.MaxPool)
        return {o.name: values[o.name] for o in self.wiring.on_chip if isinstance(o, kept) or o is self.wiring.output}

    def value(self, operation: w.Operation, values: dict[str, torch.Tensor]) -> torch.Tensor:
        """What an operation makes of the values it reads."""
        return _value(operation, self, [values[s] for s in operation.sources])


@singledispatch
def _part(operation: w.Operation, wiring: w.Wiring) -> nn.Module | None:
    """The synapses of an operation; None where it has no parameters."""
    return None


@_part.register
def _(operation: w.Convolution, wiring: w.Wiring) -> nn.Module:
    (n_in, *_), v_th = wiring.operations[operation.sources[0]].shape, wiring.fed(operation.name).parameters.v_th_mant
    return QatConv2d(n_in, operation.shape[0], operation.kernel, operation.stride, v_th, operation.gain)


@_part.register
def _(operation: w.FullyConnected, wiring: w.Wiring) -> nn.Module:
    (n_in, *_), v_th = wiring.operations[operation.sources[0]].shape, wiring.fed(operation.name).parameters.v_th_mant
    return QatDense(n_in, operation.shape[0], v_th, operation.gain)


@_part.register
def _(operation: w.Recurrence, wiring: w.Wiring) -> nn.Module:
    (n_in,), fed = wiring.operations[operation.sources[0]].shape, wiring.fed(operation.name)
    return QatRecurrent(n_in, operation.shape[0], fed.parameters.v_th_mant, operation.gain)


@singledispatch
def _value(operation: w.Operation, net: SpikingNet, given: list[torch.Tensor]) -> torch.Tensor:
    raise TypeError(f"{operation.name}: {type(operation).__name__} has no value")


@_value.register(w.Convolution)
@_value.register(w.Recurrence)
def _(operation: w.Operation, net: SpikingNet, given: list[torch.Tensor]) -> torch.Tensor:
    return over_time(net.get_submodule(operation.name), given[0])


@_value.register
def _(operation: w.FullyConnected, net: SpikingNet, given: list[torch.Tensor]) -> torch.Tensor:
    x = given[0].sum((2, 3)) if operation.over_map else given[0]
    return over_time(net.get_submodule(operation.name), x)


@_value.register
def _(operation: w.Identity, net: SpikingNet, given: list[torch.Tensor]) -> torch.Tensor:
    return given[0]


@_value.register
def _(operation: w.Addition, net: SpikingNet, given: list[torch.Tensor]) -> torch.Tensor:
    return given[0] + given[1]


@_value.register
def _(operation: w.Neurons, net: SpikingNet, given: list[torch.Tensor]) -> torch.Tensor:
    neurons = net.get_submodule(operation.name)
    assert isinstance(neurons, SlayerLif)
    if isinstance(net.wiring.operations[operation.sources[0]], w.Recurrence):
        synapses = net.get_submodule(operation.sources[0])
        assert isinstance(synapses, QatRecurrent)
        return neurons.recurrent(given[0], synapses.integer_recurrent_weight() / synapses.v_th_mant)
    spikes: torch.Tensor = neurons(given[0])
    return spikes


@_value.register
def _(operation: w.Flattening, net: SpikingNet, given: list[torch.Tensor]) -> torch.Tensor:
    return given[0].flatten(1, -2)


@_value.register
def _(operation: w.MaxPool, net: SpikingNet, given: list[torch.Tensor]) -> torch.Tensor:
    return over_time(lambda x: functional.max_pool2d(x, operation.kernel, operation.stride, operation.padding), given[0])


@_value.register
def _(operation: w.Beside, net: SpikingNet, given: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat(given, 1)


def spiking_net(branch: BranchConfig, neuron: NeuronConfig) -> SpikingNet:
    """The network of one branch; raises `ConfigError` if its layers do not fit together."""
    return SpikingNet(branch.wiring(), neuron, branch.scale)


class MultimodalSnn(nn.Module):
    """The whole network. ``forward({modality: x})`` takes float32 inputs (N, *shape, T_m)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        if taken := [m for m in config.modalities if hasattr(nn.ModuleDict, m)]:
            raise ConfigError(f"branches.{taken[0]}: torch uses this name itself; choose another")
        self.branches = nn.ModuleDict({m: spiking_net(b, config.neuron) for m, b in config.branches.items()})
        self.head = TrainableHead(config.build_head())

    def features(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Feature spikes of the branches per modality, (N, F, T_m) in {0, 1}, maps flattened."""
        return {m: branch(inputs[m]).flatten(1, -2) for m, branch in self.branches.items()}

    def forward(self, inputs: dict[str, torch.Tensor]) -> StepOutputs:
        outputs: StepOutputs = self.head(self.features(inputs))
        return outputs

    @torch.no_grad()
    def predict(self, inputs: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], StepOutputs]:
        """What is deployed: integer branches (eval mode) and the host part in float64.

        Returns
        -------
        features : dict
            Feature spikes per modality, (N, F, T_m), in {0, 1}.
        output : StepOutputs
            float64 logits and attention.
        """
        was_training = self.training
        self.eval()
        features = self.features(inputs)
        output = self.head.deployed()({m: f.double() for m, f in features.items()})
        self.train(was_training)
        return features, output
