"""`LogSettings` and `TraceSetting`: what is logged, which may be changed, and what is traced, which may be read.

A setting of theirs that this server has not may be written only as what it is anyway: nothing is accepted that would
have no effect.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Final

from headwaiter_proto.inference import grpc_service_pb2

from headwaiter_server.access.roles import Role
from headwaiter_server.errors import InvalidRequestError, UnsupportedError
from headwaiter_server.log import Logged, get_logger, logged, set_logged
from headwaiter_server.pipeline import Pipeline
from headwaiter_server.rpc.crossing import Crossing
from headwaiter_server.rpc.edge import Method
from headwaiter_server.rpc.messages import parse
from headwaiter_server.scheduling.admission import Permit

_log = get_logger(__name__)

# Names that the protocol has for what we let callers choose, and for what is as it is.
_VERBOSE: Final = "log_verbose_level"
_SWITCHES: Final = {"log_info": "info", "log_warning": "warning", "log_error": "error"}
_FIXED: Final = {"log_file": "", "log_format": "ISO8601"}
# Of the protocol's two ways to tell traces, the one to an OpenTelemetry collector.
_OPENTELEMETRY = "1"
_MOST_SHOWN = 100

LogValue = grpc_service_pb2.LogSettingsRequest.SettingValue


class Settings:
    """Tells and changes what can be changed while the server runs."""

    def __init__(self, pipeline: Pipeline, *, control: str, sampled: float | None) -> None:
        """Set up.

        Args:
            pipeline: Has the models.
            control: Who says which models serve; where callers do, with "explicit", they may change the log as well.
            sampled: Share of the calls that are traced; None if none is.
        """
        self._pipeline = pipeline
        self._control = control
        self._sampled = sampled

    def methods(self) -> dict[str, Method]:
        """Its methods by name."""
        return {"LogSettings": self.log_settings, "TraceSetting": self.trace_setting}

    async def log_settings(self, data: bytes, _permit: Permit, crossing: Crossing) -> bytes:
        """Change what is logged, if anything is asked for and all of it can be had; then say what is."""
        message = parse(grpc_service_pb2.LogSettingsRequest, data)
        if message.settings:
            crossing.require(Role.CONTROL, "change what is logged")
            if self._control != "explicit":
                raise UnsupportedError(
                    "settings", f"callers cannot change what is logged here: --model-control is {self._control}"
                )
            before = wanted = logged()
            for name, value in message.settings.items():
                wanted = _changed(wanted, name, value)
            _log.warning("log_settings_changed", before=asdict(before), now=asdict(wanted))
            set_logged(wanted)
        answer = grpc_service_pb2.LogSettingsResponse()
        now = logged()
        for name, field in _SWITCHES.items():
            answer.settings[name].bool_param = getattr(now, field)
        answer.settings[_VERBOSE].uint32_param = now.verbose_level
        for name, fixed in _FIXED.items():
            answer.settings[name].string_param = fixed
        return answer.SerializeToString()

    async def trace_setting(self, data: bytes, _permit: Permit, crossing: Crossing) -> bytes:
        """Say what is traced: of every model the same."""
        message = parse(grpc_service_pb2.TraceSettingRequest, data)
        if message.model_name:
            crossing.recognize(self._pipeline.find(message.model_name, 0))
        for name in message.settings:
            raise UnsupportedError(
                f"settings[{name[:_MOST_SHOWN]}]",
                "what is traced is chosen at the start of the server, by --otlp-endpoint and --trace-sample-ratio",
            )
        answer = grpc_service_pb2.TraceSettingResponse()
        for name, value in self._traced().items():
            answer.settings[name].value.append(value)
        return answer.SerializeToString()

    def _traced(self) -> dict[str, str]:
        sampled = self._sampled
        return {
            "trace_level": "OFF" if sampled is None else "TIMESTAMPS",
            # One call in so many, and 0 where none is sampled that did not come with a trace of its own.
            "trace_rate": str(round(1 / sampled)) if sampled else "0",
            "trace_count": "-1",
            "log_frequency": "0",
            "trace_file": "",
            "trace_mode": _OPENTELEMETRY,
        }


def _changed(wanted: Logged, name: str, value: LogValue) -> Logged:
    """What is to be logged with one setting changed."""
    where = f"settings[{name[:_MOST_SHOWN]}]"
    kind = value.WhichOneof("parameter_choice")
    if name in _SWITCHES:
        if kind != "bool_param":
            raise InvalidRequestError(where, "expected bool_param")
        return replace(wanted, **{_SWITCHES[name]: value.bool_param})
    if name == _VERBOSE:
        if kind != "uint32_param":
            raise InvalidRequestError(where, "expected uint32_param")
        return replace(wanted, verbose_level=value.uint32_param)
    if name in _FIXED:
        if kind != "string_param":
            raise InvalidRequestError(where, "expected string_param")
        if value.string_param != _FIXED[name]:
            raise UnsupportedError(where, f"is {_FIXED[name]!r} here, and cannot be changed")
        return wanted
    raise InvalidRequestError(where, f"is not known: there are {', '.join([*_SWITCHES, _VERBOSE, *_FIXED])}")
