"""What callers are told of a bundle that cannot serve, and what only the log is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from headwaiter_server.errors import BundleError, ModelLoadError

from .managing import Managed


def test_what_a_library_said_is_told_apart() -> None:
    """The whole text holds both; our own words stand alone, also with the place where it happened."""
    error = BundleError("it does not run", ValueError("at /opt/libs/thing.cc:12")).within("models/a/1")
    assert str(error) == "models/a/1: it does not run: at /opt/libs/thing.cc:12"
    assert (error.message, error.said) == ("models/a/1: it does not run", "at /opt/libs/thing.cc:12")
    assert str(BundleError("it does not run")) == "it does not run"


def test_both_parts_can_be_sent() -> None:
    """Neither is longer than a status may be, nor holds what is no character."""
    error = BundleError("x" * 5000, "\ud800" * 5000)
    for part in (str(error), error.message, error.said):
        assert len(part.encode()) < 2000


@pytest.mark.parametrize("place", ["models", "a.b/models", "mod+els", "."])
@pytest.mark.parametrize("whole", [True, False])
async def test_names_are_relative_to_the_repository(
    place: str, *, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the repository was named: whole, or from where the server was started."""
    monkeypatch.chdir(tmp_path)
    made = Managed(tmp_path / place if whole else Path(place))
    made.write("a", 1)
    await made.manager.start(allow_partial=False)
    made.write("b", 7, "bad")
    (made.repository / "c").mkdir()
    with pytest.raises(ModelLoadError) as refused:
        await made.manager.load("b")
    assert str(refused.value) == "model 'b' failed to load: b/7: it is bad"
    index = await made.index()
    assert index["b:7"][1] == "b/7: it is bad"
    assert index["c:0"][1] == "c holds no version: expected a folder named by a positive number, such as 1"
    await made.manager.close()


@pytest.mark.parametrize("whole", [True, False])
async def test_repository_that_is_gone_is_not_named(
    *, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log says which folder it was, callers are told no more than that there is none; its name stays a word."""
    monkeypatch.chdir(tmp_path)
    made = Managed(tmp_path / "models" if whole else Path("models"))
    made.write("a", 1)
    await made.manager.start(allow_partial=False)
    shutil.rmtree(made.repository)
    with pytest.raises(ModelLoadError) as refused:
        await made.manager.load("a")
    assert str(refused.value) == "the model repository is not a folder; headwaiter-export writes models into one"
    assert str(made.repository) in "".join(capsys.readouterr())
    await made.manager.close()
