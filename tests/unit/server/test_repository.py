"""The folders of a model repository."""

from __future__ import annotations

from pathlib import Path

import pytest
from headwaiter_server.errors import BundleError
from headwaiter_server.lifecycle.load import Loader
from headwaiter_server.lifecycle.repository import BundleLocation, find_bundles


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
    assert f"the repository is {repository}, one level up" in location.problem


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
    loader = Loader(
        open_graph=lambda *_: pytest.fail("opened"),
        open_generation_lane=lambda *_: pytest.fail("opened"),
        open_encoder_lane=lambda *_: pytest.fail("opened"),
    )
    with pytest.raises(BundleError, match=r"lost\+found holds no version: expected a folder named by"):
        loader.load(locations[1], "fp32")
