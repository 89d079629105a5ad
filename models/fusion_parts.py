"""What the fusions are made of: linear maps, their arrays, and the names of modalities in them.

A map is stored as (out, in) like torch's: ``linear(h, W, b) = h W^T + b``.
"""

from collections.abc import Callable, Sequence
from typing import Any

Sizes = Sequence[int]  # feature neurons F_m of every modality
Shapes = dict[str, tuple[int, ...]]  # array name -> shape; one-dimensional arrays are biases
ALONE = "_alone_"  # in the names of arrays that only the output of one modality reads
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def ordinal(index: int) -> str:
    """Name of the ``index``-th modality (from 0) in the names of arrays."""
    return _ORDINALS[index] if index < len(_ORDINALS) else f"branch{index + 1}"


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """``x W^T + b`` over the last axis."""
    y = x @ weight.T
    return y if bias is None else y + bias


def total(terms: list[Any]) -> Any:
    """Their sum, in order."""
    found = terms[0]
    for term in terms[1:]:
        found = found + term
    return found


def of_each(sizes: Sizes, shapes: Callable[[int], Shapes]) -> Shapes:
    """The arrays of every modality, named after its place."""
    return {f"{ordinal(i)}_{name}": shape for i, f in enumerate(sizes) for name, shape in shapes(f).items()}


def classifier(n_in: int, classes: int) -> Shapes:
    """The arrays of the classifier behind a fusion."""
    return {"classifier_weight": (classes, n_in), "classifier_bias": (classes,)}


def own_heads(sizes: Sizes, classes: int) -> Shapes:
    """The arrays of one classifier per modality, beside the joint one."""
    return of_each(sizes, lambda f: {"alone_weight": (classes, f), "alone_bias": (classes,)})
