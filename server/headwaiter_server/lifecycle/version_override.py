"""What a call to load a model may say beside its name: which versions are to serve."""

from __future__ import annotations

import json

from google.protobuf import json_format
from headwaiter_proto.inference import model_config_pb2

from headwaiter_server.config.version_policy import VersionPolicy
from headwaiter_server.errors import InvalidRequestError, UnsupportedError
from headwaiter_server.lifecycle.model_config import policy_in

_FIELD = "parameters[config]"
_POLICY = "version_policy"
# Far more than names and versions take.
_MOST_CHARACTERS = 65_536
# What is repeated of a name that a caller has made up.
_MOST_NAME_CHARACTERS = 100


def parse_override(text: str, name: str) -> VersionPolicy | None:
    """The version policy that the JSON of a model's configuration gives; None if it gives none.

    Args:
        text: The JSON: a `ModelConfig`.
        name: Of the model that is loaded.

    Raises:
        InvalidRequestError: It is no such JSON, or chooses no version.
        UnsupportedError: It sets something else, which would be without effect.
    """
    if len(text) > _MOST_CHARACTERS:
        raise InvalidRequestError(_FIELD, f"has {len(text)} characters, the limit is {_MOST_CHARACTERS}")
    if not text.lstrip().startswith("{"):  # the parser takes other things for an empty one
        raise InvalidRequestError(_FIELD, "is no JSON of a model's configuration, an object")
    try:
        config = json_format.Parse(text, model_config_pb2.ModelConfig())
    except (json_format.ParseError, RecursionError, ValueError) as error:
        raise InvalidRequestError(_FIELD, f"is no JSON of a model's configuration: {_wrong_in(text)}") from error
    if config.name not in ("", name):
        raise InvalidRequestError(
            _FIELD,
            f"is for model {config.name[:_MOST_NAME_CHARACTERS]!r}, the call loads {name[:_MOST_NAME_CHARACTERS]!r}",
        )
    others = sorted(each.name for each, _ in config.ListFields() if each.name not in ("name", _POLICY))
    if others:
        raise UnsupportedError(_FIELD, f"sets {', '.join(others)}; of a configuration, a call can set only {_POLICY}")
    return read_policy(config.version_policy) if config.HasField(_POLICY) else None


def _wrong_in(text: str) -> str:
    """What is wrong with a text that is no configuration, in words that are not the parser's."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        return f"it ceases to be JSON in line {error.lineno}, column {error.colno}"
    except (RecursionError, ValueError):
        return "its brackets are too deep, or its numbers too long"
    known = {name for each in model_config_pb2.ModelConfig.DESCRIPTOR.fields for name in (each.name, each.json_name)}
    unknown = next((name for name in found if name not in known), None)
    return (
        "a field is unknown, or of another type"
        if unknown is None
        else f"there is no field {unknown[:_MOST_NAME_CHARACTERS]!r}"
    )


def read_policy(message: model_config_pb2.ModelVersionPolicy) -> VersionPolicy:
    """The policy that a configuration's message gives.

    Raises:
        InvalidRequestError: It chooses no version.
    """
    try:
        policy = policy_in(message)
    except ValueError as error:
        raise InvalidRequestError(_FIELD, f"{_POLICY}: versions are numbers from 1 on, at least one") from error
    if policy is None:
        raise InvalidRequestError(_FIELD, f"{_POLICY} is empty: expected latest, all or specific")
    return policy
