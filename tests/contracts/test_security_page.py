"""SECURITY.md promises nothing that is not there: every setting, file, test and variable that it names exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from headwaiter_server.config import ENV_PREFIX, ServerSettings

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "SECURITY.md"


@pytest.fixture(scope="module")
def text() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_settings_exist(text: str) -> None:
    """By their names on the command line; those of docker stand in its own command."""
    command = text.partition("    docker run")[2].partition("\n\n")[0]
    named = set(re.findall(r"`--([a-z-]+)", text.replace(command, "")))
    assert len(named) > 15
    assert {name.replace("-", "_") for name in named} <= ServerSettings.model_fields.keys()


def test_defaults_are_as_they_are_said_to_be(text: str) -> None:
    """Of those that are told in numbers and words."""
    fields = {name: field.default for name, field in ServerSettings.model_fields.items()}
    assert [fields[name] for name in ("access_file", "tls_cert", "tls_client_ca", "metrics_token_file")] == [None] * 4
    assert (fields["health_access"], fields["trial_loads"], fields["nonfinite_inputs"]) == ("open", "on", "pass")
    assert (fields["max_message_bytes"], fields["max_calls"]) == (8 << 20, 4096)
    assert (fields["max_call_bytes"], fields["max_waiting_texts"]) == (256 << 20, 32_768)
    assert (fields["max_texts"], fields["max_streams"], fields["cache_bytes"]) == (1024, 4096, 0)
    assert fields["max_arriving_bytes"] == 64 << 20
    loopback = ServerSettings(models=ROOT)
    reached = ServerSettings(models=ROOT, listen=["0.0.0.0:1"])
    assert [each.effective_model_control for each in (loopback, reached)] == ["explicit", "none"]
    assert [each.shared_memory_enabled for each in (loopback, reached)] == [True, False]
    assert "| `--model-control` | callers may load and unload | nobody may" in text


def test_tests_and_files_exist(text: str) -> None:
    """What is said to prove something, and what is said to be read."""
    named = set(re.findall(r"`((?:tests|deploy|docs)/[\w./-]+\.\w+)`", text))
    assert len([each for each in named if each.startswith("tests/")]) > 15
    assert [each for each in sorted(named) if not (ROOT / each).is_file()] == []
    for module in re.findall(r"`python -m (\S+)`", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()


def test_variables_exist(text: str) -> None:
    """Of the server, and of the client that the image's health check is."""
    named = set(re.findall(r"--env (HEADWAITER_\w+)", text))
    of_client = {name for name in named if name.startswith("HEADWAITER_CLIENT_")}
    shown = subprocess.run(
        [Path(sys.executable).with_name("headwaiter"), "health", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for name in of_client:
        assert f"--{name.removeprefix('HEADWAITER_CLIENT_').lower().replace('_', '-')}" in shown
    others = {name.removeprefix(ENV_PREFIX).lower() for name in named - of_client}
    assert others <= {"config", *ServerSettings.model_fields}
