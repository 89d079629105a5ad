"""Limits of containers: found, obeyed, and named with what is needed and how to raise them."""

import errno
import os
import resource
from pathlib import Path

import pytest

from taaf.models.shell import limits


def _group(monkeypatch: pytest.MonkeyPatch, folder: Path, own: str, **files: str) -> None:
    (folder / "own").write_text(own)
    for name, text in files.items():
        path = folder / "cgroup" / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(limits, "_CGROUPS", folder / "cgroup")
    monkeypatch.setattr(limits, "_OWN_GROUP", folder / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.parametrize(
    ("own", "files", "cpus", "memory"),
    [
        ("0::/\n", {"cpu_DOT_max": "150000 100000\n", "memory_DOT_max": "1073741824\n"}, 1.5, 1 << 30),
        ("0::/\n", {"cpu_DOT_max": "max 100000\n", "memory_DOT_max": "max\n"}, 8, None),
        ("0::/a/b\n", {"a__cpu_DOT_max": "200000 100000", "a__b__cpu_DOT_max": "max 100000", "a__memory_DOT_max": "4096"}, 2, 4096),
        (
            "3:cpu,cpuacct:/d\n2:memory:/d\n",
            {"cpu,cpuacct__d__cpu_DOT_cfs_quota_us": "50000", "cpu,cpuacct__d__cpu_DOT_cfs_period_us": "100000",
             "memory__d__memory_DOT_limit_in_bytes": "9223372036854771712"},
            0.5, None,
        ),
        ("nonsense", {}, 8, None),
    ],
)  # fmt: skip
def test_control_groups(
    own: str, files: dict[str, str], cpus: float, memory: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Version 2 at the root of a container and in a tree, version 1, none. Seen failing: threads for all of the machine."""
    if own == "nonsense":
        own = ""
    _group(monkeypatch, tmp_path, own, **files)
    assert limits.available_cpus() == cpus and limits.memory_limit() == memory
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    import torch

    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    limits.fit_threads()
    wanted = max(1, int(cpus))
    assert os.environ.get("OMP_NUM_THREADS") == (str(wanted) if cpus < 8 else None) and threads == [wanted] * (cpus < 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    limits.fit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize(
    ("error", "mentions"),
    [
        (OSError(errno.EMFILE, "Too many open files", "/psm_1"), ("open files (ulimit -n)", "ulimit -n 4096")),
        (OSError(errno.ENOSPC, "No space left on device"), ("/dev/shm is full, it has", "--shm-size=256m")),
        (OSError(errno.EROFS, "Read-only file system", "/psm_1"), ("/dev/shm cannot be used (Read-only", "mount a writable")),
        (OSError(errno.ENOSYS, "Function not implemented"), ("/dev/shm cannot be used",)),
        (OSError(errno.EAGAIN, "Resource temporarily unavailable"), ("ulimit -u", "pids.max")),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ("out of memory", "fewer --samples")),
    ],
)
def test_messages_name_the_limit(error: OSError, mentions: tuple[str, ...]) -> None:
    """Seen: "OSError: [Errno 24] Too many open files: '/psm_84246c40'"."""
    assert all(m in str(limits.name_limit(error)) for m in mentions)
    assert limits.name_limit(OSError(errno.ENOENT, "No such file", "a.net")) is None


def test_open_files_as_many_as_allowed() -> None:
    """The soft limit goes up to the hard one, and no further."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(128, before[1]), before[1]))
        limits.raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(before[1], 1 << 16), before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
