"""A model's `config.pbtxt`: read, and held to what this server can do. Nothing in it is passed over in silence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format
from google.protobuf.message import Message
from headwaiter_proto.inference import model_config_pb2

from headwaiter_server.config.version_policy import VersionPolicy
from headwaiter_server.errors import BundleError
from headwaiter_server.model.files import read_file

CONFIG_FILE: Final = "config.pbtxt"
DEFAULT_MODEL_FILE: Final = "model.onnx"

_NO_SUCH_FIELD: Final = re.compile(r'has no field named "(\w+)"')
# Fields of the protocol's configuration that our messages leave out.
_NOT_OURS: Final = frozenset(
    {
        "cc_model_filenames",
        "ensemble_scheduling",
        "metric_tags",
        "model_metrics",
        "model_operations",
        "model_repository_agents",
        "model_warmup",
        "optimization",
        "sequence_batching",
    }
)

# Far beyond any real one; it is parsed in the server itself, at a megabyte a second.
_MOST_BYTES: Final = 1 << 20
THREADS: Final = "intra_op_thread_count"
_MOST_THREADS: Final = 1024
_MOST_DIGITS: Final = 4
_MOST_DELAY_MICROSECONDS: Final = 10_000_000
_MICROSECONDS: Final = 1e-6

ModelConfig = model_config_pb2.ModelConfig
_Group = model_config_pb2.ModelInstanceGroup
# What a field's value must be; gives what is wrong with it, or nothing.
_Rule = Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class ModelSetup:
    """What a configuration asks for, as far as this server does it.

    Attributes:
        config: The configuration.
        model_file: Name of the file in a version's folder.
        version_policy: Which versions serve; None where nothing is said.
        max_batch_size: Most rows of a request; None where nothing is said, which in this format is 0, too.
        preferred_rows: Most rows that a run takes from several requests; None for what calibration finds.
        delay_seconds: How long a request may wait for batch-mates; None for the server's setting.
        most_runs: Most runs at one time; None for as many as there are workers.
        threads: Of a run; None for the server's setting.
        cached: Whether answers may be remembered; None where nothing is said.
        ignored: Fields that change nothing here, for the log.
    """

    config: ModelConfig
    model_file: str = DEFAULT_MODEL_FILE
    version_policy: VersionPolicy | None = None
    max_batch_size: int | None = None
    preferred_rows: int | None = None
    delay_seconds: float | None = None
    most_runs: int | None = None
    threads: int | None = None
    cached: bool | None = None
    ignored: tuple[str, ...] = ()

    @property
    def beside_policy(self) -> list[str]:
        """Top-level fields that are set and say more than the model's name and which versions serve."""
        return [each.name for each, _ in self.config.ListFields() if each.name not in {"name", "version_policy"}]

    @property
    def built_by(self) -> bytes:
        """All of it that a model is built by, which is all but which versions serve; empty where nothing is said."""
        config = ModelConfig()
        config.CopyFrom(self.config)
        config.ClearField("version_policy")
        return config.SerializeToString(deterministic=True)


def read_setup(model_folder: Path) -> ModelSetup:
    """What a model's `config.pbtxt` asks for; nothing at all where there is none.

    Args:
        model_folder: The folder that holds the versions.

    Raises:
        BundleError: It cannot be read, or asks for what this server does not do; the message names the field.
    """
    path = model_folder / CONFIG_FILE
    try:
        if not path.exists() and not path.is_symlink():
            return ModelSetup(ModelConfig())
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return parse_setup(read_file(path, _MOST_BYTES), model_folder.name)
    except _WrongSetupError as error:
        raise BundleError(f"{path}: {error}", error.said) from error


class _WrongSetupError(Exception):
    """A configuration is no configuration, or asks for what this server does not do.

    Attributes:
        said: What the parser said to it.
    """

    def __init__(self, message: str, said: str = "") -> None:
        super().__init__(message)
        self.said = said


def parse_setup(text: bytes, model: str) -> ModelSetup:
    """What a configuration asks for.

    Args:
        text: Of the file.
        model: Name of its model.

    Raises:
        _WrongSetupError: What is wrong with it.
    """
    config = ModelConfig()
    try:
        text_format.Parse(text.decode(), config)
    except (text_format.ParseError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise _unparsed(error) from error
    ignored = []
    for field, value in _fields("", config):
        rule = _RULES.get(field)
        problem = "this server does not do that" if rule is None else rule(value)
        if problem is _IGNORED:
            ignored.append(field)
        elif problem:
            raise _WrongSetupError(f"{field}: {problem}")
    if config.name and config.name != model:
        raise _WrongSetupError(f"name: is {config.name!r}, the folder is {model!r}")
    batching = config.dynamic_batching
    batches = config.HasField("dynamic_batching")
    parameter = config.parameters[THREADS].string_value if THREADS in config.parameters else "0"
    return ModelSetup(
        config=config,
        model_file=config.default_model_filename or DEFAULT_MODEL_FILE,
        version_policy=policy_in(config.version_policy),
        max_batch_size=config.max_batch_size or None,
        preferred_rows=max(batching.preferred_batch_size, default=None),
        delay_seconds=batching.max_queue_delay_microseconds * _MICROSECONDS if batches else None,
        most_runs=sum(group.count or 1 for group in config.instance_group) or None,
        threads=int(parameter) or None,
        cached=config.response_cache.enable if config.HasField("response_cache") else None,
        ignored=tuple(dict.fromkeys(ignored)),
    )


def _unparsed(error: Exception) -> _WrongSetupError:
    """What is wrong with a text that is no configuration; a field that we have no place for is named like others."""
    unknown = _NO_SUCH_FIELD.search(str(error))
    if unknown is not None:
        field = unknown[1]
        problem = "this server does not do that" if field in _NOT_OURS else "there is no such field"
        return _WrongSetupError(f"{field}: {problem}")
    line = error.GetLine() if isinstance(error, text_format.ParseError) else None
    where = "" if line is None else f", from line {line} on"
    return _WrongSetupError(f"it is no configuration{where}", str(error) or type(error).__name__)


def _fields(prefix: str, message: Message) -> Iterator[tuple[str, Any]]:
    """Every field that is set, by its path, `dynamic_batching.preferred_batch_size`; those of entries one by one."""
    for descriptor, value in message.ListFields():
        path = prefix + descriptor.name
        if descriptor.message_type is None or descriptor.message_type.GetOptions().map_entry or path in _RULES:
            yield path, value
        elif isinstance(value, Message):
            # A message may say something by being there.
            yield from _fields(f"{path}.", value)
        else:
            for entry in value:
                yield from _fields(f"{path}.", entry)


def policy_in(message: model_config_pb2.ModelVersionPolicy) -> VersionPolicy | None:
    """Which versions serve by a configuration's message; None where it says nothing.

    Raises:
        ValueError: It chooses no version.
    """
    match message.WhichOneof("policy_choice"):
        case "latest":
            # 0 is what a message says that leaves it out.
            return VersionPolicy(latest=message.latest.num_versions or 1)
        case "all":
            return VersionPolicy()
        case "specific":
            versions = tuple(sorted(set(message.specific.versions)))
            if not versions or versions[0] < 1:
                raise ValueError("versions are numbers from 1 on, at least one")
            return VersionPolicy(specific=versions)
        case _:
            return None


_IGNORED: Final = "ignored"


def _any(_value: object) -> str:
    return ""


def _ignored(_value: object) -> str:
    return _IGNORED


def _one_of(*names: str) -> _Rule:
    def rule(value: str) -> str:
        return "" if value in names else f"is {value!r}, this server runs {' or '.join(names)}"

    return rule


def _within(least: int, most: int) -> _Rule:
    def rule(value: int) -> str:
        return "" if least <= value <= most else f"is {value}, expected {least} to {most}"

    return rule


def _each(rule: _Rule) -> _Rule:
    def for_each(values: list[Any]) -> str:
        return next((problem for value in values if (problem := rule(value))), "")

    return for_each


def _plain_name(value: str) -> str:
    plain = Path(value).name == value and value not in {".", ".."} and "\0" not in value
    return "" if plain else f"{value!r} is not a plain file name"


def _kind(value: int) -> str:
    return "this server runs models on the processor" if value == _Group.KIND_GPU else ""


def _false(value: object) -> str:
    return "this server does not do that" if value else ""


def _versions(policy: model_config_pb2.ModelVersionPolicy) -> str:
    try:
        policy_in(policy)
    except ValueError as error:
        return str(error)
    return ""


def _parameters(parameters: Mapping[str, model_config_pb2.ModelParameter]) -> str:
    for name, parameter in parameters.items():
        if name != THREADS:
            return f"this server does not know {name!r}, only {THREADS}"
        text = parameter.string_value
        if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS and int(text) <= _MOST_THREADS):
            return f"{THREADS} is {text!r}, expected 0 to {_MOST_THREADS}"
    return ""


# Every field that is not refused, with what it must say. docs/tensor-models.md has the same table in words.
_RULES: Final[Mapping[str, _Rule]] = {
    "name": _any,
    "platform": _one_of("onnxruntime_onnx"),
    "backend": _one_of("onnxruntime"),
    "version_policy": _versions,
    "max_batch_size": _within(0, 1 << 16),
    "default_model_filename": _plain_name,
    "input.name": _any,
    "input.data_type": _any,
    "input.dims": _any,
    "input.reshape": _any,
    "input.optional": _any,
    "input.format": _ignored,
    "output.name": _any,
    "output.data_type": _any,
    "output.dims": _any,
    "output.reshape": _any,
    "output.label_filename": _ignored,
    "instance_group.name": _ignored,
    "instance_group.count": _within(1, 1 << 16),
    "instance_group.kind": _kind,
    "dynamic_batching.preferred_batch_size": _each(_within(1, 1 << 16)),
    "dynamic_batching.max_queue_delay_microseconds": _within(0, _MOST_DELAY_MICROSECONDS),
    "dynamic_batching.priority_levels": _ignored,
    "dynamic_batching.default_priority_level": _ignored,
    "dynamic_batching.preserve_ordering": _false,
    "dynamic_batching.default_queue_policy.allow_timeout_override": _any,
    "parameters": _parameters,
    "model_transaction_policy.decoupled": _false,
    "response_cache.enable": _any,
    "metric_tags": _ignored,
}
