"""A request's way from text to answer, the same for every protocol that asks."""

from headwaiter_server.pipeline.cache import ResponseCache
from headwaiter_server.pipeline.classification import (
    ClassificationReply,
    ClassificationRequest,
    classify,
)
from headwaiter_server.pipeline.core import Core, Reading, Timings
from headwaiter_server.pipeline.embedding import EmbeddingReply, EmbeddingRequest, embed
from headwaiter_server.pipeline.generated import (
    GeneratedText,
    GenerationPiece,
    GenerationReply,
    GenerationRequest,
    WrittenToken,
)
from headwaiter_server.pipeline.generation import generate, generate_stream
from headwaiter_server.pipeline.reranking import (
    PairsReply,
    PairsRequest,
    RankedText,
    RerankingReply,
    RerankingRequest,
    rerank,
    score_pairs,
)
from headwaiter_server.pipeline.spans import Span
from headwaiter_server.pipeline.tagging import TaggingReply, TaggingRequest, tag
from headwaiter_server.pipeline.tensors import TensorReply, TensorRequest, infer_tensors
from headwaiter_server.pipeline.tokenization import TokenizationReply, TokenizationRequest, tokenize

__all__ = [
    "ClassificationReply",
    "ClassificationRequest",
    "EmbeddingReply",
    "EmbeddingRequest",
    "GeneratedText",
    "GenerationPiece",
    "GenerationReply",
    "GenerationRequest",
    "PairsReply",
    "PairsRequest",
    "Pipeline",
    "RankedText",
    "Reading",
    "RerankingReply",
    "RerankingRequest",
    "ResponseCache",
    "Span",
    "TaggingReply",
    "TaggingRequest",
    "TensorReply",
    "TensorRequest",
    "Timings",
    "TokenizationReply",
    "TokenizationRequest",
    "WrittenToken",
]


class Pipeline(Core):
    """Validates, tokenizes, submits and answers.

    One method for each task, which the module of the task describes. Each takes the permit as proof of admission, held
    by the caller until the answer is out; what the caller asked of the scheduler; and the request. Each raises
    `RequestError` when the request is to be answered with an error.
    """

    generate = generate
    generate_stream = generate_stream
    embed = embed
    classify = classify
    tag = tag
    rerank = rerank
    score_pairs = score_pairs
    infer_tensors = infer_tensors
    tokenize = tokenize
