"""Results of a study as one CSV file: a row per finished training. The file is also what an interrupted study goes on from."""

import csv
import hashlib
import io
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from taaf.models.errors import DataError
from taaf.models.files.writing import write_at_once
from taaf.models.heads import find_head
from taaf.models.networks import find_network
from taaf.models.settings import keywords
from taaf.training.config import TrainConfig

MAX_BYTES = 1 << 26
KEY, COMMIT = "key", "commit"


class Records:
    """The rows of ``path``, kept in the order of their keys' first appearance in it; a new row is on disk when `add` returns.

    Parameters
    ----------
    path : Path
        The file; need not exist yet.
    columns : sequence of str
        Names of its columns, beside ``key`` (first) and ``commit`` (last).

    Raises
    ------
    DataError
        If the file is there and is not of these columns.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, (KEY, *columns, COMMIT)
        self.rows: dict[str, dict[str, str]] = {}
        if not path.exists():
            return
        try:
            with path.open(encoding="utf-8", newline="") as file:
                text = file.read(MAX_BYTES)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot read the results of the study ({error}); restore or remove the file") from error
        reader = csv.DictReader(io.StringIO(text))
        if tuple(reader.fieldnames or ()) != self.columns:
            raise DataError(
                f"{path}: has columns {', '.join(reader.fieldnames or ('none',))[:80]}; expected {', '.join(self.columns)[:80]}; "
                "it is of another study or version: choose another --tables or move it away"
            )
        self.rows = {row[KEY]: row for row in reader}

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def add(self, key: str, values: Mapping[str, Any]) -> None:
        """Add or replace a row; numbers are written with up to 6 digits, what is missing is left empty."""
        if unknown := set(values) - set(self.columns):
            raise ValueError(f"unknown columns: {', '.join(sorted(unknown))}")
        found = {c: _text(values.get(c, "")) for c in self.columns}
        self.rows[key] = found | {KEY: key, COMMIT: commit()}
        out = io.StringIO()
        writer = csv.DictWriter(out, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows.values())
        write_at_once(self.path, out.getvalue())


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def key_of(values: Mapping[str, Mapping[str, Any]]) -> str:
    """12 hexadecimal digits of the SHA-256 of a configuration's settings that are not the defaults.

    Trainings of equal configuration are one training. Defaults are left out, those of a branch's network too, so that
    results stay known when a setting is added; whoever changes what a default does has to begin the study anew.
    """
    defaults = {name: table for name, table in TrainConfig().to_dict().items() if name not in ("branches", "head")}
    defaults["head"] = asdict(find_head(values["head"]["type"]).options_type())
    branches = {m: _told(table, _defaults(find_network(table["network"]))) for m, table in values["branches"].items()}
    told: dict[str, Any] = {"branches": branches} | {
        name: _told(table, defaults.get(name, {})) for name, table in values.items() if name != "branches"
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _told(table: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in table.items() if k not in defaults or v != defaults[k]}


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    return {name: p.default for name, p in keywords(function).items()}


@lru_cache(maxsize=1)
def commit() -> str:
    """The commit of the sources, with ``+`` where they are changed; "unknown" outside a checkout."""

    def git(*arguments: str) -> str:
        command = ("git", "-C", str(Path(__file__).parent), *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
