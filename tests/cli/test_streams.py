"""taaf-deploy --stream through its real executable: a recording, standard input, a socket, interrupts, wrong requests."""

import io
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import assert_refused, run_in_process

from taaf.deploy.cli import main
from taaf.deploy.streaming.frames import FrameWriter, Layout
from taaf.export.bundle.reader import read_bundle
from taaf.models import zoo_path
from taaf.training.datasets.ead_mini import load_split

N, W = 10, 12
COMMAND = [str(Path(sys.executable).with_name("taaf-deploy")), "--backend", "fast", "--stream"]


@pytest.fixture(scope="module")
def whole() -> dict[str, np.ndarray]:
    """The first test windows one behind the other: (*shape, 12 N)."""
    given = load_split("test", slice(N)).inputs()
    padded = {m: np.concatenate([x, np.zeros((*x.shape[:-1], W - x.shape[-1]), np.uint8)], -1) for m, x in given.items()}
    return {m: np.concatenate(list(x), axis=-1) for m, x in padded.items()}


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    """Decisions of the trained model."""
    return read_bundle(zoo_path("ead_mini")).golden["logits"][:N].argmax(1)


@pytest.fixture(scope="module")
def recording(whole: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stream") / "recording.npz"
    np.savez_compressed(path, **whole)  # type: ignore[arg-type]
    return path


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def _frames(whole: dict[str, np.ndarray], size: int, leave_out: int | None = None) -> bytes:
    layout = Layout(size, {m: x.shape[:-1] for m, x in whole.items()}, {"event": "bits", "audio": "uint8"})
    file = io.BytesIO()
    writer = FrameWriter(file, layout)
    for first in range(0, N * W, size):
        if first != leave_out:
            writer.write(first, {m: x[..., first : first + size] for m, x in whole.items()})
    return file.getvalue()


@pytest.mark.parametrize("early", [[], ["--early-exit", "0.9"]])
def test_a_recording(recording: Path, expected: np.ndarray, early: list[str], tmp_path: Path) -> None:
    """Windows behind each other are decided as the trained model does; between them there are others. Statistics as text and as a file."""
    done = run_in_process(
        main, "--backend", "fast", "--stream", recording, "--hop", 6, "--step-ms", "60", "--report", tmp_path / "s.json", *early
    )
    assert done.returncode == 0, done.stderr
    found = _lines(done.stdout)
    assert [d["start_step"] for d in found] == list(range(0, N * W - W + 1, 6))
    assert [d["start_s"] for d in found] == [round(0.36 * k, 6) for k in range(2 * N - 1)]
    if not early:
        assert [d["label"] for d in found[::2]] == expected.tolist()
    assert all((d["steps"] < W) == bool(early) for d in found[::2][:3])
    assert all(abs(sum(d["probabilities"]) - 1) < 1e-4 and d["probability"] > 0.1 and d["latency_s"] > 0 for d in found)
    report = json.loads((tmp_path / "s.json").read_text())
    assert (report["windows"], report["dropped"], report["refused_windows"]) == (2 * N - 1, 0, 0)
    assert report["stream_seconds"] == pytest.approx((2 * N - 1) * 0.36)
    assert f"{2 * N - 1} windows decided" in done.stderr and "real-time factor" in done.stderr and "p99" in done.stderr


def test_standard_input_with_a_gap_and_a_malformed_frame(whole: dict[str, np.ndarray], expected: np.ndarray) -> None:
    """Windows that a missing frame cuts are not decided, all others are; nothing is dropped where the source waits."""
    data = _frames(whole, 8, leave_out=40)  # steps 40 to 47: of the fourth window
    at = data.index(b"TAAF", len(data) // 2)
    done = subprocess.run(
        [*COMMAND, "-", "--late", "wait", "--json"], input=data[:at] + b"noise" + data[at:], capture_output=True
    )
    assert done.returncode == 0, done.stderr
    found, report = _lines(done.stdout.decode()), json.loads(done.stderr.splitlines()[-1])
    assert [d["start_step"] for d in found] == [W * k for k in range(N) if k != 3]
    assert [d["label"] for d in found] == [k for i, k in enumerate(expected) if i != 3]
    assert (report["windows"], report["dropped"], report["refused_frames"], report["gap_steps"]) == (N - 1, 0, 1, 8)


@pytest.mark.parametrize("backend", ["fast", pytest.param("sim", marks=pytest.mark.needs_lava)])
def test_a_socket_and_an_interrupt(backend: str, whole: dict[str, np.ndarray], expected: np.ndarray) -> None:
    """One client, on this machine's own address; a second is turned away. SIGINT: the statistics so far, exit 0. A window of other
    values than 0 and 1 is refused and the stream goes on."""
    with subprocess.Popen(
        [COMMAND[0], "--backend", backend, "--stream", "tcp://127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None and process.stderr is not None
            line = process.stderr.readline()
            assert line.startswith("taaf-deploy: listening on tcp://127.0.0.1:"), line
            port = int(line.split(":")[3].split()[0])
            with socket.create_connection(("127.0.0.1", port)) as client, client.makefile("wb") as file:
                layout = Layout(W, {m: x.shape[:-1] for m, x in whole.items()}, {"event": "bits", "audio": "uint8"})
                writer, found = FrameWriter(file, layout), []
                for k in range(4):
                    piece = {m: x[..., W * k : W * k + W] for m, x in whole.items()}
                    if k == 2:
                        writer.write(W * k, {**piece, "audio": piece["audio"] * 2})
                        assert "audio holds values other than 0 and 1" in process.stderr.readline()
                        continue
                    writer.write(W * k, piece)
                    found.append(json.loads(process.stdout.readline()))
                with pytest.raises(OSError):
                    socket.create_connection(("127.0.0.1", port), timeout=5)
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert [d["label"] for d in found] == expected[[0, 1, 3]].tolist() and out == ""
    assert process.returncode == 0, err
    assert "interrupted" in err and "3 windows decided" in err and "1 refused" in err and "Traceback" not in err


def test_windows_that_come_too_fast_are_dropped(recording: Path) -> None:
    """A recording of 10 windows played in 2 ms: most of them are dropped, every one is either decided or counted."""
    done = run_in_process(main, "--backend", "fast", "--stream", recording, "--pace", "--step-ms", "0.01", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stderr.splitlines()[-1])
    assert (
        report["windows"] + report["dropped"] == N and report["dropped"] > 0 and report["windows"] == len(_lines(done.stdout))
    )


def test_a_reader_that_leaves_ends_the_stream(recording: Path) -> None:
    done = subprocess.run(f"{' '.join(COMMAND)} {recording} --hop 1 | head -n 1", shell=True, capture_output=True, text=True)
    assert len(_lines(done.stdout)) == 1 and "Traceback" not in done.stderr


WRONG: dict[str, tuple[list[object], str]] = {
    "no file": (["--stream", "no/such.npz"], "no/such.npz: no such file; allowed an .npz file, - (standard input) or tcp://"),
    "no recording": (["--stream", __file__], "not a readable .npz file"),
    "pace without clock": (["--stream", "{recording}", "--pace"], "--pace: needs the duration of a time step, --step-ms"),
    "pace of a live source": (["--stream", "-", "--pace", "--step-ms", "1"], "--pace: only for a recording in a file"),
    "hop alone": (["--hop", 3], "--hop: only with --stream"),
    "late alone": (["--late", "drop"], "--late: only with --stream"),
    "two inputs": (["--stream", "-", "--input", "x.npz"], "--input: not with --stream; leave one of the two out"),
    "a page": (["--stream", "-", "--report", "x.html"], "a stream's statistics are JSON; allowed FILE.json"),
    "a bare file": (["{net}", "--stream", "-"], "--stream: only with a bundle"),
    "no port": (["--stream", "tcp://127.0.0.1"], "no port; allowed tcp://127.0.0.1:PORT"),
    "a short recording": (["--stream", "{short}"], "5 time steps; a window has 12"),
    "a recording without audio": (["--stream", "{silent}"], "no array 'audio'; it has event"),
    "a recording of another shape": (["--stream", "{small}"], "audio is uint8 (3, 24); allowed numbers (160, steps)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests(name: str, recording: Path, whole: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Exit 2 and one line."""
    made = {
        "short": {m: x[..., :5] for m, x in whole.items()}, "silent": {"event": whole["event"]},
        "small": {"event": whole["event"], "audio": np.zeros((3, 24), np.uint8)},
    }  # fmt: skip
    places = {"recording": recording, "net": zoo_path("ead_mini") / "audio.net"}
    for key, arrays in made.items():
        places[key] = tmp_path / f"{key}.npz"
        np.savez(places[key], **arrays)  # type: ignore[arg-type]
    options, said = WRONG[name]
    given = [str(o).format(**places) for o in options]
    assert_refused(run_in_process(main, *given, "--backend", "fast"), 2, said)


def test_input_that_is_no_stream() -> None:
    """What the thread that reads meets is said as one line."""
    done = subprocess.run([*COMMAND, "-", "-q"], input=b"hello\n", capture_output=True)
    assert done.returncode == 2 and done.stdout == b""
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1 and "stream: its first line is not JSON" in lines[0]
