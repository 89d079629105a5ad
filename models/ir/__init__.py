"""The integer and float graphs between training and hardware: `graph` says what they mean, `nodes` what they hold."""

from taaf.models.ir.graph import Graph, chain
from taaf.models.ir.nodes import (
    BatchNorm,
    Concat,
    Conv2d,
    Dense,
    Flatten,
    Input,
    Lif,
    Node,
    Pool2d,
    RecurrentDense,
    Shape,
    Sum,
)

__all__ = [
    "BatchNorm", "Concat", "Conv2d", "Dense", "Flatten", "Graph", "Input", "Lif", "Node", "Pool2d", "RecurrentDense", "Shape", "Sum",
    "chain",
]  # fmt: skip
