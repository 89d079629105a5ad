"""What the integer hardware and Lava can hold; all violations are collected before one error is raised."""

import numpy as np

from taaf.export.intervals import saturation_problems
from taaf.models.errors import LimitExceededError
from taaf.models.ir import Conv2d, Dense, Graph, Lif, RecurrentDense
from taaf.models.lif import WEIGHT_MAX, WEIGHT_MIN

V_TH_MAX = 131_071  # 17 bits
BIAS_MIN, BIAS_MAX = -4096, 4095  # 13-bit mantissa, exponent 6
CONV_FIELD_MAX = 127  # Lava's Conv keeps kernel, stride, padding, dilation and groups in signed 8-bit fields


def check_limits(
    graph: Graph, pipelined: bool = True, state: bool = True, fill: bool = True, window_steps: int | None = None,
    allow_saturation: bool = False,
) -> None:  # fmt: skip
    """Check an integer graph against what Lava and NetX hold exactly.

    Weights: even, within [-256, 254]; of a dense layer also not all zero and representable in the sign mode Lava chooses.
    Convolution fields: up to 127. Neurons: decays 1..4096 (current) and 0..4096 (voltage), threshold 1..131071, bias
    -4096..4095. State: u and v provably stay inside 24 bits, so that the chip's wrap and clip, which SLAYER does not have,
    can never act (`taaf.export.intervals`).

    Parameters
    ----------
    pipelined : bool
        Windows follow each other without a gap (as in a bundle). Then recurrent layers are refused: the reset clears
        neurons, but the recurrent spikes of a window's last step still arrive in the next window's first step. Layers
        with delays are refused for the same reason. Guard steps (`taaf.export.passes.guard`) prevent both: ``fill=False``.
    state : bool
        Check the worst case of u and v. Not needed where only executions are compared that wrap and clip as Lava does, or
        where the deviation from the origin is measured instead (NIR).
    fill : bool
        Check that no spike is under way in a recurrence or a delay when a window of its own starts on Lava.

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
            if fill and (isinstance(node, RecurrentDense) or node.delay is not None):
                problems += _memory_problems(graph, node, pipelined)
            found = [p for part, weight in parts.items() for p in _weight_problems(part, weight)]
            problems += found or _sign_mode_problems(where, parts)
        if isinstance(node, Lif):
            problems += _neuron_problems(where, node)
    if state and not problems:
        problems += saturation_problems(graph, window_steps, allow_saturation)
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


def _memory_problems(graph: Graph, node: Dense, pipelined: bool) -> list[str]:
    """Recurrent and delayed spikes live in the synapse, which no reset clears: none may be there when a window starts.

    Layer i (from 0) runs i + 1 steps before its window. If no layer before it spikes, v is at most (i + 1) 64 bias then.
    """
    where, recurrent = f"{graph.name}.{node.name}", isinstance(node, RecurrentDense)
    if pipelined:
        kind = "recurrent" if recurrent else "delayed"
        return [f"{where}: {kind} spikes leak into the next window (allowed: one window per run, or guard steps)"]
    lifs = graph.lifs()
    (fed,) = (i for i, lif in enumerate(lifs) if node in graph.synapses_of(lif.name))
    for i, lif in enumerate(lifs[: fed + recurrent]):
        highest, allowed = 0 if lif.bias is None else int(lif.bias.max()), int(np.min(lif.v_th_mant)) // (i + 1)
        if highest > allowed:
            found = f"a bias of {highest} in {lif.name} can make spikes before the window starts (allowed {allowed})"
            return [f"{where}: {found}, and they would still be under way"]
    return []


def _neuron_problems(where: str, lif: Lif) -> list[str]:
    found = []
    for name, low, high in (("i_decay", 1, 4096), ("v_decay", 0, 4096), ("v_th_mant", 1, V_TH_MAX)):
        outside = [int(v) for v in np.unique(getattr(lif, name)) if not low <= v <= high]
        if outside:
            found.append(f"{where}: {name} {outside[0]} (allowed {low}..{high})")
    bias = np.zeros(1, np.int64) if lif.bias is None else lif.bias.astype(np.int64)
    if bias.min() < BIAS_MIN or bias.max() > BIAS_MAX:
        found.append(f"{where}: bias {bias.min()}..{bias.max()} (allowed {BIAS_MIN}..{BIAS_MAX})")
    return found
