"""The access file: TOML to clients, strictly. Nothing that stands in it is quoted but names of clients and of keys."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headwaiter_server.access.clients import Client, Clients
from headwaiter_server.access.quotas import Bucket
from headwaiter_server.access.roles import Role
from headwaiter_server.access.tokens import hash_of
from headwaiter_server.errors import ConfigError
from headwaiter_server.rereading import read_file

_SETTING = "--access-file"
# As metadata has it, 1 is first; whom the file does not say more of stands on the level of all.
_PRIORITIES = 16
_DEFAULT_PRIORITY = 4
_MOST_PER_SECOND = 1e9
_LEAST_PER_SECOND = 1e-3
_NOTHING = hash_of("").hex()

_Rate = Annotated[float, Field(ge=_LEAST_PER_SECOND, le=_MOST_PER_SECOND)]
_Burst = Annotated[float, Field(ge=1, le=_MOST_PER_SECOND)]

_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is no key of a client",
    "enum": f"is no role; there are {', '.join(Role)}",
    "too_short": "is empty",
}


class _Entry(BaseModel):
    """One client, as the file says."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    # It becomes a label of metrics and stands in the log.
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    token_sha256: Annotated[list[Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]], Field(min_length=1)]
    roles: Annotated[list[Role], Field(min_length=1)]
    weight: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    highest_priority: Annotated[int, Field(ge=1, le=_PRIORITIES)] = _DEFAULT_PRIORITY
    max_calls_per_second: _Rate | None = None
    calls_burst: _Burst | None = None
    max_texts_per_second: _Rate | None = None
    texts_burst: _Burst | None = None


def read_clients(path: Path, before: Clients | None = None) -> Clients:
    """The clients that a file names.

    Args:
        path: The file.
        before: Those that it named before: of a quota that is still the same, what is left stays.

    Raises:
        ConfigError: It cannot be read, or says something that is not understood, or twice; one line for each.
    """
    try:
        content = tomllib.loads(read_file(path, _SETTING).decode())
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{_SETTING}: {path}: {error}") from error
    except ValueError as error:  # an error of decoding quotes the bytes
        raise ConfigError(f"{_SETTING}: {path}: is no UTF-8") from error
    entries, errors = _read_entries(content)
    errors += _twice(entries)
    if errors:
        raise ConfigError("\n".join(f"{_SETTING}: {path}: {error}" for error in errors))
    return Clients(_client(entry, before.by_name.get(entry.name) if before is not None else None) for entry in entries)


def _read_entries(content: dict[str, Any]) -> tuple[list[_Entry], list[str]]:
    tables = content.pop("client", [])
    errors = [f"{key}: is no key of an access file; there is [[client]]" for key in content]
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        return [], [*errors, "client: expected tables, [[client]]"]
    if not tables:
        # What was cut off in the middle of a copy must not lock everybody out.
        errors.append("names no client, and nobody could call")
    entries: list[_Entry] = []
    for number, table in enumerate(tables, 1):
        where = _place(number, table.get("name"))
        try:
            entry = _Entry.model_validate(table)
        except ValidationError as error:
            errors += [_explain(where, detail) for detail in error.errors(include_input=False, include_url=False)]
            continue
        entries.append(entry)
        errors += [f"{where}: {wrong}" for wrong in _contradictions(entry)]
    return entries, errors


def _contradictions(entry: _Entry) -> list[str]:
    wrong = []
    if entry.calls_burst is not None and entry.max_calls_per_second is None:
        wrong.append("calls_burst: takes max_calls_per_second")
    if entry.texts_burst is not None and entry.max_texts_per_second is None:
        wrong.append("texts_burst: takes max_texts_per_second")
    if _NOTHING in map(str.lower, entry.token_sha256):
        wrong.append("token_sha256: holds the hash of an empty token")
    return wrong


def _twice(entries: list[_Entry]) -> list[str]:
    errors: list[str] = []
    owners: dict[str, str] = {}
    names: set[str] = set()
    for entry in entries:
        if entry.name in names:
            errors.append(f"client {entry.name}: name: is there twice")
        names.add(entry.name)
        for known in map(str.lower, entry.token_sha256):
            if known in owners:
                errors.append(
                    f"client {entry.name}: token_sha256: {known[:8]}... is there twice, also of {owners[known]}"
                )
            owners[known] = entry.name
    return errors


def _client(entry: _Entry, before: Client | None) -> Client:
    return Client(
        entry.name,
        tuple(map(bytes.fromhex, entry.token_sha256)),
        frozenset(entry.roles),
        entry.weight,
        entry.highest_priority,
        _bucket(entry.max_calls_per_second, entry.calls_burst, before.calls if before is not None else None),
        _bucket(entry.max_texts_per_second, entry.texts_burst, before.texts if before is not None else None),
    )


def _bucket(per_second: float | None, burst: float | None, before: Bucket | None) -> Bucket | None:
    if per_second is None:
        return None
    holds = max(1.0, per_second) if burst is None else burst
    if before is not None and (before.per_second, before.burst) == (per_second, holds):
        return before
    return Bucket(per_second, holds)


def _place(number: int, name: object) -> str:
    return f"client {name[:64]}" if isinstance(name, str) and name.isprintable() else f"client number {number}"


def _explain(where: str, detail: Any) -> str:  # noqa: ANN401 - pydantic's error dictionary
    """One of pydantic's errors in our words, without the value: it may be a token that was put in a wrong place."""
    field = "".join(f"[{part}]" if isinstance(part, int) else str(part) for part in detail["loc"])
    if detail["type"] == "string_pattern_mismatch":
        name = "expected up to 64 letters, digits and . _ @ -, a letter or digit first"
        message = name if field == "name" else "expected 64 hexadecimal digits; --hash-token prints them"
    else:
        message = _WORDS.get(detail["type"], detail["msg"])
    return f"{where}: {field}: {message}"
