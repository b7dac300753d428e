"""Settings from flags, environment and file."""

from __future__ import annotations

import argparse
import os
import sys
import tomllib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import CliSettingsSource, SettingsConfigDict, SettingsError

from headwaiter_server.access.tokens import hash_line, new_token
from headwaiter_server.config.checks import ENV_PREFIX, explain, refuse_unknown_keys, refuse_unknown_variables
from headwaiter_server.config.reference import placeholder, show_default
from headwaiter_server.config.schema import ServerSettings
from headwaiter_server.errors import ConfigError


def load_settings(arguments: Sequence[str]) -> tuple[ServerSettings, bool]:
    """Settings from flags, environment and file.

    Args:
        arguments: The command line without the program's name.

    Returns:
        The settings, and whether `--print-config` was asked for.

    Raises:
        ConfigError: A setting is unknown, missing or out of range; one line for each.
        SystemExit: What was asked for was printed, such as `--help`, or the command line cannot be parsed.
    """
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--config", type=Path, default=os.environ.get(f"{ENV_PREFIX}CONFIG") or None)
    own.add_argument("--print-config", action="store_true")
    options, rest = own.parse_known_args(arguments)
    refuse_unknown_variables(os.environ, (*ServerSettings.model_fields, "config"))
    if options.config is not None:
        _check_file(Path(options.config))

    class Settings(ServerSettings):
        __doc__ = ServerSettings.__doc__
        model_config = SettingsConfigDict(toml_file=options.config)

    try:
        source: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(
            Settings, root_parser=_parser(), cli_parse_args=list(rest), add_argument_method=_add_argument
        )
        return Settings(_cli_settings_source=source), options.print_config
    except ValidationError as error:
        raise ConfigError("\n".join(explain(detail) for detail in error.errors())) from error
    except (SettingsError, ValueError) as error:
        raise ConfigError(str(error)) from error


def user_cache_folder() -> Path | None:
    """Where this user's programs keep what they can do without: the XDG Base Directory Specification's cache.

    Returns:
        Headwaiter's folder in it, which may not exist; None for a user without a home.
    """
    # The specification: a relative path is invalid and to be ignored.
    named = Path(os.environ.get("XDG_CACHE_HOME") or "")
    try:
        return (named if named.is_absolute() else Path.home() / ".cache") / "headwaiter"
    except RuntimeError:
        return None


def _check_file(path: Path) -> None:
    """Refuse a settings file that cannot be read or says what nobody knows, in words that name it."""
    if not path.is_file():
        raise ConfigError(f"--config: {path} is not a file")
    try:
        keys = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config: {path}: {error.strerror}") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise ConfigError(f"--config: {path}: {error}") from error
    refuse_unknown_keys(path, keys, ServerSettings.model_fields)


class _NewToken(argparse.Action):
    """Prints a token and ends, as `--version` does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        sys.stdout.write(f"{new_token()}\n")
        parser.exit()


class _HashToken(argparse.Action):
    """Likewise, the hash of a token that is read."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        line = hash_line(sys.stdin.readline())
        sys.stdout.write(f"{line}\n")
        parser.exit()


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
    parser.add_argument("--new-token", action=_NewToken, nargs=0, help="print a new token for a client, and end")
    parser.add_argument(
        "--hash-token",
        action=_HashToken,
        nargs=0,
        help="read a token from the standard input, print the hash that stands for it in an access file, and end",
    )
    return parser


def _add_argument(parser: argparse.ArgumentParser, *flags: str, **options: Any) -> argparse.Action:  # noqa: ANN401 - argparse's options
    """Add a setting's flag, described in our words: pydantic's would be Python types and literals."""
    field = ServerSettings.model_fields[options["dest"]]
    if "metavar" in options:  # switches have none
        options["metavar"] = placeholder(field)
    shown = "required" if field.is_required() else f"default: {show_default(field.default)}"
    options["help"] = f"{field.description} ({shown})".replace("%", "%%")
    return parser.add_argument(*flags, **options)
