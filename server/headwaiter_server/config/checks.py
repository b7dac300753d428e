"""What a setting's value must look like, which settings there are, and how a wrong one is explained."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from headwaiter_server.errors import ConfigError

ENV_PREFIX = "HEADWAITER_"
# Variables of the other commands, which may stand in the same environment.
_FOREIGN_PREFIXES = ("HEADWAITER_CLIENT_", "HEADWAITER_EXPORT_", "HEADWAITER_LOAD_")
# Kubernetes gives pods such variables for services that are named headwaiter or headwaiter-something.
_SERVICE_LINK = re.compile(
    r"HEADWAITER(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
# One more of them looks like a setting that somebody mistyped; its value is what tells.
_SERVICE_URL_LINK = re.compile(r"HEADWAITER(_[A-Z0-9_]+)?_PORT=(tcp|udp|sctp)://.*")

_TCP_ADDRESS = re.compile(r"^(?P<host>\[[0-9a-fA-F:.]+\]|[^:\s/]+):(?P<port>\d{1,5})$")
_LARGEST_PORT = 65535
_MODEL_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")

# Marks the half of "auto or a number" that an error is about; see `explain`.
NUMBER_TAG = "number"


def split_address(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; an IPv6 host stands in brackets.

    Raises:
        ValueError: It is something else.
    """
    match = _TCP_ADDRESS.match(address)
    if match is None or int(match["port"]) > _LARGEST_PORT:
        raise ValueError(f"expected HOST:PORT, got {address!r}")
    return match["host"].strip("[]"), int(match["port"])


def check_listener(address: str) -> None:
    """Refuse what is neither HOST:PORT nor unix:PATH.

    Raises:
        ValueError: It is something else.
    """
    if not address.startswith("unix:"):
        split_address(address)
    elif not address.removeprefix("unix:").strip("/"):
        raise ValueError(f"expected unix:PATH, got {address!r}")


def is_local(address: str) -> bool:
    """Whether a listener is reached from this machine only."""
    if address.startswith("unix:"):
        return True
    host, _ = split_address(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may stand for anything
        return False


def check_url(url: str) -> None:
    """Refuse what is no http://HOST:PORT or https://HOST:PORT.

    Raises:
        ValueError: It is something else.
    """
    scheme, separator, address = url.partition("://")
    if not separator or scheme not in ("http", "https") or _TCP_ADDRESS.match(address.rstrip("/")) is None:
        raise ValueError("expected http://HOST:PORT or https://HOST:PORT")


def parse_pairs(value: object) -> object:
    """A mapping from NAME=VALUE pairs, separated by commas; a mapping stays as it is.

    Raises:
        ValueError: One of them is no such pair, or names what cannot be a model.
    """
    if isinstance(value, Mapping):
        return value
    pairs = [str(part).partition("=") for part in _as_list(split_commas(value))]
    for name, _, chosen in pairs:
        if not _MODEL_NAME.match(name) or not chosen:
            raise ValueError("expected NAME=VARIANT, such as minilm=int8")
    return {name: chosen for name, _, chosen in pairs}


def split_commas(value: object) -> object:
    """The parts of a text, or of the texts of a list; anything else stays as it is."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list):
        return [part for item in value for part in _as_list(split_commas(item))]
    return value


def refuse_unknown_variables(environ: Mapping[str, str], settings: Collection[str]) -> None:
    """Refuse environment variables that look like settings and are none.

    Args:
        environ: The environment.
        settings: Names of the settings.

    Raises:
        ConfigError: There are some; it names them all.
    """
    known = {ENV_PREFIX + name.upper() for name in settings}
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


def refuse_unknown_keys(path: Path, keys: Collection[str], settings: Collection[str]) -> None:
    """Refuse keys of a settings file that are no settings.

    Args:
        path: The file, for the message.
        keys: Its keys.
        settings: Names of the settings.

    Raises:
        ConfigError: There are some; it names them all, and the file.
    """
    if unknown := sorted(set(keys) - set(settings)):
        raise ConfigError(f"unknown setting in {path}: {', '.join(unknown)}")


def explain(detail: Any) -> str:  # noqa: ANN401 - pydantic's error dictionary
    """One of pydantic's errors in a line for the person at the command line."""
    *outer, last = detail["loc"]
    tagged = last == NUMBER_TAG and outer
    name = ".".join(str(part) for part in (outer if tagged else detail["loc"]))
    if detail["type"] == "missing":
        return f"--{name.replace('_', '-')} is required"
    message = detail["msg"].removeprefix("Value error, ") + (", or auto" if tagged else "")
    got = "" if detail["input"] is None else f" (got {detail['input']!r})"
    return f"--{name.replace('_', '-')}: {message}{got}"


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]
