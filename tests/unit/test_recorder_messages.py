"""What the recorder refuses, and that the message begins with the user's own line."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from user_networks import REFUSED, Blocks, UserNetwork, built, examples, lif

from taaf.export.recorder import record
from taaf.models.errors import DataError, TaafError, UnsupportedLayerError

pytestmark = [pytest.mark.needs_slayer, pytest.mark.usefixtures("one_thread")]


@pytest.mark.parametrize("network", REFUSED, ids=lambda n: n.name)
def test_refused(network: UserNetwork) -> None:
    module = built(network)
    with pytest.raises(UnsupportedLayerError, match=network.refused) as refused:
        record(module, examples(network))
    assert str(refused.value).startswith("user_networks.py:") and "\n" not in str(refused.value)


def _dense(n: int = 10, **more: object) -> nn.Module:
    from lava.lib.dl.slayer.block import cuba

    return cuba.Dense(lif(), n, 8, weight_scale=6, **more)


class _Own(nn.Module):
    """A block and what ``after`` makes of it."""

    def __init__(self, after: Callable[..., object]) -> None:
        super().__init__()
        self.a, self.b, self.after = _dense(), _dense(), after

    def forward(self, *inputs: torch.Tensor) -> object:
        return self.after(*(block(x) for block, x in zip((self.a, self.b), inputs, strict=False)), *inputs)


def _x(*shape: int) -> torch.Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.4).float()


X = _x(2, 10, 8)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "_Own: inputs none; expected at least one"),
        ({"event": X[0]}, r"input 'event' \(10, 8\): expected \(windows, channels, height, width, steps\) or"),
        ({"event": 0.5 * X}, r"holds 0..0.5; expected spikes, 0 and 1: encode it as spikes first"),
        ({"event": X, "audio": _x(3, 10, 8)}, "event has 2 windows, audio has 3 windows; give equally many"),
        ({"event": _x(2, 9, 8)}, r"test_recorder_messages.py:\d+: `return self.after.*`: forward fails on event \(2, 9, 8\): RuntimeError"),
    ],
)  # fmt: skip
def test_wrong_examples(inputs: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(DataError, match=message):
        record(_Own(lambda a, *_: a), inputs)


def test_windows_of_another_shape_are_named() -> None:
    recording = record(_Own(lambda a, *_: a), {"event": X})
    with pytest.raises(DataError, match=r"input 'event' \(2, 9, 8\): recorded with \(10,\) per window and step"):
        recording.trace({"event": _x(2, 9, 8)})
    with pytest.raises(DataError, match="inputs audio; expected event"):
        recording.trace({"audio": X})


def test_branches_and_inputs_are_named_alike() -> None:
    with pytest.raises(DataError, match="modules for event, but inputs for audio; name them alike"):
        record({"event": _dense()}, {"audio": X})


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (lambda a, b, x, y: a, "input 'audio' does not reach what forward returns; leave it out"),
        (lambda a, b, x, y: (a, b + y[:, :8]), "input 'audio' reaches the output without passing neurons"),
        (lambda a, b, x, y: torch.zeros(1), "what forward returns was not made of the inputs by recorded operations"),
        (lambda a, b, x, y: a.mean() + b.mean() + float(torch.rand(1)), "host part, run on the chip's spikes alone, answers otherwise"),
    ],
)  # fmt: skip
def test_outputs_that_cannot_be_split_from_the_chip(after: Callable[..., object], message: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(UnsupportedLayerError, match=message):
        record(_Own(after), {"event": X, "audio": _x(2, 10, 8)})


def test_what_is_drawn_at_the_first_forward_must_have_been_drawn() -> None:
    from lava.lib.dl.slayer.block import cuba

    own = cuba.Dense(lif(shared_param=False), 10, 8)
    with pytest.raises(
        UnsupportedLayerError, match=r"Blocks.blocks.0.neuron draws its decays at its first forward; run the module once"
    ):
        record(Blocks(own, cuba.Dense(lif(), 8, 8, delay=True)), {"event": X})
    with pytest.raises(UnsupportedLayerError, match=r"Blocks.blocks.0.delay draws its delays at its first forward"):
        record(Blocks(_dense(delay=True)), {"event": X})


def _written(x: torch.Tensor) -> torch.Tensor:
    x[:, 0] = 0
    return x


def _filled(x: torch.Tensor) -> torch.Tensor:
    found = torch.zeros_like(x)
    found[:, :4] = x[:, :4]
    return found


@pytest.mark.parametrize(
    ("between", "message"),
    [
        (lambda x: x * x, r"`.*x \* x.*`: mul of two tensors \(a gate\) has no exact form"),
        (lambda x: x * 3, "mul by 3 is not exact"),
        (lambda x: torch.stack([x, x]).sum(0), "stacks tensors along a new axis"),
        (_written, "a part of a tensor is written in place"),
        (_filled, "a part of a tensor is written in place"),
        (lambda x: torch.ones_like(x).add_(x), "add_ changes a constant"),
        (lambda x: x.flip(1), "flip of spikes or currents has no exact form"),
        (lambda x: x[0:1], "picks single steps or windows"),
        (lambda x: x.cumsum(-1), "cumsum of spikes"),
        (lambda x: (x > 0).float(), "gt of spikes"),
        (lambda x: x + torch.rand_like(x), "differs from window to window or from step to step"),
        (lambda x: torch.nn.functional.dropout(x, 0.1), "dropout is switched on"),
        (lambda x: x.transpose(1, 2), "permute back first"),
        (lambda x: x.reshape(len(x), 4, -1).view(x.shape), r"reshape of \(2, 8, 8\) to \(2, 4, 16\) mixes windows, time and neurons"),
        (lambda x: torch.nn.functional.batch_norm(x, torch.zeros(8), torch.ones(8)), "batch_norm is not folded; use norm="),
        (lambda x: torch.nn.functional.max_pool1d(x, 2), "max_pool1d of spikes"),
        (lambda x: x.sum(-1, keepdim=True).expand(-1, -1, 8), "sum over time leaves the chip"),
    ],
)  # fmt: skip
def test_what_torch_does_between_two_layers(between: Callable[[torch.Tensor], torch.Tensor], message: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = _dense(), _dense(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(between(self.a(x)))

    with pytest.raises(TaafError, match=message) as refused:
        record(Net(), {"event": X})
    assert str(refused.value).startswith("test_recorder_messages.py:")


def test_a_change_in_place_reaches_other_views() -> None:
    def after(a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        seen = a.view(len(a), 4, 2, -1)
        a += a
        return net.b2(seen.flatten(1, 2))

    net = _Own(after)
    net.b2 = _dense(8)
    with pytest.raises(
        UnsupportedLayerError, match="`a \\+= a`: add changes a tensor in place that is also used under another name"
    ):
        record(net, {"event": X})


def test_neurons_of_ones_own_are_refused() -> None:
    from lava.lib.dl.slayer.block import cuba as block
    from lava.lib.dl.slayer.neuron import cuba

    class Mine(cuba.Neuron):  # type: ignore[misc]
        def dynamics(self, input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            current, voltage = super().dynamics(input)
            return current, voltage + 0.5

    dense = block.Dense(lif(), 10, 8)
    dense.neuron = Mine(1.0, 1.0, 0.5)
    with pytest.raises(UnsupportedLayerError, match="Mine neurons with a dynamics of their own"):
        record(Blocks(dense), {"event": X})


def test_without_code_of_ones_own_the_module_is_named() -> None:
    from lava.lib.dl.slayer.block import alif

    decays = {f"{what}_decay": 0.5 for what in ("current", "voltage", "threshold", "refractory")}
    net = nn.Sequential(_dense(), alif.Dense({"threshold": 1, "threshold_step": 0.5, **decays}, 8, 4))
    with pytest.raises(UnsupportedLayerError, match=r"^mine: 1 \(Dense\) slayer alif.Dense: adaptive thresholds"):
        record(net, {"event": X}, name="mine")
