"""What a bundle's manifest.json must hold, and within which limits; everything that is used later is checked here."""

import math
from typing import Any

from taaf.models.config import MAX_STEPS, MODALITY

FORMAT, VERSION = "taaf-bundle", 3
READABLE = (2, VERSION)
MAX_BRANCHES = 64
MAX_LABELS = 1 << 16
MAX_TEXT = 1000
MAX_COUNT = 1 << 53  # numbers that are only reported


def modalities_of(manifest: dict[str, Any]) -> tuple[str, ...]:
    """Names of the branches, in order (version 2 names them in its head, and they may be left out there)."""
    if manifest.get("version") == 2:
        head = manifest.get("head")
        names = head.get("modalities", ("event", "audio")) if isinstance(head, dict) else ()
    else:
        names = manifest.get("branches")
    return tuple(names) if isinstance(names, list | tuple | dict) else ()


def manifest_problems(manifest: dict[str, Any]) -> list[str]:
    """One line per entry that is missing, of another type, or outside its limits."""
    found: list[str] = []
    _text(manifest, "model", "model", found)
    _text(_table(manifest, "training", found), "training.checkpoint_sha256", "checkpoint_sha256", found)
    _text(_table(manifest, "head", found), "head.file", "file", found)
    _text(_table(manifest, "golden", found), "golden.file", "file", found)
    if not isinstance(manifest.get("data", {}), dict):
        found.append("data: expected an object")
    labels = manifest.get("labels")
    if not isinstance(labels, list) or len(labels) > MAX_LABELS or any(not _is_text(x) for x in labels):
        found.append(f"labels: expected up to {MAX_LABELS} short texts")
    _integer(manifest, "window_steps", "window_steps", MAX_STEPS, found)
    branches = _table(manifest, "branches", found)
    names = modalities_of(manifest)
    named = 1 <= len(names) <= MAX_BRANCHES and all(isinstance(n, str) and MODALITY.fullmatch(n) for n in names)
    if not named or len(set(names)) != len(names) or "fused" in names:
        allowed = f"expected 1 to {MAX_BRANCHES} different names of up to 32 lower-case letters, digits and _"
        return [*found, f"branches: {allowed}"]
    for name in names:
        branch, where = branches.get(name), f"branches.{name}"
        if not isinstance(branch, dict):
            found.append(f"{where}: missing, expected an object")
            continue
        _text(branch, f"{where}.file", "file", found)
        _integer(branch, f"{where}.input_steps", "input_steps", MAX_STEPS, found)
        _integer(branch, f"{where}.ann_macs", "ann_macs", MAX_COUNT, found)
        guard = branch.get("guard", {})
        if not isinstance(guard, dict) or any(type(guard.get(k, 0)) is not int for k in ("steps", "channels")):
            found.append(f"{where}.guard: expected whole numbers steps and channels")
        if "encoder_file" in branch:
            _text(branch, f"{where}.encoder_file", "encoder_file", found)
            _table(branch, "encoder_spec", found)
        shape = branch.get("input_shape")
        if not isinstance(shape, list) or not 1 <= len(shape) <= 3 or any(type(n) is not int or n < 1 for n in shape):
            found.append(f"{where}.input_shape: expected 1 to 3 whole numbers >= 1")
        elif math.prod(shape) > 1 << 24:
            found.append(f"{where}.input_shape: {shape} has more than {1 << 24} values")
    return found


def _table(parent: dict[str, Any], key: str, found: list[str]) -> dict[str, Any]:
    value = parent.get(key)
    if isinstance(value, dict):
        return value
    found.append(f"{key}: missing, expected an object")
    return {}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT and value.isprintable()


def _text(parent: dict[str, Any], where: str, key: str, found: list[str]) -> None:
    if not _is_text(parent.get(key)):
        found.append(f"{where}: missing, expected a short text")


def _integer(parent: dict[str, Any], where: str, key: str, highest: int, found: list[str]) -> None:
    value = parent.get(key)
    if type(value) is not int or not 1 <= value <= highest:
        found.append(f"{where}: expected a whole number from 1 to {highest}")
