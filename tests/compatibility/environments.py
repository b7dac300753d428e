"""Where the clients of other servers are: `make setup` installs them."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Environment:
    """A virtual environment with one version of Triton's client library.

    Attributes:
        version: Of the library: "2.73".
    """

    version: str

    @property
    def folder(self) -> Path:
        """Where it is."""
        return ROOT / f".venv-triton-{self.version}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def perf_analyzer(self) -> Path:
        """Triton's load tester, if this version's wheel has it."""
        return self.folder / "bin" / "perf_analyzer"

    @property
    def libraries(self) -> Path:
        """The folder of CUDA's runtime library, which perf_analyzer loads, though it never calls it here."""
        (found,) = self.folder.glob("lib/python3.*/site-packages/nvidia/cuda_runtime/lib")
        return found


# Each has a requirements file beside this one.
ENVIRONMENTS = tuple(
    Environment(path.stem.removeprefix("tritonclient-"))
    for path in sorted(Path(__file__).parent.glob("tritonclient-*.txt"))
)
# The last wheel whose perf_analyzer runs with Debian 12's C library.
WITH_PERF_ANALYZER = Environment("2.50")


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without what belongs to this project's own interpreter and servers."""
    left_out = ("PYTHON", "COV", "VIRTUAL_ENV", "HEADWAITER_")
    return {**{name: value for name, value in os.environ.items() if not name.startswith(left_out)}, **more}


def tool(name: str) -> str:
    """A command that lies beside this interpreter, or else on the path.

    Raises:
        FileNotFoundError: There is none: the group `test` is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"there is no {name}: run make setup")
    return found
