"""Float stage -> integer stage: weights and biases in the units of the chip."""

from dataclasses import replace

import numpy as np

from taaf.export.passes.report import CompileReport
from taaf.models.errors import LimitExceededError, UnsupportedLayerError
from taaf.models.ir import Graph, Node, RecurrentDense
from taaf.models.lif import BIAS_LIMIT, WEIGHT_MAX, WEIGHT_MIN


def quantise(graph: Graph, saturate: bool, report: CompileReport) -> Graph:
    """Float stage -> integer stage: ``W = 2 round(w V / 2)``, ``b = round(b V)``, V the fed LIF's ``v_th_mant``.

    All synapse groups of a LIF share V, hence one weight exponent (joint quantisation); their rounded biases add up
    in the LIF, with the bias it may have already. A LIF whose synapses are integers stays as it is.

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
        if all(np.issubdtype(node.weight.dtype, np.integer) for node in graph.synapses_of(lif.name)):
            continue  # integers already, e.g. as recorded from SLAYER
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
