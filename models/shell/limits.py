"""Limits of the container or the session a command runs in: processors, memory, shared memory, open files.

Control groups limit what `os.cpu_count` and free memory do not show; the system's own messages name neither the limit nor the
cure.
"""

import contextlib
import errno
import math
import os
import resource
import shutil
import sys
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # what the multiprocessing module and Lava's channels use
_CGROUPS, _OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_NO_LIMIT = 1 << 60  # what version 1 writes for "max" is near 2^63


def available_cpus() -> float:
    """Processors this process may use: its affinity, or the smaller quota of its control group (2.5 is possible)."""
    allowed = float(len(os.sched_getaffinity(0)))
    for folder in _groups("cpu"):
        quota, period = 0.0, 0.0
        with contextlib.suppress(OSError, ValueError):
            if (folder / "cpu.max").exists():
                quota, period = map(float, (folder / "cpu.max").read_text().replace("max", "0").split())
            else:
                quota, period = (float((folder / f"cpu.cfs_{what}_us").read_text()) for what in ("quota", "period"))
        if quota > 0 and period > 0:
            allowed = min(allowed, quota / period)
    return allowed


def memory_limit() -> int | None:
    """Bytes of memory of the control group; None if it sets no limit."""
    found = []
    for folder in _groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):
                found.append(int((folder / name).read_text()))
    return min((n for n in found if n < _NO_LIMIT), default=None)


def _groups(controller: str) -> list[Path]:
    """Folders of this process's control groups, the outermost first; version 2, or a controller of version 1."""
    found: list[Path] = []
    with contextlib.suppress(OSError):
        for line in _OWN_GROUP.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            base = _CGROUPS / controllers if controllers else _CGROUPS
            parts = [base, *(base.joinpath(*Path(path).parts[1 : k + 1]) for k in range(1, len(Path(path).parts)))]
            found += [p for p in parts if p.is_dir()]
    return found


def fit_threads() -> None:
    """Let numerical libraries start as many threads as the control group has processors, unless the user said how many.

    More threads than processors make them wait for each other: OpenMP looks at the machine, not at the quota.
    """
    cpus = available_cpus()
    if cpus >= len(os.sched_getaffinity(0)) or any(name in os.environ for name in _THREADS):
        return
    n = max(1, math.floor(cpus))
    os.environ.update(dict.fromkeys(_THREADS, str(n)))
    if "torch" in sys.modules:  # it has read the variables already
        sys.modules["torch"].set_num_threads(n)


def raise_file_limit() -> None:
    """Allow as many open files as the session may ask for: every channel of a Lava network takes four."""
    with contextlib.suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = min(hard, 1 << 16) if hard != resource.RLIM_INFINITY else 1 << 16
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def name_limit(error: OSError) -> str | None:
    """The limit behind an error of starting processes or making shared memory, and how to raise it; None: another error."""
    if error.errno == errno.EMFILE:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"limit of {limit} open files (ulimit -n); Lava takes some hundreds; raise it, e.g. with `ulimit -n 4096`"
    if error.errno == errno.EAGAIN:
        limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        return f"no more processes can be started (ulimit -u {limit}, or pids.max of the container); Lava takes some dozens; raise it"
    if error.errno == errno.ENOMEM:
        return f"out of memory{of_memory()}; raise the limit, or run a smaller network or fewer --samples"
    shared = (
        str(error.filename or "").startswith("/psm_") or "psm_" in str(error) or error.errno in (errno.ENOSPC, errno.ENOSYS)
    )
    if not shared:
        return None
    try:
        size = shutil.disk_usage(SHARED_MEMORY).total
    except OSError:
        size = 0
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{SHARED_MEMORY} is full, it has {size >> 10} kB; Lava's channels take 1 MB to some dozens; make it larger, e.g. with "
            "`docker run --shm-size=256m` or `mount -o remount,size=256m /dev/shm`"
        )
    return (
        f"{SHARED_MEMORY} cannot be used ({error.strerror}); Lava's channels are shared memory; mount a writable tmpfs there, e.g. "
        "with `docker run --shm-size=256m`"
    )


def of_memory() -> str:
    """ " (the container has 512 MB)", or nothing where no limit is set."""
    limit = memory_limit()
    return "" if limit is None else f" (the container has {limit >> 20} MB)"
