"""The model repository on disk: `models/NAME/VERSION/`."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headwaiter_server.config.version_policy import VersionPolicies, VersionPolicy
from headwaiter_server.errors import BundleError, UnknownModelError
from headwaiter_server.lifecycle.model_config import read_setup

# Versions travel as int64.
_MOST_VERSION_DIGITS = 18
# Of a name that nobody has given a model, what an error repeats.
_MOST_NAME_CHARACTERS = 100


@dataclass(frozen=True)
class BundleLocation:
    """Where a bundle lies.

    Attributes:
        name: Of the model.
        version: Of the model.
        folder: The bundle.
        problem: Why there is none after all; loading it says so.
        stamp: Changes when its files do.
        said: What else is known of the problem, for the log alone; see `BundleError`.
    """

    name: str
    version: int
    folder: Path
    problem: str = ""
    stamp: str = field(default="", compare=False)
    said: str = field(default="", compare=False)


@dataclass(frozen=True)
class ModelFolder:
    """The folder of one model.

    Attributes:
        name: Of the model.
        folder: Where it is.
        versions: The stamp of each version that it holds.
        problem: Why it holds none.
        stamp: Changes when something else in it does.
    """

    name: str
    folder: Path
    versions: Mapping[int, str]
    problem: str = ""
    stamp: str = ""

    def policy(self, policies: VersionPolicies) -> VersionPolicy:
        """Which of its versions are to serve.

        Raises:
            BundleError: Its configuration cannot be read, or asks for what this server does not do.
        """
        return policies.of(self.name, read_setup(self.folder).version_policy)

    def bundles(self, policy: VersionPolicy) -> list[BundleLocation]:
        """What is to serve under a policy, ascending; what is not there, with its problem."""
        if not self.versions:
            return [BundleLocation(self.name, 0, self.folder, self.problem)]
        return [
            BundleLocation(
                self.name,
                version,
                self.folder / str(version),
                "" if version in self.versions else f"{self.folder} holds no version {version}",
                f"{self.stamp}|{self.versions.get(version, '')}",
            )
            for version in policy.chosen(self.versions)
        ]


def scan(repository: Path) -> list[ModelFolder]:
    """Every model of a repository, by name.

    A folder without a version is listed with its problem, so that it counts as one model that failed. Folders that
    start with a dot are left alone: exports are written there before they are renamed into place.

    Raises:
        BundleError: The repository is no folder, or cannot be read.
    """
    _check_repository(repository)
    models = []
    for each in _entries(repository):
        try:
            if _is_name(each.name) and _is_folder(each):
                models.append(_look_into(each))
        except BundleError as error:  # of this one; the others are as they are
            models.append(ModelFolder(each.name, each, {}, str(error)))
    return models


def look_up(repository: Path, name: str) -> ModelFolder:
    """One model of a repository.

    Args:
        repository: The repository.
        name: As a caller gave it: nothing but the plain name of a folder leads anywhere.

    Raises:
        UnknownModelError: There is none of that name.
        BundleError: The repository is no folder, or cannot be read.
    """
    _check_repository(repository)
    folder = repository / name if _is_name(name) else repository
    if folder == repository or not _is_folder(folder):
        raise UnknownModelError(f"no model {name[:_MOST_NAME_CHARACTERS]!r} in the model repository")
    return _look_into(folder)


def find_models(repository: Path) -> list[ModelFolder]:
    """Every model of a repository that must hold one.

    Raises:
        BundleError: It is no folder, or holds no folder of a model.
    """
    models = scan(repository)
    if not models:
        raise BundleError(
            f"{repository} holds no model: expected NAME/VERSION folders, as headwaiter-export writes them"
        )
    return models


def _look_into(folder: Path) -> ModelFolder:
    versions: dict[int, str] = {}
    others = []
    try:
        for each in _entries(folder):
            if _is_version(each.name) and _is_folder(each):
                versions[int(each.name)] = _stamp(_entries(each))
            elif not each.name.startswith("."):
                others.append(each)
    except BundleError as error:
        return ModelFolder(folder.name, folder, {}, str(error))
    problem = ""
    if not versions and _is_version(folder.name):
        problem = f"{folder} is itself a version: the repository is one level above {folder.parent}"
    elif not versions:
        problem = f"{folder} holds no version: expected a folder named by a positive number, such as 1"
    return ModelFolder(folder.name, folder, versions, problem, _stamp(others))


def _stamp(files: list[Path]) -> str:
    """Names, sizes and times of files, in one text."""
    facts = []
    for each in files:
        try:
            found = each.stat()
        except OSError:  # it went in this moment, or is a link to nothing
            facts.append(each.name)
        else:
            facts.append(f"{each.name}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}")
    return "/".join(facts)


def _check_repository(repository: Path) -> None:
    if not _is_folder(repository):
        raise BundleError(f"{repository} is not a folder; headwaiter-export writes models into one")


def _is_folder(path: Path) -> bool:
    """Whether there is a folder, and nothing else.

    Raises:
        BundleError: That cannot be told: it may not be looked at, or its disk is away.
    """
    try:
        return path.is_dir()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise BundleError(f"{folder} cannot be read: {error.strerror}") from error


def _is_name(name: str) -> bool:
    """Whether it is the plain name of a folder that may hold a model; what is not UTF-8 cannot be sent."""
    if any("\ud800" <= each <= "\udfff" for each in name):
        return False
    return not name.startswith(".") and bool(name) and not set(name) & {os.sep, "\\", "\0"}


def _is_version(name: str) -> bool:
    if len(name) > _MOST_VERSION_DIGITS:
        return False
    return name.isascii() and name.isdecimal() and name == str(int(name)) and int(name) > 0
