"""`classify`, `tag`, `rerank` and `tokenize`: arguments to requests, replies to results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwaiter_proto.v1 import inference_pb2

from headwaiter.codec.arguments import as_number, as_texts, as_unicode, as_version
from headwaiter.codec.timings import reading_of, timings_of
from headwaiter.results import (
    Classification,
    ClassifyReply,
    RankedText,
    RerankReply,
    Span,
    Tagging,
    TagReply,
    Tokenization,
    TokenizeReply,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def classify_request(
    texts: str | Sequence[str],
    second_texts: str | Sequence[str],
    *,
    model: str,
    version: int,
    truncate: bool,
    raw_scores: bool,
) -> inference_pb2.ClassifyRequest:
    """The request for one `classify` call.

    Raises:
        InvalidRequestError: A value cannot be written to the wire.
    """
    return inference_pb2.ClassifyRequest(
        model=as_unicode("model", model),
        version=as_version(version),
        texts=as_texts(texts),
        second_texts=as_texts(second_texts, "second_texts"),
        truncate=truncate,
        raw_scores=raw_scores,
    )


def classify_reply(response: inference_pb2.ClassifyResponse) -> ClassifyReply:
    """The result of one `classify` call."""
    return ClassifyReply(
        model=response.model,
        version=response.version,
        variant=response.variant,
        labels=tuple(response.labels),
        classifications=tuple(Classification(tuple(each.scores)) for each in response.classifications),
        reading=reading_of(response.reading),
        timings=timings_of(response.timings),
    )


def tag_request(
    texts: str | Sequence[str], *, model: str, version: int, truncate: bool, raw_scores: bool, aggregate: bool
) -> inference_pb2.TagRequest:
    """The request for one `tag` call.

    Raises:
        InvalidRequestError: A value cannot be written to the wire.
    """
    return inference_pb2.TagRequest(
        model=as_unicode("model", model),
        version=as_version(version),
        texts=as_texts(texts),
        truncate=truncate,
        raw_scores=raw_scores,
        aggregation=inference_pb2.AGGREGATION_UNSPECIFIED if aggregate else inference_pb2.AGGREGATION_NONE,
    )


def tag_reply(response: inference_pb2.TagResponse) -> TagReply:
    """The result of one `tag` call."""
    return TagReply(
        model=response.model,
        version=response.version,
        variant=response.variant,
        taggings=tuple(
            Tagging(tuple(Span(span.start, span.end, span.label, span.score) for span in each.spans))
            for each in response.taggings
        ),
        reading=reading_of(response.reading),
        timings=timings_of(response.timings),
    )


def rerank_request(
    query: str,
    texts: str | Sequence[str],
    *,
    model: str,
    version: int,
    truncate: bool,
    raw_scores: bool,
    top_n: int,
) -> inference_pb2.RerankRequest:
    """The request for one `rerank` call.

    Raises:
        InvalidRequestError: A value cannot be written to the wire.
    """
    return inference_pb2.RerankRequest(
        model=as_unicode("model", model),
        version=as_version(version),
        query=as_unicode("query", query),
        texts=as_texts(texts),
        truncate=truncate,
        raw_scores=raw_scores,
        top_n=as_number("top_n", top_n),
    )


def rerank_reply(response: inference_pb2.RerankResponse) -> RerankReply:
    """The result of one `rerank` call."""
    return RerankReply(
        model=response.model,
        version=response.version,
        variant=response.variant,
        ranking=tuple(RankedText(each.index, each.score) for each in response.ranking),
        reading=reading_of(response.reading),
        timings=timings_of(response.timings),
    )


def tokenize_request(texts: str | Sequence[str], *, model: str, version: int) -> inference_pb2.TokenizeRequest:
    """The request for one `tokenize` call.

    Raises:
        InvalidRequestError: A value cannot be written to the wire.
    """
    return inference_pb2.TokenizeRequest(
        model=as_unicode("model", model), version=as_version(version), texts=as_texts(texts)
    )


def tokenize_reply(response: inference_pb2.TokenizeResponse) -> TokenizeReply:
    """The result of one `tokenize` call."""
    return TokenizeReply(
        model=response.model,
        version=response.version,
        tokenizations=tuple(
            Tokenization(tuple(each.ids), tuple(each.tokens), tuple(each.starts), tuple(each.ends))
            for each in response.tokenizations
        ),
        timings=timings_of(response.timings),
    )
