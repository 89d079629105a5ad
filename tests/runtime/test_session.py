"""A session answers windows as they come, exactly, refuses broken ones without going down, and leaves nothing behind."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import SUPPORT, python_path, with_own_shm

from taaf.deploy import Decision, Session
from taaf.export.bundle.reader import read_bundle
from taaf.hw_sim.early_exit import anytime_logits, exit_steps
from taaf.models import zoo_path
from taaf.models.errors import ConfigError, DataError, RuntimeFailedError, TaafError
from taaf.models.host_head import softmax
from taaf.training.datasets.ead_mini import LABELS, load_split

N = 6
BUNDLE = zoo_path("ead_mini")
INPUTS = load_split("test", slice(N)).inputs()
WINDOWS = [{m: x[k] for m, x in INPUTS.items()} for k in range(N)]
KINDS = {"fast": ("fast", {}), "sim": ("sim", {}), "early": ("sim", {"early_exit": 0.9, "count": False})}
LAVA = pytest.mark.needs_lava


@pytest.fixture(scope="module")
def sessions() -> Iterator[dict[str, Session]]:
    """Opened when first asked for; all of them are up at once, and closed in the order they were opened."""
    found: dict[str, Session] = {}

    class Opened(dict):
        def __missing__(self, kind: str) -> Session:
            backend, options = KINDS[kind]
            self[kind] = found[kind] = Session(BUNDLE, backend, **options).__enter__()
            return found[kind]

    yield Opened()
    for session in found.values():
        session.__exit__(None, None, None)


@pytest.mark.parametrize("kind", ["fast", pytest.param("sim", marks=LAVA)])
def test_answers_are_those_of_the_trained_model(kind: str, sessions: dict[str, Session]) -> None:
    """In a call, in a stream, and in a stream with pauses; spikes of all layers as counted in one batch of the engine."""
    session, golden = sessions[kind], session_golden()
    engine = Session(BUNDLE, "fast").__enter__().run(session.bundle.encode(INPUTS))
    ways: list[list[Decision]] = [
        [session(w) for w in WINDOWS[:2]],
        list(session.stream(WINDOWS)),
        list(session.stream([None, WINDOWS[0], None, None, *WINDOWS[1:3]])),
    ]
    for found in ways:
        for k, decision in enumerate(found):
            np.testing.assert_allclose(decision.logits["fused"], golden[k], atol=1e-9)
            np.testing.assert_array_equal(decision.probabilities, softmax(decision.logits["fused"]))
            assert decision.label == golden[k].argmax() and decision.name == LABELS[decision.label]
            assert decision.steps == 12 and set(decision.logits) == {"fused", "event", "audio"} and decision.latency_s > 0
        assert [d.index for d in found] == list(range(found[0].index, found[0].index + len(found)))
    totals = {f"{b}.{n}": int(x.sum()) for b, a in engine.activity.items() for n, x in a.spikes.items()}
    assert {k: sum(d.spikes[k] for d in ways[1]) for k in ways[1][0].spikes} == totals and min(totals.values()) > 0


def session_golden() -> np.ndarray:
    """Recorded logits of the trained model."""
    return read_bundle(BUNDLE).golden["logits"][:N]


@LAVA
def test_early_exit_answers_as_soon_as_the_head_is_sure(sessions: dict[str, Session]) -> None:
    """Steps and decisions of the trained model at that confidence."""
    bundle = read_bundle(BUNDLE)
    features = {b: bundle.expected_features(b)[:N] for b in bundle.graphs}
    logits = anytime_logits(bundle.head.fused, features, bundle.window_steps)
    steps, labels = exit_steps(logits, 0.9)
    assert len(set(steps.tolist())) > 1
    for found in (list(sessions["early"].stream(WINDOWS)), [sessions["early"](w) for w in WINDOWS[:3]]):
        assert [(d.steps, d.label, d.spikes) for d in found] == [(steps[d_], labels[d_], {}) for d_ in range(len(found))]
        for k, decision in enumerate(found):
            np.testing.assert_allclose(decision.logits["fused"], logits[steps[k] - 1, k], atol=1e-9)


def _with(**changed: Any) -> dict[str, Any]:
    return {**WINDOWS[0], **changed}


NAN = WINDOWS[0]["audio"].astype(np.float32)
NAN[0, 0] = np.nan
BROKEN: dict[str, tuple[Any, str]] = {
    "missing": ({"event": WINDOWS[0]["event"]}, "no array of 'audio'; a window has event, audio"),
    "unknown": (_with(adio=WINDOWS[0]["audio"]), "unknown modality 'adio'; did you mean 'audio'?"),
    "shape": (_with(event=WINDOWS[0]["event"][..., :5]), r"event has shape (2, 34, 34, 5); allowed (2, 34, 34, 8), steps last"),
    "NaN": (_with(audio=NAN), "audio holds values that are NaN or infinite"),
    "counts": (_with(audio=WINDOWS[0]["audio"] * 3), "audio holds values other than 0 and 1"),
    "text": (_with(audio=np.full((160, 12), "x")), "audio is <U1; allowed numbers"),
    "objects": (_with(audio=np.full((160, 12), None)), "audio is object; allowed numbers"),
    "empty": (_with(audio=np.zeros(0)), "audio has shape (0,); allowed (160, 12)"),
    "no window": (WINDOWS[0]["audio"], "found ndarray, expected one array per modality: event, audio"),
}


@pytest.mark.parametrize("kind", ["fast", pytest.param("sim", marks=LAVA)])
def test_broken_windows_are_refused_and_the_session_goes_on(kind: str, sessions: dict[str, Session]) -> None:
    """One line each that names the window; the stream skips them where it is asked to, else what came before is answered."""
    session = sessions[kind]
    for window, said in BROKEN.values():
        with pytest.raises(DataError) as caught:
            session(window)
        text = str(caught.value)
        assert said in text and text.startswith("window ") and "\n" not in text
    refused: list[tuple[int, TaafError]] = []
    broken = [window for window, _ in BROKEN.values()]
    found = list(session.stream([broken[0], WINDOWS[0], *broken, WINDOWS[1]], lambda k, e: refused.append((k, e))))
    first = refused[0][0]
    assert [d.index - first for d in found] == [1, len(broken) + 2] and len(refused) == len(broken) + 1
    answered = session.stream([*WINDOWS[:2], broken[1], WINDOWS[2]])
    assert [next(answered).label, next(answered).label] == [d.label for d in found]
    with pytest.raises(DataError, match="unknown modality"):
        next(answered)
    assert session(WINDOWS[0]).label == found[0].label


@LAVA
def test_other_threads_are_refused(sessions: dict[str, Session]) -> None:
    """Lava relies on signals, which only the main thread gets; the session goes on."""
    said: list[str] = []

    def use() -> None:
        try:
            sessions["sim"](WINDOWS[0])
        except RuntimeFailedError as error:
            said.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert said == ["the Lava runtime must be used from the main thread (it relies on signals)"]
    assert sessions["sim"](WINDOWS[0]).label == session_golden()[0].argmax()


def test_wrong_options_and_closed_sessions() -> None:
    with pytest.raises(ConfigError, match="backend 'simm': unknown; did you mean 'sim'"):
        Session(BUNDLE, "simm")
    with pytest.raises(ConfigError, match=r"early exit 1.5: not a probability; allowed 0..1"):
        Session(BUNDLE, "fast", early_exit=1.5)
    with pytest.raises(ConfigError, match=r"time limit 0: allowed seconds above 0"):
        Session(BUNDLE, "fast", time_limit_s=0)
    with Session(str(BUNDLE), "fast") as session:
        session(WINDOWS[0])
    with pytest.raises(ConfigError, match="the session is not open; use it in a `with` statement"):
        session(WINDOWS[0])


@LAVA
def test_death_and_signals(tmp_path: Path) -> None:
    """A dead process is said by the call that meets it, not in the midst of other code; nothing is left in any case."""
    hows = ("none", "kill", "kill running", "SIGINT running", "SIGTERM")
    command = [*with_own_shm(tmp_path), sys.executable, str(SUPPORT / "session_script.py"), str(BUNDLE), *hows]
    env = {**os.environ, "PYTHONPATH": python_path()}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    found = json.loads(done.stdout)
    names = [LABELS[k] for k in read_bundle(BUNDLE).golden["logits"][:20].argmax(1)]
    assert found["none"]["said"] == [names[0], *names, *names]
    for how in hows:
        left = found[how]
        assert left["children"] == [] and left["shm"] == [] and left["threads"] == 1 and left["restored"], how
        assert left["descriptors"] == found["none"]["descriptors"], how
        if how.startswith("kill"):
            first, second = left["said"][-2:]
            assert first.startswith("Lava runtime: process ") and "died (killed by SIGKILL" in first
            assert second == f"{first}; open it again"
        elif how.startswith("SIG"):
            assert left["said"][-1] == "interrupted" and left["said"][0] == names[0]
