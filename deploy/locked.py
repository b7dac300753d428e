"""The lock files of the images: every package with its version and the hashes of its files."""

# For the scripts here and the tests; not a package.
# ruff: noqa: INP001

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What is left out, although a package asks for it. tokenizers fetches models from the internet with it if it is told
# to; a server never does, and is better off without an HTTP client and a dozen packages more.
LEFT_OUT = frozenset({"huggingface-hub"})

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?: ; (?P<marker>[^\\]+?))? \\")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Lock:
    """What one environment of an image is made of.

    Attributes:
        file: Where it is written, from the root of the repository on.
        extras: Of this project, whose packages it holds.
        others: Further requirements, beside the project's own if there are extras.
        machines: Processors that there is an image for.
    """

    file: str
    extras: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    machines: tuple[str, ...] = ("x86_64", "aarch64")

    @property
    def path(self) -> Path:
        """Where it is written."""
        return ROOT / self.file


@dataclass(frozen=True)
class Locked:
    """One package of a lock file.

    Attributes:
        name: Its name, in its plain form.
        version: The one version.
        hashes: SHA-256 of each of its files.
    """

    name: str
    version: str
    hashes: tuple[str, ...]


SERVER = Lock("server/requirements.lock", ("server",))
LOCKS = (
    SERVER,
    # hdrhistogram has wheels for no other processor, and the image has no compiler.
    Lock("server/requirements-load.lock", ("load",), machines=("x86_64",)),
    Lock("server/requirements-build.lock", others=("hatchling", "pip")),
)


def read_lock(path: Path) -> list[Locked]:
    """The packages of a lock file, by name.

    Raises:
        ValueError: It holds something else.
    """
    text = path.read_text(encoding="utf-8")
    packages: list[Locked] = []
    for entry in re.split(r"\n(?=\w)", re.sub(r"(?m)^ *#.*\n", "", text)):
        found = _REQUIREMENT.match(entry)
        if found is not None:
            packages.append(Locked(plain(found["name"]), found["version"], tuple(_HASH.findall(entry))))
        elif entry.strip() and not entry.startswith("--only-binary"):
            raise ValueError(f"{path.name}: {entry[:80]!r} is no package with a version and hashes")
    return sorted(packages, key=lambda each: each.name)


def plain(name: str) -> str:
    """A package's name in its plain form: one package goes by many spellings."""
    return re.sub(r"[-_.]+", "-", name).lower()
