"""What the server's image is made of, as its packages say it themselves: licences, origins, what needs what."""

# For the scripts here and the tests; not a package.
# ruff: noqa: INP001

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import Distribution, distribution

from license_expression import AND, OR, LicenseExpression, LicenseSymbol, get_spdx_licensing
from packaging.requirements import Requirement

from deploy.locked import SERVER, Locked, plain, read_lock

# Those that ask for nothing but to be named. What is under another one is not served without somebody's decision.
ALLOWED = frozenset(
    {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "PSF-2.0", "Unlicense", "Zlib"}
)
# How packages say it that do not say it in SPDX's way.
_IN_OTHER_WORDS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "MIT License": "MIT",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
}
_SPDX = get_spdx_licensing()


@dataclass(frozen=True)
class Served:
    """One package of the server's image.

    Attributes:
        locked: Its version and its files' hashes.
        summary: What it is, in its own words.
        licence: An expression of SPDX; empty where the package says nothing that we understand.
        source: Where it is developed; empty where it does not say.
        needs: Names of the packages that it needs in turn.
    """

    locked: Locked
    summary: str
    licence: str
    source: str
    needs: tuple[str, ...]


def served() -> list[Served]:
    """Every package of the image, by name, as installed here.

    Raises:
        ValueError: Another version is installed here than is locked.
    """
    packages = read_lock(SERVER.path)
    names = {each.name for each in packages}
    return [_described(each, names) for each in packages]


def allowed(licence: str) -> bool:
    """Whether an expression leaves us a choice that is allowed."""
    return bool(licence) and _allows(_SPDX.parse(licence, validate=True))


def _allows(expression: LicenseExpression) -> bool:
    if isinstance(expression, LicenseSymbol):
        return expression.key in ALLOWED
    if isinstance(expression, OR):
        return any(map(_allows, expression.args))
    return isinstance(expression, AND) and all(map(_allows, expression.args))


def _described(locked: Locked, names: set[str]) -> Served:
    found = distribution(locked.name)
    if found.version != locked.version:
        raise ValueError(f"{locked.name} {found.version} is installed, {locked.version} is locked")
    requirements = [Requirement(each) for each in found.requires or ()]
    needs = {plain(each.name) for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})}
    return Served(locked, _field(found, "Summary"), _licence(found), _source(found), tuple(sorted(needs & names)))


def _licence(found: Distribution) -> str:
    if expression := _field(found, "License-Expression"):
        return str(_SPDX.parse(expression, validate=True))
    words = [_field(found, "License"), *(found.metadata.get_all("Classifier") or ())]
    # The first that means something: the field is the author's own, and classifiers may list several.
    return next((_IN_OTHER_WORDS.get(each, each) for each in words if each in _IN_OTHER_WORDS or each in ALLOWED), "")


def _source(found: Distribution) -> str:
    pairs = [each.split(", ", 1) for each in found.metadata.get_all("Project-URL") or ()]
    places = {name.lower(): place for name, place in pairs}
    known = ("source", "source code", "repository", "github", "homepage")
    return next((places[name] for name in known if name in places), _field(found, "Home-page"))


def _field(found: Distribution, name: str) -> str:
    return next(iter(found.metadata.get_all(name) or ()), "")
