"""Lowering passes: small pure functions graph -> graph. Integer passes preserve every spike of the layers they keep.

Order: fold_batch_norm, lower_pool, quantise (float -> integer), lower_residual, merge_groups.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from taaf.export.limits import CONV_FIELD_MAX
from taaf.models.errors import LimitExceededError, UnsupportedLayerError
from taaf.models.ir import BatchNorm, Conv2d, Dense, Graph, Lif, Node, Pool2d, RecurrentDense, Sum
from taaf.models.qat import BIAS_LIMIT, WEIGHT_MAX, WEIGHT_MIN

RELAY_WEIGHT = WEIGHT_MAX


@dataclass
class CompileReport:
    """What the compiler did and what it cost, per pass."""

    lines: list[str] = field(default_factory=list)
    relays: dict[str, int] = field(default_factory=dict)  # branch.LIF -> number of relay channels at its end

    def relays_of(self, graph: Graph) -> dict[str, int]:
        """LIF -> number of relay channels, of one branch."""
        return {n: k for n in graph.nodes if (k := self.relays.get(f"{graph.name}.{n}"))}

    def say(self, line: str) -> None:
        self.lines.append(line)


def fold_batch_norm(graph: Graph) -> Graph:
    """W <- W g / sqrt(var + eps), b <- offset - mean g / sqrt(var + eps) (+ b g / sqrt(...)), in the norm's precision.

    The factor itself is taken in float64 and rounded once, as training does (`taaf.models.qat.QatSynapse.fold_scale`).
    """
    replaced: dict[str, Node | None] = {}
    rewire: dict[str, str] = {}
    for norm in graph.nodes.values():
        if not isinstance(norm, BatchNorm):
            continue
        (source,) = graph.sources(norm.name)
        synapse = graph.nodes[source]
        if not isinstance(synapse, Conv2d | Dense) or graph.targets(source) != [norm.name]:
            raise UnsupportedLayerError(
                f"{graph.name}.{norm.name}: batch norm after {type(synapse).__name__} cannot be folded; "
                "allowed directly after a convolution or dense layer that feeds nothing else"
            )
        sigma = np.sqrt(norm.var.astype(np.float64) + norm.eps)
        scale = (norm.gain / sigma).astype(norm.gain.dtype)
        bias = norm.offset - norm.mean * scale
        if synapse.bias is not None:
            bias = bias + synapse.bias * scale
        weight = synapse.weight * scale.reshape(-1, *[1] * (synapse.weight.ndim - 1))
        folded = replace(synapse, weight=weight, bias=bias)
        if isinstance(folded, RecurrentDense):
            folded = replace(folded, weight_rec=folded.weight_rec * scale[:, None])
        replaced[source], replaced[norm.name], rewire[norm.name] = folded, None, source
    return graph.rebuilt(replaced, rewire)


def lower_pool(graph: Graph) -> Graph:
    """Sum or average pooling that feeds a LIF becomes a grouped convolution; max pooling is refused."""
    replaced: dict[str, Node | None] = {}
    for pool in graph.nodes.values():
        if not isinstance(pool, Pool2d):
            continue
        if pool.kind not in ("sum", "average"):
            raise UnsupportedLayerError(
                f"{graph.name}.{pool.name}: {pool.kind} pooling is not lowered; use a strided convolution, average pooling "
                "followed by a LIF, or for spikes an OR: a convolution of weights above the threshold, followed by a LIF"
            )
        channels = graph.shapes[pool.name][0]
        value = 1.0 if pool.kind == "sum" else 1.0 / (pool.kernel[0] * pool.kernel[1])
        weight = np.full((channels, 1, *pool.kernel), value, np.float32)
        replaced[pool.name] = Conv2d(pool.name, weight, stride=pool.kernel, groups=channels)
    return graph.rebuilt(replaced)


def quantise(graph: Graph, saturate: bool, report: CompileReport) -> Graph:
    """Float stage -> integer stage: ``W = 2 round(w V / 2)``, ``b = round(b V)``, V the fed LIF's ``v_th_mant``.

    All synapse groups of a LIF share V, hence one weight exponent (joint quantisation); their rounded biases add up
    in the LIF, with the bias it may have already.

    Parameters
    ----------
    saturate : bool
        Clip to the range as training did (for quantisation-aware checkpoints). False: out of range is an error.
    """
    replaced: dict[str, Node | None] = {}
    problems: list[str] = []

    def levels(where: str, what: str, value: np.ndarray, v_th: int, low: int, high: int, step: int) -> np.ndarray:
        level = np.asarray(value, np.float32) * np.float32(v_th) / step
        outside = int(((level < low / step - 0.5) | (level > high / step + 0.5)).sum())
        if np.isnan(level).any():
            problems.append(f"{where}: {int(np.isnan(level).sum())} {what} are NaN; train or load the checkpoint again")
        elif outside and not saturate:
            top = float(np.abs(value).max())
            problems.append(f"{where}: {outside} {what} up to {top:.3g} thresholds; allowed [{low}, {high}] / {v_th}")
        elif outside:
            report.say(f"quantise: {where}: {outside} of {level.size} {what} saturate, as they did in training")
        return step * np.rint(np.nan_to_num(np.clip(level, low / step, high / step))).astype(np.int32)

    for lif in graph.lifs():
        bias, v_th = lif.bias, lif.v_th_mant
        if not isinstance(v_th, int):
            raise UnsupportedLayerError(f"{graph.name}.{lif.name}: a threshold per channel; quantise with one for all")
        for node in graph.synapses_of(lif.name):
            where = f"{graph.name}.{node.name}"
            weight = levels(where, "weights", node.weight, v_th, WEIGHT_MIN, WEIGHT_MAX, 2)
            if node.bias is not None:
                part = levels(where, "biases", node.bias, v_th, -BIAS_LIMIT, BIAS_LIMIT, 1)
                bias = part if bias is None else bias + part
            replaced[node.name] = replace(node, weight=weight, bias=None)
            if isinstance(node, RecurrentDense):
                rec = levels(f"{where} (recurrent)", "weights", node.weight_rec, v_th, WEIGHT_MIN, WEIGHT_MAX, 2)
                replaced[node.name] = replace(node, weight=weight, weight_rec=rec, bias=None)
        if bias is not None:
            replaced[lif.name] = replace(lif, bias=bias)
    if problems:
        raise LimitExceededError("; ".join(problems))
    return graph.rebuilt(replaced)


def lower_residual(graph: Graph, report: CompileReport) -> Graph:
    """Residual joins become relay channels, so that a chain of ordinary layers remains (LAVA.md).

    ``LIF(W2 h + Ws x)`` with ``h = LIF(W1 x)``: layer 1 gets extra channels that repeat, one to one, the spikes of x
    that the shortcut reads; layer 2 gets the weights ``[W2 | Ws at the kernel centre]``. Exact because a relay's
    weight exceeds the threshold in one step and the reset leaves nothing behind.

    Raises
    ------
    UnsupportedLayerError
        If a join is not of this form (names the join and the reason).
    """
    for join in [n for n in graph.nodes.values() if isinstance(n, Sum)]:
        graph = _lower_join(graph, join, report)
    return graph


def _lower_join(graph: Graph, join: Sum, report: CompileReport) -> Graph:
    where = f"{graph.name}.{join.name}"

    def refuse(reason: str) -> UnsupportedLayerError:
        return UnsupportedLayerError(f"{where}: this residual join cannot be lowered to relays: {reason}")

    paths = [graph.nodes[s] for s in graph.sources(join.name)]
    if len(paths) != 2 or not all(isinstance(p, Conv2d) for p in paths):
        raise refuse(f"it joins {', '.join(p.name for p in paths)}; allowed two convolutions")
    for main, shortcut in (paths, paths[::-1]):
        (h_name,) = graph.sources(main.name)
        h = graph.nodes[h_name]
        first = graph.nodes[graph.sources(h_name)[0]] if isinstance(h, Lif) else None
        if isinstance(first, Conv2d) and graph.sources(first.name) == graph.sources(shortcut.name):
            break
    else:
        raise refuse("the shortcut must start where the main path's first convolution starts")
    assert isinstance(main, Conv2d) and isinstance(shortcut, Conv2d) and isinstance(h, Lif)
    if shortcut.weight.shape[2:] != (1, 1) or shortcut.padding != (0, 0) or shortcut.groups != 1:
        raise refuse(f"shortcut {shortcut.name} must be a plain 1x1 convolution")
    if shortcut.stride != first.stride:
        raise refuse(f"stride of {shortcut.name} {shortcut.stride} != stride of {first.name} {first.stride}")
    if main.stride != (1, 1) or main.groups != 1 or first.groups != 1:
        raise refuse(f"{main.name} must have stride 1, and {main.name}, {first.name} one group")
    for conv in (first, main):
        if any(
            k % 2 == 0 or p != d * (k // 2) for k, p, d in zip(conv.weight.shape[2:], conv.padding, conv.dilation, strict=True)
        ):
            raise refuse(f"{conv.name} must have odd kernels with 'same' padding")
    if graph.targets(h_name) != [main.name]:
        raise refuse(f"{h_name} feeds more than {main.name}")
    if np.any(h.i_decay != 4096) or np.any(h.v_th_mant >= RELAY_WEIGHT):
        raise refuse(f"{h_name} needs i_decay 4096 and v_th_mant < {RELAY_WEIGHT} for a relay to fire at once")

    read = np.flatnonzero(shortcut.weight.any(axis=(0, 2, 3)))  # channels of x the shortcut uses
    centre = tuple(k // 2 for k in first.weight.shape[2:])
    relay = np.zeros((len(read), *first.weight.shape[1:]), np.int32)
    relay[(np.arange(len(read)), read, *centre)] = RELAY_WEIGHT
    beside = np.zeros((len(main.weight), len(read), *main.weight.shape[2:]), np.int32)
    beside[(slice(None), slice(None), *(k // 2 for k in main.weight.shape[2:]))] = shortcut.weight[:, read, 0, 0]
    bias = None if h.bias is None else np.concatenate([h.bias, np.zeros(len(read), np.int32)])
    replaced: dict[str, Node | None] = {
        first.name: replace(first, weight=np.concatenate([first.weight, relay])),
        h_name: replace(h, bias=bias),
        main.name: replace(main, weight=np.concatenate([main.weight, beside], axis=1)),
        shortcut.name: None,
        join.name: None,
    }
    report.relays[f"{graph.name}.{h_name}"] = len(read)
    extra = len(read) * int(np.prod(graph.shapes[h_name][1:]))
    report.say(f"residual: {where}: {len(read)} relay channels in {h_name} (+{extra} neurons, +{extra} axons)")
    return graph.rebuilt(replaced, {join.name: main.name})


def merge_groups(graph: Graph, report: CompileReport) -> Graph:
    """Convolutions of more than 127 groups get fewer, larger groups; the weights between merged groups are zero."""
    replaced: dict[str, Node | None] = {}
    for conv in graph.nodes.values():
        if not isinstance(conv, Conv2d) or conv.groups <= CONV_FIELD_MAX:
            continue
        groups = max(g for g in range(1, CONV_FIELD_MAX + 1) if conv.groups % g == 0)
        merged = conv.groups // groups
        c_out, c_in, *kernel = conv.weight.shape
        weight = np.zeros((groups, merged, c_out // conv.groups, merged, c_in, *kernel), conv.weight.dtype)
        own = np.arange(merged)
        weight[:, own, :, own] = conv.weight.reshape(groups, merged, -1, c_in, *kernel).swapaxes(0, 1)
        replaced[conv.name] = replace(conv, weight=weight.reshape(c_out, merged * c_in, *kernel), groups=groups)
        report.say(
            f"groups: {graph.name}.{conv.name}: {conv.groups} groups became {groups} (Lava holds up to {CONV_FIELD_MAX})"
        )
    return graph.rebuilt(replaced) if replaced else graph


def compile_graph(graph: Graph, saturate: bool, report: CompileReport) -> tuple[Graph, Graph]:
    """All passes; returns (integer graph before relay lowering, integer chain)."""
    integer = quantise(lower_pool(fold_batch_norm(graph)), saturate, report)
    return integer, merge_groups(lower_residual(integer, report), report)
