"""Calls of raw bytes, and what is wrong with how they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from headwaiter_proto.inference import grpc_service_pb2 as oip
from headwaiter_proto.v1 import inference_pb2 as v1
from reliability.fuzz_cases import Case
from reliability.fuzz_methods import Method

# By then every call must have been answered: many times what the dearest of them takes on a busy machine.
LIMIT_SECONDS = 60.0

_TROUBLES = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS)
# What no message to a caller may hold.
_INSIDES = ("Traceback", "Exception", '.py"', "/home/", "/usr/", "/tmp/", "site-packages", "<class")  # noqa: S108 - looked for
_STREAMED: dict[str, Any] = {"EmbedStream": v1.EmbedStreamResponse, "ModelStreamInfer": oip.ModelStreamInferResponse}
_CHANNELS = 4
# What gRPC's client says in place of the status where a call ends while it writes.
_ENDED_WHILE_WRITING = "Internal error from Core"
_MOST_TRIES = 5


@dataclass
class Ended:
    """How a call ended.

    Attributes:
        code: Its status.
        details: Its message.
        trailers: Its trailing metadata.
        answers: What came before.
        seconds: How long it took.
    """

    code: grpc.StatusCode
    details: str
    trailers: dict[str, str | bytes]
    answers: list[bytes] = field(default_factory=list)
    seconds: float = 0.0


class Caller:
    """Makes calls over a few connections, none of them twice."""

    def __init__(self, channels: Sequence[grpc.aio.Channel], methods: Iterable[Method]) -> None:
        self._channels = channels
        self._methods = {each.path: each for each in methods}
        self._next = 0

    async def call(self, case: Case) -> Ended:
        """Make the call of a case, to its end."""
        for _ in range(_MOST_TRIES):
            ended = await self._call(case)
            if ended.details != _ENDED_WHILE_WRITING:
                return ended
            if case.timeout_seconds is not None or case.cancel_after is not None:
                return replace(ended, code=grpc.StatusCode.DEADLINE_EXCEEDED)
        return ended

    async def _call(self, case: Case) -> Ended:
        began = time.monotonic()
        answers: list[bytes] = []
        timeout = LIMIT_SECONDS if case.timeout_seconds is None else case.timeout_seconds
        try:
            call = self._begin(case, timeout)
            if case.cancel_after == 0:
                await asyncio.sleep(0)
                call.cancel()
            elif isinstance(call, grpc.aio.UnaryUnaryCall):
                answers.append(await call)
            else:
                async for answer in call:
                    answers.append(answer)
                    if case.cancel_after == len(answers):
                        call.cancel()
            code, details, trailers = await call.code(), await call.details(), await call.trailing_metadata()
        except grpc.aio.AioRpcError as error:
            code, details, trailers = error.code(), error.details() or "", error.trailing_metadata()
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            code, details, trailers = grpc.StatusCode.CANCELLED, "", None
        pairs: Any = trailers or ()  # gRPC's type is one of another thing
        return Ended(code, details or "", dict(pairs), answers, time.monotonic() - began)

    def _begin(self, case: Case, timeout: float) -> Any:  # noqa: ANN401 - one of gRPC's four kinds of calls
        self._next += 1
        channel: Any = self._channels[self._next % len(self._channels)]  # whose calls are typed by their messages
        method, metadata = self._methods[case.path], grpc.aio.Metadata(*case.metadata)
        if method.sends_many or len(case.messages) != 1:
            return channel.stream_stream(case.path)(iter(case.messages), timeout=timeout, metadata=metadata)
        if method.gets_many:
            return channel.unary_stream(case.path)(case.messages[0], timeout=timeout, metadata=metadata)
        return channel.unary_unary(case.path)(case.messages[0], timeout=timeout, metadata=metadata)


@asynccontextmanager
async def calling(target: str, methods: Iterable[Method]) -> AsyncIterator[Caller]:
    """Callers of a server."""
    options = [
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
    ]
    channels = [grpc.aio.insecure_channel(target, options=options) for _ in range(_CHANNELS)]
    try:
        yield Caller(channels, methods)
    finally:
        for channel in channels:
            await channel.close()


def problem(case: Case, ended: Ended) -> str | None:  # noqa: PLR0911 - one for each
    """What is wrong with how a call ended; None if nothing is."""
    code = ended.code
    if ended.seconds > LIMIT_SECONDS - 1:
        return f"hung: no answer in {ended.seconds:.0f} s"
    if code in _TROUBLES:
        return f"{code.name}: {ended.details}"
    if "metadata size exceeds" in ended.details:
        return f"its status is too long to be sent: {ended.details}"
    if code is grpc.StatusCode.UNAVAILABLE and "grpc-retry-pushback-ms" not in ended.trailers:
        return f"the connection broke: {ended.details}"
    if code is grpc.StatusCode.CANCELLED and case.cancel_after is None and case.timeout_seconds is None:
        return f"cancelled by somebody else: {ended.details}"
    if code is grpc.StatusCode.INVALID_ARGUMENT and not _named_field(ended):
        return f"INVALID_ARGUMENT without the field: {ended.details}"
    if any(each in ended.details for each in _INSIDES) and not _sent(case, ended.details):
        return f"tells of the server's insides: {ended.details}"
    return _problem_in_stream(case, ended)


def _named_field(ended: Ended) -> str:
    details, violations = ended.trailers.get("grpc-status-details-bin"), error_details_pb2.BadRequest()
    if not isinstance(details, bytes):
        return ""
    status = status_pb2.Status.FromString(details)
    if not status.details or not status.details[0].Unpack(violations):
        return ""
    name: str = violations.field_violations[0].field
    return name


def _sent(case: Case, details: str) -> bool:
    """Whether what looks like insides are the caller's own words, told back."""
    told = [each for each in _INSIDES if each in details]
    return all(any(each.encode() in data for data in case.messages) for each in told)


def _problem_in_stream(case: Case, ended: Ended) -> str | None:
    kind = _STREAMED.get(case.path.rpartition("/")[2])
    for data in ended.answers if kind is not None else ():
        answer: Any = kind.FromString(data) if kind is not None else None
        if isinstance(answer, oip.ModelStreamInferResponse):
            code, message = grpc.StatusCode.OK.value[0], answer.error_message
        else:
            code, message = answer.error.code, answer.error.message
        if code in [each.value[0] for each in _TROUBLES] or message.startswith("internal error"):
            return f"an answer on the stream says {code}: {message}"
    return None


def reached(method: Method, ended: Ended) -> bool:
    """Whether a call certainly came as far as the tokenizer or a model: it was answered, or says what it took there."""
    if "headwaiter-tokenize-seconds" in ended.trailers:
        return True
    if not method.computes:
        return False
    if method.sends_many:
        return any(_answered(method, data) for data in ended.answers)
    return bool(ended.answers)


def _answered(method: Method, data: bytes) -> bool:
    answer: Any = _STREAMED[method.name].FromString(data)
    if isinstance(answer, oip.ModelStreamInferResponse):
        return not answer.error_message
    return bool(answer.HasField("response"))
