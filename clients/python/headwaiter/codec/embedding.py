"""`embed` and `embed_stream`: arguments to requests, replies to results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwaiter_proto.v1 import inference_pb2

from headwaiter.codec.arguments import as_number, as_texts, as_unicode, as_version
from headwaiter.codec.timings import reading_of, timings_of
from headwaiter.results import EmbedReply, StreamedReply
from headwaiter.status import error_from_stream
from headwaiter.vectors import unpack

if TYPE_CHECKING:
    from collections.abc import Sequence


def embed_request(
    texts: str | Sequence[str],
    *,
    model: str,
    version: int,
    truncate: bool,
    prompt: str | None,
    dimensions: int,
    normalize: bool | None,
) -> inference_pb2.EmbedRequest:
    """The request for one `embed` call.

    Raises:
        InvalidRequestError: A value cannot be written to the wire.
    """
    request = inference_pb2.EmbedRequest(
        model=as_unicode("model", model),
        version=as_version(version),
        texts=as_texts(texts),
        truncate=truncate,
        dimensions=as_number("dimensions", dimensions),
    )
    # To the wire, these not being there is another thing than their zeros.
    if prompt is not None:
        request.prompt = as_unicode("prompt", prompt)
    if normalize is not None:
        request.normalize = normalize
    return request


def embed_reply(response: inference_pb2.EmbedResponse) -> EmbedReply:
    """The result of one `embed` call."""
    return EmbedReply(
        model=response.model,
        version=response.version,
        variant=response.variant,
        vectors=unpack(response.vectors, response.dimension),
        dimension=response.dimension,
        reading=reading_of(response.reading),
        timings=timings_of(response.timings),
    )


def stream_request(index: int, request: inference_pb2.EmbedRequest) -> inference_pb2.EmbedStreamRequest:
    """One message of an `embed_stream`."""
    return inference_pb2.EmbedStreamRequest(id=index, request=request)


def streamed_reply(response: inference_pb2.EmbedStreamResponse) -> StreamedReply:
    """The result of one message of an `embed_stream`."""
    if response.WhichOneof("outcome") == "response":
        return StreamedReply(response.id, embed_reply(response.response), None)
    error = response.error
    return StreamedReply(response.id, None, error_from_stream(error.code, error.message, error.retry_seconds))
