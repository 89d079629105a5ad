"""What the environment of a command may be, and what may become of its text: the work goes on, the exit code tells."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from taaf.models import lava_python
from taaf.models.shell.console import make_parser, run
from taaf.models.shell.pictures import allow_matplotlib

LINE = "✓ conv1  3 µJ ± 1 … \udcff"  # the last is a byte of a file name that is not UTF-8


class Broken(io.StringIO):
    """Raises what a pipe without reader, or a full disk, raises."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.raised = error

    def flush(self) -> None:
        raise self.raised

    def write(self, text: str) -> int:
        raise self.raised


def _run(monkeypatch: pytest.MonkeyPatch, stdout: Any, result: Path, *args: str) -> tuple[int, str]:
    """Exit code and stderr of a command that prints, works, prints."""

    def work(_: object) -> int:
        print(LINE, flush=True)
        result.write_text(os.environ["MPLBACKEND"])
        print(LINE)
        return 0

    err = io.StringIO()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stdout)
        patched.setattr(sys, "stderr", err)
        code = run(make_parser("taaf-test", "", []), work, args)
        assert sys.stdout is stdout and sys.stderr is err
    return code, err.getvalue()


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp437", "cp1252", "utf-8", "utf-16"])
def test_any_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Seen failing: UnicodeEncodeError at the first ✓, exit code 1, and no bundle."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding)
    assert _run(monkeypatch, stream, tmp_path / "x") == (0, "")
    mark = "✓" if encoding.startswith("utf") else "ok"
    shown = raw.getvalue().decode(encoding)
    assert shown.count(f"{mark} conv1") == 2 and shown.count("\\udcff") == 2 and (tmp_path / "x").read_text() == "agg"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (BrokenPipeError(), 141, ""),
        (OSError(28, "No space left on device"), 2, "taaf-test: error: standard output: No space left on device\n"),
    ],
)
@pytest.mark.parametrize("args", [(), ("--help",)])
def test_text_that_nobody_takes(
    error: OSError, code: int, said: str, args: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The reader left, the disk is full: the work is done all the same. Seen failing: it ended at the first line."""
    assert _run(monkeypatch, Broken(error), tmp_path / "x", *args) == (code, said)
    assert (tmp_path / "x").exists() == (not args)


def test_no_standard_output_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Closed from the start (`>&-`, a service): Python has no `sys.stdout`, or one that is closed."""
    assert _run(monkeypatch, None, tmp_path / "x") == (0, "")
    closed = io.StringIO()
    closed.close()
    assert _run(monkeypatch, closed, tmp_path / "y") == (0, "") and (tmp_path / "y").exists()


def test_closed_descriptors_take_no_result(tmp_path: Path) -> None:
    """Otherwise the first file that is opened becomes descriptor 1, and what a C library prints goes into it."""
    script = (
        "import os; from taaf.models.shell.console import make_parser, run\n"
        "def work(_):\n"
        "    file = os.open('result', os.O_CREAT | os.O_WRONLY); os.write(1, b'noise'); os.write(file, b'result'); return 0\n"
        "os._exit(run(make_parser('taaf-test', '', []), work, []))"
    )
    line = f'exec "{sys.executable}" -c "{script}" >&- 2>&- <&-'
    assert subprocess.run(["sh", "-c", line], cwd=tmp_path).returncode == 0
    assert (tmp_path / "result").read_bytes() == b"result"


@pytest.mark.parametrize("name", ["module://matplotlib_inline.backend_inline", "nonsense", "svg"])
def test_backends_of_other_environments(name: str) -> None:
    """A notebook's MPLBACKEND reaches every program that is started in it. Seen failing: ValueError at the import."""
    script = "from taaf.models.shell.pictures import new_figure; new_figure(2, 2); import matplotlib; print(matplotlib.get_backend())"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "MPLBACKEND": name}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().lower() == (name if name == "svg" else "agg")


def test_backends_that_are_there_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook the pictures are the user's."""
    for module in [m for m in sys.modules if m.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    for name in ("module://matplotlib.backends.backend_svg", "TkAgg"):
        monkeypatch.setenv("MPLBACKEND", name)
        allow_matplotlib()
        assert os.environ["MPLBACKEND"] == name


def test_python_without_docstrings_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen failing: "it needs Python 3.10" on Python 3.10 with PYTHONOPTIMIZE=2."""
    assert "PYTHONOPTIMIZE" not in lava_python.lava_remedy()
    monkeypatch.setattr(lava_python.sys, "flags", type("Flags", (), {"optimize": 2}))
    assert "unset PYTHONOPTIMIZE" in lava_python.lava_remedy()


def test_a_hostile_environment(tmp_path: Path) -> None:
    """All of it at once: a notebook's backend, no place for caches, no home, no locale, no temporary folder, no locks, ASCII."""
    environment = {
        "PATH": os.environ["PATH"], "MPLBACKEND": "module://matplotlib_inline.backend_inline", "MPLCONFIGDIR": "/proc/none",
        "HDF5_USE_FILE_LOCKING": "NONSENSE", "OMP_NUM_THREADS": "0", "TMPDIR": "/proc/nowhere", "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii",
    }  # fmt: skip
    program = Path(sys.executable).with_name("taaf-export")
    model = Path(__file__).parents[2] / "models/zoo/ead_mini.pt"
    done = subprocess.run(
        [str(program), str(model), "--to", "netx", "--windows", "2", "--out", "bundle"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ok event.readout_lif" in done.stdout and (tmp_path / "bundle/manifest.json").is_file()
