"""A short fuzzing of every format, and proof that the campaign notices what it looks for.

The long one: tests/benchmarks/fuzz.py. The faults of `FAULTS` below are planted readers that must be counted as failures.
"""

import time
from pathlib import Path
from typing import Any

import fuzz_loop
import pytest
from fuzz_formats import FORMATS, ONE, Format
from fuzz_loop import campaign

N = 60


def _wrong_error(path: Path) -> None:
    raise KeyError("x")


def _slow(path: Path) -> None:
    until = time.process_time() + 5
    while time.process_time() < until:
        pass


def _greedy(path: Path) -> None:
    bytes(8 << 30)


def _writes(path: Path) -> None:
    (path.parent.parent / "escaped").write_text("x")


FAULTS = {"KeyError": _wrong_error, "more than": _slow, "MemoryError": _greedy, "wrote": _writes}


@pytest.mark.slow
def test_every_format_short() -> None:
    """No traceback, no hang, no crash, no file written; both accepted and refused inputs occur."""
    results = campaign(list(FORMATS), N, seed=7)
    assert [f for r in results for f in r["failures"]] == []
    for result in results:
        counts = result["counts"]
        assert sum(counts.values()) == N and counts["refused"] and counts["failed"] == 0, result
    assert sum(r["counts"]["accepted"] for r in results) > N


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAULTS)
def test_planted_reader_fault_is_a_failure(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The worker's loop, in this process, with a reader that misbehaves (on damaged input only)."""
    import json
    import resource

    calls = []

    def read(path: Path) -> None:
        calls.append(path)
        if len(calls) > 1:  # the first is the valid one
            if kind == "MemoryError":
                raise MemoryError  # the limit itself is not set in this process
            FAULTS[kind](path)

    monkeypatch.setitem(FORMATS, "planted", Format("x", lambda _: b"abc", ONE, read))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    fuzz_loop.work(["planted"], 0, 1, 1, tmp_path, 0.2)
    failure = json.loads(capsys.readouterr().out.splitlines()[0])
    assert kind in failure["failure"] and Path(failure["saved"]).exists()
