"""Networks as users of lava-dl write them: tutorials, papers, own branches. A table that other tests run on other executions.

lava-dl is imported when a network is built, not when this module is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Module = nn.Module | dict[str, nn.Module]


@dataclass(frozen=True)
class UserNetwork:
    """``inputs``: modality -> (*shape, T). ``host``: something happens behind the spikes. ``refused``: pattern of the message."""

    name: str
    build: Callable[[], Module]
    inputs: dict[str, tuple[int, ...]]
    host: bool = False
    rate: float = 0.3
    refused: str = ""


def examples(network: UserNetwork, n: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random spikes {modality: (N, *shape, T)}."""
    rng = torch.Generator().manual_seed(seed)
    return {m: (torch.rand((n, *size), generator=rng) < network.rate).float() for m, size in network.inputs.items()}


def built(network: UserNetwork, seed: int = 0) -> Module:
    """The network with what a training would have left in it: shapes, norms' means, whole axonal delays; in training mode."""
    torch.manual_seed(seed)
    module = network.build()
    parts = module if isinstance(module, Mapping) else {"": module}
    inputs = examples(network, 4, seed + 1)
    with torch.no_grad():
        if isinstance(module, Mapping):
            found = [module[m](x) for m, x in inputs.items()]
            if "head" in module:
                module["head"](*found)
        else:
            module(*inputs.values())
    for part in (p for m in parts.values() for p in m.modules()):
        if type(part).__name__ == "Delay":
            part.delay.data = torch.randint(0, 4, part.delay.shape).float() + 0.25
    return module


def lif(**more: Any) -> dict[str, Any]:
    """Parameters of a CUBA neuron; a dictionary of one's own per block, as recurrent ones write into it."""
    return {"threshold": 1.0, "current_decay": 1.0, "voltage_decay": 0.5, "tau_grad": 0.1, "scale_grad": 1, **more}


def _cuba() -> Any:
    from lava.lib.dl.slayer import block

    return block.cuba


def _slayer() -> Any:
    from lava.lib.dl import slayer

    return slayer


NOW = {"delay_shift": False}  # joins need it


class Blocks(nn.Module):
    """The tutorials' form: a list of blocks, run one after the other."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, spike: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            spike = block(spike)
        return spike


# -- chains


def nmnist_tutorial() -> nn.Module:
    """lava-dl's N-MNIST tutorial in small: dropout, weight norm, axonal delays."""
    params = {"threshold": 1.25, "current_decay": 0.25, "voltage_decay": 0.03, "tau_grad": 0.03, "scale_grad": 3}
    drop = {**params, "dropout": _slayer().neuron.Dropout(p=0.05)}
    b = _cuba()
    return Blocks(
        b.Dense({**drop}, 40, 24, weight_scale=2, weight_norm=True, delay=True),
        b.Dense({**drop}, 24, 24, weight_scale=2, weight_norm=True, delay=True),
        b.Dense({**params}, 24, 10, weight_scale=2, weight_norm=True),
    )


def oxford_tutorial() -> nn.Module:
    params = {"threshold": 0.1, "current_decay": 1, "voltage_decay": 0.1, "requires_grad": True}
    b = _cuba()
    return Blocks(b.Dense({**params}, 40, 24, weight_scale=0.6), b.Dense({**params}, 24, 20, weight_scale=0.6))


def conv_chain() -> nn.Module:
    """A delay_shift chain of convolutions with weight norm, as the DVS gesture examples have it."""
    b, p = _cuba(), {"current_decay": 0.25, "voltage_decay": 0.1}
    return Blocks(
        b.Conv(lif(**p), 2, 6, 3, padding=1, weight_scale=2, weight_norm=True),
        b.Conv(lif(**p), 6, 8, 3, stride=2, weight_scale=2, weight_norm=True),
        b.Flatten(),
        b.Dense(lif(**p), 72, 16, weight_scale=2, weight_norm=True),
        b.Dense(lif(**p), 16, 5, weight_scale=4),
    )


def pool_blocks() -> nn.Module:
    """SLAYER's pooling blocks, on a map of odd size (padded on one side), then a convolution."""
    b, p = _cuba(), {"voltage_decay": 0.3}
    return Blocks(
        b.Input(None, delay_shift=False),
        b.Conv(lif(**p), 2, 4, 3, weight_scale=5),
        b.Pool(lif(), 2, weight_scale=0.6),
        b.Conv(lif(**p), 4, 6, 3, padding=1, weight_scale=5),
        b.Flatten(),
        b.Dense(lif(**p), 96, 7, weight_scale=3),
    )


def conv_transpose() -> nn.Module:
    b = _cuba()
    return Blocks(
        b.Conv(lif(), 2, 4, 3, stride=2, padding=1, weight_scale=4),
        b.ConvT(lif(), 4, 3, 2, stride=2, weight_scale=6),
        b.Conv(lif(), 3, 2, 3, padding=1, weight_scale=8),
    )


def unpool() -> nn.Module:
    b = _cuba()
    return Blocks(
        b.Conv(lif(), 2, 3, 3, stride=2, padding=1, weight_scale=5), b.Unpool(lif(), 2, weight_scale=1.1),
        b.Conv(lif(), 3, 2, 3, padding=1, weight_scale=4),
    )  # fmt: skip


def recurrent() -> nn.Module:
    b = _cuba()
    return Blocks(
        b.Dense(lif(), 30, 20, weight_scale=3), b.Recurrent(lif(current_decay=0.5, voltage_decay=0.2), 20, 16, weight_scale=3),
        b.Dense(lif(), 16, 6, weight_scale=4),
    )  # fmt: skip


def decays_per_channel() -> nn.Module:
    own = {"shared_param": False, "current_decay": [0.2, 0.9], "voltage_decay": [0.05, 0.6]}
    b = _cuba()
    return Blocks(b.Dense(lif(**own), 30, 20, weight_scale=2), b.Dense(lif(**own), 20, 8, weight_scale=2))


def mean_norm_block() -> nn.Module:
    norm = _slayer().neuron.norm.MeanOnlyBatchNorm
    b = _cuba()
    return Blocks(
        b.Conv(lif(norm=norm, current_decay=0.5), 2, 4, 3, padding=1, weight_scale=4, **NOW), b.Flatten(),
        b.Dense(lif(norm=norm, current_decay=0.5), 144, 12, weight_scale=4, **NOW),
    )  # fmt: skip


def axonal_delays() -> nn.Module:
    """Delays in front of a convolution (unrolled) and of a dense layer."""
    b = _cuba()
    return Blocks(
        b.Conv(lif(), 2, 4, 3, padding=1, weight_scale=4, delay=True), b.Conv(lif(), 4, 3, 3, stride=2, weight_scale=4, delay=True),
        b.Flatten(), b.Dense(lif(), 12, 8, weight_scale=5, delay=True),
    )  # fmt: skip


def input_block() -> nn.Module:
    """SLAYER's input block with neurons, a weight and no bias."""
    b = _cuba()
    return Blocks(b.Input(lif(threshold=1.5), weight=1.0), b.Dense(lif(), 30, 12, weight_scale=4))


def narrow_kernels() -> nn.Module:
    """(k, 1) and (1, k) kernels, as for spectrograms."""
    b = _cuba()
    return Blocks(
        b.Conv(lif(), 1, 4, (5, 1), padding=(2, 0), weight_scale=4), b.Conv(lif(), 4, 4, (1, 3), stride=(1, 2), weight_scale=4),
        b.Conv(lif(), 4, 3, (3, 1), stride=(2, 1), weight_scale=4),
    )  # fmt: skip


def dilated() -> nn.Module:
    b = _cuba()
    return Blocks(
        b.Conv(lif(), 2, 4, 3, padding=2, dilation=2, weight_scale=4),
        b.Conv(lif(), 4, 4, 3, padding=(3, 1), dilation=(3, 1), weight_scale=8),
    )


def depthwise() -> nn.Module:
    """MobileNet: depthwise, then pointwise."""
    b = _cuba()
    return Blocks(
        b.Conv(lif(), 2, 6, 3, padding=1, weight_scale=4), b.Conv(lif(), 6, 6, 3, padding=1, groups=6, weight_scale=4),
        b.Conv(lif(), 6, 8, 1, weight_scale=4), b.Conv(lif(), 8, 4, 3, stride=2, groups=2, weight_scale=4),
    )  # fmt: skip


# -- networks with a forward of their own


class Vgg(nn.Module):
    """Conv, conv, max pool, twice."""

    def __init__(self) -> None:
        super().__init__()
        b = _cuba()
        self.features = nn.Sequential(
            b.Conv(lif(), 2, 4, 3, padding=1, weight_scale=5), b.Conv(lif(), 4, 4, 3, padding=1, weight_scale=5),
            nn.MaxPool3d((2, 2, 1)), b.Conv(lif(), 4, 6, 3, padding=1, weight_scale=5), nn.MaxPool3d((3, 3, 1), (2, 2, 1), (1, 1, 0)),
        )  # fmt: skip
        self.classifier = b.Dense(lif(), 24, 5, weight_scale=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.features(x), 1, 3))


class ResNet(nn.Module):
    """Two residual blocks; the sum of currents goes to one neuron."""

    def __init__(self, identity: bool) -> None:
        super().__init__()
        s, b = _slayer(), _cuba()
        stride = 1 if identity else 2
        self.stem = b.Conv(lif(), 2, 4, 3, padding=1, weight_scale=4, **NOW)
        self.conv1 = b.Conv(lif(), 4, 4, 3, stride=stride, padding=1, weight_scale=6, **NOW)
        self.conv2 = s.synapse.Conv(4, 4, 3, padding=1, weight_scale=3)
        self.short = nn.Identity() if identity else s.synapse.Conv(4, 4, 1, stride=2, weight_scale=3)
        self.out = s.neuron.cuba.Neuron(**lif())
        for synapse in (self.conv2, self.short):
            if not identity or synapse is self.conv2:
                synapse.pre_hook_fx = self.out.quantize_8bit
        self.fc = b.Dense(lif(), 4 * (36 if identity else 9), 6, weight_scale=6, **NOW)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        current = self.conv2(self.conv1(x))
        current += self.short(x)
        x = self.out(current)
        return self.fc(x.reshape(x.shape[0], -1, x.shape[-1]))


class SewAdd(nn.Module):
    """SEW-ResNet: spikes are added to spikes, g(a, s) = a + s."""

    def __init__(self) -> None:
        super().__init__()
        b = _cuba()
        self.stem = b.Conv(lif(), 2, 4, 3, padding=1, weight_scale=5, **NOW)
        self.a = b.Conv(lif(), 4, 4, 3, padding=1, weight_scale=5, **NOW)
        self.b = b.Conv(lif(), 4, 4, 3, padding=1, weight_scale=5, **NOW)
        self.fc = b.Dense(lif(threshold=2.0), 144, 6, weight_scale=8, **NOW)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.a(x) + x
        x = torch.add(x, self.b(x))
        return self.fc(x.flatten(1, 3))


class MsResNet(nn.Module):
    """MS-ResNet: neurons first; the residual stream is a current."""

    def __init__(self) -> None:
        super().__init__()
        s = _slayer()
        self.convs = nn.ModuleList(s.synapse.Conv(n, 4, 3, padding=1, weight_scale=3) for n in (2, 4, 4))
        self.lifs = nn.ModuleList(s.neuron.cuba.Neuron(**lif()) for _ in range(3))
        for conv, neuron in zip(self.convs, self.lifs, strict=True):
            conv.pre_hook_fx = neuron.quantize_8bit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stream = self.convs[0](x)
        for conv, neuron in zip(self.convs[1:], self.lifs, strict=False):
            stream = stream + conv(neuron(stream))
        return self.lifs[2](stream)


class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        b = _cuba()
        self.a = b.Conv(lif(), 2, 3, 3, padding=1, weight_scale=4, **NOW)
        self.b = b.Conv(lif(), 3, 3, 3, padding=1, weight_scale=4, **NOW)
        self.c = b.Conv(lif(), 6, 4, 3, stride=2, padding=1, groups=2, weight_scale=4, **NOW)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        x = torch.cat([x, self.b(x)], dim=1)
        return self.c(x)


class SplitAndMerge(nn.Module):
    """CSP: half of the channels go around a block."""

    def __init__(self) -> None:
        super().__init__()
        b = _cuba()
        self.a = b.Conv(lif(), 2, 6, 3, padding=1, weight_scale=4, **NOW)
        self.b = b.Conv(lif(), 3, 3, 3, padding=1, weight_scale=4, **NOW)
        self.c = b.Conv(lif(), 6, 4, 1, weight_scale=4, **NOW)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.a(x).chunk(2, dim=1)
        return self.c(torch.cat((left, self.b(right)), 1))[:, 1:]


class BareParts(nn.Module):
    """Synapses and neurons used bare; the norm stands between them."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        s = _slayer()
        self.fc1, self.fc2 = s.synapse.Dense(30, 20, weight_scale=3), s.synapse.Dense(20, 8, weight_scale=3)
        self.norm = s.neuron.norm.MeanOnlyBatchNorm() if norm else nn.Identity()
        self.lif1, self.lif2 = (s.neuron.cuba.Neuron(**lif(persistent_state=True)) for _ in range(2))
        self.fc1.pre_hook_fx = self.fc2.pre_hook_fx = self.lif1.quantize_8bit
        if norm:
            self.norm.pre_hook_fx = self.lif1.quantize_8bit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.lif1(self.norm(self.fc1(x)))
        return self.lif2(self.fc2(F.dropout(x, 0.1, self.training)))


class SumPooling(nn.Module):
    """Pooling of spikes by sums, without neurons: folded into the next weights."""

    def __init__(self) -> None:
        super().__init__()
        s, b = _slayer(), _cuba()
        self.conv1 = b.Conv(lif(), 2, 4, 3, padding=1, weight_scale=5)
        self.pool = s.synapse.Pool(2)
        self.conv2 = b.Conv(lif(threshold=2), 4, 4, 3, padding=1, weight_scale=4)
        self.fc = b.Dense(lif(threshold=2), 4, 6, weight_scale=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.conv1(x))
        x = self.conv2(x)
        x = 4 * F.avg_pool3d(x, (2, 2, 1))
        return self.fc(x.sum(dim=(2, 3)))


class UNet(nn.Module):
    """Down, up by nearest neighbours, and across."""

    def __init__(self) -> None:
        super().__init__()
        b = _cuba()
        self.down1 = b.Conv(lif(), 2, 3, 3, padding=1, weight_scale=5, **NOW)
        self.down2 = b.Conv(lif(), 3, 4, 3, stride=2, padding=1, weight_scale=5, **NOW)
        self.up = nn.Upsample(scale_factor=(2, 2, 1))
        self.mix = b.Conv(lif(), 7, 2, 3, padding=1, weight_scale=6, **NOW)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down1(x)
        return self.mix(torch.cat([self.up(self.down2(x)), x], dim=1))


class ShapeFlow(nn.Module):
    """Control flow on shapes, permutes that are undone, one block used twice."""

    def __init__(self) -> None:
        super().__init__()
        b = _cuba()
        self.twice = b.Conv(lif(), 2, 2, 3, padding=1, weight_scale=6, **NOW)
        self.fc = b.Dense(lif(), 18, 6, weight_scale=5, **NOW)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, *_, steps = x.size()
        x = self.twice(self.twice(x))
        while x.shape[2] > 3:
            x = F.max_pool3d(x, (2, 2, 1))
        assert x.dim() == 5 and len(x) == n
        x = x.permute(0, 4, 1, 2, 3).reshape(n * steps, 2, 3, 3)
        x = x.view(n, steps, -1).transpose(1, 2)
        return self.fc(x)


class OwnLayers(nn.Module):
    """taaf's own quantisation-aware layers, in a network of the user's."""

    def __init__(self) -> None:
        super().__init__()
        from taaf.models.lif import LifParameters
        from taaf.models.qat import QatConv2d, QatDense
        from taaf.models.slayer_lif import SlayerLif

        self.conv, self.fc = QatConv2d(2, 4, 3, 2, 64, gain=1.0), QatDense(36, 8, 64, gain=1.0)
        self.lif1, self.lif2 = SlayerLif(LifParameters(), 0.5, 1.0), SlayerLif(LifParameters(), 0.5, 1.0)
        self.readout = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from taaf.models.qat import over_time

        x = self.lif1(over_time(self.conv, x))
        x = self.lif2(over_time(self.fc, x.flatten(1, 3)))
        return self.readout(x.mean(-1))


class CurrentReadout(nn.Module):
    """The usual readout of classifiers: a layer of weights without neurons, averaged over time."""

    def __init__(self) -> None:
        super().__init__()
        b, s = _cuba(), _slayer()
        self.hidden = b.Dense(lif(), 30, 20, weight_scale=4)
        self.readout = s.synapse.Dense(20, 5, weight_norm=True, pre_hook_fx=self.hidden.neuron.quantize_8bit)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        current = self.readout(self.hidden(x))
        return {"logits": torch.log_softmax(current.mean(dim=-1), 1), "current": current}


class VoltageReadout(nn.Module):
    """slayer's Affine: neurons that never fire; their voltage at the end."""

    def __init__(self) -> None:
        super().__init__()
        b = _cuba()
        self.hidden, self.readout = b.Dense(lif(), 30, 20, weight_scale=4), b.Affine(lif(), 20, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.readout(self.hidden(x))[..., -1]


class TwoBranches(nn.Module):
    """Two branches and an own head in one forward; the audio branch is rate-coded, the events keep their time."""

    def __init__(self) -> None:
        super().__init__()
        b = _cuba()
        self.event = nn.Sequential(
            b.Conv(lif(), 2, 4, 3, stride=2, weight_scale=4), b.Flatten(), b.Dense(lif(), 36, 8, weight_scale=4)
        )
        self.audio = nn.Sequential(b.Recurrent(lif(), 20, 12, weight_scale=4), b.Dense(lif(), 12, 8, weight_scale=4))
        self.over_time = nn.GRU(8, 6, batch_first=True)
        self.head = nn.Linear(14, 4)

    def forward(self, event: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        e = self.event(event)
        rate = _slayer().classifier.Rate.rate(self.audio(audio))
        _, last = self.over_time(e.permute(0, 2, 1))
        gate = torch.sigmoid(rate)
        return self.head(torch.cat([last[0], gate * rate], dim=1))


class DeepSupervision(nn.Module):
    """The host reads two populations of one branch."""

    def __init__(self) -> None:
        super().__init__()
        b = _cuba()
        self.a = b.Conv(lif(), 2, 3, 3, stride=2, padding=1, weight_scale=4)
        self.b = b.Dense(lif(), 27, 6, weight_scale=4)
        self.fc1, self.fc2 = nn.Linear(3, 4), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        early = self.a(x)
        late = self.b(early.flatten(1, 3))
        return self.fc1(early.mean((2, 3, 4))), self.fc2(late.mean(-1))


def three_branches() -> dict[str, nn.Module]:
    """Three modalities of 8, 20 and 5 steps, one module each."""
    b = _cuba()
    return {
        "frames": Blocks(b.Conv(lif(), 1, 3, 3, stride=2, weight_scale=5), b.Flatten(), b.Dense(lif(), 27, 6, weight_scale=4)),
        "events": Blocks(b.Dense(lif(current_decay=0.5), 24, 12, weight_scale=3), b.Dense(lif(), 12, 6, weight_scale=4)),
        "touch": Blocks(b.Dense(lif(), 10, 6, weight_scale=5)),
    }


def branches_and_head() -> dict[str, nn.Module]:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(12, 3)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.cat([a.mean(-1), b.mean(-1)], 1))

    modules = three_branches()
    return {"events": modules["events"], "touch": modules["touch"], "head": Head()}


MAP, FLAT = {"event": (2, 6, 6, 12)}, {"audio": (30, 14)}

NETWORKS = [
    UserNetwork("nmnist tutorial", nmnist_tutorial, {"event": (40, 20)}),
    UserNetwork("oxford tutorial", oxford_tutorial, {"event": (40, 20)}, rate=0.1),
    UserNetwork("conv chain with delay_shift and weight norm", conv_chain, {"event": (2, 8, 8, 14)}),
    UserNetwork("pool blocks, odd map", pool_blocks, {"event": (2, 9, 9, 12)}),
    UserNetwork("ConvT", conv_transpose, MAP),
    UserNetwork("Unpool", unpool, MAP),
    UserNetwork("recurrent", recurrent, FLAT),
    UserNetwork("decays per channel", decays_per_channel, FLAT),
    UserNetwork("MeanOnlyBatchNorm in blocks", mean_norm_block, MAP),
    UserNetwork("MeanOnlyBatchNorm before neurons", lambda: BareParts(norm=True), FLAT),
    UserNetwork("bare synapses and neurons", lambda: BareParts(norm=False), FLAT),
    UserNetwork("axonal delays", axonal_delays, MAP, host=True),
    UserNetwork("input block", input_block, FLAT, rate=0.5),
    UserNetwork("(k, 1) kernels", narrow_kernels, {"audio": (1, 12, 7, 12)}),
    UserNetwork("dilated", dilated, MAP),
    UserNetwork("depthwise", depthwise, MAP),
    UserNetwork("VGG with max pool", Vgg, {"event": (2, 8, 8, 12)}),
    UserNetwork("ResNet, 1x1 shortcut", lambda: ResNet(identity=False), MAP),
    UserNetwork("ResNet, identity shortcut", lambda: ResNet(identity=True), MAP),
    UserNetwork("SEW-ADD", SewAdd, MAP),
    UserNetwork("MS-ResNet", MsResNet, MAP),
    UserNetwork("DenseNet concat", DenseNet, MAP),
    UserNetwork("split and merge", SplitAndMerge, MAP, host=True),
    UserNetwork("sum pooling", SumPooling, {"event": (2, 8, 8, 12)}),
    UserNetwork("U-Net with nearest neighbours", UNet, MAP),
    UserNetwork("control flow on shapes", ShapeFlow, {"event": (2, 12, 12, 10)}),
    UserNetwork("our own layers", OwnLayers, MAP, host=True),
    UserNetwork("current readout", CurrentReadout, FLAT, host=True),
    UserNetwork("voltage readout", VoltageReadout, FLAT, host=True),
    UserNetwork("deep supervision", DeepSupervision, MAP, host=True),
    UserNetwork("two branches, own head", TwoBranches, {"event": (2, 8, 8, 10), "audio": (20, 16)}, host=True),
    UserNetwork(
        "three branches, T = 8, 20, 5", three_branches, {"frames": (1, 7, 7, 8), "events": (24, 20), "touch": (10, 5)}, rate=0.4
    ),
    UserNetwork("branches and head", branches_and_head, {"events": (24, 20), "touch": (10, 5)}, host=True, rate=0.4),
]


# -- networks that are refused


class SigmoidGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        b = _cuba()
        self.a, self.b = b.Dense(lif(), 30, 20, weight_scale=4), b.Dense(lif(), 20, 6, weight_scale=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        x = torch.sigmoid(x) * x
        return self.b(x)


class Between(nn.Module):
    """A block, something torch does, a block."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor], first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.between, self.second = first, between, second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = self.between(x)
        return self.second(x)


def alif() -> nn.Module:
    block = _slayer().block.alif
    decays = {f"{what}_decay": 0.5 for what in ("current", "voltage", "threshold", "refractory")}
    params = {"threshold": 1, "threshold_step": 0.5, **decays}
    return Blocks(_cuba().Dense(lif(), 30, 20, weight_scale=4), block.Dense(params, 20, 6))


def sigma_delta() -> nn.Module:
    block = _slayer().block.sigma_delta
    params = {"threshold": 0.1, "activation": torch.relu}
    return Blocks(block.Dense({**params}, 30, 20), block.Dense({**params}, 20, 6))


def kwta() -> nn.Module:
    return Blocks(_cuba().KWTA(lif(), 30, 20, num_winners=3, weight_scale=4))


def averages_of_nine() -> nn.Module:
    b = _cuba()
    return Between(
        lambda x: F.avg_pool3d(x, (3, 3, 1)),
        b.Conv(lif(), 2, 4, 3, padding=1, weight_scale=5),
        b.Conv(lif(), 4, 3, 2, weight_scale=4),
    )


def average_block() -> nn.Module:
    """slayer's Average of 5 neurons each, in front of more neurons."""
    b = _cuba()
    return Blocks(b.Dense(lif(), 30, 20, weight_scale=4), b.Average(4), b.Dense(lif(), 4, 3, weight_scale=4))


def quarter_pooling() -> nn.Module:
    """Averages of four are exact where the next weights are multiples of 8, which trained ones are not."""
    b = _cuba()
    return Between(
        lambda x: F.avg_pool3d(x, (2, 2, 1)),
        b.Conv(lif(), 2, 4, 3, padding=1, weight_scale=5),
        b.Conv(lif(), 4, 3, 2, weight_scale=4),
    )


def scaling_norm() -> nn.Module:
    norm = _slayer().neuron.norm.WgtScaleBatchNorm
    return Blocks(_cuba().Dense(lif(norm=norm), 30, 20, weight_scale=4))


def late_norm() -> nn.Module:
    norm = _slayer().neuron.norm.MeanOnlyBatchNorm
    b = _cuba()
    return Blocks(b.Dense(lif(), 30, 20, weight_scale=4), b.Dense(lif(norm=norm), 20, 8, weight_scale=4))


class LateSkip(nn.Module):
    """A skip path over a block with delay_shift."""

    def __init__(self) -> None:
        super().__init__()
        b = _cuba()
        self.a, self.b, self.c = (b.Dense(lif(), n, 20, weight_scale=4) for n in (30, 20, 20))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        y = x + self.b(x)
        return self.c(y)


class EarlyFusion(nn.Module):
    """Two modalities into one population."""

    def __init__(self) -> None:
        super().__init__()
        b = _cuba()
        self.a, self.b, self.c = (b.Dense(lif(), n, 10, weight_scale=4, **NOW) for n in (30, 24, 20))

    def forward(self, event: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        both = torch.cat([self.a(event), self.b(audio)], 1)
        return self.c(both)


class TorchWeights(nn.Module):
    """torch's own convolution in front of SLAYER's neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 4, (3, 3, 1))
        self.neurons = _slayer().neuron.cuba.Neuron(**lif())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.neurons(x)


class FloatWeights(nn.Module):
    """A synapse whose quantisation was forgotten."""

    def __init__(self) -> None:
        super().__init__()
        s = _slayer()
        self.fc, self.neurons = s.synapse.Dense(30, 10), s.neuron.cuba.Neuron(**lif())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.neurons(self.fc(x))


class EarlyExit(nn.Module):
    """Decides on spikes."""

    def __init__(self) -> None:
        super().__init__()
        b = _cuba()
        self.a, self.b = b.Dense(lif(), 30, 20, weight_scale=4), b.Dense(lif(), 20, 20, weight_scale=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        if x.mean() > 0.5:
            return x
        return self.b(x)


class StepByStep(nn.Module):
    """A loop over time with persistent states."""

    def __init__(self) -> None:
        super().__init__()
        self.a = _cuba().Dense(lif(persistent_state=True), 30, 20, weight_scale=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.a(x[..., t : t + 1]) for t in range(x.shape[-1])], -1)


class TwiceWithState(nn.Module):
    """Recurrent blocks keep their state from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.a = _cuba().Recurrent(lif(), 20, 20, weight_scale=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(self.a(x))


def through_numpy() -> nn.Module:
    b = _cuba()
    return Between(
        lambda x: torch.from_numpy(x.detach().numpy().copy()), b.Dense(lif(), 30, 20, weight_scale=4), b.Dense(lif(), 20, 6)
    )


class _Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(1 - x.numpy())


def own_function() -> nn.Module:
    """A custom autograd function hides what it does."""
    b = _cuba()
    return Between(_Hidden.apply, b.Dense(lif(), 30, 20, weight_scale=4), b.Dense(lif(), 20, 6))


def high_threshold() -> nn.Module:
    return Blocks(_cuba().Dense(lif(threshold=64), 30, 20, weight_scale=40))


def graded() -> nn.Module:
    return Blocks(_cuba().Dense(lif(graded_spike=True), 30, 20, weight_scale=4))


REFUSED = [
    UserNetwork(
        "sigmoid gate", SigmoidGate, FLAT,
        refused=r"user_networks.py:\d+: `x = torch.sigmoid\(x\) \* x`: sigmoid of spikes .* enters b \(Dense\) at .*`return self.b\(x\)`",
    ),
    UserNetwork("ALIF", alif, FLAT, refused=r"alif.Dense: adaptive thresholds \(ALIF\) have no exact form"),
    UserNetwork("sigma-delta", sigma_delta, FLAT, refused="graded sigma-delta messages have no exact form"),
    UserNetwork("KWTA", kwta, FLAT, refused=r"k winners that inhibit each other within a step \(KWTA\)"),
    UserNetwork("averages of nine", averages_of_nine, MAP, refused="averages 9 spikes; fractions that are no power of two"),
    UserNetwork("Average block", average_block, FLAT, refused="mean of 5 spikes: fractions that are no power of two"),
    UserNetwork("averages of four", quarter_pooling, MAP, refused="needs a weight of .* in second, which is no even multiple of 1/64"),
    UserNetwork("WgtScaleBatchNorm", scaling_norm, FLAT, refused="WgtScaleBatchNorm, which also scales"),
    UserNetwork("norm with delay_shift", late_norm, FLAT, refused="first spikes 1 steps after .* Set delay_shift=False"),
    UserNetwork("skip path with delay_shift", LateSkip, FLAT, refused=r"`y = x \+ self.b\(x\)`: .* arrive 1 and 2 steps .* 1 apart"),
    UserNetwork("two modalities", EarlyFusion, {"a": (30, 12), "b": (24, 12)}, refused="joins spikes of a and b; a chip graph"),
    UserNetwork("torch's weights", TorchWeights, MAP, refused=r"`x = self.conv\(x\)`: conv3d of torch has real weights"),
    UserNetwork("weights not quantised", FloatWeights, FLAT, refused="no even multiple of 1/64; set pre_hook_fx"),
    UserNetwork("decides on spikes", EarlyExit, FLAT, refused=r"`if x.mean\(\) > 0.5:`: bool decides on what spikes hold"),
    UserNetwork("step by step", StepByStep, FLAT, refused="picks single steps or windows"),
    UserNetwork("called twice with states", TwiceWithState, {"event": (20, 12)}, refused="called twice with persistent_state"),
    UserNetwork("through NumPy", through_numpy, FLAT, refused="a tensor that no recorded operation made"),
    UserNetwork("own autograd function", own_function, FLAT, refused="a tensor that no recorded operation made"),
    UserNetwork("threshold 64", high_threshold, FLAT, refused="fires at the threshold itself"),
    UserNetwork("graded spikes", graded, FLAT, refused="sends graded spikes"),
]  # fmt: skip
