"""Writing a deployment bundle: whole, with the sum of every file, or not at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taaf.export.bundle.manifest import FORMAT, VERSION
from taaf.models.errors import BundleError
from taaf.models.files.writing import sha256, staged_folder


def write_bundle(out: Path, manifest: dict[str, Any], fill: Callable[[Path], None], check: Callable[[Path], None]) -> None:
    """Write a bundle or nothing: build it in a temporary folder beside ``out``, check it there, then rename.

    Parameters
    ----------
    out : Path
        Target directory. An existing *bundle* is replaced; anything else that exists there is refused.
    manifest : dict
        Without "files"; the hashes are added here.
    fill : callable
        Writes the files into the folder it is given.
    check : callable
        Called with the complete temporary bundle; an exception leaves ``out`` untouched.
    """
    if out.exists() and not (out / "manifest.json").is_file():
        raise BundleError(f"{out}: exists and is not a bundle; choose another --out")
    with staged_folder(out) as stage:
        fill(stage)
        files = {p.name: sha256(p) for p in sorted(stage.iterdir())}
        text = json.dumps({"format": FORMAT, "version": VERSION, **manifest, "files": files}, indent=1)
        (stage / "manifest.json").write_text(text + "\n", encoding="utf-8")
        check(stage)
