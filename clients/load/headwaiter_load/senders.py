"""Sends one message and waits for what comes of it: a call of its own, or a message of a long-lived stream."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import grpc
from headwaiter_proto.inference import grpc_service_pb2 as inference
from headwaiter_proto.v1 import inference_pb2

from headwaiter_load.endpoint import Metadata
from headwaiter_load.generation_senders import GenerateStreamSender, whole_answer
from headwaiter_load.outcome import OK, Outcome, failure
from headwaiter_load.requests import Exchange

_CODES: Final = {code.value[0]: code.name for code in grpc.StatusCode}

_LATE: Final = Outcome("DEADLINE_EXCEEDED", "no answer within the deadline")


class Sender(Protocol):
    """Sends messages."""

    async def send(self, payload: bytes, timeout_seconds: float | None) -> Outcome:
        """Sends one, and waits for what comes of it; never raises but when cancelled."""

    async def close(self) -> None:
        """Ends what it holds open."""


class UnarySender:
    """Each message is a call with one answer; channels take turns."""

    def __init__(
        self, channels: Sequence[grpc.aio.Channel], path: str, metadata: Metadata, read: Callable[[bytes], Outcome]
    ) -> None:
        methods: list[grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = [each.unary_unary(path) for each in channels]
        self._methods = itertools.cycle(methods)
        self._metadata = metadata or None
        self._read = read

    async def send(self, payload: bytes, timeout_seconds: float | None) -> Outcome:
        """As of `Sender`."""
        try:
            answer = await next(self._methods)(payload, timeout=timeout_seconds, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            return failure(error)
        return self._read(answer)

    async def close(self) -> None:
        """Nothing is held open."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a stream.

    Attributes:
        number: Of the message that it answers; None if it does not say.
        outcome: What came of that; None if more answers follow.
    """

    number: int | None
    outcome: Outcome | None


class StreamSender:
    """Messages of streams, one for each channel; answers are told apart by their numbers.

    A stream that breaks fails what waits on it, and the next message opens another.
    """

    def __init__(
        self,
        channels: Sequence[grpc.aio.Channel],
        path: str,
        metadata: Metadata,
        number: Callable[[int, bytes], bytes],
        read: Callable[[bytes], Answer],
    ) -> None:
        lanes = [_StreamLane(each, path, metadata, number, read) for each in channels]
        self._lanes = lanes
        self._turns = itertools.cycle(lanes)

    async def send(self, payload: bytes, timeout_seconds: float | None) -> Outcome:
        """As of `Sender`; the deadline is kept here, since the server is told none for a single message."""
        return await next(self._turns).send(payload, timeout_seconds)

    async def close(self) -> None:
        """Ends the streams."""
        for lane in self._lanes:
            await lane.close()


class _StreamLane:
    """One channel's stream."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        path: str,
        metadata: Metadata,
        number: Callable[[int, bytes], bytes],
        read: Callable[[bytes], Answer],
    ) -> None:
        self._method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)
        self._metadata = metadata or None
        self._number = number
        self._read = read
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Outcome]] = {}
        # Numbers of messages to be sent, and those messages for which somebody still waits.
        self._unsent: asyncio.Queue[int] = asyncio.Queue()
        self._messages: dict[int, bytes] = {}
        self._stream: asyncio.Task[None] | None = None

    async def send(self, payload: bytes, timeout_seconds: float | None) -> Outcome:
        if self._stream is None or self._stream.done():
            self._stream = asyncio.create_task(self._run())
        number = next(self._numbers)
        answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answered
        self._messages[number] = self._number(number, payload)
        self._unsent.put_nowait(number)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await answered
        except TimeoutError:
            return _LATE
        finally:
            self._waiting.pop(number, None)
            self._messages.pop(number, None)

    async def close(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            with suppress(asyncio.CancelledError):
                await self._stream

    async def _run(self) -> None:
        """One stream, from its first message to its end."""
        call = self._method(metadata=self._metadata)
        writing = asyncio.create_task(self._write(call))
        broken = Outcome("UNAVAILABLE", "the server ended the stream")
        try:
            while isinstance(answer := await call.read(), bytes):
                self._take(answer)
        except grpc.aio.AioRpcError as error:
            broken = failure(error)
        finally:
            writing.cancel()
            call.cancel()
            # What was not sent yet would go to a stream that knows nothing of it; it fails with the rest.
            self._unsent = asyncio.Queue()
            for each in self._waiting.values():
                if not each.done():
                    each.set_result(broken)

    async def _write(self, call: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
        unsent = self._unsent
        # A broken stream is told by the reader, with its status.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                message = self._messages.pop(await unsent.get(), None)
                if message is not None:
                    await call.write(message)

    def _take(self, raw: bytes) -> None:
        answer = self._read(raw)
        if answer.outcome is None:
            return
        # An error without a number can only be of the oldest.
        number = next(iter(self._waiting), 0) if answer.number is None else answer.number
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer.outcome)


def make_sender(exchange: Exchange, channels: Sequence[grpc.aio.Channel], path: str, metadata: Metadata) -> Sender:
    """The sender for a run's kind of messages."""
    match exchange:
        case "unary":
            return UnarySender(channels, path, metadata, _any_answer)
        case "generate":
            return UnarySender(channels, path, metadata, whole_answer)
        case "generate-stream":
            return GenerateStreamSender(channels, path, metadata)
        case "embed-stream":
            return StreamSender(channels, path, metadata, _embed_message, _embed_answer)
        case "infer-stream":
            return StreamSender(channels, path, metadata, _infer_message, _infer_answer)


def _any_answer(raw: bytes) -> Outcome:
    """That there is one is all that counts."""
    return Outcome(OK, received_bytes=len(raw))


def _embed_message(number: int, payload: bytes) -> bytes:
    """An `EmbedStreamRequest` around the bytes of an `EmbedRequest`, without parsing them: fields 1 and 2."""
    return b"\x08" + _varint(number) + b"\x12" + _varint(len(payload)) + payload


def _embed_answer(raw: bytes) -> Answer:
    answer = inference_pb2.EmbedStreamResponse.FromString(raw)
    if answer.WhichOneof("outcome") == "error":
        code = _CODES.get(answer.error.code, "UNKNOWN")
        return Answer(answer.id, Outcome(code, answer.error.message, len(raw)))
    return Answer(answer.id, _any_answer(raw))


def _infer_message(number: int, payload: bytes) -> bytes:
    """A `ModelInferRequest` with an id: field 3, behind the others, where it may stand as well."""
    text = str(number).encode()
    return payload + b"\x1a" + _varint(len(text)) + text


def _infer_answer(raw: bytes) -> Answer:
    answer = inference.ModelStreamInferResponse.FromString(raw)
    number = int(answer.infer_response.id) if answer.infer_response.id.isdecimal() else None
    if answer.error_message:
        return Answer(number, Outcome("UNKNOWN", answer.error_message, len(raw)))
    final = answer.infer_response.parameters.get("triton_final_response")
    if final is not None and not final.bool_param:
        return Answer(number, None)
    return Answer(number, _any_answer(raw))


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a byte
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
