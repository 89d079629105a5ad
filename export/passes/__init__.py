"""The compiler: small pure passes graph -> graph, from a float-stage graph to the chain that stock NetX runs.

`PASSES` lists them in order, with what each does. Those of the integer stage keep every spike of the populations they keep; all
say in a `CompileReport` what they did and what it cost.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from taaf.export.passes.chain import to_chain
from taaf.export.passes.groups import merge_groups
from taaf.export.passes.guard import GuardedChain, with_guard
from taaf.export.passes.maps import RELAY_WEIGHT
from taaf.export.passes.norm import fold_batch_norm
from taaf.export.passes.pool import fold_pool, or_pool
from taaf.export.passes.quantise import quantise
from taaf.export.passes.report import CompileReport, Part
from taaf.models.ir import Graph

__all__ = [
    "PASSES", "RELAY_WEIGHT", "CompileReport", "GuardedChain", "How", "Part", "Pass", "compile_graph", "fold_batch_norm", "fold_pool",
    "merge_groups", "or_pool", "quantise", "stages", "to_chain", "with_guard",
]  # fmt: skip


@dataclass(frozen=True)
class How:
    """What passes are given beside the graph.

    Attributes
    ----------
    saturate : bool
        Clip weights and biases to their range, as quantisation-aware training did. False: out of range is an error.
    report : CompileReport
        What they did is written there.
    """

    saturate: bool
    report: CompileReport


@dataclass(frozen=True)
class Pass:
    """A named step of the compiler, ``run(graph, how) -> graph``, and in a few words what it does."""

    name: str
    does: str
    run: Callable[[Graph, How], Graph]


PASSES = (
    Pass("norm", "batch norms vanish into the weights before them", lambda graph, how: fold_batch_norm(graph)),
    Pass("pool", "sum and average pooling vanishes into the weights around it", lambda graph, how: fold_pool(graph)),
    Pass("norms", "batch norms behind folded pools vanish too", lambda graph, how: fold_batch_norm(graph)),
    Pass(
        "quantise",
        "float stage to integer stage: weights, biases",
        lambda graph, how: quantise(graph, how.saturate, how.report),
    ),
    Pass("or_pool", "max pooling of spikes becomes neurons that fire if an input does", lambda graph, how: or_pool(graph)),
    Pass("chain", "joins, concatenations and skips become relays", lambda graph, how: to_chain(graph, how.report)),
    Pass("groups", "more than 127 groups become fewer, larger ones", lambda graph, how: merge_groups(graph, how.report)),
)
_UNLOWERED = "or_pool"  # the last pass that keeps all joins


def stages(graph: Graph, how: How) -> Iterator[tuple[str, Graph]]:
    """Yield (name of the pass, graph behind it) for every pass, in order."""
    for step in PASSES:
        graph = step.run(graph, how)
        yield step.name, graph


def compile_graph(graph: Graph, saturate: bool, report: CompileReport) -> tuple[Graph, Graph]:
    """Run all passes.

    Parameters
    ----------
    graph : Graph
        Float stage, weights in units of the threshold of the LIF they feed.
    saturate : bool
        See `How`.
    report : CompileReport
        Is filled; ``report.expected(chain, spikes)`` then tells the spikes of every layer of the chain from those of the integer graph.

    Returns
    -------
    integer : Graph
        Integer stage, with joins, concatenations and skips as in ``graph``; pooling of spikes is neurons already.
    chain : Graph
        Of the same spikes, as stock NetX runs it.

    Raises
    ------
    UnsupportedLayerError, LimitExceededError
        Naming the layer that has no exact form, or does not fit.
    """
    behind = dict(stages(graph, How(saturate, report)))
    return behind[_UNLOWERED], behind[PASSES[-1].name]
