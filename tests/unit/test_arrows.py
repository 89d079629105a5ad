"""Imports go one way: models <- {training, hw_sim} <- export <- deploy, without circles; faces are lazy."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import taaf.models

ROOT = Path(taaf.models.__file__).parents[1]
ALLOWED = {
    "models": set(),
    "training": {"models"},
    "hw_sim": {"models"},
    "export": {"models", "hw_sim"},
    "deploy": {"models", "hw_sim", "export", "training"},
}
HEAVY = ("torch", "lava", "numba", "matplotlib", "h5py", "onnxruntime")


def _modules() -> dict[str, Path]:
    found = {}
    for room in ALLOWED:
        for path in (ROOT / room).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imported(tree: ast.AST, modules: dict[str, Path]) -> set[str]:
    """taaf modules that these statements import, without those only types need."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("taaf"):
            module = (node.module or "").removeprefix("taaf").lstrip(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                found.add(inner if inner in modules else module)
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("taaf.") for a in node.names if a.name.startswith("taaf.")}
    return found


class _WithoutTypes(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if "TYPE_CHECKING" in ast.dump(node.test) else self.generic_visit(node)


def _tree(path: Path, top_level: bool) -> ast.Module:
    tree = _WithoutTypes().visit(ast.parse(path.read_text(encoding="utf-8")))
    if top_level:
        kinds = ast.FunctionDef | ast.AsyncFunctionDef
        tree.body = [n for n in tree.body if not isinstance(n, kinds)]
    return tree


def test_rooms_import_along_the_arrows() -> None:
    modules = _modules()
    wrong = []
    for name, path in modules.items():
        room = name.split(".")[0]
        if name.endswith(".cli") or ".commands" in name:  # they put rooms together
            continue
        others = {m.split(".")[0] for m in _imported(_tree(path, top_level=False), modules)} - {room, ""}
        wrong += [f"{name} imports {other}" for other in others - ALLOWED[room]]
    assert len(modules) > 150 and not wrong, "; ".join(wrong)


def test_no_circle_of_imports() -> None:
    modules = _modules()
    edges = {name: _imported(_tree(path, top_level=True), modules) & set(modules) for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(edges[name]):
                visit(other, [*path, name])
            done.add(name)

    for name in edges:
        visit(name, [])
    assert done == set(modules)


def test_faces_are_lazy() -> None:
    """Importing the rooms imports nothing heavy."""
    rooms = ", ".join(f"taaf.{room}" for room in ALLOWED)
    script = f"import sys, {rooms}; heavy = [m for m in {HEAVY!r} if m in sys.modules]; assert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", list(ALLOWED))
def test_faces_are_complete(room: str) -> None:
    face = importlib.import_module(f"taaf.{room}")
    assert face.__all__ and all(getattr(face, name) is not None for name in face.__all__)
    assert set(dir(face)) <= set(face.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = face.no_such_name
