"""What runs against the wheel: some test for each kind of thing that a wheel brings, none of which needs the export."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest

from deploy import installed, prove_wheel

ROOT = Path(__file__).resolve().parents[2]
# Comes with torch, which is not there.
EXPORT = {"command headwaiter-export", "extra export"}
EXPORT_SIDE = {"benchmarks", "examples", "headwaiter_export", "onnxscript", "safetensors", "torch"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = [ROOT / each for each in PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
SELECTED = prove_wheel.selected()


def kinds() -> set[str]:
    """Everything of which the wheel may lack something."""
    found = {f"command {name}" for name in PYPROJECT["project"]["scripts"]}
    found |= {f"extra {name}" for name in PYPROJECT["project"]["optional-dependencies"]}
    for folder in PACKAGES:
        for path in folder.rglob("*"):
            if path.suffix == ".proto":
                text = path.read_text()
                package = re.findall(r"^package ([\w.]+);", text, re.MULTILINE)
                services = re.findall(r"^service (\w+) ", text, re.MULTILINE)
                found |= {f"service {package[0]}.{service}" for service in services}
            elif path.is_file() and path.suffix not in {".py", ".pyc", ".pyi"} and path.name != "py.typed":
                found.add(f"files {path.parent.relative_to(folder.parent)}")
    return found


def test_every_kind_has_its_proof() -> None:
    """A new command, extra, service or folder of files is proven too, or this fails."""
    assert prove_wheel.PROOFS.keys() == kinds() - EXPORT
    assert all(prove_wheel.PROOFS.values())
    assert {f"extra {name}" for name in prove_wheel.EXTRAS} == {each for each in prove_wheel.PROOFS if "extra" in each}
    assert set(installed.PACKAGES) == {folder.name for folder in PACKAGES} - EXPORT_SIDE


@pytest.mark.parametrize("test", SELECTED)
def test_what_is_selected_exists_and_needs_no_export(test: str) -> None:
    """Its file imports nothing of the export side, and it is not marked as needing that."""
    path, _, name = test.partition("::")
    module = ast.parse((ROOT / path).read_text())
    assert not installed.imported_packages(_outside_of_functions(module)) & EXPORT_SIDE
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    chosen = [node for node in functions if (node.name == name if name else node.name.startswith("test_"))]
    assert chosen
    marks = [node.value for node in module.body if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node)]
    marks += [mark for node in chosen for mark in node.decorator_list]
    assert not [mark for mark in marks if "mark.torch" in ast.unparse(mark)]


def test_wheel_without_a_dependency_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is imported within a function only; and a module that cannot be imported at all."""
    assert installed.missing_dependencies() == []
    assert {"headwaiter_server.app", "headwaiter_load.page", "headwaiter.client"} <= set(installed.modules())
    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.setattr(importlib.util, "find_spec", _without("uvloop"))
    (problem,) = installed.missing_dependencies()
    assert "imports uvloop, which no extra brings" in problem


def _without(name: str) -> object:
    found = importlib.util.find_spec

    def find_spec(wanted: str) -> object:
        return None if wanted == name else found(wanted)

    return find_spec


def _outside_of_functions(module: ast.Module) -> ast.Module:
    kept = [node for node in module.body if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return ast.Module(body=kept, type_ignores=[])
