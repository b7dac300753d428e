"""Everything that a call tells its caller, and what of it nobody should be told."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_proto.v1 import inference_pb2

# What stands in places, texts and credentials here, and may stand in nothing that others are told.
PLANTED = "planted-5e1c"
_SECONDS = 60.0
_SERVICES = (inference_pb2, grpc_service_pb2, health_pb2, reflection_pb2)
_REVEALING = {
    "what was planted": re.escape(PLANTED),
    "where Python is": re.escape(sys.prefix),
    "where this server is": re.escape(str(Path(__file__).parents[2])),
    "a place on this machine": r"(?<![\w.:/])/(?:bin|dev|etc|home|lib|opt|proc|root|srv|tmp|usr|var)/",
    "a stack": r"Traceback|File \"|, line \d+",
    "the class of an exception": r"<class |\b[A-Z]\w*(?:Error|Exception)\b",
    "a line of source": r"\w\.(?:py|cc|cpp|rs|h)\b",
}


@dataclass(frozen=True)
class Told:
    """How a call ended.

    Attributes:
        code: Its status.
        details: The status's message.
        everything: That, all messages and all metadata of both ends.
    """

    code: grpc.StatusCode
    details: str
    everything: str

    @property
    def revealed(self) -> list[str]:
        """What it tells that is nobody's business."""
        return revealed(self.everything)


def revealed(text: str) -> list[str]:
    """What a text tells that is nobody's business."""
    return [f"{what}: {found[0]!r}" for what, form in _REVEALING.items() if (found := re.search(form, text))]


def every_method() -> list[MethodDescriptor]:
    """Of every service that the server has."""
    services = [service for file in _SERVICES for service in file.DESCRIPTOR.services_by_name.values()]
    return [method for service in services for method in service.methods]


def ask(channel: grpc.Channel, path: str, data: bytes, *, metadata: Iterable[tuple[str, str]] = ()) -> Told:
    """Call any method with one message of raw bytes; `path` is `/service/method`.

    A stream ends with its first answer: a watch would go on for ever.
    """
    # What is unary on the wire is a stream of one message.
    method: Any = channel.stream_stream(path)
    call = method(iter([data]), timeout=_SECONDS, metadata=tuple(metadata))
    answers: list[bytes] = []
    try:
        for answer in call:
            answers.append(answer)
            if path.endswith("/Watch"):
                call.cancel()
    except grpc.RpcError:
        pass
    pairs = [f"{key}: {_text(value)}" for key, value in (*call.initial_metadata(), *call.trailing_metadata())]
    details = call.details() or ""
    return Told(call.code(), details, "\n".join([details, *pairs, *map(_text, answers)]))


def call_all(
    channel: grpc.Channel, data: bytes, *, metadata: Iterable[tuple[str, str]] = ()
) -> Iterator[tuple[str, Told]]:
    """Call every method with the same bytes."""
    for method in every_method():
        service = method.containing_service.full_name
        yield method.full_name, ask(channel, f"/{service}/{method.name}", data, metadata=metadata)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
