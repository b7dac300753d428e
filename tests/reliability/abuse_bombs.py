"""Messages of eight megabytes that are nothing but parts: what takes a parser longest, and makes it take most memory.

The bytes are made by hand: no library would write them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headwaiter_proto.inference import grpc_service_pb2 as oip
from headwaiter_proto.v1 import inference_pb2 as typed

INFERENCE = "/headwaiter.v1.InferenceService"
OPEN_INFERENCE = "/inference.GRPCInferenceService"
HEALTH = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

# As large as a server takes by default, and with some room for what stands around the parts.
MESSAGE_BYTES = 8 << 20
_ROOM_BYTES = 64

_VARINT, _LENGTH_DELIMITED, _START_GROUP, _END_GROUP = 0, 2, 3, 4
_UNKNOWN = 15


@dataclass(frozen=True)
class Bomb:
    """A message, and where it is sent.

    Attributes:
        name: What it is made of.
        method: `/package.Service/Method`.
        data: The bytes.
    """

    name: str
    method: str
    data: bytes

    @property
    def streamed(self) -> bool:
        """Whether the method reads and writes streams."""
        return "Stream" in self.method or self.method == REFLECTION


def varint(value: int) -> bytes:
    """A number as the wire has it."""
    parts = bytearray()
    while value >= 1 << 7:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def tag(number: int, kind: int = _LENGTH_DELIMITED) -> bytes:
    """What stands before a field."""
    return varint(number << 3 | kind)


def field(number: int, data: bytes) -> bytes:
    """A field with its length."""
    return tag(number) + varint(len(data)) + data


def many(part: bytes, size: int = MESSAGE_BYTES - _ROOM_BYTES) -> bytes:
    """A part again and again."""
    return part * (size // len(part))


# Of every method that reads texts, the fields that stand more than once, or hold others.
_TYPED: Mapping[str, Mapping[str, int]] = {
    "Generate": {
        "texts": typed.GenerateRequest.TEXTS_FIELD_NUMBER,
        "stop": typed.GenerateRequest.STOP_FIELD_NUMBER,
        "stop_token_ids": typed.GenerateRequest.STOP_TOKEN_IDS_FIELD_NUMBER,
    },
    "Embed": {"texts": typed.EmbedRequest.TEXTS_FIELD_NUMBER, "prompt": typed.EmbedRequest.PROMPT_FIELD_NUMBER},
    "Classify": {
        "texts": typed.ClassifyRequest.TEXTS_FIELD_NUMBER,
        "second_texts": typed.ClassifyRequest.SECOND_TEXTS_FIELD_NUMBER,
    },
    "Tag": {"texts": typed.TagRequest.TEXTS_FIELD_NUMBER},
    "Rerank": {"texts": typed.RerankRequest.TEXTS_FIELD_NUMBER, "query": typed.RerankRequest.QUERY_FIELD_NUMBER},
    "Tokenize": {"texts": typed.TokenizeRequest.TEXTS_FIELD_NUMBER},
    "ListModels": {},
    "GetModel": {"model": typed.GetModelRequest.MODEL_FIELD_NUMBER},
}
# The same of the Open Inference Protocol's, but for what is inferred.
_OPEN: Mapping[str, Mapping[str, int]] = {
    "ServerLive": {},
    "ServerReady": {},
    "ServerMetadata": {},
    "ModelReady": {"name": 1},
    "ModelMetadata": {"name": 1},
    "ModelConfig": {"name": 1},
    "ModelStatistics": {"name": 1},
    "RepositoryIndex": {"repository_name": 1},
    "RepositoryModelLoad": {"parameters": oip.RepositoryModelLoadRequest.PARAMETERS_FIELD_NUMBER},
    "RepositoryModelUnload": {"parameters": oip.RepositoryModelUnloadRequest.PARAMETERS_FIELD_NUMBER},
    "SystemSharedMemoryStatus": {"name": 1},
    "SystemSharedMemoryRegister": {"name": 1},
    "SystemSharedMemoryUnregister": {"name": 1},
    "CudaSharedMemoryStatus": {"name": 1},
    "CudaSharedMemoryRegister": {"name": 1},
    "CudaSharedMemoryUnregister": {"name": 1},
    "TraceSetting": {"settings": oip.TraceSettingRequest.SETTINGS_FIELD_NUMBER},
    "LogSettings": {"settings": oip.LogSettingsRequest.SETTINGS_FIELD_NUMBER},
}


# Nothing but one text: what it costs to take so many bytes in at all.
EMBED_TEXT = Bomb(
    "a text",
    f"{INFERENCE}/Embed",
    field(typed.EmbedRequest.MODEL_FIELD_NUMBER, b"sleeper")
    + field(typed.EmbedRequest.TEXTS_FIELD_NUMBER, b"w" * 8_000_000),
)


def infer_bombs(size: int = MESSAGE_BYTES) -> dict[str, bytes]:
    """Of `ModelInferRequest`: at each of its fields, and within each message that it holds."""
    request, tensor = oip.ModelInferRequest, oip.ModelInferRequest.InferInputTensor
    contents = oip.InferTensorContents
    room = size - _ROOM_BYTES
    empty = b"\0"
    key, value = field(1, b"x"), tag(2)

    def within(*numbers: int, inner: bytes) -> bytes:
        for number in reversed(numbers):
            inner = field(number, inner)
        return inner

    inputs, parameters = request.INPUTS_FIELD_NUMBER, tensor.PARAMETERS_FIELD_NUMBER
    elements = (inputs, tensor.CONTENTS_FIELD_NUMBER)
    bombs = {
        "inputs": many(tag(inputs) + empty, room),
        "outputs": many(tag(request.OUTPUTS_FIELD_NUMBER) + empty, room),
        "parameters": many(tag(request.PARAMETERS_FIELD_NUMBER) + empty, room),
        "raw_input_contents": many(tag(request.RAW_INPUT_CONTENTS_FIELD_NUMBER) + empty, room),
        "model_name": many(tag(request.MODEL_NAME_FIELD_NUMBER) + empty, room),
        "value of a parameter": within(request.PARAMETERS_FIELD_NUMBER, inner=key + many(value + empty, room)),
        "within a parameter": within(request.PARAMETERS_FIELD_NUMBER, 2, inner=many(tag(1, _VARINT) + b"\1", room)),
        "parameters of an input": within(inputs, inner=many(tag(parameters) + empty, room)),
        "value of a parameter of an input": within(inputs, parameters, inner=key + many(value + empty, room)),
        "shape": within(inputs, tensor.SHAPE_FIELD_NUMBER, inner=many(b"\1", room)),
        "shape, number by number": within(inputs, inner=many(tag(tensor.SHAPE_FIELD_NUMBER, _VARINT) + b"\1", room)),
        "contents": within(inputs, inner=many(tag(tensor.CONTENTS_FIELD_NUMBER) + empty, room)),
        "bytes_contents": within(*elements, inner=many(tag(contents.BYTES_CONTENTS_FIELD_NUMBER) + empty, room)),
        "parameters of an output": within(request.OUTPUTS_FIELD_NUMBER, inner=many(tag(2) + empty, room)),
    }
    for name in ("bool", "int", "int64", "uint", "uint64"):
        number: int = getattr(contents, f"{name.upper()}_CONTENTS_FIELD_NUMBER")
        bombs[f"{name}_contents"] = within(*elements, number, inner=many(b"\1", room))
    return bombs


def bombs(size: int = MESSAGE_BYTES) -> list[Bomb]:
    """A message of many parts for every method, at each of its fields that may hold them, and as unknown fields."""
    room = size - _ROOM_BYTES
    found = []
    for service, methods in ((INFERENCE, _TYPED), (OPEN_INFERENCE, _OPEN)):
        for name, fields in methods.items():
            method = f"{service}/{name}"
            found += [
                Bomb(f"{name}.{each}", method, many(tag(number) + b"\0", room)) for each, number in fields.items()
            ]
            found += [Bomb(f"{name}, {kind}", method, data) for kind, data in unknown(room).items()]
    found += [
        Bomb(f"ModelInfer.{name}", f"{OPEN_INFERENCE}/ModelInfer", data) for name, data in infer_bombs(size).items()
    ]
    for kind, data in unknown(room).items():
        found.append(Bomb(f"ModelInfer, {kind}", f"{OPEN_INFERENCE}/ModelInfer", data))
        found.append(Bomb(f"Health, {kind}", HEALTH, data))
    found.append(Bomb("Health.service", HEALTH, many(tag(1) + b"\0", room)))
    return found


def streamed_bombs(size: int = MESSAGE_BYTES) -> list[Bomb]:
    """The same for the methods that read streams."""
    room = size - _ROOM_BYTES
    request, texts = typed.EmbedStreamRequest.REQUEST_FIELD_NUMBER, typed.EmbedRequest.TEXTS_FIELD_NUMBER
    embed, infer = f"{INFERENCE}/EmbedStream", f"{OPEN_INFERENCE}/ModelStreamInfer"
    found = [
        Bomb("EmbedStream.request.texts", embed, field(request, many(tag(texts) + b"\0", room))),
        Bomb("EmbedStream.request", embed, many(tag(request) + b"\0", room)),
        Bomb("ServerReflection.extension", REFLECTION, many(tag(5) + b"\0", room)),
    ]
    found += [Bomb(f"ModelStreamInfer.{name}", infer, data) for name, data in infer_bombs(size).items()]
    return found


def unknown(size: int) -> dict[str, bytes]:
    """Fields that no message has, and groups, which no message here has, side by side and one within another."""
    return {
        "unknown fields": many(tag(_UNKNOWN) + b"\0", size),
        "unknown numbers": many(tag(_UNKNOWN, _VARINT) + b"\1", size),
        "groups": many(tag(_UNKNOWN, _START_GROUP) + tag(_UNKNOWN, _END_GROUP), size),
        "groups in groups": many(tag(_UNKNOWN, _START_GROUP), size),
    }
