"""Who says what is loaded: settings, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from headwaiter_server.config import load_settings
from headwaiter_server.errors import ConfigError


def settings_of(*arguments: str) -> tuple[str, list[str] | None]:
    settings, _ = load_settings(["--models", ".", *arguments])
    return settings.effective_model_control, settings.models_at_start


@pytest.mark.parametrize(
    ("arguments", "control"),
    [
        ([], "explicit"),
        (["--listen", "127.0.0.1:1,unix:x,[::1]:0"], "explicit"),
        (["--listen", "0.0.0.0:1"], "none"),
        (["--listen", "127.0.0.1:1,[::]:0"], "none"),
        (["--listen", "0.0.0.0:1", "--model-control", "explicit"], "explicit"),
        (["--model-control", "none"], "none"),
        (["--model-control", "poll"], "poll"),
    ],
)
def test_callers_have_control_where_they_are_on_this_machine(arguments: list[str], control: str) -> None:
    """Unless the setting says who has."""
    assert settings_of(*arguments) == (control, None)


@pytest.mark.parametrize(("names", "chosen"), [("*", None), ("", []), ("a,b", ["a", "b"]), ("a,*", None)])
def test_models_at_the_start(names: str, chosen: list[str] | None) -> None:
    """All, none, or some by name."""
    assert settings_of("--load-models", names) == ("explicit", chosen)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--load-models", "a", "--model-control", "none"], "takes --model-control explicit"),
        (["--load-models", "", "--model-control", "poll"], "takes --model-control explicit"),
        (["--model-control", "some"], "--model-control"),
        (["--version-policy", "newest"], "expected latest:COUNT, all, or specific"),
        (["--version-policy", "a=all,a=all"], "names a twice"),
        (["--poll-seconds", "0"], "--poll-seconds"),
    ],
)
def test_what_cannot_be_is_refused(arguments: list[str], words: str) -> None:
    """With the setting's name."""
    with pytest.raises(ConfigError, match=words):
        settings_of(*arguments)


def test_policies_from_a_file(tmp_path: Path) -> None:
    """As the flag has them."""
    path = tmp_path / "settings.toml"
    path.write_text('models = "."\nversion_policy = "all,minilm=specific:1,3"\n', encoding="utf-8")
    settings, _ = load_settings(["--config", str(path)])
    policies = settings.version_policies
    assert str(policies.of("minilm", None)) == "specific:1,3"
    assert str(policies.of("other", None)) == "all"
