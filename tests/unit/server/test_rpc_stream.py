"""A stream of messages: each answered on its own, and never more of them held than is good."""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
import pytest
from headwaiter_server.access.gate import Visitor
from headwaiter_server.errors import DeadlineExceededError, DrainingError, InvalidRequestError, QueueFullError
from headwaiter_server.metrics import Metrics
from headwaiter_server.rpc.crossing import Crossing
from headwaiter_server.rpc.status import Status
from headwaiter_server.rpc.stream import MOST_MESSAGES, MessageStream, StreamMethod, Write
from headwaiter_server.scheduling.admission import Admission, Permit
from headwaiter_server.scheduling.calls import Terms

METHOD = "test/Stream"
MOST_TEXTS = 100


@dataclass
class Message:
    """Answered with itself when the test says so, but for those whose names say what becomes of them."""

    stream: Streaming
    name: str
    texts: int = 1

    @property
    def in_order(self) -> bool:
        return self.stream.in_order and not self.name.startswith("free")

    async def answer(self, permit: Permit, crossing: Crossing, write: Write) -> bytes:
        permit.hold_texts(self.texts)
        if self.name == "bad":
            raise InvalidRequestError("texts[0]", "is bad")
        if self.name == "never":
            raise QueueFullError("no room in time", math.inf)
        if self.name == "hasty":
            crossing.hurry(0.0, 0)
            raise QueueFullError("no room for an hour", 3600.0)
        if self.name == "crowded" and not self.stream.everything_opened:
            raise QueueFullError("no room for an hour", 3600.0)
        self.stream.begun.append(self.name)
        if self.name.endswith("in pieces"):
            for number in range(3):
                await write(f"{self.name} {number}".encode())
        if self.name.endswith("gives up"):
            try:
                async with asyncio.timeout(0):
                    await write(f"{self.name} 0".encode())
            except TimeoutError:
                raise DeadlineExceededError("too late") from None
        await self.stream.opened(self.name).wait()
        return self.name.encode()

    def refuse(self, status: Status) -> bytes:
        return f"{self.name}: {status.code.name}: {status.message}".encode()


@dataclass
class Streaming:
    """A stream with its two ends."""

    admission: Admission = field(default_factory=lambda: Admission(1000, 1 << 30))
    metrics: Metrics = field(default_factory=Metrics)
    terms: Terms = field(default_factory=lambda: Terms(0.0))
    sent: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    taken: int = 0
    written: list[str] = field(default_factory=list)
    writing: bool = False
    begun: list[str] = field(default_factory=list)
    reading: asyncio.Event = field(default_factory=asyncio.Event)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    messages: list[weakref.ref[Message]] = field(default_factory=list)
    everything_opened: bool = False
    in_order: bool = False
    visitor: Visitor | None = None

    def __post_init__(self) -> None:
        self.reading.set()
        self.stream = MessageStream(
            StreamMethod(METHOD, self.open, MOST_TEXTS),
            self.requests(),
            self.write,
            self.terms,
            admission=self.admission,
            metrics=self.metrics,
            clock=asyncio.get_running_loop().time,
            visitor=self.visitor,
        )
        self.task = asyncio.create_task(self.stream.serve())

    def send(self, *messages: str) -> None:
        for message in messages:
            self.sent.put_nowait(message.encode())

    def half_close(self) -> None:
        self.sent.put_nowait(None)

    async def requests(self) -> AsyncIterator[bytes]:
        while True:
            held = [await self.sent.get()]
            if held[0] is None:
                return
            self.taken += 1
            yield held.pop()  # type: ignore[misc]  # not None

    def open(self, data: bytes) -> Message:
        name, _, texts = data.decode().partition(" x")
        if name == "broken":
            raise InvalidRequestError("message", "is no message")
        message = Message(self, name, int(texts or 1))
        self.messages.append(weakref.ref(message))
        return message

    def opened(self, name: str) -> asyncio.Event:
        gate = self.gates.setdefault(name, asyncio.Event())
        if self.everything_opened:
            gate.set()
        return gate

    def open_all(self) -> None:
        self.everything_opened = True
        for gate in self.gates.values():
            gate.set()

    async def write(self, data: bytes) -> None:
        """As gRPC does: a write that has begun goes on, also when nobody waits for it, and no other one may begin."""
        if self.writing:
            raise grpc.aio.InternalError("too many operations")
        self.writing = True
        await self.reading.wait()
        self.writing = False
        self.written.append(data.decode())

    def recorded(self, code: str) -> float:
        labels = {"method": METHOD, "model": "_other", "version": "", "code": code}
        return self.metrics.registry.get_sample_value("headwaiter_requests_total", labels) or 0.0

    def in_flight(self) -> float:
        return self.metrics.registry.get_sample_value("headwaiter_requests_in_flight", {"method": METHOD}) or 0.0


async def turns(count: int = 300) -> None:
    """Let the event loop do all that is due."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_messages_are_answered_as_soon_as_they_are_done() -> None:
    """A later message that is done first is answered first, and each is recorded as a call."""
    it = Streaming()
    it.send("a", "b", "c")
    await turns()
    assert it.admission.calls == 3
    for name in ("b", "c", "a"):
        it.opened(name).set()
        await turns()
    assert it.written == ["b", "c", "a"]
    it.half_close()
    await it.task
    assert it.recorded("OK") == 3
    assert (it.admission.calls, it.in_flight()) == (0, 0)


async def test_answered_messages_are_let_go() -> None:
    """Not when the next one comes: a sender may be silent for long, and there may be many of them."""

    class Large(bytearray):
        """A message."""

    it = Streaming()
    it.open_all()
    message = Large(b"a")
    gone = weakref.ref(message)
    it.sent.put_nowait(message)  # type: ignore[arg-type]  # bytes that can be watched
    del message
    await turns()
    assert it.written == ["a"]
    assert gone() is None
    it.half_close()
    await it.task


async def test_unanswered_messages_are_bounded() -> None:
    """No more messages are read than may be unanswered; with each answer one more is."""
    it = Streaming()
    it.send(*(f"m{index}" for index in range(3 * MOST_MESSAGES)))
    await turns()
    assert (it.taken, it.admission.calls) == (MOST_MESSAGES, MOST_MESSAGES)
    for index in range(5):
        it.opened(f"m{index}").set()
    await turns()
    assert it.taken == MOST_MESSAGES + 5
    it.open_all()
    it.half_close()
    await it.task
    assert sorted(it.written) == sorted(f"m{index}" for index in range(3 * MOST_MESSAGES))


async def test_unanswered_texts_are_bounded() -> None:
    """Few messages of many texts are as much as many of one: reading stops with the one that reaches the bound."""
    it = Streaming()
    it.send(*(f"m{index} x{MOST_TEXTS // 4}" for index in range(20)))
    await turns()
    assert it.taken == 4
    it.open_all()
    it.half_close()
    await it.task
    assert len(it.written) == 20


async def test_slow_reader_holds_messages_but_no_places() -> None:
    """Answers that nobody takes stop the reading, but keep no place in the server that others could use."""
    it = Streaming()
    it.open_all()
    it.reading.clear()
    it.send(*(f"m{index}" for index in range(3 * MOST_MESSAGES)))
    await turns()
    assert it.taken == MOST_MESSAGES
    assert it.admission.calls == 0
    assert it.written == []
    it.reading.set()
    it.half_close()
    await it.task
    assert len(it.written) == 3 * MOST_MESSAGES


async def test_slow_reader_keeps_answers_and_no_messages() -> None:
    """Of a message whose answer nobody takes, only the answer is kept: it may have been a thousand times as long."""
    it = Streaming()
    it.open_all()
    it.reading.clear()
    it.send("a", "b", "c")
    await turns()
    assert [message() for message in it.messages] == [None] * 3
    it.reading.set()
    it.half_close()
    await it.task
    assert sorted(it.written) == ["a", "b", "c"]


async def test_bad_message_fails_alone() -> None:
    """A message that is refused is answered with its status; those around it with their results."""
    it = Streaming()
    it.open_all()
    it.send("a", "bad", "b")
    it.half_close()
    await it.task
    assert sorted(it.written) == ["a", "b", "bad: INVALID_ARGUMENT: texts[0]: is bad"]
    assert (it.recorded("OK"), it.recorded("INVALID_ARGUMENT")) == (2, 1)


@pytest.mark.parametrize("closed", [False, True], ids=["open", "half-closed"])
async def test_bytes_that_are_no_message_end_the_stream(closed: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """What came before them is answered, then the stream ends with the error; what comes after is not read."""
    it = Streaming()
    it.send("a", "broken")
    if closed:
        it.half_close()
    await turns()
    it.send("late")
    await turns()
    assert not it.task.done()
    it.opened("a").set()
    with pytest.raises(InvalidRequestError, match="is no message"):
        await it.task
    assert it.written == ["a"]
    assert "late" not in it.begun
    assert (it.admission.calls, it.in_flight()) == (0, 0)


async def test_full_server_slows_the_stream_down_and_refuses_nothing() -> None:
    """While others hold every place nothing is read or refused; with room for it the message is answered."""
    it = Streaming(admission=Admission(2, 1 << 30))
    first, second = it.admission.admit(1), it.admission.admit(1)
    it.open_all()
    it.send("a", "b", "c", "d", "e")
    await turns()
    assert it.taken == 1
    assert (it.begun, it.written) == ([], [])
    for permit in (first, second):
        with permit:
            pass
    it.half_close()
    await asyncio.wait_for(it.task, 10)
    assert sorted(it.written) == ["a", "b", "c", "d", "e"]
    assert it.recorded("OK") == 5


async def test_own_answer_makes_room() -> None:
    """A message that its own stream left no room for is let in with the first answer, whatever time was named."""
    it = Streaming()
    it.send("a", "crowded", "b")
    await turns()
    assert (it.taken, it.begun) == (2, ["a"])
    it.open_all()
    it.half_close()
    await asyncio.wait_for(it.task, 10)
    assert it.written == ["a", "crowded", "b"]


async def test_message_that_never_gets_room_in_time_is_refused() -> None:
    """Where waiting is no use, the message is answered with the refusal, and the stream goes on."""
    it = Streaming()
    it.open_all()
    it.send("never", "a")
    it.half_close()
    await it.task
    assert sorted(it.written) == ["a", "never: UNAVAILABLE: no room in time"]


async def test_message_waits_for_room_no_longer_than_it_may() -> None:
    """Also a limit that a message names itself ends its wait, and the stream goes on."""
    it = Streaming(terms=Terms(asyncio.get_running_loop().time()))
    it.open_all()
    it.send("hasty", "a")
    await turns()
    assert sorted(it.written) == [
        "a",
        "hasty: DEADLINE_EXCEEDED: the deadline passed before there was room for the message",
    ]
    it.half_close()
    await it.task


async def test_end_answers_what_was_let_in() -> None:
    """A stream that is told to end answers what it holds, reads no further, and says why."""
    it = Streaming()
    it.send("a", "b")
    await turns()
    it.stream.end(DrainingError("shutting down", 0.1))
    it.send("late")
    await turns()
    assert not it.task.done()
    it.open_all()
    with pytest.raises(DrainingError):
        await it.task
    assert sorted(it.written) == ["a", "b"]
    assert it.begun == ["a", "b"]


async def test_end_spares_a_stream_whose_sender_is_done() -> None:
    """A half-closed stream that only waits for its last answers ends well."""
    it = Streaming()
    it.send("a")
    it.half_close()
    await turns()
    it.stream.end(DrainingError("shutting down", 0.1))
    it.open_all()
    await it.task
    assert it.written == ["a"]


async def test_end_refuses_at_once_what_waits_for_room() -> None:
    """A message that was told to wait for longer than the server has left is answered before the server is gone."""
    it = Streaming()
    it.send("crowded")
    await turns()
    it.admission.close()
    it.stream.end(DrainingError("shutting down", 0.1))
    await turns()
    assert it.task.done()
    assert it.written == ["crowded: UNAVAILABLE: the server is shutting down"]
    assert isinstance(it.task.exception(), DrainingError)


async def test_closed_admission_ends_the_stream_with_its_error() -> None:
    """A message that comes when no more are taken ends the stream as a call would have been refused."""
    it = Streaming()
    it.admission.close()
    it.send("a")
    with pytest.raises(DrainingError):
        await it.task
    assert it.recorded("UNAVAILABLE") == 1


async def test_cancelled_stream_leaves_nothing_behind() -> None:
    """Messages in every state, waiting for room among them, give back what they hold."""
    it = Streaming(admission=Admission(3, 1 << 30))
    it.opened("m0").set()
    it.reading.clear()
    it.send(*(f"m{index}" for index in range(10)))
    await turns()
    assert it.admission.calls == 3
    it.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await it.task
    assert (it.admission.calls, it.in_flight()) == (0, 0)
    assert it.recorded("OK") == 1
    assert it.recorded("CANCELLED") == it.taken - 1


async def test_answers_in_order() -> None:
    """Where the order is promised, an answer waits for those before it, refusals among them; but it holds no place."""
    it = Streaming(in_order=True)
    it.send("a", "bad", "b", "c")
    it.half_close()
    await turns()
    assert it.begun == ["a", "b", "c"]
    it.opened("c").set()
    it.opened("b").set()
    await turns()
    assert (it.written, it.admission.calls) == ([], 1)
    assert [message() for message in it.messages[1:]] == [None] * 3
    it.opened("a").set()
    await it.task
    assert it.written == ["a", "bad: INVALID_ARGUMENT: texts[0]: is bad", "b", "c"]


async def test_many_answers_in_order() -> None:
    """Also of more messages than may be unanswered, which become ready in any order."""
    it = Streaming(in_order=True)
    names = [f"m{index}" for index in range(3 * MOST_MESSAGES)]
    it.send(*names)
    it.half_close()
    await turns()
    assert it.taken == MOST_MESSAGES
    for name in reversed(names[1:MOST_MESSAGES]):
        it.opened(name).set()
        await turns()
    assert (it.written, it.taken) == ([], MOST_MESSAGES)
    it.open_all()
    await it.task
    assert it.written == names


async def test_cancelled_stream_in_order_leaves_nothing_behind() -> None:
    """Answers that wait for their turn are given up."""
    it = Streaming(in_order=True)
    it.send("a", "b")
    it.opened("b").set()
    await turns()
    it.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await it.task
    assert (it.admission.calls, it.in_flight(), it.written) == (0, 0, [])


async def test_messages_that_are_free_of_the_order_hold_up_nobody() -> None:
    """They are answered as they come; those in order keep it among themselves, whatever free one is between them."""
    it = Streaming(in_order=True)
    it.send("a", "free", "b", "free 2", "c")
    it.half_close()
    await turns()
    for name in ("c", "free 2", "b", "a"):
        it.opened(name).set()
        await turns()
    assert it.written == ["free 2", "a", "b", "c"]
    it.opened("free").set()
    await it.task
    assert it.written[-1] == "free"


async def test_pieces_are_written_before_their_answer_while_others_are_answered() -> None:
    """A message may say something before its answer; it holds its permit meanwhile, and a slow reader slows it down."""
    it = Streaming(in_order=True)
    it.reading.clear()
    it.send("free in pieces", "a")
    it.opened("a").set()
    await turns()
    assert (it.written, it.admission.calls) == ([], 1)
    it.reading.set()
    await turns()
    assert sorted(it.written) == ["a", *[f"free in pieces {number}" for number in range(3)]]
    it.opened("free in pieces").set()
    it.half_close()
    await it.task
    assert it.written[-1] == "free in pieces"
    assert it.recorded("OK") == 2


async def test_message_that_gives_up_in_the_middle_of_a_write_leaves_the_stream_whole() -> None:
    """Its piece is written to its end before its answer, and before those of the others."""
    it = Streaming(in_order=True)
    it.reading.clear()
    it.send("free gives up", "a")
    it.opened("a").set()
    await turns()
    assert (it.written, it.admission.calls) == ([], 0)
    it.reading.set()
    it.half_close()
    await it.task
    refused = "free gives up: DEADLINE_EXCEEDED: too late"
    assert sorted(it.written) == sorted(["a", "free gives up 0", refused])
    assert it.written.index("free gives up 0") < it.written.index(refused)
    assert (it.recorded("OK"), it.recorded("DEADLINE_EXCEEDED"), it.in_flight()) == (1, 1, 0)


async def test_caller_that_goes_between_two_pieces_ends_its_stream() -> None:
    """What gRPC says of a write that nobody will read is no error of the message's: it counts as cancelled."""
    it = Streaming(in_order=True)

    async def gone(_: bytes) -> None:
        raise grpc.aio.InternalError("the call is over")

    it.stream._write = gone
    it.send("free in pieces")
    with pytest.raises(asyncio.CancelledError):
        await it.task
    assert (it.recorded("CANCELLED"), it.recorded("INTERNAL"), it.in_flight()) == (1, 0, 0)
    assert it.admission.calls == 0
