"""The model repository on disk: `models/NAME/VERSION/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headwaiter_server.errors import BundleError

# Versions travel as int64.
_MOST_VERSION_DIGITS = 18


@dataclass(frozen=True)
class BundleLocation:
    """Where a bundle lies.

    Attributes:
        name: Of the model.
        version: Of the model.
        folder: The bundle.
        problem: Why there is none after all; loading it says so.
    """

    name: str
    version: int
    folder: Path
    problem: str = ""


def find_bundles(repository: Path) -> list[BundleLocation]:
    """The highest version of every model in a repository, by name.

    A folder without a version is listed with its problem, so that it counts as one model that failed. Folders that
    start with a dot are left alone: exports are written there before they are renamed into place.

    Raises:
        BundleError: It is no folder, or holds no folder of a model.
    """
    if not repository.is_dir():
        raise BundleError(f"{repository} is not a folder; headwaiter-export writes models into one")
    locations = []
    for folder in _entries(repository):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        try:
            version = _highest_version(folder)
        except BundleError as error:
            locations.append(BundleLocation(folder.name, 0, folder, str(error)))
        else:
            locations.append(BundleLocation(folder.name, version, folder / str(version)))
    if not locations:
        raise BundleError(
            f"{repository} holds no model: expected NAME/VERSION folders, as headwaiter-export writes them"
        )
    return locations


def _highest_version(folder: Path) -> int:
    versions = [int(each.name) for each in _entries(folder) if each.is_dir() and _is_version(each.name)]
    if not versions:
        if _is_version(folder.name):
            raise BundleError(f"{folder} is itself a version: the repository is {folder.parent.parent}, one level up")
        raise BundleError(f"{folder} holds no version: expected a folder named by a positive number, such as 1")
    return max(versions)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise BundleError(f"{folder} cannot be read: {error.strerror}") from error


def _is_version(name: str) -> bool:
    if len(name) > _MOST_VERSION_DIGITS:
        return False
    return name.isascii() and name.isdecimal() and name == str(int(name)) and int(name) > 0
