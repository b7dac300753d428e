"""`headwaiter.v1.InferenceService`: protobuf in, protobuf out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import grpc
from google.protobuf.message import Message
from headwaiter_proto.v1 import inference_pb2

from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.pipeline import Pipeline, Timings
from headwaiter_server.rpc import classification, embedding, reranking, tagging, tokenization
from headwaiter_server.rpc.crossing import Crossing
from headwaiter_server.rpc.edge import Edge, Method
from headwaiter_server.rpc.generating import GenerationMethods
from headwaiter_server.rpc.messages import parse
from headwaiter_server.rpc.models import model_info
from headwaiter_server.rpc.status import Status
from headwaiter_server.rpc.stream import StreamMethod, Write
from headwaiter_server.rpc.wire import Counted, check_field_counts, read_number
from headwaiter_server.scheduling.admission import Permit
from headwaiter_server.scheduling.calls import Terms

SERVICE_NAME = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name

_SINGLE_FIELDS = Counted()


class _Request(Protocol):
    """What every request for texts says, in plain Python."""

    @property
    def model(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def texts(self) -> Sequence[str]: ...


class _Reply(Protocol):
    """What is known of every answer that a model has computed."""

    @property
    def timings(self) -> Timings: ...


MessageType = TypeVar("MessageType", bound=Message)
ResponseType = TypeVar("ResponseType", bound=Message)
Request = TypeVar("Request", bound=_Request)
Reply = TypeVar("Reply", bound=_Reply)


@dataclass(frozen=True)
class _Task(Generic[MessageType, Request, Reply, ResponseType]):
    """One task, from message to response.

    Attributes:
        kind: The request's message.
        counted: What is counted in it before it is parsed.
        read: Message to request.
        run: Request to reply.
        write: Reply, and the seconds since the call was first seen, to response.
    """

    kind: type[MessageType]
    counted: Counted
    read: Callable[[MessageType], Request]
    run: Callable[[Permit, Terms, Request], Awaitable[Reply]]
    write: Callable[[Reply, float], ResponseType]


class InferenceService:
    """The service's methods, on raw bytes."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._embedding = _Task(
            inference_pb2.EmbedRequest,
            embedding.COUNTED,
            embedding.read_request,
            pipeline.embed,
            embedding.write_reply,
        )

    def handlers(self, edge: Edge) -> grpc.GenericRpcHandler:
        """The service as gRPC wants it. Bytes are passed through, so that they are parsed after admission, by us."""
        pipeline = self._pipeline
        generating = GenerationMethods(pipeline)
        methods: dict[str, Method] = {
            "Generate": generating.generate,
            "Embed": self._unary(self._embedding),
            "Classify": self._unary(
                _Task(
                    inference_pb2.ClassifyRequest,
                    classification.COUNTED,
                    classification.read_request,
                    pipeline.classify,
                    classification.write_reply,
                )
            ),
            "Tag": self._unary(
                _Task(
                    inference_pb2.TagRequest,
                    tagging.COUNTED,
                    tagging.read_request,
                    pipeline.tag,
                    tagging.write_reply,
                )
            ),
            "Rerank": self._unary(
                _Task(
                    inference_pb2.RerankRequest,
                    reranking.COUNTED,
                    reranking.read_request,
                    pipeline.rerank,
                    reranking.write_reply,
                )
            ),
            "Tokenize": self.tokenize,
            "ListModels": self.list_models,
            "GetModel": self.get_model,
        }
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            name: grpc.unary_unary_rpc_method_handler(edge.unary(f"{SERVICE_NAME}/{name}", method))
            for name, method in methods.items()
        }
        handlers["GenerateStream"] = grpc.unary_stream_rpc_method_handler(
            edge.telling(f"{SERVICE_NAME}/GenerateStream", generating.generate_stream)
        )
        handlers["EmbedStream"] = grpc.stream_stream_rpc_method_handler(
            edge.stream(StreamMethod(f"{SERVICE_NAME}/EmbedStream", self.open_stream_message, pipeline.max_texts))
        )
        return grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)

    async def tokenize(self, data: bytes, permit: Permit, crossing: Crossing) -> bytes:
        """Turn each text into tokens."""
        check_field_counts(data, tokenization.COUNTED, self._pipeline.max_texts)
        request = tokenization.read_request(parse(inference_pb2.TokenizeRequest, data))
        self._recognize(request, crossing)
        reply = await self._pipeline.tokenize(permit, crossing.terms, request)
        crossing.texts = len(request.texts)
        crossing.tokenize_seconds = reply.tokenize_seconds
        pipeline = self._pipeline

        def write() -> bytes:
            return tokenization.write_reply(reply, pipeline.clock() - crossing.terms.arrived).SerializeToString()

        return await pipeline.read(crossing.terms.spending, write, len(reply.tokens), reply.characters)

    async def list_models(self, data: bytes, _permit: Permit, _crossing: Crossing) -> bytes:
        """List the models that are loaded."""
        check_field_counts(data, _SINGLE_FIELDS)
        parse(inference_pb2.ListModelsRequest, data)
        models = [model_info(model) for model in self._pipeline.models()]
        return inference_pb2.ListModelsResponse(models=models).SerializeToString()

    async def get_model(self, data: bytes, _permit: Permit, crossing: Crossing) -> bytes:
        """Describe one model."""
        check_field_counts(data, _SINGLE_FIELDS)
        message = parse(inference_pb2.GetModelRequest, data)
        model = self._pipeline.find(message.model, message.version)
        crossing.recognize(model)
        return inference_pb2.GetModelResponse(model=model_info(model)).SerializeToString()

    def open_stream_message(self, data: bytes) -> StreamedEmbedding:
        """One message of `EmbedStream`.

        Raises:
            InvalidRequestError: The bytes are none, and so carry no id to answer to.
        """
        number = read_number(data, embedding.ID_NUMBER)
        try:
            check_field_counts(data, embedding.COUNTED_IN_STREAM, self._pipeline.max_texts)
        except InvalidRequestError as error:
            # Kept without its frames, which hold the message.
            return StreamedEmbedding(self, number, error.with_traceback(None))
        message = parse(inference_pb2.EmbedStreamRequest, data)
        return StreamedEmbedding(self, message.id, message.request)

    async def embed(
        self, message: inference_pb2.EmbedRequest, permit: Permit, crossing: Crossing
    ) -> inference_pb2.EmbedResponse:
        """Turn each text into a vector."""
        return await self._answer(self._embedding, message, permit, crossing)

    def _unary(self, task: _Task[MessageType, Request, Reply, ResponseType]) -> Method:
        """A method on raw bytes that does a task."""

        async def method(data: bytes, permit: Permit, crossing: Crossing) -> bytes:
            check_field_counts(data, task.counted, self._pipeline.max_texts)
            response = await self._answer(task, parse(task.kind, data), permit, crossing)
            return response.SerializeToString()

        return method

    async def _answer(
        self,
        task: _Task[MessageType, Request, Reply, ResponseType],
        message: MessageType,
        permit: Permit,
        crossing: Crossing,
    ) -> ResponseType:
        request = task.read(message)
        self._recognize(request, crossing, len(request.texts))
        reply = await task.run(permit, crossing.terms, request)
        crossing.texts = len(request.texts)
        crossing.recorded(reply.timings)
        return task.write(reply, self._pipeline.clock() - crossing.terms.arrived)

    def _recognize(self, request: _Request, crossing: Crossing, rows: int = 0) -> None:
        """Note the model, so that also a call that fails is recorded under it."""
        crossing.recognize(self._pipeline.find(request.model, request.version), rows)


@dataclass(slots=True)
class StreamedEmbedding:
    """One message of `EmbedStream`; implements `StreamMessage`.

    Attributes:
        service: Who answers it.
        number: Its id.
        request: What to embed; or why that cannot be read.
    """

    service: InferenceService
    number: int
    request: inference_pb2.EmbedRequest | InvalidRequestError

    @property
    def in_order(self) -> bool:
        """See `StreamMessage`."""
        return False

    @property
    def texts(self) -> int:
        """See `StreamMessage`."""
        return 0 if isinstance(self.request, InvalidRequestError) else len(self.request.texts)

    async def answer(self, permit: Permit, crossing: Crossing, write: Write) -> bytes:  # noqa: ARG002 - one answer
        """See `StreamMessage`."""
        if isinstance(self.request, InvalidRequestError):
            raise self.request
        response = await self.service.embed(self.request, permit, crossing)
        return embedding.write_stream_reply(self.number, response).SerializeToString()

    def refuse(self, status: Status) -> bytes:
        """See `StreamMessage`."""
        return embedding.write_stream_error(self.number, status).SerializeToString()
