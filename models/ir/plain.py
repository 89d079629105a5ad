"""Graphs as plain tables of numbers, texts and arrays, for files that hold no code."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from taaf.models.errors import GraphError
from taaf.models.ir.graph import Graph
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
    Sum,
)

_KINDS: dict[str, type[Node]] = {
    k.__name__: k for k in (BatchNorm, Concat, Conv2d, Dense, Flatten, Input, Lif, Pool2d, RecurrentDense, Sum)
}
Convert = Callable[[np.ndarray], Any]


def to_plain(graph: Graph, array: Convert = lambda x: x) -> dict[str, Any]:
    """Name, nodes and edges of a graph; ``array`` converts every NumPy array, e.g. ``torch.from_numpy``."""
    nodes = []
    for node in graph.nodes.values():
        values = {f.name: getattr(node, f.name) for f in fields(node)}
        plain = {
            k: array(v) if isinstance(v, np.ndarray) else list(v) if isinstance(v, tuple) else v for k, v in values.items()
        }
        nodes.append({"node": type(node).__name__, **plain})
    return {"name": graph.name, "nodes": nodes, "edges": [list(e) for e in graph.edges]}


def from_plain(content: Mapping[str, Any], array: Callable[[Any], Any] = lambda x: x) -> Graph:
    """Inverse of `to_plain`, of a file that nobody checked; ``array`` converts what is an array there back to NumPy.

    Raises
    ------
    GraphError
        If it is no graph.
    """
    try:
        nodes = [_node(dict(entry), array) for entry in content["nodes"]]
        return Graph(str(content["name"]), nodes, [(str(s), str(t)) for s, t in content["edges"]])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GraphError(f"stored graph: {type(error).__name__}: {str(error)[:100]}") from error


def _node(entry: dict[str, Any], array: Callable[[Any], Any]) -> Node:
    kind = _KINDS[entry.pop("node")]
    known = {f.name for f in fields(kind)}
    if unknown := sorted(set(entry) - known):
        raise ValueError(f"unknown field {unknown[0]} of {kind.__name__}")
    values: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, list):
            if not all(type(n) is int for n in value):
                raise ValueError(f"{key}: expected whole numbers")
            values[key] = tuple(value)
        elif value is None or isinstance(value, int | float | str):
            values[key] = value
        else:
            values[key] = array(value)
            if not isinstance(values[key], np.ndarray):
                raise ValueError(f"{key}: expected an array")
    return kind(**values)
