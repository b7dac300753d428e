"""Settings that tools read and write while the server runs: only what takes effect is accepted."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Any, cast

import pytest
import structlog
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_server.errors import HeadwaiterError, InvalidRequestError, UnsupportedError
from headwaiter_server.lifecycle.catalog import Catalog, ServedModel
from headwaiter_server.log import Logged, configure_logging, get_logger, logged, set_logged
from headwaiter_server.metrics import Metrics
from headwaiter_server.pipeline import Pipeline
from headwaiter_server.rpc.crossing import Crossing
from headwaiter_server.rpc.open_inference.settings import Settings
from headwaiter_server.scheduling.calls import Terms

AS_STARTED: dict[str, bool | int | str] = {
    "log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0, "log_file": "",
    "log_format": "ISO8601",
}  # fmt: skip
NOTHING: dict[str, bool | int | str | None] = {"log_info": False, "log_warning": False, "log_error": False}


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """The server's log, and what was there before it afterwards."""
    root = logging.getLogger()
    handlers, level, before = root.handlers, root.level, logged()
    configure_logging("json", "info")
    yield
    root.handlers = handlers
    set_logged(before)
    root.level = level
    structlog.reset_defaults()


def settings(*, control: str = "explicit", sampled: float | None = None) -> Settings:
    catalog = Catalog()
    nothing = cast("Any", None)
    catalog.add(ServedModel("m", 1, "fp32", nothing, nothing, nothing))
    return Settings(Pipeline(catalog, nothing, Metrics(), 100), control=control, sampled=sampled)


async def log_settings(
    changes: dict[str, bool | int | str | None] | None = None, *, control: str = "explicit"
) -> dict[str, bool | int | str]:
    """Write settings, and return what they are then."""
    request = grpc_service_pb2.LogSettingsRequest()
    for name, value in (changes or {}).items():
        entry = request.settings[name]
        if isinstance(value, bool):
            entry.bool_param = value
        elif isinstance(value, int):
            entry.uint32_param = value
        elif value is not None:
            entry.string_param = value
    method = settings(control=control).methods()["LogSettings"]
    data = await method(request.SerializeToString(), cast("Any", None), Crossing(Terms(0.0)))
    answer = grpc_service_pb2.LogSettingsResponse.FromString(data)
    return {name: getattr(value, value.WhichOneof("parameter_choice") or "") for name, value in answer.settings.items()}


async def trace_setting(
    changes: dict[str, str] | None = None, *, model: str = "", sampled: float | None = None
) -> dict[str, list[str]]:
    request = grpc_service_pb2.TraceSettingRequest(model_name=model)
    for name, value in (changes or {}).items():
        request.settings[name].value.append(value)
    method = settings(sampled=sampled).methods()["TraceSetting"]
    data = await method(request.SerializeToString(), cast("Any", None), Crossing(Terms(0.0)))
    answer = grpc_service_pb2.TraceSettingResponse.FromString(data)
    return {name: list(value.value) for name, value in answer.settings.items()}


def watch(capsys: pytest.CaptureFixture[str]) -> None:
    """Have what is logged from now on captured."""
    handler = logging.getLogger().handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(sys.stderr)
    capsys.readouterr()


def written(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Which of four events of different weight are written now."""
    watch(capsys)
    log = get_logger("test")
    for weight in ("debug", "info", "warning", "error", "critical"):
        getattr(log, weight)("said")
    shown = capsys.readouterr().err
    return [weight for weight in ("debug", "info", "warning", "error", "critical") if f'"level": "{weight}"' in shown]


async def test_settings_are_told_as_the_server_was_started() -> None:
    """Reading needs no right, and changes nothing."""
    assert await log_settings(control="none") == AS_STARTED


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"log_verbose_level": 1}, ["debug", "info", "warning", "error", "critical"]),
        ({"log_verbose_level": 4}, ["debug", "info", "warning", "error", "critical"]),
        ({"log_info": False}, ["warning", "error", "critical"]),
        ({"log_warning": False}, ["info", "error", "critical"]),
        ({"log_error": False}, ["info", "warning"]),
        ({"log_info": False, "log_verbose_level": 1}, ["debug", "warning", "error", "critical"]),
        (NOTHING, []),
        ({"log_file": "", "log_format": "ISO8601"}, ["info", "warning", "error", "critical"]),
    ],
    ids=str,
)
async def test_what_is_written_is_what_the_settings_say(
    changes: dict[str, bool | int | str | None], shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each kind of event by itself, at once, and the answer tells it."""
    assert await log_settings(changes) == {**AS_STARTED, **changes}
    assert written(capsys) == shown
    assert await log_settings() == {**AS_STARTED, **changes}


async def test_kinds_that_nobody_wants_cost_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """The standard library drops them before they are made into a record."""
    await log_settings({"log_verbose_level": 1})
    assert logging.getLogger("test").isEnabledFor(logging.DEBUG)
    await log_settings({"log_verbose_level": 0, "log_info": False})
    assert not logging.getLogger("test").isEnabledFor(logging.INFO)
    await log_settings(NOTHING)
    assert not logging.getLogger("test").isEnabledFor(logging.CRITICAL)


async def test_changes_are_logged_before_they_hold(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever silences the log leaves a last word in it."""
    watch(capsys)
    await log_settings({"log_warning": False, "log_error": False, "log_info": False})
    assert "log_settings_changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"log_info": 1}, InvalidRequestError, "settings[log_info]: expected bool_param"),
        ({"log_verbose_level": True}, InvalidRequestError, "settings[log_verbose_level]: expected uint32_param"),
        ({"log_format": 1}, InvalidRequestError, "settings[log_format]: expected string_param"),
        ({"log_error": None}, InvalidRequestError, "settings[log_error]: expected bool_param"),
        ({"log_colour": True}, InvalidRequestError, "settings[log_colour]: is not known"),
        ({"log_file": "/var/log/x"}, UnsupportedError, "settings[log_file]: is '' here, and cannot be changed"),
        ({"log_format": "default"}, UnsupportedError, "settings[log_format]: is 'ISO8601' here"),
    ],
    ids=str,
)
async def test_settings_without_effect_are_refused(
    changes: dict[str, bool | int | str | None], error: type[HeadwaiterError], says: str
) -> None:
    """Values of the wrong kind, names that are not known, what cannot be changed; nothing else is changed either."""
    for asked in (changes, {"log_warning": False, **changes}, {**changes, "log_warning": False}):
        with pytest.raises(error) as raised:
            await log_settings(asked)
        assert says in str(raised.value)
    assert await log_settings() == AS_STARTED


@pytest.mark.parametrize("control", ["none", "poll"])
async def test_writing_needs_control(control: str) -> None:
    """Where callers may not load models they may not change the log; the error names the setting that allows it."""
    with pytest.raises(UnsupportedError, match=f"--model-control is {control}"):
        await log_settings({"log_info": False}, control=control)
    assert await log_settings() == AS_STARTED


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", Logged(1)),
        ("info", Logged()),
        ("warning", Logged(info=False)),
        ("error", Logged(info=False, warning=False)),
    ],
)
def test_level_at_start_is_what_is_told(level: Any, expected: Logged, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN401 - one of a few
    """`--log-level` in the words of the settings, and with their effect."""
    configure_logging("json", level)
    assert logged() == expected
    weights = ["debug", "info", "warning", "error", "critical"]
    assert written(capsys) == weights[weights.index(level) :]


@pytest.mark.parametrize(
    ("sampled", "level", "rate"),
    [(None, "OFF", "0"), (1.0, "TIMESTAMPS", "1"), (0.01, "TIMESTAMPS", "100"), (0.0, "TIMESTAMPS", "0")],
)
@pytest.mark.parametrize("model", ["", "m"])
async def test_traces_are_told_as_they_are(sampled: float | None, level: str, rate: str, model: str) -> None:
    """Off without a collector; with one, how many calls are sampled."""
    told = await trace_setting(model=model, sampled=sampled)
    assert told == {
        "trace_level": [level],
        "trace_rate": [rate],
        "trace_count": ["-1"],
        "log_frequency": ["0"],
        "trace_file": [""],
        "trace_mode": ["1"],
    }


async def test_traces_cannot_be_set_up() -> None:
    """Whatever is asked for, for the server or for a model; the error says where it is."""
    for name in ("trace_rate", "trace_level", "anything"):
        with pytest.raises(UnsupportedError, match=rf"settings\[{name}\].*--otlp-endpoint"):
            await trace_setting({name: "1"})


async def test_unknown_model_has_no_traces() -> None:
    """Its name is checked."""
    with pytest.raises(HeadwaiterError, match="no model 'n'"):
        await trace_setting(model="n")
