"""Hostile peers take nothing from good callers, and nothing from the server for good."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from reliability import abuse_attacks
from reliability.abuse_attacks import ATTACKS, BY_NAME, EMBED, Attack
from reliability.abuse_bombs import EMBED_TEXT, HEALTH, MESSAGE_BYTES, Bomb, bombs, streamed_bombs
from reliability.abuse_watch import AbusedServer, Window, abused_server, send, wait_until, watched
from reliability.frames import DATA, END_STREAM, RST_STREAM, Wire, begin_call, frame, message_prefix

# Enough for every limit on the number of parts.
SHORT_BYTES = 1 << 20


@pytest.fixture(scope="module")
def server(models_dir: Path) -> Iterator[AbusedServer]:
    """One server for all attacks: it must outlive them."""
    with abused_server(models_dir) as running:
        yield running
        assert running.process.terminate() == 0


@pytest.fixture
def window(server: AbusedServer) -> Iterator[Window]:
    """Good calls beside the test, all of which must be answered, and rightly."""
    with watched(server) as seen:
        yield seen
        assert wait_until(lambda: bool(seen.seconds or seen.errors), 30) is not None
    assert not seen.errors


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attackers who wait for what the server does, however busy the machine is."""
    monkeypatch.setattr(abuse_attacks, "_SETTLE_SECONDS", 5.0)
    monkeypatch.setattr(abuse_attacks, "_ANSWER_SECONDS", 60.0)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_good_callers_are_answered_beside_an_attack(server: AbusedServer, window: Window, attack: Attack) -> None:
    """Whatever frames another connection sends."""
    assert asyncio.run(attack.run(server.target, attack.short))


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("name", ["pings", "continuations"])
def test_the_server_hangs_up_on_floods_that_have_no_use(server: AbusedServer, name: str) -> None:
    """Who floods it so has to connect again."""
    outcome = asyncio.run(BY_NAME[name].run(server.target, 2000))
    assert outcome["hung up"] > 0


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("name", ["announced gigabytes", "compressed bombs"])
def test_what_is_too_large_is_refused_before_it_is_there(server: AbusedServer, name: str) -> None:
    """By what is said of its size, or as soon as it has grown beyond it."""
    outcome = asyncio.run(BY_NAME[name].run(server.target, 2))
    assert outcome["refused"] == 2


@pytest.mark.usefixtures("patient")
def test_half_sent_messages_are_refused_when_they_take_too_much(server: AbusedServer) -> None:
    """Of 160 MB of messages that never come whole most are refused; a call that comes after them is answered."""
    with watched(server) as window:
        outcome = asyncio.run(BY_NAME["half-sent messages of 8 MB"].run(server.target, 40))
    assert outcome["refused"] > 0
    assert not window.errors


@pytest.mark.parametrize("bomb", bombs(SHORT_BYTES), ids=lambda bomb: bomb.name)
def test_messages_of_many_parts_are_refused(server: AbusedServer, bomb: Bomb) -> None:
    """At every field of every method that may hold many, or in fields that nobody knows."""
    assert send(server, bomb.method, bomb.data) == "INVALID_ARGUMENT"


@pytest.mark.parametrize("bomb", streamed_bombs(SHORT_BYTES), ids=lambda bomb: bomb.name)
def test_messages_of_many_parts_are_refused_on_streams(server: AbusedServer, bomb: Bomb) -> None:
    """With an answer that says so, where the stream goes on."""
    assert send(server, bomb.method, bomb.data, streamed=True) in ("OK", "INVALID_ARGUMENT")


def test_largest_message_of_one_text_comes_in(server: AbusedServer) -> None:
    """Size alone is no reason to refuse a message before it is looked at: this one has a text that is too long."""
    assert len(EMBED_TEXT.data) < MESSAGE_BYTES
    assert send(server, EMBED_TEXT.method, EMBED_TEXT.data) == "INVALID_ARGUMENT"


@pytest.mark.parametrize("method", [EMBED, HEALTH])
def test_call_without_a_message_is_answered(server: AbusedServer, method: str) -> None:
    """Not left hanging."""

    async def ended() -> int:
        wire = await Wire.connect(server.target)
        await wire.send(begin_call(1, method), frame(DATA, END_STREAM, 1))
        await wire.until_ended(1, 10)
        await wire.close()
        return wire.ended

    assert asyncio.run(ended()) == 1


def test_answers_that_nobody_reads_hold_up_nobody(server: AbusedServer, window: Window) -> None:
    """A reader whose window stays shut gets nothing, and takes nothing from others."""
    outcome = asyncio.run(BY_NAME["zero windows"].run(server.target, 40))
    assert not outcome["bytes"]


def test_frames_are_what_they_say() -> None:
    """The frames of RFC 9113, byte by byte: the attacks rest on them."""
    assert frame(RST_STREAM, 0, 3, b"\0\0\0\x08") == b"\0\0\x04\x03\0\0\0\0\x03\0\0\0\x08"
    assert message_prefix(258) == b"\0\0\0\1\2"
    headers = begin_call(1, "/" + "m" * 200)
    assert headers[3:9] == b"\x01\x04\0\0\0\x01"
    # A literal without indexing: the length of its value in a prefix of 7 bits and the rest.
    assert b"\0\x05:path\x7f\x4a/mmm" in headers
