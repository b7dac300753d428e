"""The documentation names what there is: every module, every test, every verb; and its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PACKAGES = (
    "server/headwaiter_server",
    "export/headwaiter_export",
    "clients/python/headwaiter",
    "clients/load/headwaiter_load",
    "proto/headwaiter_proto",
)
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

_CODE_BLOCK = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_URL = re.compile(r"[a-z][a-z0-9+.-]*:")


def section(page: Path, heading: str) -> str:
    """The text between a heading and the next one of any level."""
    text = page.read_text()
    assert f"\n{heading}\n" in text, f"{page.name} has no heading {heading!r}"
    return re.split(r"^#", text.partition(f"\n{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def modules(package: Path) -> set[str]:
    """Modules by their path; a subpackage's `__init__.py` goes by its folder, `rpc/`."""
    paths = (path.relative_to(package).as_posix() for path in package.rglob("*.py"))
    return {path if path == "__init__.py" else path.removesuffix("__init__.py") for path in paths}


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links whose file is not there, or whose heading the file lacks."""
    broken = []
    for link in _LINK.findall(_CODE_BLOCK.sub("", text)):
        if _URL.match(link):
            continue
        path, _, fragment = link.partition("#")
        target = page.parent / unquote(path) if path else page
        if not target.exists() or (fragment and fragment not in anchors(target.read_text())):
            broken.append(link)
    return broken


def anchors(text: str) -> set[str]:
    """What a page's headings can be linked by: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", _CODE_BLOCK.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def verbs_named(text: str) -> set[str]:
    """What follows `make` in code: in backticks, or at the beginning of a line of a block."""
    code = [
        *re.findall(r"`([^`\n]+)`", text),
        *re.findall(r"^(?: {4}|\$ )(.+)$", text, flags=re.MULTILINE),
    ]
    return {match[1] for line in code if (match := re.match(r"make ([\w./-]+)", line))}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_has_its_line(package: str) -> None:
    """docs/architecture.md has one line for each module of a package, and none for a module that is gone."""
    rows = re.findall(r"^\| `([^`]+)` \| \S", section(ARCHITECTURE, f"### `{package}`"), flags=re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == modules(ROOT / package)


def test_layers_are_those_of_the_contract() -> None:
    """docs/architecture.md shows the layers that import-linter enforces, in their order."""
    contracts: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    shown = " -> ".join(" | ".join(f"`{name}`" for name in layer.split(" | ")) for layer in layers)
    assert shown in " ".join(section(ARCHITECTURE, "## Imports point one way").split())


def test_every_invariant_names_tests_that_exist() -> None:
    """Each invariant has a line with the files of its tests."""
    rows = re.findall(r"^\| (\d+) \| .+ \| (.+) \|$", section(ARCHITECTURE, "## What always holds"), flags=re.MULTILINE)
    assert [number for number, _ in rows] == [str(number) for number in range(1, 16)]
    for number, tests in rows:
        files = re.findall(r"`([^`]+)`", tests)
        assert files, number
        assert [file for file in files if not (ROOT / file).is_file()] == []


def test_generated_pages_are_fresh() -> None:
    """The pages on settings and metrics say what the code says."""
    subprocess.run([sys.executable, ROOT / "docs" / "build_reference.py", "--check"], check=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    """Every relative link of a page leads to a file, and to a heading where it names one."""
    assert broken_links(page, page.read_text()) == []


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("[a](docs/client.md) [b](LICENSE) [c](https://example.com/x) [d](server)", []),
        ("[a](docs/nowhere.md)", ["docs/nowhere.md"]),
        ("[a](docs/client.md#from-python) [b](docs/client.md#from-cobol)", ["docs/client.md#from-cobol"]),
        ("# Try it, twice\n[a](#try-it-twice) [b](#try-it)", ["#try-it"]),
        ("```\n[a](nowhere)\n```\n", []),
    ],
)
def test_broken_links_are_noticed(text: str, broken: list[str], tmp_path: Path) -> None:
    """A link to a file or a heading that is not there is found; code and other sites are left alone."""
    page = tmp_path / "page.md"
    page.write_text(text)
    for name in ("docs", "server", "LICENSE"):
        (tmp_path / name).symlink_to(ROOT / name)
    assert broken_links(page, text) == broken


def test_verbs_of_the_readme_exist() -> None:
    """What README.md tells a newcomer to `make` is a target of the Makefile."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = verbs_named(README.read_text())
    assert named >= {"demo", "serve", "test"}
    assert named <= targets
