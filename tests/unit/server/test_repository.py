"""The folders of a model repository."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from headwaiter_server.config.version_policy import VersionPolicies, VersionPolicy
from headwaiter_server.errors import BundleError, UnknownModelError
from headwaiter_server.lifecycle.building import build_model
from headwaiter_server.lifecycle.repository import BundleLocation, look_up, scan

from .repositories import find_bundles


def folders(repository: Path, *names: str) -> Path:
    for name in names:
        (repository / name).mkdir(parents=True)
    return repository


def test_highest_version_of_every_model_by_name(tmp_path: Path) -> None:
    """Of each model the highest version is taken, counted as a number; models come sorted by name."""
    repository = folders(tmp_path, "zeta/3", "alpha/2", "alpha/10", "alpha/9")
    assert find_bundles(repository) == [
        BundleLocation("alpha", 10, repository / "alpha" / "10"),
        BundleLocation("zeta", 3, repository / "zeta" / "3"),
    ]


def test_folders_with_a_dot_are_left_alone(tmp_path: Path) -> None:
    """An export that is still being written, under a name with a dot, is neither a model nor a version."""
    repository = folders(tmp_path, "alpha/1", "alpha/.2-partial", ".staging/1", ".git")
    assert [(each.name, each.version) for each in find_bundles(repository)] == [("alpha", 1)]


def test_files_are_left_alone(tmp_path: Path) -> None:
    """A file beside the models, or beside the versions, is neither."""
    repository = folders(tmp_path, "alpha/1")
    (repository / "README.md").write_text("x", encoding="utf-8")
    (repository / "alpha" / "2").write_text("x", encoding="utf-8")
    assert [(each.name, each.version) for each in find_bundles(repository)] == [("alpha", 1)]


@pytest.mark.parametrize("name", ["01", "0", "x", "1.0", "-1", "+1", "1_0", "\u0661", "\u00b2", "v1", " 1"])
def test_what_is_no_version(tmp_path: Path, name: str) -> None:
    """Only a positive number in its plain form names a version: two spellings of one number cannot both exist."""
    repository = folders(tmp_path, f"alpha/{name}")
    (location,) = find_bundles(repository)
    assert "alpha holds no version" in location.problem
    folders(tmp_path, "alpha/1")
    assert [each.version for each in find_bundles(repository)] == [1]


def test_a_model_taken_for_a_repository_is_told_apart(tmp_path: Path) -> None:
    """Who points at a model instead of the folder of models is told where to point."""
    repository = folders(tmp_path, "alpha/1")
    (location,) = find_bundles(repository / "alpha")
    assert f"the repository is one level above {repository / 'alpha'}" in location.problem


def test_linked_versions_are_followed(tmp_path: Path) -> None:
    """A version may be a link to a folder elsewhere, as deployment tools make them."""
    folders(tmp_path, "elsewhere", "repository/alpha")
    (tmp_path / "repository" / "alpha" / "4").symlink_to(tmp_path / "elsewhere")
    assert [each.version for each in find_bundles(tmp_path / "repository")] == [4]


def test_empty_repository_says_what_is_expected(tmp_path: Path) -> None:
    """Without any model the error names the folder and the layout."""
    with pytest.raises(BundleError, match="holds no model: expected NAME/VERSION") as caught:
        find_bundles(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_repository_must_be_a_folder(tmp_path: Path) -> None:
    """A path that is not there, or is a file, is named."""
    file = tmp_path / "file"
    file.write_text("x", encoding="utf-8")
    for path in (tmp_path / "missing", file):
        with pytest.raises(BundleError, match=f"{path.name} is not a folder"):
            find_bundles(path)


def test_folder_without_a_version_is_one_model_that_fails(tmp_path: Path) -> None:
    """An empty folder, such as a volume's lost+found, costs its own name only, and says why when it is loaded."""
    repository = folders(tmp_path, "alpha/1", "lost+found", "zeta/2")
    locations = find_bundles(repository)
    assert [(each.name, bool(each.problem)) for each in locations] == [
        ("alpha", False),
        ("lost+found", True),
        ("zeta", False),
    ]
    with pytest.raises(BundleError, match=r"lost\+found holds no version: expected a folder named by"):
        build_model(locations[1], "fp32", lambda *_: pytest.fail("opened"))


def test_name_that_is_no_text_is_left_alone(tmp_path: Path) -> None:
    """A folder whose name is not UTF-8 is no model: its name could not be sent to anybody."""
    (tmp_path / "good" / "1").mkdir(parents=True)
    (tmp_path / os.fsdecode(b"\xff") / "1").mkdir(parents=True)
    assert [bundle.name for bundle in find_bundles(tmp_path)] == ["good"]


def test_every_version_has_a_stamp(tmp_path: Path) -> None:
    """It changes with names, sizes and times of its own files and of the configuration, and with no other."""
    repository = folders(tmp_path, "alpha/1", "alpha/2", "beta/1")

    def stamps() -> dict[str, str]:
        return {
            f"{each.name}:{each.version}": each.stamp
            for model in scan(repository)
            for each in model.bundles(VersionPolicy())
        }

    def changed(change: Callable[[], object]) -> set[str]:
        before = stamps()
        change()
        return {key for key, stamp in stamps().items() if stamp != before[key]}

    graph = repository / "alpha" / "1" / "model.onnx"
    assert changed(lambda: graph.write_bytes(b"graph")) == {"alpha:1"}
    assert changed(lambda: os.utime(graph, ns=(1, 1))) == {"alpha:1"}
    assert changed(lambda: (repository / "alpha" / "config.pbtxt").write_text("", encoding="utf-8")) == {
        "alpha:1",
        "alpha:2",
    }
    assert changed((repository / "alpha" / ".calibration").mkdir) == set()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "alpha/1", "alpha/../alpha", "/", "nul\0", "gamma", "back\\slash", "long" * 100]
)
def test_only_plain_names_lead_to_models(tmp_path: Path, name: str) -> None:
    """Whatever a caller gives, nothing but a folder of the repository is looked into."""
    repository = folders(tmp_path, "alpha/1")
    assert look_up(repository, "alpha").versions.keys() == {1}
    with pytest.raises(UnknownModelError):
        look_up(repository, name)


def test_specific_version_that_is_missing_is_a_problem(tmp_path: Path) -> None:
    """It is listed, and loading it says what is missing; the others are as they are."""
    model = look_up(folders(tmp_path, "alpha/1"), "alpha")
    there, missing = model.bundles(VersionPolicy(specific=(1, 9)))
    assert not there.problem
    assert missing.problem.endswith("alpha holds no version 9")


def test_link_that_leads_nowhere_is_no_model(tmp_path: Path) -> None:
    """Not even where the system cannot follow it: the models beside it are as they are."""
    repository = folders(tmp_path, "alpha/1")
    (repository / "beyond").symlink_to("long" * 100)
    (repository / "alpha" / "2").symlink_to("long" * 100)
    (model,) = scan(repository)
    assert (model.name, set(model.versions)) == ("alpha", {1})


def test_model_that_cannot_be_looked_at_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is listed with the reason, and the models beside it are as they are."""
    repository = folders(tmp_path, "alpha/1", "beta/1")
    is_dir = Path.is_dir

    def refuse(path: Path) -> bool:
        if path.name == "beta":
            raise PermissionError(errno.EACCES, "Permission denied")
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", refuse)
    assert [(each.name, each.problem) for each in scan(repository)] == [
        ("alpha", ""),
        ("beta", f"{repository / 'beta'} cannot be read: Permission denied"),
    ]


def test_numbers_beyond_those_of_versions_choose_what_there_is(tmp_path: Path) -> None:
    """A configuration may hold all that its messages can: every version, or one that is not there."""
    model = look_up(folders(tmp_path, "alpha/1"), "alpha")

    def problems(policy: str) -> list[str]:
        (model.folder / "config.pbtxt").write_text(f"version_policy {{ {policy} }}", encoding="utf-8")
        return [each.problem for each in model.bundles(model.policy(VersionPolicies()))]

    assert problems(f"latest {{ num_versions: {2**32 - 1} }}") == [""]
    assert problems(f"specific {{ versions: {2**63 - 1} }}") == [f"{model.folder} holds no version {2**63 - 1}"]
