"""One stream of messages: read as fast as they are answered, each answered on its own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import grpc

from headwaiter_server.access.clients import Client
from headwaiter_server.access.gate import Visitor
from headwaiter_server.errors import (
    DeadlineExceededError,
    DeadlineUnreachableError,
    OverloadedError,
    QueueFullError,
    QuotaExceededError,
    RequestError,
)
from headwaiter_server.metrics import Metrics
from headwaiter_server.rpc.crossing import Crossing, cancelled_code
from headwaiter_server.rpc.status import Status, status_of
from headwaiter_server.scheduling.admission import Admission, Permit
from headwaiter_server.scheduling.calls import Terms
from headwaiter_server.tracing import CallSpan

# Unanswered messages of one stream from which on no further message is read: enough of one text each to fill the runs
# of a few workers, and few enough that what a stream holds is small.
MOST_MESSAGES = 64

Write = Callable[[bytes], Awaitable[None]]


class StreamMessage(Protocol):
    """A message that can be answered."""

    @property
    def texts(self) -> int:
        """How many texts it holds."""
        ...

    @property
    def in_order(self) -> bool:
        """Whether its answer comes after those of the messages before it that are in order, too."""
        ...

    async def answer(self, permit: Permit, crossing: Crossing, write: Write) -> bytes:
        """Compute the answer; what it raises is answered with `refuse`.

        Args:
            permit: Its place in the server.
            crossing: Told of it.
            write: Sends what comes before the answer, of a message that is not in order; returns when there is room
                for more.
        """
        ...

    def refuse(self, status: Status) -> bytes:
        """The answer that says why there is none."""
        ...


BeginSpan = Callable[[float], CallSpan | None]


@dataclass(frozen=True)
class StreamMethod:
    """What the streams of one method have in common.

    Attributes:
        name: `package.Service/Method`, for metrics.
        open_message: Parses a message; what it raises ends the stream, as nobody could be told.
        most_texts: Texts of one stream's unanswered messages from which on no further message is read.
    """

    name: str
    open_message: Callable[[bytes], StreamMessage]
    most_texts: int


class MessageStream:
    """Reads messages, has each answered in a task of its own, and writes the answers as they come, or in order.

    A message holds a permit while it is computed. When it is refused for now, nothing is lost and nobody is told: no
    further message is read until it is let in, so that HTTP/2's flow control slows the sender down. A message also
    counts against the stream's own bounds until its answer is written, so that a slow reader costs little memory and
    nobody else's place. A quota that is used up slows the sender down likewise; a token that is revoked ends the
    stream.
    """

    def __init__(
        self,
        method: StreamMethod,
        requests: AsyncIterable[bytes],
        write: Write,
        terms: Terms,
        *,
        admission: Admission,
        metrics: Metrics,
        clock: Callable[[], float],
        begin_span: BeginSpan | None = None,
        visitor: Visitor | None = None,
    ) -> None:
        """Set up; see `Edge.stream`.

        Args:
            method: What is streamed.
            requests: The messages as bytes.
            write: Sends an answer; called by one task at a time.
            terms: What the caller asked of the scheduler for the whole stream.
            admission: Gives permits.
            metrics: Where messages are recorded.
            clock: The scheduler's clock.
            begin_span: Begins the span of a message that has arrived then, if it is to be traced.
            visitor: Who has opened it; asked anew for each message. None where everybody may.
        """
        self._method = method
        self._requests = requests
        self._write = write
        self._writing = asyncio.Lock()
        self._terms = terms
        self._admission = admission
        self._metrics = metrics
        self._clock = clock
        self._begin_span = begin_span
        self._visitor = visitor
        self._tasks = asyncio.TaskGroup()
        self._latest: asyncio.Task[None] | None = None
        self._messages = 0
        self._texts = 0
        self._refused = 0
        self._moved = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._error: BaseException | None = None

    async def serve(self) -> None:
        """Answer every message until the sender is done.

        Raises:
            Exception: The stream has ended early; every message that was let in has been answered.
        """
        async with self._tasks as tasks:
            self._reader = tasks.create_task(self._read())
        if self._error is not None:
            raise self._error

    def end(self, error: Exception) -> None:
        """Read no further, answer what was let in, and end with an error, unless the sender is done already.

        To be called when no more messages are let in: those that wait for room are refused now.
        """
        if self._reader is not None and not self._reader.done():
            self._fail(error)
        self._wake()

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error
        if self._reader is not None:
            self._reader.cancel()

    def _wake(self) -> None:
        """Have whoever waits for room look again."""
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def _read(self) -> None:
        try:
            async for data in self._requests:
                self._messages += 1
                terms = replace(self._terms, arrived=self._clock())
                self._tasks.create_task(self._serve_message(data, terms, self._latest))
                # A sender may be silent from here on, and nobody needs this one any more when it is answered.
                del data
                # The message's first turn: now it is known how many texts it has, and whether there was room for it.
                await asyncio.sleep(0)
                while self._refused or self._messages >= MOST_MESSAGES or self._texts >= self._method.most_texts:
                    await self._moved.wait()
        except RequestError as error:  # the next message was not waited for; those before it are answered
            self._error = self._error or error

    async def _serve_message(self, data: bytes, terms: Terms, before: asyncio.Task[None] | None) -> None:
        message: StreamMessage | None = None
        crossing = Crossing(terms)
        if self._begin_span is not None:
            crossing.span = terms.trail.span = self._begin_span(terms.arrived)
        code = grpc.StatusCode.OK
        self._metrics.call_started(self._method.name)
        try:
            crossing.client = self._client()
            while True:
                try:
                    with self._admission.admit(len(data), terms.fairness_key, terms.weight) as permit:
                        self._charge(crossing, permit)
                        if message is None:
                            message = self._method.open_message(data)
                            self._texts += message.texts
                            if message.in_order:
                                # The messages before it have come as far as this: the next one is not read sooner.
                                self._latest = asyncio.current_task()
                        answer = await message.answer(permit, crossing, self._put_piece)
                        break
                except (QueueFullError, QuotaExceededError) as full:
                    await self._room(full, crossing.terms.deadline)
        except asyncio.CancelledError:
            code = cancelled_code(crossing, self._clock())
            raise
        except Exception as error:  # noqa: BLE001 - the message's own; the stream goes on
            status = status_of(error)
            code = status.code
            crossing.unreachable = isinstance(error, DeadlineUnreachableError)
            if message is None:  # nobody could be told
                self._fail(error)
                return
            answer = message.refuse(status)
        finally:
            crossing.finish(self._method.name, code, self._clock(), self._metrics)
        texts, in_order = message.texts, message.in_order
        # The reader may be slow, and the message a thousand times as long as its answer.
        del data, message
        if in_order and before is not None and not before.done():
            await asyncio.wait([before])
        await self._put(answer)
        self._messages -= 1
        self._texts -= texts
        self._wake()

    def _client(self) -> Client | None:
        """Who sends the messages now; what it raises ends the stream."""
        return None if self._visitor is None else self._visitor.client()

    def _charge(self, crossing: Crossing, permit: Permit) -> None:
        """Count a message against its client's quotas: itself, and its texts once known; once, however often it tries.

        Raises:
            QuotaExceededError: Not yet.
        """
        if (client := crossing.client) is None:
            return
        take_texts = client.text_quota(self._clock)
        if take_texts is not None and not crossing.paid_texts:
            permit.quota = partial(_pay_texts, crossing, take_texts)
        if not crossing.paid:
            client.take_call(self._clock())
            crossing.paid = True

    async def _put_piece(self, piece: bytes) -> None:
        """Write what comes before an answer, to its end also when its message gives up meanwhile, as at its deadline.

        gRPC cannot take back a write that it has begun, and does not begin another before that is done.
        """
        await asyncio.shield(self._tasks.create_task(self._put(piece)))

    async def _put(self, answer: bytes) -> None:
        try:
            async with self._writing:
                await self._write(answer)
        except grpc.aio.InternalError:
            # The caller has gone in this moment; gRPC is about to cancel the stream.
            self._fail(asyncio.CancelledError())
            raise asyncio.CancelledError from None

    async def _room(self, full: OverloadedError, deadline: float) -> None:
        """Wait until there may be room: one of this stream's messages was answered, or the time that was named passed.

        Args:
            full: Why there is none.
            deadline: When the message's answer stops being wanted, as far as that is known.

        Raises:
            OverloadedError: There will be none in time.
            DeadlineExceededError: There was none in time.
        """
        if math.isinf(full.retry_after_seconds):
            raise full
        self._refused += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(full.retry_after_seconds, deadline - self._clock())):
                    await self._moved.wait()
        finally:
            self._refused -= 1
        if deadline <= self._clock():
            raise DeadlineExceededError("the deadline passed before there was room for the message")


def _pay_texts(crossing: Crossing, take: Callable[[int], None], count: int) -> None:
    take(count)
    crossing.paid_texts = True
