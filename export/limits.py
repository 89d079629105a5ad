"""What the integer hardware and Lava can hold; all violations are collected before one error is raised."""

import numpy as np

from taaf.export.intervals import saturation_problems
from taaf.models.errors import LimitExceededError
from taaf.models.ir import Conv2d, Dense, Graph, Lif, RecurrentDense
from taaf.models.qat import WEIGHT_MAX, WEIGHT_MIN

V_TH_MAX = 131_071  # 17 bits
BIAS_MIN, BIAS_MAX = -4096, 4095  # 13-bit mantissa, exponent 6
CONV_FIELD_MAX = 127  # Lava's Conv keeps kernel, stride, padding, dilation and groups in signed 8-bit fields


def check_limits(graph: Graph, pipelined: bool = True, window_steps: int | None = None, allow_saturation: bool = False) -> None:
    """Check an integer graph against the ranges of LAVA.md.

    Weights: even, within [-256, 254]; of a dense layer also not all zero and representable in the sign mode Lava chooses.
    Convolution fields: up to 127. Neurons: decays 1..4096 (current) and 0..4096 (voltage), threshold 1..131071, bias
    -4096..4095. State: u and v provably stay inside 24 bits, so that the chip's wrap and clip, which SLAYER does not have,
    can never act (`taaf.export.intervals`).

    Parameters
    ----------
    pipelined : bool
        Windows follow each other without a gap (as in a bundle). Then recurrent layers are refused: the reset clears
        neurons, but the recurrent spikes of a window's last step still arrive in the next window's first step.

    window_steps : int, optional
        Steps between two resets; by default u and v must hold for any number of steps.
    allow_saturation : bool
        Accept that u and v may leave 24 bits (what then happens on the chip, reference and engine do too, and count).

    Raises
    ------
    LimitExceededError
        One line that lists every violation as ``branch.layer: found (allowed)``.
    """
    problems: list[str] = []
    for node in graph.nodes.values():
        where = f"{graph.name}.{node.name}"
        if isinstance(node, Conv2d):
            problems += _weight_problems(where, node.weight) + _field_problems(where, node)
        if isinstance(node, Dense):
            parts = {where: node.weight}
            if isinstance(node, RecurrentDense):
                parts[f"{where} (recurrent)"] = node.weight_rec
                problems += _recurrence_problems(graph, node, pipelined)
            found = [p for part, weight in parts.items() for p in _weight_problems(part, weight)]
            problems += found or _sign_mode_problems(where, parts)
        if isinstance(node, Lif):
            problems += _neuron_problems(where, node)
    problems += [] if problems else saturation_problems(graph, window_steps, allow_saturation)
    if problems:
        raise LimitExceededError("; ".join(problems))


def _weight_problems(where: str, weight: np.ndarray) -> list[str]:
    if not np.issubdtype(weight.dtype, np.integer):
        return [f"{where}: weights are {weight.dtype}, not integers (quantise first)"]
    found = []
    if weight.min() < WEIGHT_MIN or weight.max() > WEIGHT_MAX:
        found.append(f"{where}: weights {weight.min()}..{weight.max()} (allowed {WEIGHT_MIN}..{WEIGHT_MAX})")
    if (weight % 2).any():
        found.append(f"{where}: {int((weight % 2 != 0).sum())} odd weights (allowed even ones: 8-bit mantissa, exponent 1)")
    return found


def _field_problems(where: str, conv: Conv2d) -> list[str]:
    fields = {"kernel": conv.weight.shape[2:], "stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
    found = [
        f"{where}: {name} {tuple(value)} (allowed up to {CONV_FIELD_MAX}: Lava keeps it in 8 bits)"
        for name, value in fields.items()
        if max(value) > CONV_FIELD_MAX
    ]
    if conv.groups > CONV_FIELD_MAX:
        found.append(
            f"{where}: {conv.groups} groups (allowed up to {CONV_FIELD_MAX}; the pass merge_groups makes fewer of them)"
        )
    return found


def _sign_mode_problems(where: str, parts: dict[str, np.ndarray]) -> list[str]:
    """What NetX and Lava's Dense do to weights within range (convolutions are taken as they are).

    NetX shifts the weights of a layer (input and recurrent together) left as far as [-256, 254] allows, and Lava shifts
    the sums back. Lava then looks at each matrix alone: one without positive weights is clipped to [-255, 0] and its
    low bits are cut. So a smallest weight that was shifted to exactly -256, a power of two, comes out wrong.
    """
    low = min(0, *(int(w.min()) for w in parts.values()))
    high = max(0, *(int(w.max()) for w in parts.values()))
    if low == high:
        return [f"{where}: all weights are zero (Lava cannot load such a layer; remove it)"]
    shift = 0
    while low << shift + 1 >= WEIGHT_MIN and high << shift + 1 <= WEIGHT_MAX:
        shift += 1
    return [
        f"{part}: smallest weight {weight.min()} in a matrix without positive weights, which Lava would change (allowed: "
        "a smallest weight that is not minus a power of two, or at least one positive weight)"
        for part, weight in parts.items()
        if weight.max() <= 0 and int(weight.min()) << shift == WEIGHT_MIN
    ]


def _recurrence_problems(graph: Graph, node: RecurrentDense, pipelined: bool) -> list[str]:
    """Recurrent spikes live in the synapse, which no reset clears: none may be under way when a window starts."""
    where = f"{graph.name}.{node.name}"
    if pipelined:
        return [f"{where}: recurrent spikes leak into the next window (allowed: one window per run)"]
    lifs = graph.lifs()
    (fed,) = (i for i, lif in enumerate(lifs) if node in graph.synapses_of(lif.name))
    highest = max(0 if lif.bias is None else int(lif.bias.max()) for lif in lifs[: fed + 1])
    allowed = lifs[fed].v_th_mant if fed == 0 else 0  # the first layer runs one step before its window, later ones more
    if highest <= allowed:
        return []
    return [f"{where}: a bias of {highest} here or before can make spikes before the window starts (allowed {allowed})"]


def _neuron_problems(where: str, lif: Lif) -> list[str]:
    found = []
    for name, value, low, high in (
        ("i_decay", lif.i_decay, 1, 4096),
        ("v_decay", lif.v_decay, 0, 4096),
        ("v_th_mant", lif.v_th_mant, 1, V_TH_MAX),
    ):
        if not low <= value <= high:
            found.append(f"{where}: {name} {value} (allowed {low}..{high})")
    bias = np.zeros(1, np.int64) if lif.bias is None else lif.bias.astype(np.int64)
    if bias.min() < BIAS_MIN or bias.max() > BIAS_MAX:
        found.append(f"{where}: bias {bias.min()}..{bias.max()} (allowed {BIAS_MIN}..{BIAS_MAX})")
    return found
