"""A real gRPC server on a free port whose answers a test writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from headwaiter_proto.v1 import bundle_pb2, inference_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

# Takes the request's bytes, and gives the response's or calls `refuse`.
Script = Callable[[bytes, grpc.ServicerContext], bytes]
# The same for a stream of requests and one of responses.
StreamScript = Callable[["Iterator[bytes]", grpc.ServicerContext], "Iterator[bytes]"]
# The same for one request and a stream of responses.
AnswerStreamScript = Callable[[bytes, grpc.ServicerContext], "Iterator[bytes]"]

SERVING = b"\x08\x01"
NOT_SERVING = b"\x08\x02"


@dataclass(frozen=True)
class Call:
    """One attempt as the server saw it."""

    method: str
    request: bytes
    metadata: dict[str, str | bytes]
    time_remaining: float
    arrived: float


class ScriptedServer:
    """Answers each method by its script, and remembers every attempt."""

    def __init__(
        self,
        scripts: dict[str, Script] | None = None,
        *,
        streams: dict[str, StreamScript] | None = None,
        answer_streams: dict[str, AnswerStreamScript] | None = None,
        watch: bytes | None = SERVING,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.scripts: dict[str, Script] = {
            "Generate": upper_case,
            "ListModels": lambda request, context: LIST_MODELS.SerializeToString(),
            "GetModel": get_model,
            "Check": lambda request, context: SERVING,
        } | (scripts or {})
        self.streams = streams or {}
        self.answer_streams = answer_streams or {}
        self.calls: list[Call] = []
        self._watch = watch
        self._server = grpc.server(
            futures.ThreadPoolExecutor(16),
            handlers=[_Router(self)],
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 * 2**20)],
        )
        if credentials is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.target = f"127.0.0.1:{self.port}"

    def start(self) -> ScriptedServer:
        self._server.start()
        return self

    def stop(self) -> None:
        self._server.stop(grace=None).wait()

    def handler(self, method: str, metadata: dict[str, str | bytes]) -> grpc.RpcMethodHandler[Any, Any] | None:
        if method == "Watch":
            return None if self._watch is None else grpc.unary_stream_rpc_method_handler(self._report_health)

        if method in self.streams:
            return grpc.stream_stream_rpc_method_handler(self.streams[method])

        def seen(request: bytes, context: grpc.ServicerContext) -> None:
            remaining = context.time_remaining()
            self.calls.append(Call(method, request, metadata, remaining, time.monotonic()))

        def answer_stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            seen(request, context)
            yield from self.answer_streams[method](request, context)

        if method in self.answer_streams:
            return grpc.unary_stream_rpc_method_handler(answer_stream)

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            seen(request, context)
            return self.scripts[method](request, context)

        return grpc.unary_unary_rpc_method_handler(answer) if method in self.scripts else None

    def _report_health(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        assert self._watch is not None
        yield self._watch
        ended = threading.Event()
        # False says that the call has ended already.
        if context.add_callback(ended.set):
            ended.wait()


class _Router(grpc.GenericRpcHandler):
    def __init__(self, server: ScriptedServer) -> None:
        self._server = server

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        metadata: Any = details.invocation_metadata
        return self._server.handler(details.method.rpartition("/")[2], dict(tuple(metadata)))


def refuse(
    context: grpc.ServicerContext,
    code: grpc.StatusCode,
    message: str = "",
    *,
    detail: Message | None = None,
    pushback: str | None = None,
) -> bytes:
    """Ends the call with a status, as a Headwaiter server would."""
    trailing: list[tuple[str, str | bytes]] = []
    if detail is not None:
        status = status_pb2.Status(code=code.value[0], message=message)
        status.details.add().Pack(detail)
        trailing.append(("grpc-status-details-bin", status.SerializeToString()))
    if pushback is not None:
        trailing.append(("grpc-retry-pushback-ms", pushback))
    context.set_trailing_metadata(tuple(trailing))
    context.abort(code, message)
    raise AssertionError


def bad_request(field: str, description: str) -> Message:
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
    detail: Message = error_details_pb2.BadRequest(field_violations=[violation])
    return detail


def retry_info(seconds: float) -> Message:
    delay = duration_pb2.Duration()
    delay.FromMilliseconds(round(seconds * 1000))
    detail: Message = error_details_pb2.RetryInfo(retry_delay=delay)
    return detail


def upper_case(raw: bytes, context: grpc.ServicerContext) -> bytes:
    """Generates each text in upper case, one token a character."""
    request = inference_pb2.GenerateRequest.FromString(raw)
    return inference_pb2.GenerateResponse(
        model=request.model or "shout",
        version=request.version or 3,
        variant="fp32",
        generations=[
            inference_pb2.Generation(
                text=text.upper()[: request.max_new_tokens or None],
                token_ids=[ord(character) for character in text.upper()],
                finish_reason=inference_pb2.FINISH_REASON_END_OF_SEQUENCE,
                source_tokens=len(text) + 2,
            )
            for text in request.texts
        ],
        timings=inference_pb2.Timings(
            total_seconds=0.5,
            tokenize_seconds=0.125,
            queue_seconds=0.0625,
            inference_seconds=0.25,
            batch_size=8,
            batch_tokens=90,
            batch_id=41,
        ),
    ).SerializeToString()


MODEL = inference_pb2.ModelInfo(
    name="shout",
    version=3,
    task=bundle_pb2.TASK_GENERATE,
    architecture="transformer",
    variant="fp32",
    limits=bundle_pb2.Limits(max_source_tokens=64, max_new_tokens=48),
    graph_kind=bundle_pb2.GRAPH_KIND_PADDED,
)
LIST_MODELS = inference_pb2.ListModelsResponse(models=[MODEL])


def get_model(raw: bytes, context: grpc.ServicerContext) -> bytes:
    request = inference_pb2.GetModelRequest.FromString(raw)
    if request.model not in {"", "shout"} or request.version not in {0, 3}:
        return refuse(context, grpc.StatusCode.NOT_FOUND, f"no model {request.model!r}")
    return inference_pb2.GetModelResponse(model=MODEL).SerializeToString()
