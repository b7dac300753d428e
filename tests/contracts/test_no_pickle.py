"""Nothing that users run can be made to execute a model file: no pickle, and none of what unpickles for itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("clients", "proto", "server")
FORBIDDEN = {
    # These unpickle, or make objects of any class, ...
    *("cloudpickle", "copyreg", "dill", "joblib", "jsonpickle", "marshal", "pickle", "ruamel", "shelve", "yaml"),
    # ... these do so for themselves, and these run what they are given.
    *("multiprocessing", "pandas", "torch", "code", "codeop", "runpy"),
}
ARRAYS = {"np.load", "numpy.load", "np.lib.format.read_array", "numpy.lib.format.read_array"}
RUNS = {"compile", "eval", "exec", "builtins.eval", "builtins.exec", "builtins.compile"}
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


# Pickles what it sends, and unpickles what comes back.
PROCESSES = {"concurrent.futures.ProcessPoolExecutor", "concurrent.futures.process"}
# The load tester starts processes of its own, and speaks with them over pipes that nobody else has.
OWN_PROCESSES = {"crew.py", "worker.py"}


def offences(source: str) -> list[str]:
    """List what a module does that could unpickle."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in FORBIDDEN]
        elif isinstance(node, ast.ImportFrom):
            found += imported_from(node.module or "", [alias.name for alias in node.names])
        elif isinstance(node, ast.Call) and is_offence(node):
            found.append(ast.unparse(node))
    return found


def imported_from(origin: str, names: list[str]) -> list[str]:
    """What is no good of `from ORIGIN import NAMES`."""
    package = origin.partition(".")[0]
    if package in FORBIDDEN:
        return [origin]
    # Under another name, the calls below would not be seen.
    hidden = {"lib", "format", "load", "npyio", "read_array"} if package == "numpy" else set()
    return [f"{origin}.{name}" for name in names if name in hidden or f"{origin}.{name}" in PROCESSES]


def is_offence(call: ast.Call) -> bool:
    """Whether a call could unpickle, or run a text."""
    function = ast.unparse(call.func)
    if function in RUNS:
        return True
    if function in ARRAYS:
        flags = [word.value for word in call.keywords if word.arg == "allow_pickle"]
        return not any(isinstance(flag, ast.Constant) and flag.value is False for flag in flags)
    if function in {"__import__", "importlib.import_module"}:
        # Positional and constant, or else nobody can tell what it is.
        name = call.args[0] if call.args else None
        return not isinstance(name, ast.Constant) or str(name.value).partition(".")[0] in FORBIDDEN
    return False


def test_there_are_modules_to_look_at() -> None:
    """The search finds the packages."""
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(FOLDERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_cannot_unpickle(path: Path) -> None:
    """The module imports nothing that unpickles, and reads arrays without it."""
    found = offences(path.read_text())
    if path.parent.name == "headwaiter_load" and path.name in OWN_PROCESSES:
        found = [each for each in found if each.partition(".")[0] != "multiprocessing"]
    assert found == []


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
        "import numpy as np\nnp.lib.format.read_array(file, allow_pickle=True)",
        "from numpy.lib import format",
        "import multiprocessing as mp",
        "from concurrent.futures import ProcessPoolExecutor",
        "import yaml\nyaml.safe_load(text)",
        "import marshal",
        "from shelve import open as keep",
        "import cloudpickle",
        "import runpy",
        "eval(text)",
        "def f():\n    exec(compile(text, name, 'exec'))",
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
        "import re\nre.compile(text)",
        "import numpy as np\nnp.lib.format.read_array(file, allow_pickle=False)",
        "from concurrent.futures import ThreadPoolExecutor",
        "from numpy.typing import NDArray",
        "import importlib\nimportlib.import_module('json')",
    ],
)
def test_innocent_is_let_through(source: str) -> None:
    """The search does not cry wolf."""
    assert offences(source) == []
