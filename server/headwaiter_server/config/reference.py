"""The settings in words: as a file, as rows of the documentation, and as placeholders in `--help`."""

from __future__ import annotations

import json
from typing import get_args

from pydantic.fields import FieldInfo

from headwaiter_server.config.checks import ENV_PREFIX
from headwaiter_server.config.schema import Placeholder, ServerSettings


def as_toml(settings: ServerSettings) -> str:
    """The settings as a file that `--config` reads."""
    lines = []
    for name, value in settings.model_dump(mode="json").items():
        if value is None:  # TOML has no word for it: what is not there
            continue
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
        ("--new-token", "", "", "Print a new token for a client of the access file, and end."),
        ("--hash-token", "", "", "Read a token from the standard input, print its hash for the access file, and end."),
    ]
    for name, field in ServerSettings.model_fields.items():
        default = "required" if field.is_required() else show_default(field.default)
        rows.append((f"--{name.replace('_', '-')}", f"{ENV_PREFIX}{name.upper()}", default, field.description or ""))
    return rows


def placeholder(field: FieldInfo) -> str:
    """What stands for a setting's value in `--help`: its choices, or what its type says."""
    if named := [each.text for each in field.metadata if isinstance(each, Placeholder)]:
        return named[0]
    return f"{{{','.join(get_args(field.annotation))}}}"


def show_default(default: object) -> str:
    """A default as a person would write it."""
    if default is None:
        return "none"
    if isinstance(default, (list, dict)):
        return ", ".join(default) if default else "none"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _toml_string(value: object) -> str:
    # A JSON string is a TOML string, but for DEL, which only JSON takes as it is.
    return json.dumps(str(value)).replace("\x7f", "\\u007f")
