"""Random small networks: compile -> NetX -> reference = engine = Lava; a failing one is shrunk and printed as a program."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import random_checks
import torch
from graph_strategy import KINDS, Case, cases
from hypothesis import HealthCheck, assume, given, settings
from random_checks import snippet

from taaf.export.limits import check_limits
from taaf.export.passes import CompileReport, compile_graph
from taaf.hw_sim import intervals
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.engines import torch_engine
from taaf.models.errors import LimitExceededError
from taaf.models.ir import Graph

pytestmark = pytest.mark.usefixtures("one_thread")
N_GRAPHS, N_ON_LAVA = 500, 25
REPRODUCED = "----- runs on its own -----\n"
FEATURES = {
    "conv", "dense", "recurrent", "pool", "residual", "identity shortcut", "1x1 shortcut", "3x3 shortcut", "flatten",
    "stride", "padding", "dilation", "groups", "non-square", "bias", "batch norm", "current memory", "several windows",
}  # fmt: skip


def _hypothesis(n: int) -> settings:
    return settings(
        max_examples=n, deadline=None, derandomize=True, database=None, print_blob=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def _compiled(case: Case) -> tuple[Graph, Graph]:
    return compile_graph(case.graph, saturate=True, report=CompileReport())


def _agree(case: Case, check: str, graphs: tuple[Graph, Graph]) -> None:
    """Run a check of `random_checks`; any failure, crashes too, comes with the program that repeats it."""
    try:
        found = getattr(random_checks, check)(*graphs, case.spikes)
        assert not found, "; ".join(found)
    except Exception as error:
        raise AssertionError(f"{error}\n{REPRODUCED}{snippet(case, check)}") from error


def _check_engine(n: int) -> Counter[str]:
    """Compare ``n`` graphs; returns how often what was seen."""
    seen: Counter[str] = Counter()

    @_hypothesis(n)
    @given(cases())
    def run(case: Case) -> None:
        graphs = _compiled(case)
        seen.update(["graphs", *case.features])
        try:
            check_limits(graphs[1], pipelined=not case.recurrent, window_steps=case.spikes.shape[-1])
            seen["accepted"] += 1
        except LimitExceededError as error:
            seen["refused: may saturate" if "could reach" in str(error) else "refused: other"] += 1
        _agree(case, "engine_disagreements", graphs)  # what is refused too: it must wrap, clip and count alike
        activity = Engine(graphs[1]).run(case.spikes).activity
        seen["active"] += int(activity.spikes[graphs[1].output].any())
        seen["saturated"] += bool(activity.wraps or activity.clips)

    run()
    return seen


@pytest.mark.slow()
def test_engine_equals_reference_on_random_graphs() -> None:
    """500 graphs, every layer and every 24-bit event; bounds hold; few are refused, and they test something."""
    seen = _check_engine(N_GRAPHS)
    print(dict(seen))
    assert seen["graphs"] >= N_GRAPHS
    assert seen["accepted"] >= 0.7 * seen["graphs"], seen
    assert seen["refused: may saturate"] >= 5 and seen["saturated"] >= 5, seen
    assert seen["active"] >= 0.4 * seen["graphs"], seen
    assert all(seen[f] >= 8 for f in FEATURES), {f: seen[f] for f in FEATURES}


@pytest.mark.slow()
@pytest.mark.needs_lava
@pytest.mark.parametrize("kind", KINDS)
def test_lava_equals_reference_on_random_graphs(kind: str) -> None:
    """25 graphs on the Lava runtime, every layer, none silent; windows back to back (a recurrent one alone)."""
    seen: Counter[str] = Counter()

    @_hypothesis(N_ON_LAVA // len(KINDS))
    @given(cases(kind))
    def run(case: Case) -> None:
        graphs = _compiled(case)
        try:
            check_limits(graphs[1], pipelined=not case.recurrent, window_steps=case.spikes.shape[-1])
        except LimitExceededError:
            assume(False)
        if case.recurrent:
            case = Case(case.graph, case.spikes[:1], case.features)
        assume(Engine(graphs[1]).run(case.spikes).activity.spikes[graphs[1].output].any())
        seen.update(["graphs", *case.features])
        _agree(case, "lava_disagreements", graphs)

    run()
    print(dict(seen))
    assert seen["graphs"] == seen[kind] >= N_ON_LAVA // len(KINDS), seen
    assert kind == "recurrent" or seen["several windows"] >= 2, seen


def _floor(x: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    return x.floor_()


def _one_tap_short(node: object, in_shape: tuple[int, ...], which: np.ufunc) -> np.ndarray:
    return _end(node, in_shape, which) // 2  # type: ignore[arg-type]


_end, _fixed_point = intervals._end, intervals._least_fixed_point
FAULTS: dict[str, tuple[object, str, Callable]] = {
    "rounds down instead of toward zero": (torch_engine, "_truncate", _floor),
    "fires at the threshold": (torch, "gt", torch.ge),
    "half the weights in the bounds": (intervals, "_end", _one_tap_short),
    "fixed point one too low": (intervals, "_least_fixed_point", lambda d, decay: _fixed_point(d, decay) - (d > 0)),
}


@pytest.mark.long()
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found_shrunk_and_reproduced(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken engine or a wrong bound is caught; the printed program fails with the fault and runs clean without it."""
    with monkeypatch.context() as patched:
        patched.setattr(*FAULTS[fault])
        with pytest.raises(AssertionError) as caught:
            _check_engine(N_GRAPHS)
        program = str(caught.value).split(REPRODUCED)[1]
        print(program)
        (tmp_path / "failing.py").write_text(program)
        names = {"__name__": "failing"}
        with pytest.raises(AssertionError, match="differ|outside|wraps"):
            exec(_compile(tmp_path / "failing.py"), names)
    assert len(names["graph"].lifs()) == 1, "not shrunk"  # type: ignore[attr-defined]
    done = subprocess.run([sys.executable, tmp_path / "failing.py"], cwd=Path(__file__).parents[2], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def _compile(path: Path) -> object:
    return compile(path.read_text(), str(path), "exec")
