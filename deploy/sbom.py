"""Writes the bill of materials of the server's image, as CycloneDX has it: every Python package that is in it.

Names, versions and hashes are those of the lock file, beside which nothing is installed; licences and who needs whom
are what the packages say themselves. What Debian and Python bring along is the base image's to tell.

    python -m deploy.sbom --output build/sbom.cdx.json
"""
# A script, which prints; not a package.
# ruff: noqa: INP001, T201

from __future__ import annotations

import argparse
import os
import sys
import tomllib
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cyclonedx.model import ExternalReference, ExternalReferenceType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.dependency import Dependency
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

from deploy.locked import ROOT, SERVER, plain
from deploy.serving import Served, served

# A package has a wheel for each processor and Python, and an image holds one of them: so these are no hashes of it.
_HASH = "headwaiter:wheel-sha256"
# Bills of the same lock file have the same number.
_NAMESPACE = uuid.UUID("8f0d5b0e-64c7-4d41-9d1b-5a5f0c6d1c51")


def main() -> int:
    """Write it; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the bill of materials of the server's image.")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "sbom.cdx.json", help="where it is written")
    output: Path = parser.parse_args().output
    output.parent.mkdir(parents=True, exist_ok=True)
    packages = served()
    output.write_text(text_of(bill(packages)), encoding="utf-8")
    print(f"{output}: {len(packages)} packages")
    return 0


def bill(packages: Sequence[Served]) -> Bom:
    """The bill of materials of some packages, and of the server that needs them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    server = _component(project["name"], project["version"], project["license"], project["description"])
    server.type = ComponentType.APPLICATION
    components = {each.locked.name: _of_package(each) for each in packages}
    wanted = (*project["dependencies"], *project["optional-dependencies"]["server"])
    asked_for = {plain(Requirement(each).name) for each in wanted}
    dependencies = [
        Dependency(component.bom_ref, [Dependency(components[name].bom_ref) for name in needs])
        for component, needs in (
            (server, sorted(asked_for & components.keys())),
            *((components[each.locked.name], each.needs) for each in packages),
        )
    ]
    number = uuid.uuid5(_NAMESPACE, SERVER.path.read_text(encoding="utf-8") + project["version"])
    made = Bom(components=components.values(), serial_number=number, dependencies=dependencies)
    made.metadata.component = server
    made.metadata.timestamp = datetime.fromtimestamp(float(os.environ.get("SOURCE_DATE_EPOCH", "0")) or _now(), UTC)
    return made


def text_of(made: Bom) -> str:
    """A bill of materials as JSON."""
    return JsonV1Dot6(made).output_as_string(indent=1) + "\n"


def _of_package(package: Served) -> Component:
    component = _component(package.locked.name, package.locked.version, package.licence, package.summary)
    component.properties.update(Property(name=_HASH, value=each) for each in package.locked.hashes)
    if package.source:
        component.external_references.add(ExternalReference(type=ExternalReferenceType.VCS, url=XsUri(package.source)))
    return component


def _component(name: str, version: str, licence: str, description: str) -> Component:
    return Component(
        name=name,
        version=version,
        description=description,
        licenses=[LicenseExpression(licence)] if licence else [],
        purl=PackageURL("pypi", name=name, version=version),
        bom_ref=f"pkg:pypi/{name}@{version}",
    )


def _now() -> float:
    return datetime.now(UTC).timestamp()


if __name__ == "__main__":
    sys.exit(main())
