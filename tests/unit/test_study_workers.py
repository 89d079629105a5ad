"""Workers of a study: local ones, those of a cluster, and what happens when one dies or the study is interrupted."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import study_tasks

from taaf.models.errors import BackendUnavailableError, TrainingFailedError
from taaf.training.studies import workers
from taaf.training.studies.workers import Workers, run_tasks


def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    """Two local workers, one killed at its task: every task ends, that task was begun twice."""
    names = ("one", "victim", "two", "three")
    found = dict(run_tasks(study_tasks.dies_once, {n: (str(tmp_path), n) for n in names}, Workers(2)))
    assert {n: begun for n, (_, begun, _) in found.items()}["victim"] == 2
    assert sorted(found) == sorted(names) and all(name == value[0] for name, value in found.items())


def test_a_failing_task_says_why(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailedError, match="only: the loss is nan"):
        list(run_tasks(study_tasks.fails, {"only": (str(tmp_path), "only")}, Workers(1)))


def test_an_address_of_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tasks on a scheduler's workers; without workers, and without a scheduler, one line that says what to start."""
    from distributed import LocalCluster

    work = {n: (str(tmp_path), n) for n in ("a", "b")}
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None, local_directory=str(tmp_path / "s")) as cluster:
        address = cluster.scheduler_address
        monkeypatch.setattr(workers, "FIRST_WORKER_S", 2)
        with pytest.raises(
            BackendUnavailableError, match=f"--scheduler {address}: has no workers; start some with 'dask worker"
        ):
            list(run_tasks(study_tasks.noted, work, Workers(scheduler=address)))
        monkeypatch.setattr(workers, "FIRST_WORKER_S", 60)
        cluster.scale(1)
        assert dict(run_tasks(study_tasks.noted, work, Workers(scheduler=address))) == {"a": 1, "b": 1}
    monkeypatch.setattr(workers, "FIRST_WORKER_S", 2)
    with pytest.raises(BackendUnavailableError, match=f"--scheduler {address}: no dask scheduler answers"):
        list(run_tasks(study_tasks.noted, work, Workers(scheduler=address)))


@pytest.mark.parametrize("strike", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_study_leaves_no_worker(strike: signal.Signals, tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(Path(study_tasks.__file__).parent)!r}); import study_tasks; study_tasks.study(sys.argv[1])"
    study = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.DEVNULL)
    while len(begun := list(tmp_path.iterdir())) < 2:
        assert study.poll() is None
        time.sleep(0.1)
    study.send_signal(strike)
    study.wait()
    assert study.returncode != 0
    gone, alive = psutil.wait_procs([psutil.Process(int(p.name)) for p in begun if psutil.pid_exists(int(p.name))], timeout=60)
    assert not alive
