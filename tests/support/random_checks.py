"""What every random network must satisfy, and a failing one as a Python program that runs on its own."""

import inspect
import tempfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from graph_strategy import Case
from on_lava import run_on_lava

from taaf.export.targets.netx.read import read_netx
from taaf.export.targets.netx.write import write_netx
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.intervals import lif_ranges
from taaf.hw_sim.reference import run_reference, truncate_shift
from taaf.models.ir import Graph, Node
from taaf.models.ir.nodes import spread

_HEADER = """\
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, "tests/support")  # run it in the repository
from taaf.export.passes import CompileReport, compile_graph
from taaf.export.targets.netx.write import write_netx
from taaf.export.targets.netx.read import read_netx
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.intervals import lif_ranges
from taaf.hw_sim.reference import run_reference, truncate_shift
from taaf.models.ir import *
from taaf.models.ir.nodes import spread
"""


def engine_disagreements(integer: Graph, chain: Graph, spikes: np.ndarray) -> list[str]:
    """Reference = both engines on the re-read NetX file: spikes, 24-bit events, last bits; lowering keeps spikes; bounds hold."""
    with tempfile.TemporaryDirectory() as folder:
        write_netx(chain, Path(folder) / "net.net")
        again = read_netx(Path(folder) / "net.net", "net")
    found = []
    steps = spikes.shape[-1]
    runs = {kind: Engine(again, chunk=2, kind=kind).run(spikes, keep_all=True) for kind in ("event", "torch")}
    traces = [run_reference(again, block) for block in spikes]
    for window, (block, trace) in enumerate(zip(spikes, traces, strict=True)):
        before = run_reference(integer, block) if len(integer.edges) > len(chain.edges) else trace
        for lif in again.lifs():
            exact, name = trace.spikes[lif.name], f"window {window}, {lif.name}"
            for kind, run in runs.items():
                if wrong := int((run.spikes[lif.name][window] != exact).sum()):
                    found.append(f"{name}: {wrong} spikes of the {kind} engine differ from the reference")
            own = before.spikes[lif.name]
            if wrong := int((exact[: len(own)] != own).sum()):
                found.append(f"{name}: {wrong} spikes changed when the graph was lowered")
            u, v = (np.moveaxis(x[lif.name], -1, 0) for x in (trace.u, trace.v))
            last_u, last_v = (np.concatenate([0 * x[:1], x[:-1]]) for x in (u, v))
            bias, i_decay, v_decay = (spread(0 if x is None else x, u.shape[1:]) for x in (lif.bias, lif.i_decay, lif.v_decay))
            raw_v = truncate_shift(last_v * (4096 - v_decay), 12) + u + 64 * bias
            for horizon in (steps, None):
                ranges = lif_ranges(again, lif, horizon)
                outside = int(((raw_v < ranges.v.low) | (raw_v > ranges.v.high)).sum())
                kept = truncate_shift(last_u * (4096 - i_decay), 12)
                proven = ~ranges.may_wrap
                outside += int((((u < ranges.u.low) | (u > ranges.u.high)) & proven).sum())
                drive = u - kept
                outside += int((((drive < 64 * ranges.a.low) | (drive > 64 * ranges.a.high)) & proven).sum())
                if outside:
                    found.append(f"{name}: {outside} values of a, u or v outside their bounds for {horizon} steps")
    for kind in ("wraps", "clips"):
        slow = {lif.name: sum(getattr(t, kind)[lif.name] for t in traces) for lif in again.lifs()}
        found += [
            f"{kind}: {name} engine {counted}, reference {slow}"
            for name, run in runs.items()
            if (counted := getattr(run.activity, kind)) != {n: k for n, k in slow.items() if k}
        ]
    end, blind = again.output, replace(again.nodes[again.output], v_th_mant=131_071)  # type: ignore[type-var]
    v = np.concatenate([run_reference(again.rebuilt({end: blind}), b).v[end].reshape(-1) for b in spikes])
    at, above = (np.unique(v[(v > 63) & (v % 64 == rest)] >> 6) for rest in (0, 1))
    for v_th in [*at[-1:], *above[-3:]]:  # thresholds that v meets exactly or passes by one: any wrong last bit shows
        sharp = again.rebuilt({end: replace(blind, v_th_mant=int(v_th))})
        exact = np.stack([run_reference(sharp, b).spikes[end] for b in spikes])
        for kind in ("event", "torch"):
            if wrong := int((Engine(sharp, kind=kind).run(spikes).spikes[end] != exact).sum()):
                found.append(f"{end} with threshold {v_th}: {wrong} spikes of the {kind} engine differ from the reference")
    return found


def lava_disagreements(integer: Graph, chain: Graph, spikes: np.ndarray) -> list[str]:
    """Reference = stock NetX on the Lava runtime, every layer."""
    lava = run_on_lava(chain, spikes)
    traces = [run_reference(chain, window).spikes for window in spikes]
    wrong = {name: int((found != np.stack([t[name] for t in traces])).sum()) for name, found in lava.items()}
    return [f"{name}: {n} spikes of Lava differ from the reference" for name, n in wrong.items() if n]


def snippet(case: Case, check: str) -> str:
    """A program that builds the case and fails as it did; ``check`` names one of the functions above."""
    extra = ["from on_lava import run_on_lava"] if check == "lava_disagreements" else []
    source = inspect.getsource(globals()[check])
    nodes = ",\n    ".join(map(_source, case.graph.nodes.values()))
    return "\n".join(
        [
            _HEADER + "\n".join(extra) + "\n\n", source + "\n",
            f"graph = Graph({case.graph.name!r}, [\n    {nodes},\n], {list(case.graph.edges)})",
            f"spikes = {_value(case.spikes)}",
            "integer, chain = compile_graph(graph, saturate=True, report=CompileReport())",
            f"found = {check}(integer, chain, spikes)",
            'assert not found, "; ".join(found)',
        ]
    )  # fmt: skip


def _source(node: Node) -> str:
    values = {f.name: getattr(node, f.name) for f in fields(node)}
    return f"{type(node).__name__}({', '.join(f'{k}={_value(v)}' for k, v in values.items() if v is not None)})"


def _value(value: object) -> str:
    if not isinstance(value, np.ndarray):
        return repr(value)
    return f"np.array({value.tolist()}, np.{value.dtype})"
