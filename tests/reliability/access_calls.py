"""Calls of every method, with any token or none, as what is allowed shows on the wire."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_proto.v1 import inference_pb2

SERVICES: Final[list[Any]] = [
    *inference_pb2.DESCRIPTOR.services_by_name.values(),
    *grpc_service_pb2.DESCRIPTOR.services_by_name.values(),
    *health_pb2.DESCRIPTOR.services_by_name.values(),
    *reflection_pb2.DESCRIPTOR.services_by_name.values(),
]
METHODS: Final = [f"{service.full_name}/{method.name}" for service in SERVICES for method in service.methods]
EMBED: Final = "headwaiter.v1.InferenceService/Embed"
EMBED_STREAM: Final = "headwaiter.v1.InferenceService/EmbedStream"
OK: Final = "OK"
_TIMEOUT_SECONDS = 20.0

Metadata = tuple[tuple[str, str], ...]


def bearer(token: str) -> Metadata:
    """The metadata that shows a token."""
    return (("authorization", f"Bearer {token}"),)


def embed_request(texts: int = 1) -> bytes:
    """A request to embed some texts of the sleeping server's model."""
    return inference_pb2.EmbedRequest(model="sleeper", texts=["w1 w2 w3"] * texts).SerializeToString()


def code_of(channel: grpc.Channel, method: str, metadata: Metadata = (), data: bytes = b"") -> str:
    """How a call ends; one that is told of what changes ends well with the first message.

    Args:
        channel: To the server.
        method: `package.Service/Method`, of any kind: on the wire, all of them are streams.
        metadata: Of the call.
        data: Its message.
    """
    error = error_of(channel, method, metadata, data)
    return OK if error is None else error.code().name


def error_of(channel: grpc.Channel, method: str, metadata: Metadata = (), data: bytes = b"") -> grpc.RpcError | None:
    """The error that a call ends with, if any; see `code_of`."""
    any_kind: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"/{method}")
    call = any_kind(iter([data]), timeout=_TIMEOUT_SECONDS, metadata=metadata)
    try:
        for _ in call:
            call.cancel()
            return None
    except grpc.RpcError as error:
        return error
    return None


@contextmanager
def connected(target: str) -> Iterator[grpc.Channel]:
    """A channel that tries nothing twice."""
    with grpc.insecure_channel(target, [("grpc.enable_retries", 0)]) as channel:
        yield channel
