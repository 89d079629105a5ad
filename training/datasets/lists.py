"""Text lists (csv, '&'-separated) and the folders and files of a data set's root."""

import re
from collections.abc import Sequence
from pathlib import Path

from taaf.models.errors import DataError
from taaf.models.files.placeholders import placeholder

_MAX_LIST_BYTES = 64 * 2**20
_COMPANION = re.compile(
    r"[.~#$@].*|.*(~|#|\.(bak|swp|swo|tmp|temp|part|partial|crdownload|orig|lock))"
    r"|thumbs\.db|ehthumbs\.db|desktop\.ini|icon\r|__macosx|lost\+found|__pycache__",
    re.IGNORECASE | re.DOTALL,
)


def read_rows(path: Path, separator: str) -> list[tuple[int, list[str]]]:
    """Non-empty lines of a UTF-8 list (with or without byte order mark), split and stripped.

    Returns
    -------
    list of (int, list of str)
        Line number (from 1) and fields.

    Raises
    ------
    DataError
        If the file is missing, larger than 64 MiB, not UTF-8 text, or has no line.
    """
    require_file(path, "a list of samples")
    if what := placeholder(path):
        raise DataError(f"{path}: {what}")
    try:
        if path.stat().st_size > _MAX_LIST_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes, a list has at most {_MAX_LIST_BYTES}; is it another file?")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save the list as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    lines = enumerate(text.splitlines(), start=1)
    rows = [(number, [field.strip() for field in line.split(separator)]) for number, line in lines if line.strip()]
    if not rows:
        raise DataError(f"{path}: the list is empty, expected one sample per line")
    return rows


def own_entries(folder: Path) -> list[Path]:
    """Files and folders of a data set's folder, sorted by name, without what systems and editors put beside them.

    Left out: hidden ones (``._00000.jpg`` and ``.DS_Store`` of macOS, ``.nfs…``), backups and locks of editors, downloads that
    are not finished, thumbnails (``Thumbs.db``, ``@eaDir``), ``__MACOSX``, recycle bins, ``lost+found``.
    """
    return sorted((p for p in folder.iterdir() if not _COMPANION.fullmatch(p.name)), key=lambda p: p.name)


def require_file(path: Path, what: str) -> None:
    """Raise `DataError` unless ``path`` is a file."""
    if not path.is_file():
        raise DataError(f"{path}: missing, expected {what}; put the file there or give another root")


def require_root(root: Path | str, what: str) -> Path:
    """The root folder as an absolute path; raises `DataError` unless it is a folder."""
    path = Path(root)
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise DataError(f"{path}: {found}, expected the root folder of {what}; give the folder that holds it")
    return path.resolve()


def first_folder(root: Path, names: Sequence[str], what: str) -> Path:
    """The first of ``names`` that is a folder in ``root``; raises `DataError` naming them all if none is."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"{root}: no {' or '.join(names)} folder, expected {what}; check the layout of the data set")


def require_choice(value: str, allowed: Sequence[str], where: str) -> None:
    """Raise `DataError` unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise DataError(f"{where} (={value!r}): allowed {', '.join(allowed)}")


def require_positive(value: int, where: str) -> None:
    """Raise `DataError` unless ``value`` is a whole number >= 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DataError(f"{where} (={value!r}): expected a whole number >= 1")
