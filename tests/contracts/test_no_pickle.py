"""Nothing that users run can be made to execute a model file: no pickle, and none of what unpickles for itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("clients", "proto", "server")
FORBIDDEN = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve", "torch"}
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def offences(source: str) -> list[str]:
    """List what a module does that could unpickle."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in FORBIDDEN]
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if origin.partition(".")[0] in FORBIDDEN:
                found.append(origin)
            # Under another name, the call below would not be seen.
            if origin == "numpy":
                found += [f"from numpy import {alias.name}" for alias in node.names if alias.name == "load"]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"np.load", "numpy.load"}:
            flags = [word.value for word in node.keywords if word.arg == "allow_pickle"]
            if not any(isinstance(flag, ast.Constant) and flag.value is False for flag in flags):
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"__import__", "importlib.import_module"}:
            # Positional and constant, or else nobody can tell what it is.
            name = node.args[0] if node.args else None
            if not isinstance(name, ast.Constant) or str(name.value).partition(".")[0] in FORBIDDEN:
                found.append(ast.unparse(node))
    return found


def test_there_are_modules_to_look_at() -> None:
    """The search finds the packages."""
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(FOLDERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_cannot_unpickle(path: Path) -> None:
    """The module imports nothing that unpickles, and reads arrays without it."""
    assert offences(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, pickle as p",
        "import torch.nn",
        "from dill import loads",
        "def f():\n    from joblib import load",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, allow_pickle=flag)",
        "import numpy\nnumpy.load(path)",
        "from numpy import load",
        "__import__('pickle')",
        "import importlib\nimportlib.import_module(name)",
    ],
)
def test_offence_is_found(source: str) -> None:
    """The search sees the ways in which it could happen."""
    assert offences(source) != []


@pytest.mark.parametrize(
    "source",
    [
        "import json",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "from torchlike import thing",
        "import importlib\nimportlib.import_module('json')",
    ],
)
def test_innocent_is_let_through(source: str) -> None:
    """The search does not cry wolf."""
    assert offences(source) == []
