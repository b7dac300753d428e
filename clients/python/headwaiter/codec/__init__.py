"""Between plain Python and the wire, for every client alike: arguments to requests, replies to results."""

from headwaiter.codec.embedding import embed_reply, embed_request, stream_request, streamed_reply
from headwaiter.codec.encoders import (
    classify_reply,
    classify_request,
    rerank_reply,
    rerank_request,
    tag_reply,
    tag_request,
    tokenize_reply,
    tokenize_request,
)
from headwaiter.codec.generation import Pieces, generate_reply, generate_request
from headwaiter.codec.models import get_model_request, health_request, model_info, model_infos

__all__ = [
    "Pieces",
    "classify_reply",
    "classify_request",
    "embed_reply",
    "embed_request",
    "generate_reply",
    "generate_request",
    "get_model_request",
    "health_request",
    "model_info",
    "model_infos",
    "rerank_reply",
    "rerank_request",
    "stream_request",
    "streamed_reply",
    "tag_reply",
    "tag_request",
    "tokenize_reply",
    "tokenize_request",
]
