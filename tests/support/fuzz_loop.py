"""Feed damaged inputs to a reader, one at a time, within a time and a memory limit, and count what happens.

The worker is a process of its own: it may crash, hang in a C library or run out of memory without ending the campaign.
Input number i depends on the campaign's seed, the format and i only, so a failure is repeated by ``--start i --n 1``.
"""

import contextlib
import faulthandler
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

TIME_LIMIT_S = 5.0  # of CPU time: a busy machine is no hang; whatever waits is ended by `_watch`
MEMORY_BYTES = 2 << 30  # beyond what is mapped at the start


class TooSlow(BaseException):
    """The time limit of one input."""


def _alarm(_number: int, _frame: Any) -> None:
    raise TooSlow


def listing(folder: Path, leave_out: str) -> dict[str, tuple[int, int]]:
    """Size and modification time of everything below a folder, without ``leave_out``."""
    found = {}
    for base, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if f != leave_out]
        for name in (*files, *folders):
            stat = os.lstat(Path(base) / name)
            found[str(Path(base) / name)] = (stat.st_size if name in files else 0, stat.st_mtime_ns if name in files else 0)
    return found


def work(formats: list[str], start: int, n: int, seed: int, root: Path, limit_s: float) -> None:
    """Run inputs start..start+n-1 of every format; prints one JSON line per outcome that is a failure, and totals."""
    from fuzz_bundle import small_bundle
    from fuzz_formats import FORMATS, make_input

    from taaf.models.errors import TaafError

    signal.signal(signal.SIGPROF, _alarm)
    faulthandler.register(signal.SIGUSR1, file=sys.__stderr__)
    warnings.simplefilter("ignore")
    home = root / "home"
    home.mkdir(exist_ok=True)
    os.chdir(home)
    seeds_at = Path(tempfile.mkdtemp(dir=root, prefix="seeds"))
    heads = {FORMATS[f].head for f in formats if FORMATS[f].part}
    bundles = {head: small_bundle(seeds_at / head, head) for head in heads}
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES, resource.RLIM_INFINITY))
    current = root / "current"
    for name in formats:
        form, counts, slowest = FORMATS[name], Counter(), 0.0
        bundle = bundles.get(form.head) if form.part else None
        content = form.seed(seeds_at)
        form.read(bundle if bundle else valid(form.name, content, seeds_at))  # accepted, and all is imported now
        for index in range(start, start + n):
            shutil.rmtree(current, ignore_errors=True)
            current.mkdir()
            path = make_input(form, content, bundle, current, Random(f"{seed}/{name}/{index}"))
            (root / "at").write_text(json.dumps([name, index]))
            before, begun, failure = listing(root, "nothing"), time.process_time(), None
            try:
                signal.setitimer(signal.ITIMER_PROF, limit_s)
                try:
                    form.read(path)
                    outcome = "accepted"
                finally:
                    signal.setitimer(signal.ITIMER_PROF, 0)
            except TaafError as error:
                outcome = "refused"
                if not 0 < len(str(error)) < 5000:
                    outcome, failure = "failed", f"a message of {len(str(error))} characters"
            except TooSlow:
                outcome, failure = "failed", f"more than {limit_s:g} s of CPU time"
            except BaseException as error:
                outcome, failure = "failed", f"{type(error).__name__}: {str(error)[:300]}"
            slowest = max(slowest, time.process_time() - begun)
            if (after := listing(root, "nothing")) != before:
                outcome, failure = "failed", f"wrote {sorted(set(after.items()) ^ set(before.items()))[:3]}"
            counts[outcome] += 1
            if failure is not None:
                print(
                    json.dumps({"format": name, "index": index, "failure": failure, "saved": save(path, name, index)}),
                    flush=True,
                )
        print(json.dumps({"format": name, "counts": counts, "slowest_s": round(slowest, 2)}), flush=True)


def valid(name: str, content: bytes, folder: Path) -> Path:
    """The undamaged input."""
    path = Path(tempfile.mkdtemp(dir=folder)) / name
    path.write_bytes(content)
    return path


def save(path: Path, name: str, index: int) -> str:
    """Keep a failing input."""
    target = Path(tempfile.gettempdir()) / "taaf-fuzz" / f"{name}-{index}{path.suffix}"
    target.parent.mkdir(exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    with contextlib.suppress(OSError):
        shutil.copytree(path, target, symlinks=True) if path.is_dir() else shutil.copy(path, target)
    return str(target)


def campaign(formats: list[str], n: int, seed: int, limit_s: float = TIME_LIMIT_S, start: int = 0) -> list[dict[str, Any]]:
    """Results of every format; a worker that dies or hangs is a failure, and the next one goes on behind it.

    Returns
    -------
    list of dict
        Per format: ``counts`` (accepted, refused, failed), ``slowest_s`` and ``failures``.
    """
    results: dict[str, dict[str, Any]] = {
        f: {"format": f, "counts": Counter(), "slowest_s": 0.0, "failures": []} for f in formats
    }
    todo = [(f, start, n) for f in formats]
    with tempfile.TemporaryDirectory(prefix="taaf-fuzz-") as folder:
        root = Path(folder)
        while todo:
            together = [f for f, s, k in todo if (s, k) == (todo[0][1], todo[0][2])]
            name, index = _run_worker(together, todo[0][1], todo[0][2], seed, root, limit_s, results)
            done = together if name is None else together[: together.index(name)]
            todo = [t for t in todo if t[0] not in done]
            if name is not None:
                _, first, count = todo.pop(0)
                results[name]["counts"]["refused or accepted"] += index - first
                results[name]["counts"]["failed"] += 1
                if index + 1 < first + count:
                    todo.insert(0, (name, index + 1, first + count - index - 1))
    return list(results.values())


def _run_worker(
    formats: list[str], start: int, n: int, seed: int, root: Path, limit_s: float, results: dict[str, dict[str, Any]]
) -> tuple[str | None, int]:
    """Run one worker to its end; (None, 0), or the format and index of the input it died or hung at."""
    command = [sys.executable, __file__, ",".join(formats), str(start), str(n), str(seed), str(root), str(limit_s)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    (root / "at").unlink(missing_ok=True)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        worker = subprocess.Popen(command, stdout=out, stderr=errors, env=env)
        cause = _watch(worker, root, limit_s)
        out.seek(0)
        for line in map(json.loads, out.read().splitlines()):
            result = results[line["format"]]
            if "failure" in line:
                result["failures"].append(line)
            else:
                result["counts"].update(line["counts"])
                result["slowest_s"] = max(result["slowest_s"], line["slowest_s"])
        if cause is None:
            return None, 0
        errors.seek(0)
        tail = errors.read()[-2000:]
    if not (root / "at").exists():
        raise RuntimeError(f"the worker did not start: {cause}\n{tail}")
    name, index = json.loads((root / "at").read_text())
    kept = save(next((root / "current").iterdir()), name, index)
    results[name]["failures"].append({"format": name, "index": index, "failure": cause, "saved": kept, "stderr": tail})
    return name, index


def _watch(worker: subprocess.Popen, root: Path, limit_s: float) -> str | None:
    """None if the worker ends well; otherwise how it ended. One that does not move on is killed."""
    last, since = None, time.monotonic()
    try:
        while worker.poll() is None:
            time.sleep(0.05)
            with contextlib.suppress(OSError):
                stamp = os.stat(root / "at").st_mtime_ns
                if stamp != last:
                    last, since = stamp, time.monotonic()
                elif time.monotonic() - since > 3 * limit_s + 10:
                    worker.send_signal(signal.SIGUSR1)  # where it is goes to its stderr
                    time.sleep(1)
                    return f"hung in a library for more than {3 * limit_s + 10:g} s"
        return None if worker.returncode == 0 else f"the process ended with {worker.returncode}"
    finally:
        worker.kill()
        worker.wait()


if __name__ == "__main__":
    work(sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]), float(sys.argv[6]))
