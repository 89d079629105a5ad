"""A failing, dying, stuck or interrupted Lava network ends in bounded time, says why, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs_lava

SUPPORT = Path(__file__).parents[1] / "support"
DEPLOY = Path(sys.executable).with_name("taaf-deploy")


def run_fault(how: str, limit_s: float = 60) -> dict:
    """Result of fault_script.py; a hang fails the test instead of freezing the suite."""
    command = [sys.executable, str(SUPPORT / "fault_script.py"), how, str(limit_s)]
    env = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("how", "limit_s", "cause"),
    [
        ("raise", 60, "process Faulty (Process_1) failed: ValueError: planted in run_spk"),
        ("kill", 60, "process Faulty (Process_1) died (killed by SIGKILL)"),
        ("init", 60, "ValueError: planted in __init__"),
        ("sleep", 3, "time limit of 3 s exceeded"),
    ],
)
def test_fault_is_explained_and_cleaned_up(how: str, limit_s: float, cause: str) -> None:
    """The real cause within ten seconds; no child, no shared memory, handlers restored, a second network runs."""
    found = run_fault(how, limit_s)
    assert found["error"] is not None and found["error"].startswith("RuntimeFailedError: Lava runtime: ")
    assert cause in found["error"]
    assert found["seconds"] < 10 + (limit_s if how == "sleep" else 0)
    assert found["children"] == [] and found["shm"] == []
    assert found["handler_restored"] and found["second_run"]


def test_healthy_network_is_quiet() -> None:
    """The control: without a fault there is no error."""
    found = run_fault("none")
    assert found["error"] is None and found["children"] == [] and found["shm"] == []


def _start_deploy() -> tuple[subprocess.Popen, list[int]]:
    """taaf-deploy on Lava in its own process group, once its Lava processes run."""
    command = [str(DEPLOY), "--backend", "sim", "--samples", "1000", "-q"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        if len(listed) >= 10:
            time.sleep(1.5)
            return process, [int(p) for p in listed]
        time.sleep(0.2)
    process.kill()
    pytest.fail("the Lava processes never started")


def _finish(process: subprocess.Popen, started: float) -> tuple[int, str]:
    stdout, stderr = process.communicate(timeout=30)
    assert time.monotonic() - started < 10
    assert "Traceback" not in stderr and stdout == ""
    while left := subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, text=True).stdout.split():
        assert time.monotonic() - started < 10, f"orphans: {left}"  # Python's resource tracker leaves last, by itself
        time.sleep(0.2)
    return process.returncode, stderr.strip()


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["group SIGINT", "parent SIGTERM", "child SIGKILL"])
def test_interrupting_deploy(whom: str) -> None:
    """Ctrl-C, a polite kill and a killed Lava process: right exit code, one line, no orphan, no shared memory, no files."""
    shm, temporary = set(os.listdir("/dev/shm")), set(Path("/tmp").glob("taaf-sim-*"))
    process, children = _start_deploy()
    started = time.monotonic()
    if whom == "group SIGINT":
        os.killpg(process.pid, signal.SIGINT)
    elif whom == "parent SIGTERM":
        process.terminate()
    else:
        os.kill(children[5], signal.SIGKILL)
    code, stderr = _finish(process, started)
    if whom == "child SIGKILL":
        assert code == 3
        assert stderr.startswith("taaf-deploy: error: Lava runtime: process ") and "killed by SIGKILL" in stderr
    else:
        assert (code, stderr) == (130, "taaf-deploy: interrupted")
    assert set(os.listdir("/dev/shm")) == shm
    assert set(Path("/tmp").glob("taaf-sim-*")) == temporary
