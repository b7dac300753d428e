"""Every method that the clients call, in one list: path, messages, result.

A client turns an entry into a call, blocking or awaited; nothing about a method is written down twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from headwaiter_proto.v1 import inference_pb2

from headwaiter import codec, health

if TYPE_CHECKING:
    from collections.abc import Callable

    from headwaiter.results import (
        ClassifyReply,
        EmbedReply,
        GenerateReply,
        HealthStatus,
        ModelInfo,
        RerankReply,
        StreamedReply,
        TagReply,
        TokenizeReply,
    )

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
ResultT = TypeVar("ResultT")


# Compared by identity: entries are the keys under which clients keep their prepared calls.
@dataclass(frozen=True, slots=True, eq=False)
class UnaryMethod(Generic[RequestT, ResponseT, ResultT]):
    """A method with one request and one response.

    Attributes:
        path: Its full name on the wire, `/package.Service/Method`.
        serialize: Request to bytes.
        deserialize: Bytes to response.
        decode: Response to what the caller gets.
        to_any_health: Whether it must also reach a server that says it is not serving.
    """

    path: str
    serialize: Callable[[RequestT], bytes]
    deserialize: Callable[[bytes], ResponseT]
    decode: Callable[[ResponseT], ResultT]
    to_any_health: bool = False

    # Any, because what a blocking and an asyncio channel return here share no type.
    def on(self, channel: Any) -> Any:  # noqa: ANN401
        """What a channel calls this method by."""
        return channel.unary_unary(self.path, request_serializer=self.serialize, response_deserializer=self.deserialize)


@dataclass(frozen=True, slots=True, eq=False)
class StreamMethod(Generic[RequestT, ResponseT, ResultT]):
    """A method with a stream of requests and a stream of responses; attributes as of `UnaryMethod`."""

    path: str
    serialize: Callable[[RequestT], bytes]
    deserialize: Callable[[bytes], ResponseT]
    decode: Callable[[ResponseT], ResultT]
    to_any_health: bool = False

    def on(self, channel: Any) -> Any:  # noqa: ANN401 - as above
        """What a channel calls this method by."""
        return channel.stream_stream(
            self.path, request_serializer=self.serialize, response_deserializer=self.deserialize
        )


@dataclass(frozen=True, slots=True, eq=False)
class AnswerStreamMethod(Generic[RequestT, ResponseT]):
    """A method with one request and a stream of responses; attributes as of `UnaryMethod`."""

    path: str
    serialize: Callable[[RequestT], bytes]
    deserialize: Callable[[bytes], ResponseT]
    to_any_health: bool = False

    def on(self, channel: Any) -> Any:  # noqa: ANN401 - as above
        """What a channel calls this method by."""
        return channel.unary_stream(
            self.path, request_serializer=self.serialize, response_deserializer=self.deserialize
        )


def _same(status: HealthStatus) -> HealthStatus:
    return status


INFERENCE_SERVICE = "headwaiter.v1.InferenceService"

GENERATE: UnaryMethod[inference_pb2.GenerateRequest, inference_pb2.GenerateResponse, GenerateReply] = UnaryMethod(
    f"/{INFERENCE_SERVICE}/Generate",
    inference_pb2.GenerateRequest.SerializeToString,
    inference_pb2.GenerateResponse.FromString,
    codec.generate_reply,
)
GENERATE_STREAM: AnswerStreamMethod[inference_pb2.GenerateRequest, inference_pb2.GenerateStreamResponse] = (
    AnswerStreamMethod(
        f"/{INFERENCE_SERVICE}/GenerateStream",
        inference_pb2.GenerateRequest.SerializeToString,
        inference_pb2.GenerateStreamResponse.FromString,
    )
)
EMBED: UnaryMethod[inference_pb2.EmbedRequest, inference_pb2.EmbedResponse, EmbedReply] = UnaryMethod(
    f"/{INFERENCE_SERVICE}/Embed",
    inference_pb2.EmbedRequest.SerializeToString,
    inference_pb2.EmbedResponse.FromString,
    codec.embed_reply,
)
EMBED_STREAM: StreamMethod[inference_pb2.EmbedStreamRequest, inference_pb2.EmbedStreamResponse, StreamedReply] = (
    StreamMethod(
        f"/{INFERENCE_SERVICE}/EmbedStream",
        inference_pb2.EmbedStreamRequest.SerializeToString,
        inference_pb2.EmbedStreamResponse.FromString,
        codec.streamed_reply,
    )
)
CLASSIFY: UnaryMethod[inference_pb2.ClassifyRequest, inference_pb2.ClassifyResponse, ClassifyReply] = UnaryMethod(
    f"/{INFERENCE_SERVICE}/Classify",
    inference_pb2.ClassifyRequest.SerializeToString,
    inference_pb2.ClassifyResponse.FromString,
    codec.classify_reply,
)
TAG: UnaryMethod[inference_pb2.TagRequest, inference_pb2.TagResponse, TagReply] = UnaryMethod(
    f"/{INFERENCE_SERVICE}/Tag",
    inference_pb2.TagRequest.SerializeToString,
    inference_pb2.TagResponse.FromString,
    codec.tag_reply,
)
RERANK: UnaryMethod[inference_pb2.RerankRequest, inference_pb2.RerankResponse, RerankReply] = UnaryMethod(
    f"/{INFERENCE_SERVICE}/Rerank",
    inference_pb2.RerankRequest.SerializeToString,
    inference_pb2.RerankResponse.FromString,
    codec.rerank_reply,
)
TOKENIZE: UnaryMethod[inference_pb2.TokenizeRequest, inference_pb2.TokenizeResponse, TokenizeReply] = UnaryMethod(
    f"/{INFERENCE_SERVICE}/Tokenize",
    inference_pb2.TokenizeRequest.SerializeToString,
    inference_pb2.TokenizeResponse.FromString,
    codec.tokenize_reply,
)
LIST_MODELS: UnaryMethod[inference_pb2.ListModelsRequest, inference_pb2.ListModelsResponse, tuple[ModelInfo, ...]] = (
    UnaryMethod(
        f"/{INFERENCE_SERVICE}/ListModels",
        inference_pb2.ListModelsRequest.SerializeToString,
        inference_pb2.ListModelsResponse.FromString,
        codec.model_infos,
    )
)
GET_MODEL: UnaryMethod[inference_pb2.GetModelRequest, inference_pb2.GetModelResponse, ModelInfo] = UnaryMethod(
    f"/{INFERENCE_SERVICE}/GetModel",
    inference_pb2.GetModelRequest.SerializeToString,
    inference_pb2.GetModelResponse.FromString,
    codec.model_info,
)
CHECK_HEALTH: UnaryMethod[str, HealthStatus, HealthStatus] = UnaryMethod(
    "/grpc.health.v1.Health/Check",
    health.encode_request,
    health.decode_response,
    _same,
    to_any_health=True,
)
