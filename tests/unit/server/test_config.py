"""Settings: one schema, four sources, nothing unknown."""

from __future__ import annotations

import importlib.util
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from headwaiter_server.config import (
    ServerSettings,
    as_toml,
    describe_settings,
    load_settings,
    split_address,
    user_cache_folder,
)
from headwaiter_server.errors import ConfigError

REPOSITORY = Path(__file__).parents[3]
REFERENCE = REPOSITORY / "docs" / "build_reference.py"

WriteToml = Callable[[str], str]


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's shell has set must not reach these tests."""
    for name in list(os.environ):
        if name.upper().startswith("HEADWAITER_"):
            monkeypatch.delenv(name)


@pytest.fixture
def toml(tmp_path: Path) -> WriteToml:
    """Writes a settings file and gives its path."""

    def write(text: str) -> str:
        path = tmp_path / "settings.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def load(*arguments: str) -> ServerSettings:
    return load_settings(["--models", "m", *arguments])[0]


def refusal(*arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*arguments)
    return str(caught.value)


def test_flags_win_over_environment_over_file_over_defaults(monkeypatch: pytest.MonkeyPatch, toml: WriteToml) -> None:
    """Of four places, the strongest that names a setting decides it."""
    monkeypatch.setenv("HEADWAITER_MAX_TEXTS", "20")
    monkeypatch.setenv("HEADWAITER_MAX_CALLS", "20")
    path = toml("max_texts = 30\nmax_calls = 30\nmax_batch_rows = 30\n")
    settings = load("--config", path, "--max-texts", "10")
    assert (settings.max_texts, settings.max_calls, settings.max_batch_rows) == (10, 20, 30)
    assert settings.max_batch_tokens == "auto"


def test_settings_file_may_be_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, toml: WriteToml) -> None:
    """HEADWAITER_CONFIG names the file as --config does, and the flag wins over it."""
    monkeypatch.setenv("HEADWAITER_CONFIG", "/does/not/exist.toml")
    path = toml("max_texts = 30\n")
    assert load("--config", path).max_texts == 30
    monkeypatch.setenv("HEADWAITER_CONFIG", path)
    assert load().max_texts == 30


def test_lists_and_maps_replace_each_other_whole(monkeypatch: pytest.MonkeyPatch, toml: WriteToml) -> None:
    """A list given by a stronger source replaces the weaker one's instead of growing it."""
    monkeypatch.setenv("HEADWAITER_LISTEN", "env:1,env:2")
    path = toml('listen = ["file:1"]\n')
    assert load("--config", path).listen == ["env:1", "env:2"]
    assert load("--config", path, "--listen", "flag:1").listen == ["flag:1"]


@pytest.mark.parametrize("arguments", [["--workerz", "3"], ["--workerz=3"], ["--work", "3"], ["x"]])
def test_unknown_flag_is_refused_and_named(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A flag nobody knows, an abbreviation, and a stray word end the command with the usage and their name."""
    with pytest.raises(SystemExit) as caught:
        load(*arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_unknown_environment_variable_is_refused_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped variable stops the server, whatever its case; every one of them is named."""
    monkeypatch.setenv("HEADWAITER_WORKERZ", "3")
    monkeypatch.setenv("headwaiter_listne", "3")
    message = refusal()
    assert "HEADWAITER_WORKERZ" in message
    assert "headwaiter_listne" in message


def test_unknown_key_of_the_file_is_refused_and_named(toml: WriteToml) -> None:
    """Mistyped keys of the settings file stop the server, which names them all, and the file."""
    path = toml("workerz = 3\nmax_texts = 5\nlistne = 3\n")
    assert refusal("--config", path) == f"unknown setting in {path}: listne, workerz"


def test_variables_of_the_other_commands_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's, the export's and the load tester's variables may stand in the same environment."""
    for name in ("HEADWAITER_CLIENT_TARGET", "HEADWAITER_EXPORT_OUT", "HEADWAITER_LOAD_RATE"):
        monkeypatch.setenv(name, "x")
    assert load().models == Path("m")


def test_variables_of_kubernetes_services_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod beside services named headwaiter and headwaiter-metrics starts, whatever they are called by."""
    for service in ("HEADWAITER", "HEADWAITER_METRICS", "HEADWAITER_BLUE_2"):
        monkeypatch.setenv(f"{service}_SERVICE_HOST", "10.0.0.1")
        monkeypatch.setenv(f"{service}_SERVICE_PORT", "8001")
        monkeypatch.setenv(f"{service}_SERVICE_PORT_GRPC_WEB", "8001")
        monkeypatch.setenv(f"{service}_PORT", "tcp://10.0.0.1:8001")
        monkeypatch.setenv(f"{service}_PORT_8001_TCP", "tcp://10.0.0.1:8001")
        for part in ("PROTO", "PORT", "ADDR"):
            monkeypatch.setenv(f"{service}_PORT_8001_TCP_{part}", "x")
    assert load().models == Path("m")


@pytest.mark.parametrize(
    "name",
    [
        "METRICS_PORT",
        "PORT",
        "LISTEN_PORT",
        "METRICS_HOST",
        "SERVICE",
        "MAX_TEXTS_SERVICE",
        "PORT_8001",
        "SERVICE_HOSTS",
    ],
)
def test_mistyped_setting_is_no_kubernetes_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a person may have meant as a setting is refused, however near it is to a variable of Kubernetes."""
    monkeypatch.setenv(f"HEADWAITER_{name}", "8001")
    assert f"HEADWAITER_{name}" in refusal()


@pytest.mark.parametrize("value", ["unix:", "unix://", "a:1,unix:"])
def test_socket_without_a_path_is_refused(value: str) -> None:
    """A Unix socket needs a path."""
    assert "expected unix:PATH" in refusal("--listen", value)


def test_models_is_required() -> None:
    """Without a model repository the error says which flag is missing."""
    with pytest.raises(ConfigError, match=r"^--models is required$"):
        load_settings([])


@pytest.mark.parametrize(
    ("flag", "value", "bound"),
    [
        ("--max-batch-rows", "0", "1"),
        ("--max-batch-rows", "4097", "4096"),
        ("--workers", "-1", "0"),
        ("--workers", "2000", "1024"),
        ("--max-message-bytes", "1023", "1024"),
        ("--drain-seconds", "-0.5", "0"),
        ("--lame-duck-seconds", "nan", "3600"),
        ("--drain-seconds", "inf", "3600"),
        ("--batching", "some", "'auto', 'fifo' or 'none'"),
        ("--calibration", "yes", "'on', 'fresh' or 'off'"),
        ("--max-queue-seconds", "0", "greater than 0, or auto"),
        ("--max-queue-seconds", "some", "a valid number, unable to parse string as a number, or auto"),
        ("--max-queue-seconds", "inf", "3600, or auto"),
        ("--max-batch-tokens", "0", "1, or auto"),
        ("--max-batch-tokens", "Auto", "or auto"),
        ("--threads-per-run", "1.5", "or auto"),
        ("--lone-run-threads", "0", "1, or auto"),
        ("--memory-limit-bytes", "0", "1, or auto"),
        ("--kv-cache-bytes", "0", "1, or auto"),
        ("--kv-cache-bytes", "1 GiB", "or auto"),
    ],
)
def test_value_out_of_range_is_named_with_its_bound(flag: str, value: str, bound: str) -> None:
    """An error names the flag, what was given, and the bound it breaks."""
    message = refusal(f"{flag}={value}")
    assert message.startswith(f"{flag}: ")
    assert bound in message
    assert f"got {value!r}" in message


def test_every_error_has_its_line() -> None:
    """Two wrong settings are told in one go, one line each."""
    lines = refusal("--max-texts=0", "--max-calls=0").splitlines()
    assert [line.split(":")[0] for line in sorted(lines)] == ["--max-calls", "--max-texts"]


def test_false_is_false(monkeypatch: pytest.MonkeyPatch) -> None:
    """A switch set to 0 in the environment is off, and a flag without a value turns it on."""
    monkeypatch.setenv("HEADWAITER_ALLOW_PARTIAL", "0")
    assert load().allow_partial is False
    assert load("--allow-partial").allow_partial is True


def test_several_addresses_by_repetition_or_commas() -> None:
    """--listen takes several addresses, repeated, separated by commas, or both."""
    assert load("--listen", "a:1", "--listen", "b:2, unix:/run/x").listen == ["a:1", "b:2", "unix:/run/x"]


@pytest.mark.parametrize("value", ["", "localhost", "::1:80", "[::1]", "a:65536", "a:-1", "a:b", "http://a:1", ":80"])
def test_wrong_address_is_refused(value: str) -> None:
    """What is no HOST:PORT, and an empty list, is refused."""
    assert refusal(f"--listen={value}").startswith("--listen: ")


def test_metrics_need_a_tcp_address() -> None:
    """Prometheus scrapes over TCP: a Unix socket is refused for the metrics."""
    assert "expected HOST:PORT" in refusal("--metrics-listen", "unix:/run/x")


def test_ipv6_address_loses_its_brackets() -> None:
    """An IPv6 host stands in brackets and is used without."""
    assert load("--listen", "[::1]:0").listen == ["[::1]:0"]
    assert split_address("[fe80::1]:8001") == ("fe80::1", 8001)
    assert split_address("localhost:65535") == ("localhost", 65535)


def test_variants_by_model(monkeypatch: pytest.MonkeyPatch, toml: WriteToml) -> None:
    """--variant takes NAME=VARIANT pairs; the environment takes the same text and the file a table."""
    expected = {"a": "int8", "b.c": "fp16"}
    assert load("--variant", "a=int8", "--variant", "b.c=fp16").variant == expected
    assert load("--variant", "a=int8,b.c=fp16").variant == expected
    assert load("--config", toml('variant = {a = "int8", "b.c" = "fp16"}\n')).variant == expected
    monkeypatch.setenv("HEADWAITER_VARIANT", "a=int8,b.c=fp16")
    assert load().variant == expected


@pytest.mark.parametrize("value", ["int8", "a=", "=int8", "../a=int8"])
def test_wrong_variant_is_refused(value: str) -> None:
    """A variant without a model, or for what cannot be a model's name, is refused."""
    assert "expected NAME=VARIANT" in refusal(f"--variant={value}")


def test_printed_settings_can_be_read_back(tmp_path: Path) -> None:
    """What --print-config prints is a file that gives the same settings."""
    flags = ["--models", 'a "b"\\c', "--listen", "a:1,[::1]:2", "--variant", "x.y=int8,z=fp16", "--allow-partial"]
    settings, asked = load_settings([*flags, "--drain-seconds", "0.5", "--max-queue-seconds", "0.25", "--print-config"])
    assert asked
    path = tmp_path / "printed.toml"
    path.write_text(as_toml(settings), encoding="utf-8")
    again, asked_again = load_settings(["--config", str(path)])
    assert again.model_dump() == settings.model_dump()
    assert not asked_again


def test_missing_and_broken_files_are_refused(toml: WriteToml) -> None:
    """A settings file that is not there, or is no TOML, is an error of the configuration."""
    assert "/does/not/exist.toml" in refusal("--config", "/does/not/exist.toml")
    path = toml("max_texts =\n")
    assert f"--config: {path}: " in refusal("--config", path)
    assert "line 1" in refusal("--config", path)
    Path(path).write_bytes(b"\xff")
    assert f"--config: {path}: " in refusal("--config", path)


def test_workers_follow_the_processors() -> None:
    """0 workers becomes what the machine gives, at least one; another number is taken as it is."""
    assert load().effective_workers >= 1
    assert load("--workers", "7").effective_workers == 7


def test_processors_are_shared_between_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer workers than processors get the more threads each, unless the threads were chosen, too."""
    monkeypatch.setattr("headwaiter_server.config.schema.available_cpus", lambda: 8)
    assert load().effective_threads_per_run == 1
    assert load("--workers", "3").effective_threads_per_run == 2
    assert load("--workers", "16").effective_threads_per_run == 1
    assert load("--workers", "3", "--threads-per-run", "5").effective_threads_per_run == 5


def test_budget_of_generations_has_its_own_default() -> None:
    """Auto is for the calibrated: what may join a generation's step has a number of its own, until one is given."""
    assert load().generation_batch_tokens == 512
    assert load("--max-batch-tokens", "100").generation_batch_tokens == 100


def test_auto_or_a_value_from_every_source(monkeypatch: pytest.MonkeyPatch, toml: WriteToml) -> None:
    """A setting with auto takes a value from flag, environment and file, and auto again from a stronger source."""
    monkeypatch.setenv("HEADWAITER_MAX_QUEUE_SECONDS", "0.5")
    path = toml('max_queue_seconds = 2\nmax_batch_tokens = 96\ncalibration_cache = "/var/cache"\n')
    settings = load("--config", path, "--max-batch-tokens", "auto")
    assert (settings.max_queue_seconds, settings.max_batch_tokens) == (0.5, "auto")
    assert settings.calibration_cache == Path("/var/cache")


def test_cache_of_the_user_follows_the_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_CACHE_HOME names it unless it is relative, which is as if it were not set."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert user_cache_folder() == Path("/elsewhere/headwaiter")
    monkeypatch.setenv("HOME", "/home/someone")
    for none in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", none)
        assert user_cache_folder() == Path("/home/someone/.cache/headwaiter")


def test_help_speaks_no_python(capsys: pytest.CaptureFixture[str]) -> None:
    """Every flag shows its unit or its choices, and its default as one would type it."""
    with pytest.raises(SystemExit):
        load_settings(["--help"])
    shown = capsys.readouterr().out
    usage, explained = shown.split("options:")
    for expected in ("--drain-seconds SECONDS", "--listen ADDRESS", "--max-queue-seconds auto|SECONDS"):
        assert expected in usage
    assert not re.search(r"\b(int|str|float|bool|Path|list|dict|None|True|False|Literal)\b", usage)
    assert "(default: 127.0.0.1:8001)" in explained
    assert "(required)" in explained
    assert "['" not in explained


def test_settings_are_frozen() -> None:
    """Nobody changes a setting after the start."""
    with pytest.raises(ValueError, match="frozen"):
        load().max_texts = 3  # type: ignore[misc]


def test_every_setting_is_described() -> None:
    """Every field has a help text and a row with its flag and variable in the reference."""
    rows = {flag: (variable, meaning) for flag, variable, _, meaning in describe_settings()}
    for name in ServerSettings.model_fields:
        variable, meaning = rows[f"--{name.replace('_', '-')}"]
        assert variable == f"HEADWAITER_{name.upper()}"
        assert meaning.endswith(".")


def test_stale_and_missing_pages_are_noticed(tmp_path: Path) -> None:
    """A page that was edited by hand, or is not there, counts as stale; its example is a settings file."""
    spec = importlib.util.spec_from_file_location("build_reference", REFERENCE)
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    assert reference.stale_pages(tmp_path) == ["configuration.md", "metrics.md"]
    reference.write_pages(tmp_path)
    assert reference.stale_pages(tmp_path) == []
    page = tmp_path / "configuration.md"
    example = page.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    ServerSettings(**tomllib.loads(example))
    page.write_text(page.read_text(encoding="utf-8") + "x", encoding="utf-8")
    assert reference.stale_pages(tmp_path) == ["configuration.md"]
