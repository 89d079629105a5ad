"""A head in torch, as it is trained: its arrays are parameters, its projections quantisation-aware dense layers."""

import copy
from typing import Any

import torch
from torch import nn

from taaf.models.fused_lif import host_lif
from taaf.models.fusion import SPIKING_GRID, SPIKING_LIMIT
from taaf.models.heads.base import Array, Head, Ops, StepOutputs
from taaf.models.qat import QatDense, round_ste

V_UNITS = 128  # of a host neuron's threshold: weights of projections are multiples of 1/64, biases of 1/128


def on_grid(x: torch.Tensor) -> torch.Tensor:
    """Multiples of 1/64 within [-4, 4], with the identity as derivative inside."""
    return round_ste(x.clamp(-SPIKING_LIMIT, SPIKING_LIMIT) * SPIKING_GRID) / SPIKING_GRID


class _Rectangle(torch.autograd.Function):
    """Spikes where x >= 0; derivative 1 where |x| <= 1/2, ISNet's."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * (x.abs() <= 0.5).to(x.dtype)


def host_mlif(current: torch.Tensor) -> torch.Tensor:
    """ISNet's MLIF: ``v <- v / 2 + I(t)``; a spike and ``v <- v - 1`` where v / 2 >= 1. Current and spikes are (N, T, ...).

    Of two modalities both potentials are weighted by 1/2 before they are compared with the threshold 1; 1 is subtracted from the
    potential itself. Gradients flow through the reset, as theirs do. No chip neuron of NetX resets softly, so that it is the host's.

    Voltages are multiples of 2^-(6 + T) for currents on the 1/64 grid: exact, whatever the order of summation, in float64 as it is
    deployed, and in float32 as it is trained up to T = 12 steps with |v| < 64.
    """
    voltage = torch.zeros_like(current[:, 0])
    spikes = []
    for now in current.unbind(1):
        voltage = 0.5 * voltage + now
        fired = _Rectangle.apply(0.5 * voltage - 1.0)
        voltage = voltage - fired
        spikes.append(fired)
    return torch.stack(spikes, 1)


def _over_steps(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return nn.functional.conv1d(x.transpose(1, 2), weight.to(x.dtype), bias.to(x.dtype), padding=1)


def _whole_steps(x: torch.Tensor, steps: int) -> torch.Tensor:
    return nn.functional.pad(x, (0, steps - x.shape[-1])).transpose(1, 2)


TORCH_OPS = Ops(
    sigmoid=torch.sigmoid,
    tanh=torch.tanh,
    zeros_like=torch.zeros_like,
    ones_like=torch.ones_like,
    concatenate=lambda xs: torch.cat(xs, -1),
    stack=lambda xs: torch.stack(xs, -1),
    softmax=lambda x: x.softmax(-1),
    on_grid=on_grid,
    lif=host_lif,
    mlif=host_mlif,
    over_steps=_over_steps,
    whole_steps=_whole_steps,
)


class _TokenDense(QatDense):
    """Quantisation-aware dense layer over the last axis."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = super().forward(x.reshape(-1, x.shape[-1]))
        return y.reshape(*x.shape[:-1], -1)


class _Folded(nn.Module):
    """What a `_TokenDense` is deployed as: the folded weight and bias, fixed in float64."""

    def __init__(self, layer: QatDense) -> None:
        super().__init__()
        self.weight = (layer.integer_weight() / layer.v_th_mant).detach().double()
        self.bias = (layer.integer_bias() / layer.v_th_mant).detach().double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T + self.bias


def initial_arrays(arrays: dict[str, Array]) -> nn.ParameterDict:
    """Parameters as training starts them (`Array.init`), drawn in order from torch's generator."""
    found, fan_in = nn.ParameterDict(), 1  # filled one by one: made from a dict it would sort them
    for name, array in arrays.items():
        value = torch.zeros(array.shape)
        if array.init == "spiking":
            fan_in = array.shape[1]
            nn.init.normal_(value, 0, (2 / (0.2 * array.shape[1])) ** 0.5)
        elif array.init == "linear" and len(array.shape) == 2:  # a bias follows its weight
            fan_in = array.shape[1]
            nn.init.kaiming_uniform_(value, a=5**0.5)
        elif array.init == "linear_transposed":
            nn.init.kaiming_uniform_(value.T, a=5**0.5)
        elif array.init == "linear":
            nn.init.uniform_(value, -(fan_in**-0.5), fan_in**-0.5)
        elif array.init == "eye":
            value = torch.eye(*array.shape)
        elif array.init == "align":
            _resampling(value)
        if array.noise:
            value = value + array.noise * torch.randn_like(value)
        found[name] = nn.Parameter(value, requires_grad=array.trained)
    return found


def _resampling(weight: torch.Tensor) -> None:
    """Output step k listens to the input steps it covers: one spike fires it."""
    steps_out, steps_in, _ = weight.shape
    for out in range(steps_out):
        first, last = out * steps_in // steps_out, -(-(out + 1) * steps_in // steps_out)
        weight[out, first:last, 1] = 1.1


class TrainableHead(nn.Module):
    """Trainable form of a `Head`; feature spikes (N, F, T_m) per modality -> `StepOutputs`.

    While training only `Head.trained_outputs` are computed: batch norms must not see what no loss uses.
    """

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head
        self.weights = initial_arrays(head.arrays())
        self.projections = nn.ModuleDict(
            {name: _TokenDense(n_in, n_out, V_UNITS) for name, (n_out, n_in) in head.projections().items()}
        )

    def forward(self, features: dict[str, torch.Tensor]) -> StepOutputs:
        which = self.head.trained_outputs if self.training else None
        return self.head.run(TORCH_OPS, dict(self.weights.items()), self._project, features, which)

    def _project(self, name: str, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.projections[name](x)
        return y

    def deployed(self) -> "TrainableHead":
        """A copy as it is deployed: projections folded to the integers that training rounds them to, all arithmetic in float64."""
        fixed = copy.deepcopy(self)
        fixed.projections = nn.ModuleDict({name: _Folded(layer) for name, layer in self.projections.items()})  # type: ignore[arg-type]
        return fixed.double().eval()

    def arrays(self) -> dict[str, torch.Tensor]:
        """What `taaf.models.host_head.HostHead` takes, float64; alignment on its grid."""
        fixed = self.deployed()
        found = {n: on_grid(a) if n.startswith("align_") else a for n, a in fixed.weights.items()}
        for name, layer in fixed.projections.items():
            found |= {f"{name}_weight": layer.weight, f"{name}_bias": layer.bias}
        return {n: a.detach() for n, a in found.items()}
