"""Streams of a client: quotas slow them down, and who is let in no more is heard no further."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from headwaiter_server.access.clients import Client, Clients
from headwaiter_server.access.gate import Gate, Visitor
from headwaiter_server.access.quotas import Bucket
from headwaiter_server.access.roles import Role
from headwaiter_server.access.tokens import hash_of
from headwaiter_server.errors import DrainingError, NotAllowedError, UnauthenticatedError

from .access_files import ADA, bearer
from .test_rpc_stream import METHOD, Streaming

EMBED_STREAM = "headwaiter.v1.InferenceService/EmbedStream"


class CountingBucket(Bucket):
    """Knows how much was taken out."""

    taken = 0.0

    def take(self, count: float, now: float) -> float:
        wait = super().take(count, now)
        self.taken += 0 if wait else count
        return wait


def clients(calls: Bucket | None = None, texts: Bucket | None = None, roles: Iterable[Role] = (Role.INFER,)) -> Clients:
    return Clients([Client("ada", (hash_of(ADA),), frozenset(roles), calls=calls, texts=texts)])


def opened(gate: Gate) -> Visitor:
    door = gate.door(EMBED_STREAM)
    assert door is not None
    return door.open(bearer(ADA))


def streaming(gate: Gate, **more: Any) -> Streaming:  # noqa: ANN401 - of the stream
    it = Streaming(visitor=opened(gate), **more)
    it.open_all()
    return it


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not reached():
            await asyncio.sleep(0)


def counted(it: Streaming, code: str) -> float:
    labels = {"client": "ada", "code": code}
    return it.metrics.registry.get_sample_value("headwaiter_client_requests_total", labels) or 0.0


async def test_quota_that_is_used_up_slows_the_sender_down() -> None:
    """Nothing is refused: what is over the quota is read as it is refilled, and each message is paid for once."""
    loop = asyncio.get_running_loop()
    bucket = CountingBucket(200, 5)
    # The quota is refilled from the opening on, which takes the first place.
    began = loop.time()
    it = streaming(Gate(clients(bucket), health_open=True, clock=loop.time))
    it.send(*(f"message {number}" for number in range(14)))
    it.half_close()
    await it.task
    assert it.written == [f"message {number}" for number in range(14)]
    assert loop.time() - began >= 10 / 200 * 0.99  # one place of the five went to the opening
    assert counted(it, "OK") == 14
    assert bucket.taken == 15


async def test_texts_over_their_quota_wait_too() -> None:
    """A message is parsed once and waits for the quota of its texts."""
    loop = asyncio.get_running_loop()
    it = streaming(Gate(clients(texts=Bucket(400, 10)), health_open=True, clock=loop.time))
    began = loop.time()
    it.send("a x10", "b x10", "c x10")
    it.half_close()
    await it.task
    assert sorted(it.written) == ["a", "b", "c"]
    assert loop.time() - began >= 20 / 400 * 0.99
    assert len(it.messages) == 3


async def test_texts_that_wait_for_room_are_paid_for_once() -> None:
    """A message that is refused for a full queue tries again, however often, on what it has paid."""
    loop = asyncio.get_running_loop()
    bucket = CountingBucket(0.001, 20)
    it = Streaming(visitor=opened(Gate(clients(texts=bucket), health_open=True, clock=loop.time)))
    it.send("first x5", "crowded x10")
    it.half_close()
    await until(lambda: it.stream._refused == 1)
    it.open_all()
    async with asyncio.timeout(10):
        await it.task
    assert it.written == ["first", "crowded"]
    assert bucket.taken == 15


@pytest.mark.parametrize(
    ("now", "error"), [(Clients([]), UnauthenticatedError), (clients(roles=[Role.CONTROL]), NotAllowedError)]
)
async def test_who_may_no_more_is_heard_no_further(now: Clients, error: type[Exception]) -> None:
    """What was let in before is answered; the next message ends the stream, and is counted."""
    gate = Gate(clients(), health_open=True)
    it = Streaming(visitor=opened(gate))
    it.send("early")
    await until(lambda: it.begun == ["early"])
    gate.clients = now
    it.send("late", "later")
    await until(lambda: it.taken == 2)
    it.open_all()
    with pytest.raises(error):
        await it.task
    assert it.written == ["early"]
    assert counted(it, "OK") == 1
    code = "UNAUTHENTICATED" if error is UnauthenticatedError else "PERMISSION_DENIED"
    labels = {"method": METHOD, "model": "_other", "version": "", "code": code}
    assert it.metrics.registry.get_sample_value("headwaiter_requests_total", labels) == 1


async def test_wait_for_a_quota_does_not_hold_up_the_end() -> None:
    """A server that ends refuses also what waits for a quota, at once."""
    gate = Gate(clients(Bucket(0.001, 2)), health_open=True, clock=asyncio.get_running_loop().time)
    it = streaming(gate)
    it.send("first", "waits")
    await until(lambda: it.stream._refused == 1)
    it.admission.close()
    it.stream.end(DrainingError("ends", 0.1))
    with pytest.raises(DrainingError):
        await it.task
    assert it.written == ["first"]
