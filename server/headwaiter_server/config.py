"""Every setting of the server: one schema for flags, environment, file and documentation.

Flags win over `HEADWAITER_*` environment variables, those over the TOML file, that over the defaults. A setting nobody
knows is refused, wherever it stands. No other file reads the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from headwaiter_server.cpu import available_cpus
from headwaiter_server.errors import ConfigError
from headwaiter_server.log import LogFormat, LogLevel

ENV_PREFIX = "HEADWAITER_"
# Variables of the other commands, which may stand in the same environment.
_FOREIGN_PREFIXES = ("HEADWAITER_CLIENT_", "HEADWAITER_EXPORT_", "HEADWAITER_LOAD_")
# Kubernetes gives pods such variables for services that are named headwaiter or headwaiter-something.
_SERVICE_LINK = re.compile(
    r"HEADWAITER(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
# One more of them looks like a setting that somebody mistyped; its value is what tells.
_SERVICE_URL_LINK = re.compile(r"HEADWAITER(_[A-Z0-9_]+)?_PORT=(tcp|udp|sctp)://.*")

Batching = Literal["auto", "fifo", "none"]

_TCP_ADDRESS = re.compile(r"^(?P<host>\[[0-9a-fA-F:.]+\]|[^:\s/]+):(?P<port>\d{1,5})$")
_MODEL_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")


class ServerSettings(BaseSettings):
    """Headwaiter: serves exported Transformers over gRPC."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        extra="forbid",
        frozen=True,
        cli_prog_name="headwaiter-server",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    models: Path = Field(
        description="Model repository: a folder of NAME/VERSION folders, as headwaiter-export writes them."
    )
    listen: Annotated[list[str], NoDecode] = Field(
        default=["127.0.0.1:8001"],
        min_length=1,
        description="Address of the gRPC service, HOST:PORT or unix:PATH; port 0 takes a free one. Several may "
        "be given, separated by commas. The default is reachable from this machine only.",
    )
    metrics_listen: str = Field(
        default="127.0.0.1:8002",
        description="Address of the Prometheus metrics, HOST:PORT; port 0 takes a free one.",
    )
    variant: Annotated[dict[str, str], NoDecode] = Field(
        default={},
        description="Which variant of a model's weights serves, NAME=VARIANT; several separated by commas. "
        "fp32 where not given.",
    )
    allow_partial: bool = Field(
        default=False,
        description="Start although some model failed to load. Otherwise the server ends with exit code 1 and "
        "names it.",
    )
    workers: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Runs at one time, each on one thread; 0 takes the processors that the container's quota allows.",
    )
    batching: Batching = Field(
        default="auto",
        description="auto: texts join a running batch between steps. fifo: a batch is filled when it is empty "
        "and runs until its last text is done, as most servers do; none: one text at a time; both for comparison.",
    )
    max_batch_rows: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Most texts of one running batch. More raises throughput until the step leaves the processor's "
        "cache, and lengthens every step for all.",
    )
    max_batch_tokens: int = Field(
        default=512,
        ge=1,
        le=1 << 20,
        description="Most source tokens that may join a running batch in one step: what newcomers may delay the "
        "others by. A longer text joins alone.",
    )
    max_calls: int = Field(
        default=4096,
        ge=1,
        le=1 << 20,
        description="Most calls held at one time, waiting and running; further ones are refused with UNAVAILABLE.",
    )
    max_call_bytes: int = Field(
        default=256 << 20,
        ge=1,
        description="Most bytes of messages held at one time; further calls are refused with UNAVAILABLE.",
    )
    max_message_bytes: int = Field(
        default=8 << 20,
        ge=1024,
        le=(1 << 31) - 1,
        description="Largest message taken in; larger ones are refused with RESOURCE_EXHAUSTED.",
    )
    max_texts: int = Field(
        default=1024,
        ge=1,
        le=1 << 20,
        description="Most texts in one call; more are refused with INVALID_ARGUMENT.",
    )
    max_waiting_texts: int = Field(
        default=32_768,
        ge=1,
        le=1 << 24,
        description="Most texts held at one time, waiting and running, of all calls together; a call with more than "
        "there is room for is refused whole with UNAVAILABLE. Each takes about 700 bytes of memory.",
    )
    max_streams: int = Field(
        default=4096,
        ge=1,
        le=(1 << 31) - 1,
        description="Most calls at one time on one connection; further ones wait in the client.",
    )
    lame_duck_seconds: float = Field(
        default=2.0,
        ge=0,
        le=3600,
        description="After SIGTERM, how long calls are still taken while health says NOT_SERVING, so that "
        "load balancers and clients turn away before calls are refused.",
    )
    drain_seconds: float = Field(
        default=20.0,
        ge=0,
        le=3600,
        description="After the lame-duck time, how long calls that were taken may take to finish.",
    )
    log_format: LogFormat = Field(default="auto", description="auto is text on a terminal and JSON elsewhere.")
    log_level: LogLevel = Field(default="info", description="Least severe event that is logged.")

    @field_validator("listen", mode="before")
    @classmethod
    def _split_addresses(cls, value: object) -> object:
        return _split_commas(value)

    @field_validator("listen")
    @classmethod
    def _check_addresses(cls, value: list[str]) -> list[str]:
        for address in value:
            if not address.startswith("unix:"):
                split_address(address)
            elif not address.removeprefix("unix:").strip("/"):
                raise ValueError(f"expected unix:PATH, got {address!r}")
        return value

    @field_validator("metrics_listen")
    @classmethod
    def _check_metrics_address(cls, value: str) -> str:
        split_address(value)
        return value

    @field_validator("variant", mode="before")
    @classmethod
    def _parse_variants(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return value
        pairs = [str(part).partition("=") for part in _as_list(_split_commas(value))]
        for name, _, variant in pairs:
            if not _MODEL_NAME.match(name) or not variant:
                raise ValueError("expected NAME=VARIANT, such as minilm=int8")
        return {name: variant for name, _, variant in pairs}

    @property
    def effective_workers(self) -> int:
        """Workers, once 0 is replaced by the processors this process may use."""
        return self.workers or available_cpus()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Sources, strongest first; a settings file is named by `toml_file` in the class's configuration."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def split_address(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; an IPv6 host stands in brackets.

    Raises:
        ValueError: It is something else.
    """
    match = _TCP_ADDRESS.match(address)
    if match is None or int(match["port"]) > 65535:  # noqa: PLR2004 - the largest TCP port
        raise ValueError(f"expected HOST:PORT, got {address!r}")
    return match["host"].strip("[]"), int(match["port"])


def load_settings(arguments: Sequence[str]) -> tuple[ServerSettings, bool]:
    """Settings from flags, environment and file.

    Args:
        arguments: The command line without the program's name.

    Returns:
        The settings, and whether `--print-config` was asked for.

    Raises:
        ConfigError: A setting is unknown, missing or out of range; one line for each.
        SystemExit: `--help` was printed, or the command line cannot be parsed.
    """
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--config", type=Path, default=os.environ.get(f"{ENV_PREFIX}CONFIG") or None)
    own.add_argument("--print-config", action="store_true")
    options, rest = own.parse_known_args(arguments)
    _refuse_unknown_environment(os.environ)
    if options.config is not None and not Path(options.config).is_file():
        raise ConfigError(f"--config: {options.config} is not a file")

    class Settings(ServerSettings):
        __doc__ = ServerSettings.__doc__
        model_config = SettingsConfigDict(toml_file=options.config)

    try:
        source: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(
            Settings, root_parser=_parser(), cli_parse_args=list(rest)
        )
        return Settings(_cli_settings_source=source), options.print_config
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(detail) for detail in error.errors())) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--config: {options.config}: {error}") from error
    except (SettingsError, ValueError) as error:
        raise ConfigError(str(error)) from error


def as_toml(settings: ServerSettings) -> str:
    """The settings as a file that `--config` reads."""
    lines = []
    for name, value in settings.model_dump(mode="json").items():
        if isinstance(value, dict):
            pairs = ", ".join(f"{_toml_string(key)} = {_toml_string(item)}" for key, item in value.items())
            lines.append(f"{name} = {{{pairs}}}" if pairs else f"{name} = {{}}")
        elif isinstance(value, list):
            lines.append(f"{name} = [{', '.join(map(_toml_string, value))}]")
        elif isinstance(value, bool):
            lines.append(f"{name} = {str(value).lower()}")
        else:
            lines.append(f"{name} = {_toml_string(value) if isinstance(value, str) else value}")
    return "\n".join(lines)


def describe_settings() -> list[tuple[str, str, str, str]]:
    """Flag, environment variable, default and meaning of every setting, for the documentation."""
    rows = [
        ("--config", f"{ENV_PREFIX}CONFIG", "", "A TOML file with settings, named as in `--print-config`."),
        ("--print-config", "", "", "Print the settings in force as TOML and end."),
    ]
    for name, field in ServerSettings.model_fields.items():
        default = "required" if field.is_required() else _show_default(field.default)
        rows.append((f"--{name.replace('_', '-')}", f"{ENV_PREFIX}{name.upper()}", default, field.description or ""))
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headwaiter-server",
        description=ServerSettings.__doc__,
        epilog=f"Every flag can be given as {ENV_PREFIX}NAME in the environment, or in the TOML file.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"headwaiter-server {version('headwaiter')}")
    parser.add_argument("--config", metavar="FILE", help="a TOML file with settings")
    parser.add_argument("--print-config", action="store_true", help="print the settings in force as TOML and end")
    return parser


def _refuse_unknown_environment(environ: Mapping[str, str]) -> None:
    known = {ENV_PREFIX + name.upper() for name in (*ServerSettings.model_fields, "config")}
    unknown = sorted(
        name
        for name in environ
        if (upper := name.upper()).startswith(ENV_PREFIX)
        and upper not in known
        and not upper.startswith(_FOREIGN_PREFIXES)
        and not _SERVICE_LINK.fullmatch(upper)
        and not _SERVICE_URL_LINK.fullmatch(f"{upper}={environ[name]}")
    )
    if unknown:
        raise ConfigError(f"unknown setting in the environment: {', '.join(unknown)}")


def _explain(detail: Any) -> str:  # noqa: ANN401 - pydantic's error dictionary
    name = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"unknown setting {name!r}"
    if detail["type"] == "missing":
        return f"--{name.replace('_', '-')} is required"
    return f"--{name.replace('_', '-')}: {detail['msg'].removeprefix('Value error, ')} (got {detail['input']!r})"


def _split_commas(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list):
        return [part for item in value for part in _as_list(_split_commas(item))]
    return value


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _toml_string(value: object) -> str:
    # A JSON string is a TOML string, but for DEL, which only JSON takes as it is.
    return json.dumps(str(value)).replace("\x7f", "\\u007f")


def _show_default(default: object) -> str:
    if isinstance(default, (list, dict)):
        return ", ".join(default) if default else "none"
    return str(default).lower() if isinstance(default, bool) else str(default)
