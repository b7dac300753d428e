"""The images' lock files hold what the wheel needs, at the versions that everything else is tested with."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from deploy.lock import requirements, tidy
from deploy.locked import LEFT_OUT, LOCKS, SERVER, Lock, plain, read_lock

ROOT = Path(__file__).resolve().parents[2]
LINUX = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_python_implementation": "CPython",
    "platform_machine": "x86_64",
    "python_version": "3.11",
    "python_full_version": "3.11.9",
}
of_each_lock = pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.path.stem)


def constrained() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {plain(name): version for name, version in pairs}


def needed(wanted: list[str]) -> set[str]:
    """Every package that some requirements bring along, by what those say that are installed here."""
    found: set[str] = set()
    waiting = [Requirement(each) for each in wanted]
    while waiting:
        requirement = waiting.pop()
        name = plain(requirement.name)
        if name in found or name in LEFT_OUT:
            continue
        found.add(name)
        waiting += _asked_for(name, requirement.extras)
    return found


def _asked_for(name: str, extras: set[str]) -> Iterator[Requirement]:
    for text in distribution(name).requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate(LINUX | {"extra": extra}) for extra in ("", *extras)):
            yield requirement


@of_each_lock
def test_versions_are_those_that_are_tested(lock: Lock) -> None:
    """What is in an image is what the tests ran with."""
    versions = constrained()
    assert {each.name: each.version for each in read_lock(lock.path)} == {
        each.name: versions[each.name] for each in read_lock(lock.path)
    }


@of_each_lock
def test_lock_holds_all_that_is_needed_and_nothing_else(lock: Lock) -> None:
    """A requirement that was added, or has gone, is noticed; so is what a new version of a package asks for."""
    assert {each.name for each in read_lock(lock.path)} == needed(requirements(lock))


@of_each_lock
def test_every_package_has_hashes_and_no_source_is_taken(lock: Lock) -> None:
    """A source package would run code of its own while the image is built."""
    packages = read_lock(lock.path)
    assert packages
    assert [each.name for each in packages if not each.hashes] == []
    assert "\n--only-binary :all:\n" in lock.path.read_text()
    assert " ; " not in lock.path.read_text()  # of no package is it left to the machine whether it is installed


def test_server_has_no_way_to_the_internet() -> None:
    """No HTTP client, no model hub, nothing that unpickles: none of it is in the image."""
    names = {each.name for each in read_lock(SERVER.path)}
    assert sorted(LEFT_OUT) == ["huggingface-hub"]
    assert not names & {"huggingface-hub", "hf-xet", "httpx", "requests", "urllib3", "torch", "transformers", "joblib"}


def test_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [extra for lock in LOCKS for extra in lock.extras]
    assert extras == ["server", "load"]
    assert set(extras) <= set(project["optional-dependencies"])
    assert set(project["dependencies"]) <= set(requirements(SERVER))


def test_what_is_no_lock_is_not_read_as_one(tmp_path: Path) -> None:
    """A line without a version, or a package from elsewhere, must not pass unseen."""
    path = tmp_path / "requirements.lock"
    for line in ("numpy>=2\n", "git+https://example.org/x\n", "--index-url https://example.org\n"):
        path.write_text(line)
        with pytest.raises(ValueError, match="is no package with a version and hashes"):
            read_lock(path)


def test_markers_for_the_images_own_platform_are_left_out() -> None:
    """And others are not: they would be seen by the test above."""
    linux = "(platform_machine == 'aarch64' or platform_machine == 'x86_64') and sys_platform == 'linux'"
    assert tidy(f"numpy==2.4.6 ; {linux} \\\n    #   -c /home/constraints.txt\n") == "numpy==2.4.6 \\\n"
    assert tidy("numpy==2.4.6 ; python_version < '3.12' \\\n") == "numpy==2.4.6 ; python_version < '3.12' \\\n"
