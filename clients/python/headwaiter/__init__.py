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
from headwaiter.generation_stream import AsyncGenerationStream, GenerationStream
from headwaiter.results import (
    Attention,
    Classification,
    ClassifyReply,
    EmbeddingInfo,
    EmbedReply,
    FinishReason,
    GenerateReply,
    GenerationPiece,
    GenerationResult,
    GraphKind,
    HealthStatus,
    Hypothesis,
    LikelyToken,
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
    TokenLogprob,
)
from headwaiter.service_config import SERVICE_CONFIG
from headwaiter.vectors import Vectors

__all__ = [
    "SERVICE_CONFIG",
    "TLS",
    "AsyncClient",
    "AsyncGenerationStream",
    "Attention",
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
    "GenerationPiece",
    "GenerationResult",
    "GenerationStream",
    "GraphKind",
    "HeadwaiterError",
    "HealthStatus",
    "Hypothesis",
    "InternalServerError",
    "InvalidRequestError",
    "LikelyToken",
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
    "TokenLogprob",
    "Tokenization",
    "TokenizeReply",
    "UnauthenticatedError",
    "Vectors",
]
