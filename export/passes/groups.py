"""Convolutions of more groups than Lava can hold."""

from dataclasses import replace

import numpy as np

from taaf.export.limits import CONV_FIELD_MAX
from taaf.export.passes.report import CompileReport
from taaf.models.ir import Conv2d, Graph, Node


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
