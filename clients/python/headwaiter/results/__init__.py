"""What calls return: frozen values, free of protocol buffers and of gRPC."""

from headwaiter.results.encoders import (
    Classification,
    ClassifyReply,
    EmbedReply,
    RankedText,
    RerankReply,
    Span,
    StreamedReply,
    Tagging,
    TagReply,
    Tokenization,
    TokenizeReply,
)
from headwaiter.results.generation import (
    Attention,
    FinishReason,
    GenerateReply,
    GenerationPiece,
    GenerationResult,
    Hypothesis,
    LikelyToken,
    TokenLogprob,
)
from headwaiter.results.models import EmbeddingInfo, GraphKind, HealthStatus, Limits, ModelInfo, Task
from headwaiter.results.timings import Reading, Timings

__all__ = [
    "Attention",
    "Classification",
    "ClassifyReply",
    "EmbedReply",
    "EmbeddingInfo",
    "FinishReason",
    "GenerateReply",
    "GenerationPiece",
    "GenerationResult",
    "GraphKind",
    "HealthStatus",
    "Hypothesis",
    "LikelyToken",
    "Limits",
    "ModelInfo",
    "RankedText",
    "Reading",
    "RerankReply",
    "Span",
    "StreamedReply",
    "TagReply",
    "Tagging",
    "Task",
    "Timings",
    "TokenLogprob",
    "Tokenization",
    "TokenizeReply",
]
