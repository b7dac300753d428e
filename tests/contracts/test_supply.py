"""The bill of materials is valid and whole, and everything that is served is under terms that somebody has allowed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deploy.licences import PAGE, page
from deploy.locked import SERVER, Locked, read_lock
from deploy.sbom import bill, text_of
from deploy.serving import Served, allowed, served


@pytest.fixture(scope="module")
def packages() -> list[Served]:
    return served()


@pytest.fixture(scope="module")
def written(packages: list[Served]) -> str:
    return text_of(bill(packages))


@pytest.fixture(scope="module")
def read(written: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(written)
    return loaded


def test_bill_follows_its_schema(written: str) -> None:
    """And the check notices when it does not."""
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(written) is None
    assert validator.validate_str(written.replace('"purl"', '"url"')) is not None


def test_bill_names_everything_that_is_locked(read: dict[str, Any]) -> None:
    """With its version, its licence, and the hash of each of its wheels."""
    locked = {each.name: each for each in read_lock(SERVER.path)}
    assert {each["name"] for each in read["components"]} == locked.keys()
    for component in read["components"]:
        package = locked[component["name"]]
        assert component["version"] == package.version
        assert component["purl"] == f"pkg:pypi/{package.name}@{package.version}"
        assert {each["value"] for each in component["properties"]} == set(package.hashes)
        assert len(component["licenses"]) == 1


def test_bill_says_who_needs_whom(read: dict[str, Any]) -> None:
    """From the server on, everything is reached: what nobody needs has no place in an image."""
    needs = {each["ref"]: each.get("dependsOn", []) for each in read["dependencies"]}
    reached, waiting = set(), [read["metadata"]["component"]["bom-ref"]]
    while waiting:
        one = waiting.pop()
        if one not in reached:
            reached.add(one)
            waiting += needs[one]
    assert reached == {read["metadata"]["component"]["bom-ref"], *(each["bom-ref"] for each in read["components"])}


def test_bill_of_the_same_lock_is_the_same(packages: list[Served], monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte, where the time is given."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert text_of(bill(packages)) == text_of(bill(packages[::-1]))
    assert "2023-11-14T22:13:20+00:00" in text_of(bill(packages))


def test_licences_are_allowed(packages: list[Served]) -> None:
    """Whatever is new, and unknown or copyleft, waits for somebody's decision."""
    assert [each for each in packages if not allowed(each.licence)] == []


@pytest.mark.parametrize(
    ("licence", "held"),
    [
        ("MIT", True),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND (Apache-2.0 OR LGPL-2.1-only)", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-3.0-or-later WITH GCC-exception-3.1", False),
        ("MPL-2.0", False),
        ("AGPL-3.0-only", False),
        ("", False),
    ],
)
def test_choices_and_sums_of_licences(licence: str, held: bool) -> None:  # noqa: FBT001 - what is expected
    """One of several is ours to choose; of those that hold together, each counts."""
    assert allowed(licence) is held


def test_page_of_licences_is_fresh(packages: list[Served]) -> None:
    """`python -m deploy.licences` writes it."""
    assert PAGE.read_text(encoding="utf-8") == page(packages)
    stranger = replace(packages[0], locked=Locked("stranger", "1", ()), licence="")
    assert "| 1 | ? |" in page([stranger])
