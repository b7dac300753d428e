"""Headwaiter's client: calls a Headwaiter server from Python, blocking or with asyncio.

from headwaiter import Client

with Client("127.0.0.1:8001") as client:
    print(client.generate("onomatopoeia").generations[0].text)
"""

from headwaiter.async_client import AsyncClient
from headwaiter.client import Client
from headwaiter.connection import TLS, ChannelOptions
from headwaiter.errors import (
    CallCancelledError,
    DeadlineExceededError,
    HeadwaiterError,
    InternalServerError,
    InvalidRequestError,
    NotFoundError,
    NotSupportedError,
    OverloadedError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ServerUnreachableError,
    UnauthenticatedError,
)
from headwaiter.results import (
    Classification,
    ClassifyReply,
    EmbeddingInfo,
    EmbedReply,
    FinishReason,
    GenerateReply,
    GenerationResult,
    GraphKind,
    HealthStatus,
    Limits,
    ModelInfo,
    RankedText,
    Reading,
    RerankReply,
    Span,
    StreamedReply,
    Tagging,
    TagReply,
    Task,
    Timings,
    Tokenization,
    TokenizeReply,
)
from headwaiter.service_config import SERVICE_CONFIG
from headwaiter.vectors import Vectors

__all__ = [
    "SERVICE_CONFIG",
    "TLS",
    "AsyncClient",
    "CallCancelledError",
    "ChannelOptions",
    "Classification",
    "ClassifyReply",
    "Client",
    "DeadlineExceededError",
    "EmbedReply",
    "EmbeddingInfo",
    "FinishReason",
    "GenerateReply",
    "GenerationResult",
    "GraphKind",
    "HeadwaiterError",
    "HealthStatus",
    "InternalServerError",
    "InvalidRequestError",
    "Limits",
    "ModelInfo",
    "NotFoundError",
    "NotSupportedError",
    "OverloadedError",
    "PermissionDeniedError",
    "RankedText",
    "Reading",
    "RerankReply",
    "ResourceExhaustedError",
    "ServerUnreachableError",
    "Span",
    "StreamedReply",
    "TagReply",
    "Tagging",
    "Task",
    "Timings",
    "Tokenization",
    "TokenizeReply",
    "UnauthenticatedError",
    "Vectors",
]
