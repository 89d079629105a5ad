"""Work side by side in a few threads of our own: as many as this process may use CPUs, without barriers that spin."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

A = TypeVar("A")
T = TypeVar("T")
_ENOUGH = 1 << 16  # values per thread: fewer are not worth waking it
_POOLS: dict[int, ThreadPoolExecutor] = {}


def n_cpus() -> int:
    """CPUs that this process may use: its affinity mask, and the quota of its control group (rounded up)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return max(1, min(allowed, allowed if quota is None else -int(-quota // 1)))


def _quota() -> float | None:
    """CPUs by the control group's quota (version 2, then 1)."""
    try:
        most, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return None if most == "max" else int(most) / int(period)
    except (OSError, ValueError):
        pass
    try:
        folder = Path("/sys/fs/cgroup/cpu")
        most, period = ((folder / name).read_text(encoding="ascii") for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
        return int(most) / int(period) if int(most) > 0 else None
    except (OSError, ValueError):
        return None


def side_by_side(do: Callable[[A], T], items: Sequence[A], threads: int) -> list[T]:
    """Results for all items, in order; the calling thread works too. ``do`` must not call this with several items."""
    if threads == 1 or len(items) < 2:
        return [do(item) for item in items]
    if threads not in _POOLS:
        _POOLS[threads] = ThreadPoolExecutor(threads - 1, thread_name_prefix="taaf")
    left = iter(range(len(items)))
    found: list[T | None] = [None] * len(items)

    def take() -> None:
        for k in left:  # the interpreter's lock makes this step whole
            found[k] = do(items[k])

    helpers = [_POOLS[threads].submit(take) for _ in range(min(threads, len(items)) - 1)]
    try:
        take()
    finally:
        for helper in helpers:
            helper.result()
    return found  # type: ignore[return-value]


def in_parts(do: Callable[..., T], *arrays: Any, threads: int) -> list[T]:
    """``do(*arrays)`` on several threads, each with some of the first axis, along which all arrays are equally long; in order."""
    n = len(arrays[0])
    parts = max(1, min(n, threads, arrays[0].size // _ENOUGH))
    cuts = [n * k // parts for k in range(parts + 1)]
    return side_by_side(lambda k: do(*(a[cuts[k] : cuts[k + 1]] for a in arrays)), range(parts), parts)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOLS.clear)  # threads do not survive a fork
